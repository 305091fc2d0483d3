//! The gate in the real kernel: real sockets in a network namespace of their own, and counts that
//! must be exact.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use agent_common::layout::{LISTENERS_MAX, Stray};
use agent_common::verdict::{KernelDrop, Verdict};
use penstock::config::settings::GateMode;
use penstock::gate::{Gate, GateCounts, GateKind, object};
use penstock::gate::{StandIn, frame_slot, standin};
use penstock::shard::op::ListenerId;
use penstock_proto::wire::write_frame;
use penstock_tests::gate::with_gate_or_skip;
use penstock_tests::netns;
use socket2::{Domain, Protocol, Socket, Type};

/// In the middle, so that an index gone wrong lands in a neighbour's counters.
const LISTENER: ListenerId = ListenerId(1);
const PAYLOAD_LEN_MAX: u32 = 20_000;
/// Above what any program takes today (the test prints it), and below half of the kernel's million.
const VERIFIED_INSTRUCTIONS_MAX: u64 = 450_000;

// ---- what is sent ---------------------------------------------------------------------------

/// What one send hands to the kernel.
#[derive(Clone)]
struct Sent {
    bytes: Vec<u8>,
    /// Cut into datagrams of this length by the kernel (UDP_SEGMENT); `None`: one datagram.
    segment_len: Option<u16>,
    /// By construction, per datagram: is it a frame?
    good: Vec<bool>,
}

/// A frame of exactly `len` bytes.
fn frame(len: usize) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records: 1,
        producer: 7,
        sequence: 1,
        payload_crc: 0,
    };
    let mut bytes = Vec::with_capacity(len);
    write_frame(&mut bytes, header, &vec![b'r'; len - FRAME_HEADER_LEN]);
    assert_eq!(bytes.len(), len);
    bytes
}

/// The ways in which a datagram of at least a header's length is no frame: byte and value, by the
/// table of the frame in PROTOCOL.md.
const FAULTS: [(usize, u8); 11] = [
    (0, b'Q'),  // magic
    (2, 0),     // magic
    (3, b'2'),  // version
    (4, 0),     // encoding
    (4, 6),     // encoding
    (5, 4),     // flags
    (6, 4),     // priority
    (7, 1),     // reserved
    (12, 0),    // no records
    (11, 0x10), // payload longer than the limit
    (8, 99),    // payload does not fill the datagram
];

fn broken(len: usize, fault: usize) -> Vec<u8> {
    let mut bytes = frame(len);
    let (at, value) = FAULTS[fault % FAULTS.len()];
    assert_ne!(bytes[at], value, "fault {fault} changes nothing");
    bytes[at] = value;
    bytes
}

fn single(bytes: Vec<u8>, good: bool) -> Sent {
    Sent {
        bytes,
        segment_len: None,
        good: vec![good],
    }
}

/// A bundle of datagrams of `len` bytes, and perhaps a shorter last one.
fn bundle(len: usize, good: &[bool], last: Option<(Vec<u8>, bool)>) -> Sent {
    let mut sent = Sent {
        bytes: Vec::new(),
        segment_len: Some(len as u16),
        good: good.to_vec(),
    };
    for (index, &good) in good.iter().enumerate() {
        let datagram = if good { frame(len) } else { broken(len, index) };
        sent.bytes.extend(datagram);
    }
    if let Some((bytes, good)) = last {
        assert!(bytes.len() < len);
        sent.bytes.extend(bytes);
        sent.good.push(good);
    }
    sent
}

/// Every kind of datagram alone, and every kind of bundle.
fn traffic() -> Vec<Sent> {
    let mut all = vec![
        single(frame(40), true),
        single(frame(41), true),
        single(frame(1472), true),
        // The limit, and one byte more.
        single(frame(40 + PAYLOAD_LEN_MAX as usize), true),
        single(frame(41 + PAYLOAD_LEN_MAX as usize), false),
        single(Vec::new(), false),
        single(b"x".to_vec(), false),
        single(frame(40)[..39].to_vec(), false),
        // A frame with a byte too many, and with one too few.
        single([frame(60), vec![0]].concat(), false),
        single(frame(60)[..59].to_vec(), false),
    ];
    for fault in 0..FAULTS.len() {
        all.push(single(broken(200, fault), false));
    }
    let mut last_of_128 = [false; 128];
    last_of_128[127] = true;
    all.extend([
        bundle(200, &[true; 2], None),
        bundle(200, &[true; 64], Some((frame(57), true))),
        bundle(45, &[true; 128], None),
        // Mixed: a bad one first, in the middle, last; one good one among many.
        bundle(200, &[false, true, true], None),
        bundle(200, &[true, false, true], None),
        bundle(200, &[true, true, false], None),
        bundle(200, &[true, true], Some((b"short".to_vec(), false))),
        bundle(100, &[false; 20], Some((frame(60), true))),
        bundle(45, &last_of_128, None),
        // Bad through and through.
        bundle(200, &[false; 2], None),
        bundle(45, &[false; 128], None),
        bundle(45, &[false; 64], Some((b"y".to_vec(), false))),
        // A frame's own bytes, cut into pieces that are shorter than a header.
        Sent {
            bytes: frame(100),
            segment_len: Some(30),
            good: vec![false; 4],
        },
    ]);
    all
}

