//! What the gate needs of its process and its kernel, and what is left of it with less. A binary of
//! its own: aya asks the kernel what it can do once a process, with the rights of that moment.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Once;
use std::thread;

use agent_common::frame::FrameHeader;
use agent_common::verdict::{KernelDrop, Verdict};
use penstock::config::settings::GateMode;
use penstock::gate::{Gate, GateKind};
use penstock::shard::op::ListenerId;
use penstock_proto::wire::write_frame;
use penstock_tests::gate::privileged_or_skip;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use socket2::{Domain, Socket, Type};

/// Numbers of `linux/capability.h`.
const CAP_PERFMON: u64 = 38;
const CAP_BPF: u64 = 39;

/// Leaves the calling thread these capabilities and no others.
fn keep_only(capabilities: &[u64]) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two words a set; pid 0 is the calling thread.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    for &capability in capabilities {
        let set = &mut sets[(capability / 32) as usize];
        set.effective |= 1 << (capability % 32);
        set.permitted |= 1 << (capability % 32);
    }
    // SAFETY: capset reads a header and two sets of version 3, as laid out above.
    let status = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    assert_eq!(status, 0, "capset: {}", io::Error::last_os_error());
}

fn frame(records: u32) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records,
        producer: 7,
        sequence: 1,
        payload_crc: 0,
    };
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, &[b'r'; 300]);
    bytes
}

/// Overflows a small buffer with frames, and with datagrams that are none; without GRO and so
/// without bundles, the host's table counts as exactly as the tracepoint.
fn counts_are_exact(gate: &mut Gate) {
    const ROUNDS: u64 = 500;
    let listener = ListenerId(0);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    gate.guard(listener, 65_467, socket.as_fd()).unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = UdpSocket::from(socket);

    let from = UdpSocket::bind(any).unwrap();
    from.connect(socket.local_addr().unwrap()).unwrap();
    for _ in 0..ROUNDS {
        from.send(&frame(1)).unwrap();
        from.send(&frame(0)).unwrap();
    }
    let mut buffer = [0; 2048];
    let received = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64;

    let counts = gate.counts(listener);
    let of = |verdict: Verdict| counts.verdicts[verdict as usize];
    assert_eq!(of(Verdict::Passed), ROUNDS);
    assert_eq!(of(Verdict::Malformed), ROUNDS);
    let dropped = counts.drops[KernelDrop::ReceiveBuffer as usize];
    assert!(received > 0 && dropped > 0, "{received} and {dropped}");
    assert_eq!(received + dropped, ROUNDS);
    // Looked up again, nothing is counted twice.
    assert_eq!(gate.counts(listener), counts);
}

/// Runs `body` in a network namespace, or skips.
fn privileged(test: &'static str, body: impl FnOnce() + Send + 'static) {
    privileged_or_skip(test, || {
        // What aya asks the kernel once a process, it asks with all rights: a refusal that a test
        // makes would otherwise be taken for the kernel's.
        static ASKED: Once = Once::new();
        ASKED.call_once(|| drop(Gate::open(GateMode::Auto)));
        body();
    });
}

#[test]
fn two_capabilities_are_enough() {
    privileged("gate_degraded::two_capabilities", || {
        keep_only(&[CAP_BPF, CAP_PERFMON]);
        let mut gate = Gate::open(GateMode::Required).expect("the gate loads");
        assert!(gate.drops_exact());
        counts_are_exact(&mut gate);
    });
}

#[test]
fn with_one_of_them_it_says_which() {
    privileged("gate_degraded::with_one_of_them", || {
        for capability in [CAP_BPF, CAP_PERFMON] {
            let outcome = thread::spawn(move || {
                keep_only(&[capability]);
                let required = Gate::open(GateMode::Required).err();
                (required, Gate::open(GateMode::Auto).unwrap().kind())
            });
            let (required, auto) = outcome.join().unwrap();
            let message = required.expect("an error").to_string();
            assert!(message.contains("CAP_BPF and CAP_PERFMON"), "{message}");
            assert_eq!(auto, GateKind::UserSpace);
        }
    });
}

