//! The journal as a whole: the real writer on a disk that forgets, against a plain vector.

mod disk;
mod live;
mod model;
mod poison;
mod retention;
mod rig;
mod windows;