/// What the counts must show. With GRO a bundle comes to the filter as one, and passes if any of
/// its datagrams is a frame; without, the kernel cuts it up before.
#[derive(Default, Debug, PartialEq, Eq)]
struct Expected {
    passed: u64,
    malformed: u64,
    judged: u64,
}

fn expected(traffic: &[Sent], gro: bool) -> Expected {
    let mut expected = Expected::default();
    for sent in traffic {
        let datagrams = sent.good.len() as u64;
        let good = sent.good.iter().filter(|&&good| good).count() as u64;
        if gro {
            let passes = good > 0;
            expected.passed += if passes { datagrams } else { 0 };
            expected.malformed += if passes { 0 } else { datagrams };
            expected.judged += 1;
        } else {
            expected.passed += good;
            expected.malformed += datagrams - good;
            expected.judged += datagrams;
        }
    }
    expected
}

// ---- sockets --------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn loopback(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, 0).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, 0).into(),
        }
    }
}

/// A socket guarded before it is bound, as the agent does it.
fn guarded(gate: &mut Gate, family: Family, gro: bool, receive_buffer: usize) -> UdpSocket {
    let address = family.loopback();
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(receive_buffer).unwrap();
    gate.guard(LISTENER, PAYLOAD_LEN_MAX, socket.as_fd())
        .unwrap();
    let gro = libc::c_int::from(gro);
    // SAFETY: the option's value is an int, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const gro).cast(),
            size_of_val(&gro) as libc::socklen_t,
        )
    };
    assert_eq!(status, 0, "UDP_GRO: {}", io::Error::last_os_error());
    socket.bind(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

fn sender(to: &UdpSocket, family: Family) -> UdpSocket {
    let socket = UdpSocket::bind(family.loopback()).unwrap();
    socket.connect(to.local_addr().unwrap()).unwrap();
    socket
}

/// Room for a control message, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn send(socket: &UdpSocket, sent: &Sent) {
    let mut control = Control([0; 64]);
    let mut iovec = libc::iovec {
        iov_base: sent.bytes.as_ptr().cast_mut().cast(),
        iov_len: sent.bytes.len(),
    };
    // SAFETY: `msghdr` is integers and pointers: all zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    if let Some(segment_len) = sent.segment_len {
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: `control` has room for one message of two bytes and is aligned for its header.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(2) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(2) as _;
            let data = libc::CMSG_DATA(header).cast::<u16>();
            data.write_unaligned(segment_len);
        }
    }
    // SAFETY: the message points to `sent`'s bytes and `control`, which outlive the call.
    let status = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    let all = sent.bytes.len() as isize;
    assert_eq!(status, all, "sendmsg: {}", io::Error::last_os_error());
}

/// A bundle as it came out of the socket.
struct Received {
    bytes: Vec<u8>,
    segment_len: Option<u16>,
}

impl Received {
    fn datagrams(&self) -> u64 {
        match self.segment_len {
            Some(len) => self.bytes.chunks(usize::from(len)).count() as u64,
            None => 1,
        }
    }
}

/// Takes everything that is queued.
fn drain(socket: &UdpSocket) -> Vec<Received> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let mut control = Control([0; 64]);
        let mut iovec = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: `msghdr` is integers and pointers: all zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iovec;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        // SAFETY: the message points to `buffer` and `control`, with their lengths.
        let status = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        if status < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "recvmsg: {error}");
            return all;
        }
        assert_eq!(message.msg_flags & libc::MSG_TRUNC, 0);
        // SAFETY: the kernel has filled `control` up to `msg_controllen` with whole messages.
        let segment_len = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            let is_gro = !header.is_null()
                && (*header).cmsg_level == libc::SOL_UDP
                && (*header).cmsg_type == libc::UDP_GRO;
            is_gro.then(|| {
                let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                data.read_unaligned() as u16
            })
        };
        all.push(Received {
            bytes: buffer[..status as usize].to_vec(),
            segment_len,
        });
    }
}

