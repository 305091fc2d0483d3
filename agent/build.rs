//! Embeds the gate's eBPF object where `cargo xtask build-ebpf` has left one; without it the agent
//! builds all the same, and says at start that it has no gate in the kernel.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(gate_object)");
    println!("cargo::rerun-if-env-changed=PENSTOCK_EBPF_OBJECT");
    let object = env::var_os("PENSTOCK_EBPF_OBJECT").map_or_else(default_object, PathBuf::from);
    watch(&object);
    if !object.is_file() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = fs::copy(&object, out.join("penstock-gate.o")) {
        panic!("copying the eBPF object {}: {error}", object.display());
    }
    println!("cargo::rustc-cfg=gate_object");
}

/// `target/ebpf/penstock-gate.o` of the workspace.
fn default_object() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    manifest.join("../target/ebpf/penstock-gate.o")
}

/// Has this script run again when the object changes, appears or goes.
///
/// Cargo takes a watched path that is missing for a change, and would compile the agent anew at
/// each build on a host without an object. So the folder is watched, and made if it is missing.
fn watch(object: &Path) {
    let folder = object.parent().unwrap_or(Path::new("."));
    let watched = if fs::create_dir_all(folder).is_ok() {
        folder
    } else {
        object
    };
    println!("cargo::rerun-if-changed={}", watched.display());
    println!("cargo::rerun-if-changed=build.rs");
}
