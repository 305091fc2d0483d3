//! The gate (under way).
#![no_std]
#![no_main]
