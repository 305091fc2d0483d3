//! The gate's object file holds the programs and maps that the loader asks for. No privileges.

use std::collections::BTreeSet;

use aya_obj::generated::BPF_F_MMAPABLE;
use aya_obj::generated::bpf_map_type::{
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH,
    BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
};
use aya_obj::{Object, ProgramSection};
use penstock::config::settings::GateMode;
use penstock::gate::object::{self, OBJECT, map};
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
    let found = |name: &str| {
        let map = object.maps.get(name);
        map.unwrap_or_else(|| panic!("no map {name}"))
    };
    // As agent-common's layout.rs pictures them. Listeners: 120. A limit is three times three u64.
    let (key, limit) = (4 + 20, 3 * 3 * 8);
    for (name, map_type, key_size, value_size, entries) in [
        (map::SOCKETS, BPF_MAP_TYPE_HASH, 8, 16, 4096),
        (map::VERDICTS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 120 * 6),
        (map::KERNEL_DROPS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 120 * 3),
        (map::BUNDLES, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 120 * 3),
        (map::STRAYS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 3),
        (map::GENERATION, BPF_MAP_TYPE_ARRAY, 4, 8, 1),
        (map::POLICIES, BPF_MAP_TYPE_ARRAY, 4, 40 + limit, 2),
        (map::LISTS, BPF_MAP_TYPE_LPM_TRIE, key, 4, 2 * 16_384),
        (map::LIMITS, BPF_MAP_TYPE_LPM_TRIE, key, limit, 2 * 1027),
        (map::SOURCES, BPF_MAP_TYPE_LRU_HASH, 20, 32, 65_536),
        (map::NEWCOMERS, BPF_MAP_TYPE_ARRAY, 4, 32, 1),
        (map::KEEP, BPF_MAP_TYPE_ARRAY, 4, 8, 1),
        (map::TICKS, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 120 * 4),
        (map::WHO, BPF_MAP_TYPE_LRU_HASH, 20, 24, 16_384),
        (map::SIZES, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16 * 8, 64),
        (map::WATCH, BPF_MAP_TYPE_ARRAY, 4, 8, 1),
        (map::WATCH_TURN, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 24, 1),
        (map::REFUSED, BPF_MAP_TYPE_RINGBUF, 0, 0, 64 << 10),
    ] {
        let map = found(name);
        assert_eq!(map.map_type(), map_type as u32, "{name}");
        assert_eq!(map.key_size(), key_size, "{name}");
        assert_eq!(map.value_size(), value_size, "{name}");
        assert_eq!(map.max_entries(), entries, "{name}");
    }
    assert_eq!(found("AYA_LOGS").map_type(), BPF_MAP_TYPE_RINGBUF as u32);
    // The agent writes the ratios as memory.
    assert_eq!(found(map::KEEP).map_flags(), BPF_F_MMAPABLE);
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
        let required = Gate::open(GateMode::Required).err();
        let others = [GateMode::Auto, GateMode::Off].map(|mode| Gate::open(mode).unwrap().kind());
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