fn datagrams(received: &[Received]) -> u64 {
    received.iter().map(Received::datagrams).sum()
}

// ---- the gate -------------------------------------------------------------------------------

/// Runs `body` in a namespace of its own with a gate in the kernel, or skips.
fn with_gate(test: &'static str, body: impl FnOnce(&mut Gate) + Send + 'static) {
    with_gate_or_skip(test, |gate| {
        assert_eq!(gate.kind(), GateKind::Kernel);
        assert!(gate.drops_exact(), "the tracepoint is not attached");
        body(gate);
        for other in [ListenerId(0), ListenerId(2)] {
            assert_eq!(gate.counts(other), GateCounts::default(), "{other:?}");
        }
    });
}

/// The counts in the tests' words; the verdicts that nothing here can earn must be 0.
fn counted(counts: &GateCounts) -> Expected {
    let [passed, denied, malformed, rate_limited, shed, closing] = counts.verdicts;
    assert_eq!([denied, rate_limited, shed, closing], [0; 4]);
    Expected {
        passed,
        malformed,
        judged: counts.judged_bundles,
    }
}

/// Drops of what the filter had passed.
fn dropped(counts: &GateCounts) -> u64 {
    counts.drops[KernelDrop::ReceiveBuffer as usize] + counts.drops[KernelDrop::Memory as usize]
}

fn verdicts_are_exact(gate: &mut Gate, family: Family, gro: bool) {
    let socket = guarded(gate, family, gro, 4 << 20);
    assert!(gate.attached(LISTENER));
    assert!(!gate.attached(ListenerId(0)));
    let traffic = traffic();
    let from = sender(&socket, family);
    let mut received = Vec::new();
    for sent in &traffic {
        send(&from, sent);
        // On loopback a send ends in the receiving socket's queue: there is nothing to wait for.
        received.extend(drain(&socket));
    }
    let counts = gate.counts(LISTENER);
    let expected = expected(&traffic, gro);
    assert_eq!(counted(&counts), expected, "{family:?}, GRO {gro}");
    assert_eq!(counts.drops, [0; KernelDrop::COUNT]);
    assert_eq!(datagrams(&received), expected.passed);
    stand_in_agrees(&traffic, gro, &expected);

    // What came out passes again: nothing was cut or mixed up on the way.
    let mut again = [0; Verdict::COUNT];
    for bundle in &received {
        let Received { bytes, segment_len } = bundle;
        assert!(stand_in(bytes, *segment_len, &mut again));
    }
    assert_eq!(again, [expected.passed, 0, 0, 0, 0, 0]);
}

/// The stand-in's verdict without any policy, counted; whether the bundle passes.
fn stand_in(bytes: &[u8], segment_len: Option<u16>, counts: &mut [u64; Verdict::COUNT]) -> bool {
    let slot = frame_slot(LISTENER, PAYLOAD_LEN_MAX);
    let outcome = StandIn::new().judge(&slot, None, bytes, segment_len, 0);
    standin::count(&outcome, counts);
    outcome.passes()
}

/// The stand-in is fed what the filter was shown.
fn stand_in_agrees(traffic: &[Sent], gro: bool, expected: &Expected) {
    let mut counts = [0; Verdict::COUNT];
    for sent in traffic {
        match sent.segment_len {
            Some(len) if !gro => {
                for datagram in sent.bytes.chunks(usize::from(len)) {
                    stand_in(datagram, None, &mut counts);
                }
            }
            segment_len => {
                stand_in(&sent.bytes, segment_len, &mut counts);
            }
        }
    }
    assert_eq!(counts, [expected.passed, 0, expected.malformed, 0, 0, 0]);
}

#[test]
fn verdicts_are_exact_v4() {
    with_gate("gate_kernel::verdicts_are_exact_v4", |gate| {
        verdicts_are_exact(gate, Family::V4, false);
    });
}

#[test]
fn verdicts_are_exact_v4_gro() {
    with_gate("gate_kernel::verdicts_are_exact_v4_gro", |gate| {
        verdicts_are_exact(gate, Family::V4, true);
    });
}

#[test]
fn verdicts_are_exact_v6() {
    with_gate("gate_kernel::verdicts_are_exact_v6", |gate| {
        verdicts_are_exact(gate, Family::V6, false);
    });
}

#[test]
fn verdicts_are_exact_v6_gro() {
    with_gate("gate_kernel::verdicts_are_exact_v6_gro", |gate| {
        verdicts_are_exact(gate, Family::V6, true);
    });
}

