//! The gate's object file holds the programs and maps that the loader asks for. No privileges.

use std::collections::BTreeSet;

use aya_obj::generated::bpf_map_type::{
    BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
};
use aya_obj::{Object, ProgramSection};
use penstock::config::settings::GateMode;
use penstock::gate::object::{self, OBJECT};
use penstock::gate::{Gate, GateError, GateKind};
use penstock_tests::netns::skip;

fn parsed(test: &str) -> Option<Object> {
    let Some(bytes) = OBJECT else {
        skip(
            test,
            "this build holds no eBPF object (cargo xtask build-ebpf)",
        );
        return None;
    };
    Some(Object::parse(bytes).expect("the embedded object is an eBPF object"))
}

#[test]
fn holds_the_two_programs_each_in_its_section() {
    let Some(object) = parsed("gate_object::programs") else {
        return;
    };
    let names: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        BTreeSet::from(["penstock_filter", "penstock_kernel_drops"])
    );
    let section = |name| &object.programs[name].section;
    assert!(matches!(
        section(object::FILTER),
        ProgramSection::SocketFilter
    ));
    assert!(matches!(
        section(object::KERNEL_DROPS),
        ProgramSection::BtfTracePoint
    ));
    // The kernel lends bpf_probe_read_kernel to GPL-compatible programs only.
    assert_eq!(object.license.to_bytes(), b"GPL");
}

#[test]
fn holds_the_maps_with_their_layouts() {
    let Some(object) = parsed("gate_object::maps") else {
        return;
    };
    // Sizes as agent-common's layout.rs pictures them; the loader sets the arrays' lengths.
    for (name, map_type, key_size, value_size) in [
        (object::map::SOCKETS, BPF_MAP_TYPE_HASH, 8, 16),
        (object::map::VERDICTS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8),
        (object::map::KERNEL_DROPS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8),
        (object::map::BUNDLES, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8),
        (object::map::STRAYS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8),
        ("AYA_LOGS", BPF_MAP_TYPE_RINGBUF, 0, 0),
    ] {
        let map = object
            .maps
            .get(name)
            .unwrap_or_else(|| panic!("no map {name}"));
        assert_eq!(map.map_type(), map_type as u32, "{name}");
        assert_eq!(map.key_size(), key_size, "{name}");
        assert_eq!(map.value_size(), value_size, "{name}");
    }
}

/// Without the privilege: an error that names the call for `required`, the stand-in for `auto`,
/// and neither asks the kernel for `off`.
#[test]
fn without_privileges_it_says_so() {
    // A thread of its own: the system call changes the calling thread alone (credentials(7)).
    let outcome = std::thread::spawn(|| {
        const NOBODY: libc::c_long = 65_534;
        // SAFETY: takes three numbers; an ordinary user is refused and is nobody enough.
        unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        let required = Gate::open(GateMode::Required, 1).err();
        let others =
            [GateMode::Auto, GateMode::Off].map(|mode| Gate::open(mode, 1).unwrap().kind());
        (required, others)
    });
    let (required, others) = outcome.join().unwrap();
    match required.expect("required without privileges is an error") {
        GateError::NoObject => assert!(OBJECT.is_none()),
        error @ GateError::Permission { .. } => {
            let message = error.to_string();
            assert!(message.starts_with("bpf("), "{message}");
            assert!(message.contains("CAP_BPF"), "{message}");
            assert!(!message.contains('\n'), "one line: {message}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(others, [GateKind::UserSpace; 2]);
}
