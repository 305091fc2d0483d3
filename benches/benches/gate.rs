//! What the gate costs and what it saves. `benches/README.md` says how to run it and what each
//! figure means.
//!
//! `cargo xtask bench gate`, or `cargo bench -p penstock-benches --bench gate -- --rounds 5`

use std::process::ExitCode;

use clap::Parser;
use penstock_benches::gate::{self, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    // `cargo test --benches` runs this too, without the flag that `cargo bench` gives.
    if !options.bench {
        println!("skipped: this is a benchmark, run it with cargo bench");
        return ExitCode::SUCCESS;
    }
    match gate::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
