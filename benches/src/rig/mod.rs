//! What the end-to-end benchmarks share: an agent and a generator on cores of their own, what they
//! say of themselves, and medians.

pub mod agent;
pub mod core_set;
pub mod drain;
pub mod generator;
pub mod host;
pub mod http;
pub mod process;
pub mod samples;
pub mod spread;

use std::path::PathBuf;

use anyhow::bail;

/// The core of the contenders, and the one of the generator.
pub const RECEIVER_CORE: usize = 0;
pub const GENERATOR_CORE: usize = 1;

/// Where cargo builds: next to the running benchmark (target/release/deps/ingest-…).
pub fn target_folder() -> PathBuf {
    let here = std::env::current_exe().ok();
    let folder = here.and_then(|path| path.ancestors().nth(3).map(PathBuf::from));
    folder.unwrap_or_else(|| PathBuf::from("target"))
}

/// Where results are kept: in the repository, beside the benchmarks.
pub fn results_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// `PENSTOCK_BIN`, else the release build beside this benchmark.
pub fn binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("PENSTOCK_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_folder().join("release").join("penstock"),
    };
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `cargo xtask build-ebpf` and `cargo build --release \
             -p penstock`, or name one in PENSTOCK_BIN",
            path.display()
        );
    }
    Ok(path)
}
