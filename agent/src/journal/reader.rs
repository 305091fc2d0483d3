//! Reads segments from disk (under way).
