//! Configuration: text to typed settings; every range is checked here and nowhere else.

pub mod settings;