/// A kernel built without BTF: the filter works, the tracepoint cannot.
#[test]
fn without_kernel_types_drops_come_from_the_hosts_table() {
    privileged("gate_degraded::without_kernel_types", || {
        hide(c"/sys/kernel/btf");
        let mut gate = Gate::open(GateMode::Required).expect("the filter loads");
        assert_eq!(gate.kind(), GateKind::Kernel);
        assert!(!gate.drops_exact());
        counts_are_exact(&mut gate);
    });
}

/// A kernel without the tracepoint, as bpf(BPF_RAW_TRACEPOINT_OPEN) tells of one.
#[test]
fn without_the_tracepoint_drops_come_from_the_hosts_table() {
    privileged("gate_degraded::without_the_tracepoint", || {
        refuse(&[BPF_RAW_TRACEPOINT_OPEN, BPF_LINK_CREATE], libc::ENOENT);
        let mut gate = Gate::open(GateMode::Required).expect("the filter loads");
        assert_eq!(gate.kind(), GateKind::Kernel);
        assert!(!gate.drops_exact());
        counts_are_exact(&mut gate);
    });
}

/// A verifier that does not like a program, as an older kernel's may not.
#[test]
fn a_refused_program_is_named() {
    privileged("gate_degraded::a_refused_program", || {
        refuse(&[BPF_PROG_LOAD], libc::EINVAL);
        let message = Gate::open(GateMode::Required)
            .err()
            .expect("refused")
            .to_string();
        assert!(message.contains("penstock_filter"), "{message}");
        assert!(message.contains("please report it"), "{message}");
        assert!(!message.contains('\n'), "one line: {message}");
        assert_eq!(
            Gate::open(GateMode::Auto).unwrap().kind(),
            GateKind::UserSpace
        );
    });
}

/// A kernel that knows no filters at all, as far as this thread goes.
#[test]
fn without_bpf_it_says_so_in_one_line() {
    privileged("gate_degraded::without_bpf", || {
        let every: Vec<u64> = (0..64).collect();
        refuse(&every, libc::ENOSYS);
        let message = Gate::open(GateMode::Required)
            .err()
            .expect("refused")
            .to_string();
        assert!(!message.contains('\n'), "one line: {message}");
        assert_eq!(
            Gate::open(GateMode::Auto).unwrap().kind(),
            GateKind::UserSpace
        );
    });
}

/// Commands of bpf(2), `linux/bpf.h`.
const BPF_PROG_LOAD: u64 = 5;
const BPF_RAW_TRACEPOINT_OPEN: u64 = 17;
const BPF_LINK_CREATE: u64 = 28;

/// From here on these commands of bpf(2) fail with `errno`, for the calling thread alone.
fn refuse(commands: &[u64], errno: i32) {
    let is = |&command: &u64| {
        let width = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(0, width, SeccompCmpOp::Eq, command);
        SeccompRule::new(vec![condition.expect("argument 0")]).expect("a rule")
    };
    let rules = BTreeMap::from([(libc::SYS_bpf, commands.iter().map(is).collect())]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("a known machine");
    let refused = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture)
        .and_then(BpfProgram::try_from)
        .expect("a filter");
    seccompiler::apply_filter(&filter).expect("root may filter its own calls");
}

/// Puts an empty folder over `folder`, for the calling thread alone.
fn hide(folder: &CStr) {
    let none = std::ptr::null();
    // SAFETY: unshare takes flags; mount takes strings that end, or null where it ignores them.
    let statuses = unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        [
            libc::unshare(libc::CLONE_NEWNS),
            libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()),
            libc::mount(
                c"none".as_ptr(),
                folder.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                none.cast(),
            ),
        ]
    };
    assert_eq!(statuses, [0; 3], "{}", io::Error::last_os_error());
}
