//! Embeds the gate's eBPF object where `cargo xtask build-ebpf` has left one; without it the agent
//! builds all the same, and says at start that it has no gate in the kernel.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(gate_object)");
    println!("cargo::rerun-if-env-changed=PENSTOCK_EBPF_OBJECT");
    let object = match env::var_os("PENSTOCK_EBPF_OBJECT") {
        Some(path) => {
            let object = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", object.display());
            object
        }
        None => default_object(),
    };
    println!("cargo::rerun-if-changed=build.rs");
    if !object.is_file() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = fs::copy(&object, out.join("penstock-gate.o")) {
        panic!("copying the eBPF object {}: {error}", object.display());
    }
    println!("cargo::rustc-cfg=gate_object");
}

/// `target/ebpf/penstock-gate.o` of the workspace; this script runs again when it changes, appears
/// or goes.
///
/// Cargo takes a watched path that is missing for a change, and would compile the agent anew at
/// each build on a host without an object. So the folder is watched, and made if it is missing.
fn default_object() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = manifest.join("../target/ebpf");
    let object = folder.join("penstock-gate.o");
    // A source tree that cannot be written to has no object to wait for.
    let _ = fs::create_dir_all(&folder);
    println!("cargo::rerun-if-changed={}", folder.display());
    object
}