/// Single datagrams, bundles with a short last one, good and bad frames.
fn flood() -> Vec<Sent> {
    vec![
        single(frame(300), true),
        bundle(200, &[true; 40], Some((frame(77), true))),
        bundle(45, &[true; 127], Some((frame(41), true))),
        bundle(1400, &[true, false, true], None),
        // Its last datagram is one byte: eight bytes too many or too few, the UDP header's, would
        // give another count, here and for the even bundle above.
        bundle(200, &[true; 3], Some((b"x".to_vec(), false))),
        single(broken(100, 0), false),
        bundle(100, &[false; 9], None),
    ]
}

fn overflow_is_accounted_for(gate: &mut Gate, family: Family, gro: bool, senders: usize) {
    const ROUNDS: usize = 300;
    // The kernel doubles it; a bundle or two fit.
    let socket = guarded(gate, family, gro, 16 << 10);
    let threads: Vec<_> = (0..senders)
        .map(|_| {
            let from = sender(&socket, family);
            thread::spawn(move || {
                let flood = flood();
                for _ in 0..ROUNDS {
                    flood.iter().for_each(|sent| send(&from, sent));
                }
            })
        })
        .collect();
    // One slow reader: the queue fills and empties while the senders go on.
    let mut received = 0;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        received += datagrams(&drain(&socket));
        thread::sleep(Duration::from_millis(1));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    received += datagrams(&drain(&socket));

    let counts = gate.counts(LISTENER);
    let rounds = (ROUNDS * senders) as u64;
    let one = expected(&flood(), gro);
    let all = Expected {
        passed: one.passed * rounds,
        malformed: one.malformed * rounds,
        judged: one.judged * rounds,
    };
    assert_eq!(counted(&counts), all, "{family:?}, GRO {gro}");
    let drops = dropped(&counts);
    assert!(drops > 0, "the test must overflow the buffer");
    assert!(received > 0, "the test must receive something");
    println!(
        "passed {} = received {received} + {:?}",
        all.passed, counts.drops
    );
    assert_eq!(received + drops, all.passed, "{:?}", counts.drops);
    assert_eq!(counts.drops[KernelDrop::Checksum as usize], 0);
}

#[test]
fn overflow_is_accounted_for_alone() {
    with_gate("gate_kernel::overflow_is_accounted_for_alone", |gate| {
        overflow_is_accounted_for(gate, Family::V4, false, 1);
    });
}

#[test]
fn overflow_is_accounted_for_gro() {
    with_gate("gate_kernel::overflow_is_accounted_for_gro", |gate| {
        overflow_is_accounted_for(gate, Family::V4, true, 1);
    });
}

#[test]
fn overflow_is_accounted_for_two_senders() {
    with_gate("gate_kernel::overflow_two_senders", |gate| {
        overflow_is_accounted_for(gate, Family::V6, false, 2);
    });
}

#[test]
fn overflow_is_accounted_for_gro_two_senders() {
    with_gate("gate_kernel::overflow_gro_two_senders", |gate| {
        overflow_is_accounted_for(gate, Family::V6, true, 2);
    });
}

#[test]
fn a_closing_listener_takes_nothing_more() {
    with_gate("gate_kernel::a_closing_listener", |gate| {
        let socket = guarded(gate, Family::V4, true, 4 << 20);
        let from = sender(&socket, Family::V4);
        let burst = [
            single(frame(100), true),
            bundle(100, &[true; 5], Some((frame(50), true))),
            single(broken(100, 0), false),
        ];
        burst.iter().for_each(|sent| send(&from, sent));
        gate.close(LISTENER);
        burst.iter().for_each(|sent| send(&from, sent));
        let counts = gate.counts(LISTENER);
        // 1 + 6 good ones and 1 bad one before; all 8 after, whatever they are.
        assert_eq!(counts.verdicts, [7, 0, 1, 0, 0, 8]);
        // What had passed before is still there to be received.
        assert_eq!(datagrams(&drain(&socket)), 7);
    });
}

