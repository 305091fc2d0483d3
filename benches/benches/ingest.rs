//! End to end: from the load generator over loopback to the disk, beside a bare io_uring receiver
//! that only counts bytes. `benches/README.md` says how to run it and what each figure means.
//!
//! `cargo bench -p penstock-benches --bench ingest -- --rounds 5 --seconds 4`

use std::process::ExitCode;

use clap::Parser;
use penstock_benches::ingest::{self, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !options.bench {
        println!("skipped: this is a benchmark, run it with cargo bench");
        return ExitCode::SUCCESS;
    }
    match ingest::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ingest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
