//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace's root: the folder above this crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask stands in a folder of the workspace")
}

/// Cargo's target folder, where everything that these commands write goes.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// Tools that were built or unpacked for this workspace alone.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The eBPF object that the agent's build embeds. The place is fixed, because a build script is
/// not told where cargo's target folder is.
pub fn ebpf_object() -> PathBuf {
    root().join("target/ebpf/penstock-gate.o")
}

/// A path as a person would type it from the workspace's root.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