#[test]
fn two_sockets_of_a_listener_count_together() {
    with_gate("gate_kernel::two_sockets_of_a_listener", |gate| {
        for family in [Family::V4, Family::V6] {
            let socket = guarded(gate, family, false, 1 << 20);
            send(&sender(&socket, family), &single(frame(64), true));
            assert_eq!(drain(&socket).len(), 1);
        }
        assert_eq!(gate.counts(LISTENER).verdicts, [2, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn a_wrong_checksum_is_a_kernel_drop() {
    with_gate("gate_kernel::a_wrong_checksum", |gate| {
        let socket = guarded(gate, Family::V4, true, 1 << 20);
        // A raw socket's UDP header is sent as it stands, its checksum included.
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap();
        let to = socket.local_addr().unwrap();
        let payload = frame(100);
        let mut packet = Vec::new();
        packet.extend(4242u16.to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend(0xbadu16.to_be_bytes());
        packet.extend(payload);
        for _ in 0..3 {
            raw.send_to(&packet, &to.into()).unwrap();
        }
        let counts = gate.counts(LISTENER);
        let mut expected = [0; KernelDrop::COUNT];
        expected[KernelDrop::Checksum as usize] = 3;
        assert_eq!(counts.drops, expected);
        // It comes before the gate.
        assert_eq!(counts.verdicts, [0; Verdict::COUNT]);
        assert!(drain(&socket).is_empty());
    });
}

#[test]
fn the_verifier_has_room_left() {
    with_gate("gate_kernel::the_verifier_has_room_left", |gate| {
        let programs = gate.verified_instructions();
        let names: HashSet<&str> = programs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, HashSet::from(object::PROGRAMS));
        for (name, instructions) in programs {
            println!("verifier: {name}: {instructions} instructions looked at");
            assert!(instructions > 0, "{name}");
            assert!(
                instructions < VERIFIED_INSTRUCTIONS_MAX,
                "{name}: {instructions}"
            );
        }
    });
}

#[test]
fn a_listener_out_of_range_is_refused() {
    with_gate("gate_kernel::a_listener_out_of_range", |gate| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = ListenerId(LISTENERS_MAX as u16);
        let outcome = gate.guard(listener, PAYLOAD_LEN_MAX, socket.as_fd());
        assert!(outcome.is_err());
        assert!(!gate.attached(listener));
    });
}

/// In user space nothing is judged before it is received, and the kernel's own table says what was
/// dropped.
#[test]
fn without_the_gate_drops_come_from_the_kernels_table() {
    if !netns::privileged_or_skip("gate_kernel::without_the_gate") {
        return;
    }
    let outcome = netns::run(|| {
        let mut gate = Gate::open(GateMode::Off).unwrap();
        assert_eq!(gate.kind(), GateKind::UserSpace);
        let socket = guarded(&mut gate, Family::V4, false, 4 << 10);
        assert!(!gate.attached(LISTENER));
        let from = sender(&socket, Family::V4);
        for _ in 0..500 {
            send(&from, &single(frame(300), true));
        }
        let received = datagrams(&drain(&socket));
        let counts = gate.counts(LISTENER);
        assert_eq!(counts.verdicts, [0; Verdict::COUNT]);
        assert!(dropped(&counts) > 0);
        assert_eq!(received + dropped(&counts), 500);
    });
    outcome.expect("a network namespace");
}

/// A filter whose socket was never entered passes everything, and says so once on each CPU.
#[test]
fn an_unknown_socket_passes_and_is_logged_once() {
    const DATAGRAMS: u64 = 100;
    let test = "gate_kernel::an_unknown_socket";
    let Some(bytes) = object::OBJECT else {
        return netns::skip(test, "this build holds no eBPF object");
    };
    if !netns::privileged_or_skip(test) {
        return;
    }
    let outcome = netns::run(move || {
        let mut ebpf = aya::Ebpf::load(bytes).unwrap();
        let filter = ebpf.program_mut(object::FILTER).unwrap();
        let filter: &mut aya::programs::SocketFilter = filter.try_into().unwrap();
        filter.load().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        filter.attach(&socket).unwrap();
        let lines = Lines::default();
        let mut logger = aya_log::EbpfLogger::init_with_logger(&mut ebpf, lines.clone()).unwrap();

        let from = sender(&socket, Family::V4);
        for _ in 0..DATAGRAMS {
            send(&from, &single(b"no frame".to_vec(), false));
        }
        assert_eq!(drain(&socket).len() as u64, DATAGRAMS);
        logger.flush();

        let strays = ebpf.map(object::map::STRAYS).unwrap();
        let strays: aya::maps::PerCpuArray<_, u64> = strays.try_into().unwrap();
        let per_cpu = strays.get(&(Stray::UnknownSocket as u32), 0).unwrap();
        assert_eq!(per_cpu.iter().sum::<u64>(), DATAGRAMS);
        let lines = lines.0.lock().unwrap();
        let cpus = per_cpu.iter().filter(|&&count| count > 0).count();
        assert_eq!(lines.len(), cpus, "{lines:?}");
        assert!(lines[0].contains("does not know"), "{lines:?}");
    });
    outcome.expect("a network namespace");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}
