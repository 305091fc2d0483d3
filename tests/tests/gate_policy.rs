//! The policy in the real kernel and in the stand-in: the same bundles, the same verdicts, the same
//! counts. The kernel's count of judged bundles proves that its program ran.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use agent_common::verdict::Verdict;
use penstock::config::settings::GateMode;
use penstock::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};
use penstock::gate::{Gate, PolicyError, StandIn, frame_slot, standin};
use penstock::shard::op::ListenerId;
use penstock_proto::wire::write_frame;
use penstock_tests::gate::with_gate_or_skip;
use penstock_tests::veth::Peer;
use socket2::{Domain, Socket, Type};

const LISTENER: ListenerId = ListenerId(1);
const PAYLOAD_LEN_MAX: u32 = 2000;
const LEN: usize = 200;

type Counts = [u64; Verdict::COUNT];

/// What one send hands to the kernel: datagrams of `LEN` bytes from one address.
#[derive(Clone)]
struct Sent {
    from: IpAddr,
    datagrams: Vec<Vec<u8>>,
}

fn good(priority: u8, sequence: u64) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority,
        payload_len: 0,
        records: 1,
        producer: 7,
        sequence,
        payload_crc: 0,
    };
    let mut bytes = Vec::with_capacity(LEN);
    write_frame(&mut bytes, header, &[b'r'; LEN - FRAME_HEADER_LEN]);
    bytes
}

fn bad() -> Vec<u8> {
    vec![b'x'; LEN]
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

fn bytes_limit(burst: u64) -> SourceLimit {
    SourceLimit {
        // So slow that no pause of the test machine brings a bundle more.
        bytes: Some(Rate {
            sustained: 1,
            burst,
        }),
        ..SourceLimit::default()
    }
}

/// By the third byte (or the last word): 1 is well behaved, 2 denied but for one, 3 limited, 4
/// limited by an override that is wider than its source.
fn policy() -> GatePolicy {
    GatePolicy {
        allow: [
            "127.0.0.0/8",
            "127.0.2.7/32",
            "10.9.0.0/16",
            "fd09::/64",
            "::1/128",
        ]
        .map(prefix)
        .to_vec(),
        deny: ["127.0.2.0/24", "10.9.2.0/24", "fd09::2:0/112"]
            .map(prefix)
            .to_vec(),
        limits: vec![
            (prefix("127.0.3.0/24"), bytes_limit(1500)),
            (prefix("10.9.3.0/24"), bytes_limit(1)),
            (prefix("fd09::3:0/112"), bytes_limit(1)),
        ],
        source_prefix_v6: 128,
        keep: [16, 16, 8, 4],
        ..GatePolicy::default()
    }
}

fn guarded(gate: &mut Gate, address: SocketAddr, gro: bool) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.set_recv_buffer_size(8 << 20).unwrap();
    gate.guard(LISTENER, PAYLOAD_LEN_MAX, socket.as_fd())
        .unwrap();
    set_option(&socket, libc::UDP_GRO, libc::c_int::from(gro));
    socket.bind(&address.into()).unwrap();
    socket.into()
}

fn set_option(socket: &impl AsRawFd, option: libc::c_int, value: libc::c_int) {
    // SAFETY: the option's value is an int, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(
        status,
        0,
        "setsockopt {option}: {}",
        io::Error::last_os_error()
    );
}

/// Cut into datagrams by the kernel (UDP_SEGMENT), from the address that it names.
fn send(sent: &Sent, to: SocketAddr) {
    let socket = UdpSocket::bind((sent.from, 0)).unwrap();
    set_option(&socket, libc::UDP_SEGMENT, LEN as libc::c_int);
    let to = match (sent.from, to) {
        // A socket of both families is reached over either.
        (IpAddr::V4(_), SocketAddr::V6(_)) => SocketAddr::from(([127, 0, 0, 1], to.port())),
        _ => to,
    };
    let bytes = sent.datagrams.concat();
    assert_eq!(socket.send_to(&bytes, to).unwrap(), bytes.len());
}

fn total(all: &[Sent]) -> u64 {
    all.iter().map(|sent| sent.datagrams.len() as u64).sum()
}

/// Waits until so many datagrams have been judged.
fn judged(gate: &Gate, datagrams: u64) -> Counts {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let verdicts = gate.counts(LISTENER).verdicts;
        let sum: u64 = verdicts.iter().sum();
        assert!(sum <= datagrams, "{verdicts:?} of {datagrams}");
        if sum == datagrams {
            return verdicts;
        }
        assert!(Instant::now() < deadline, "{verdicts:?} of {datagrams}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The stand-in's counts of the same, and its bundles: with GRO as sent, else each datagram alone.
fn stand_in(policy: &GatePolicy, all: &[Sent], gro: bool, over_v6: bool) -> (Counts, u64) {
    let mut gate = Gate::open(GateMode::Off).unwrap();
    gate.apply(policy).unwrap();
    let mut stand_in: StandIn = gate.stand_in().unwrap().clone();
    let slot = frame_slot(LISTENER, PAYLOAD_LEN_MAX);
    let (mut counts, mut bundles) = (Counts::default(), 0);
    let start = Instant::now();
    for sent in all {
        // As an IPv6 socket reports it.
        let from = match sent.from {
            IpAddr::V4(v4) if over_v6 => IpAddr::V6(v4.to_ipv6_mapped()),
            other => other,
        };
        let from = Some(SocketAddr::from((from, 1)));
        let whole = [sent.datagrams.concat()];
        for bundle in if gro { &whole[..] } else { &sent.datagrams } {
            let segment_len = (bundle.len() > LEN).then_some(LEN as u16);
            let now_ns = start.elapsed().as_nanos() as u64;
            let outcome = stand_in.judge(&slot, from, bundle, segment_len, now_ns);
            standin::count(&outcome, &mut counts);
            bundles += 1;
        }
    }
    (counts, bundles)
}

/// Each kind of bundle from each kind of source, on loopback, where a bundle stays as it was sent.
fn bundles() -> Vec<Sent> {
    let mut all = Vec::new();
    let froms = [
        "127.0.1.1",
        "127.0.2.1",
        "127.0.2.7",
        "127.0.3.1",
        "127.0.3.2",
    ];
    for (number, from) in froms.iter().enumerate() {
        let from: IpAddr = from.parse().unwrap();
        let mut put = |datagrams: Vec<Vec<u8>>| all.push(Sent { from, datagrams });
        let number = number as u64;
        put(vec![good(0, 1)]);
        put(vec![bad()]);
        put(vec![bad(), bad(), bad()]);
        put(vec![bad(), good(2, 3 + number), bad()]);
        // Not kept at 8/16 and 4/16: alone, together, with a bad one, and with one that is kept.
        put(vec![good(2, 8)]);
        put(vec![good(2, 31), good(3, 4)]);
        put(vec![good(3, 15), bad(), good(3, 20)]);
        put(vec![good(3, 15), bad(), good(3, 16)]);
        put((0..40)
            .map(|sequence| good((sequence % 4) as u8, sequence))
            .collect());
        put((0..64).map(|sequence| good(1, sequence)).collect());
        put(vec![bad(), good(0, 2)]);
    }
    all
}

fn the_same_on_loopback(gate: &mut Gate, gro: bool, over_v6: bool) {
    let policy = policy();
    gate.apply(&policy).unwrap();
    let address: SocketAddr = if over_v6 { "[::]:0" } else { "0.0.0.0:0" }
        .parse()
        .unwrap();
    let socket = guarded(gate, address, gro);
    let port = socket.local_addr().unwrap().port();
    let to = match over_v6 {
        true => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        false => SocketAddr::from(([127, 0, 0, 1], port)),
    };
    let mut all = bundles();
    if over_v6 {
        all.push(Sent {
            from: "::1".parse().unwrap(),
            datagrams: vec![good(0, 1), bad()],
        });
    }
    all.iter().for_each(|sent| send(sent, to));
    let kernel = judged(gate, total(&all));
    let (user, bundles) = stand_in(&policy, &all, gro, over_v6);
    println!("GRO {gro}, over IPv6 {over_v6}: {kernel:?}");
    assert_eq!(kernel, user, "GRO {gro}, over IPv6 {over_v6}");
    assert_eq!(gate.counts(LISTENER).judged_bundles, bundles);
    let [passed, denied, malformed, rate_limited, shed, closing] = kernel;
    assert!(passed > 0 && malformed > 0 && rate_limited > 0 && shed > 0);
    // All of 127.0.2.1, whatever it sent; and nothing of 127.0.2.7, which is allowed.
    assert_eq!((denied, closing), (total(&bundles_of("127.0.2.1")), 0));
}

fn bundles_of(from: &str) -> Vec<Sent> {
    let from: IpAddr = from.parse().unwrap();
    bundles()
        .into_iter()
        .filter(|sent| sent.from == from)
        .collect()
}

#[test]
fn the_same_verdicts_v4() {
    with_gate_or_skip("gate_policy::v4", |gate| {
        the_same_on_loopback(gate, false, false)
    });
}

#[test]
fn the_same_verdicts_v4_gro() {
    with_gate_or_skip("gate_policy::v4_gro", |gate| {
        the_same_on_loopback(gate, true, false)
    });
}

#[test]
fn the_same_verdicts_over_an_ipv6_socket() {
    with_gate_or_skip("gate_policy::v6", |gate| {
        the_same_on_loopback(gate, false, true)
    });
}

#[test]
fn the_same_verdicts_over_an_ipv6_socket_gro() {
    with_gate_or_skip("gate_policy::v6_gro", |gate| {
        the_same_on_loopback(gate, true, true)
    });
}

/// Over a wire, from several addresses: every source earns one verdict, however GRO joins what it
/// sends.
fn the_same_over_a_wire(gate: &mut Gate, v6: bool, gro: bool) {
    let (here, there): (&[&str], &[&str]) = match v6 {
        false => (
            &["10.9.255.1/16"],
            &["10.9.1.1/16", "10.9.2.1/16", "10.9.2.2/16", "10.9.3.1/16"],
        ),
        true => (
            &["fd09::ff:1/64"],
            &[
                "fd09::1:1/64",
                "fd09::2:1/64",
                "fd09::2:2/64",
                "fd09::3:1/64",
            ],
        ),
    };
    let peer = Peer::new(here, there, gro);
    let policy = policy();
    gate.apply(&policy).unwrap();
    let address: IpAddr = here[0].split('/').next().unwrap().parse().unwrap();
    let socket = guarded(gate, (address, 0).into(), gro);
    let to = socket.local_addr().unwrap();
    let of = |index: usize, datagrams: Vec<Vec<u8>>| Sent {
        from: there[index].split('/').next().unwrap().parse().unwrap(),
        datagrams,
    };
    let many =
        |priority: u8, from: u64| (0..20).map(move |n| good(priority, from + n % 8)).collect();
    // One that passes and leaves the limited source with a debt, before the others.
    let first = vec![of(3, vec![good(0, 0)])];
    let all = vec![
        of(0, many(1, 0)),
        // Numbers 8 to 15 of 16 at 8/16.
        of(0, many(2, 8)),
        of(1, many(0, 0)),
        of(2, vec![bad(); 20]),
        of(0, vec![bad(); 20]),
        of(3, many(0, 0)),
    ];
    let mut sent = 0;
    for round in [&first, &all] {
        for sent_once in round {
            let sent_once = sent_once.clone();
            sent += sent_once.datagrams.len() as u64;
            peer.run(move || send(&sent_once, to));
            judged(gate, sent);
        }
    }
    let kernel = judged(gate, sent);
    let everything = [first, all].concat();
    let (user, _) = stand_in(&policy, &everything, false, v6);
    assert_eq!(kernel, user, "IPv6 {v6}, GRO {gro}");
    assert_eq!(kernel, [21, 40, 20, 20, 20, 0], "IPv6 {v6}, GRO {gro}");
    let judged_bundles = gate.counts(LISTENER).judged_bundles;
    println!("IPv6 {v6}, GRO {gro}: {sent} datagrams in {judged_bundles} bundles");
    assert!(judged_bundles >= 7 && judged_bundles <= sent);
}

#[test]
fn the_same_verdicts_over_a_wire() {
    for (v6, gro) in [(false, false), (false, true), (true, false), (true, true)] {
        with_gate_or_skip("gate_policy::wire", move |gate| {
            the_same_over_a_wire(gate, v6, gro);
        });
    }
}

/// What is refused changes nothing; what is put in force replaces all of what was before.
#[test]
fn a_policy_is_replaced_as_a_whole_or_not_at_all() {
    with_gate_or_skip("gate_policy::replaced", |gate| {
        let socket = guarded(gate, "127.0.0.1:0".parse().unwrap(), false);
        let to = socket.local_addr().unwrap();
        let from = |address: &str| Sent {
            from: address.parse().unwrap(),
            datagrams: vec![good(3, 5)],
        };
        let mut before = Counts::default();
        let mut verdict = |gate: &Gate, address: &str| {
            send(&from(address), to);
            let sum: u64 = before.iter().sum();
            let after = judged(gate, sum + 1);
            let changed = (0..Verdict::COUNT)
                .find(|&v| after[v] != before[v])
                .unwrap();
            before = after;
            Verdict::ALL[changed]
        };
        assert_eq!(verdict(gate, "127.0.2.1"), Verdict::Passed);
        gate.apply(&policy()).unwrap();
        assert_eq!(verdict(gate, "127.0.2.1"), Verdict::Denied);
        assert_eq!(verdict(gate, "127.0.1.1"), Verdict::Shed);

        let mut wrong = GatePolicy {
            deny: vec![prefix("127.0.1.0/24")],
            ..GatePolicy::default()
        };
        wrong.allow = wrong.deny.clone();
        let error = gate.apply(&wrong).unwrap_err();
        assert!(matches!(error, PolicyError::AllowedAndDenied(_)), "{error}");
        assert_eq!(gate.policy(), &policy());
        assert_eq!(verdict(gate, "127.0.2.1"), Verdict::Denied);

        // Many times over: old entries do not stay behind and fill the tries.
        for third in 0..40_u8 {
            let deny = (0..1000_u32).map(|n| Prefix {
                address: IpAddr::from(
                    (0x7f00_0000 | u32::from(third) << 16 | n << 2).to_be_bytes(),
                ),
                len: 30,
            });
            let next = GatePolicy {
                deny: deny.collect(),
                ..GatePolicy::default()
            };
            gate.apply(&next).unwrap();
        }
        assert_eq!(verdict(gate, "127.39.0.1"), Verdict::Denied);
        assert_eq!(
            verdict(gate, "127.38.0.1"),
            Verdict::Passed,
            "an older policy's"
        );
        assert_eq!(verdict(gate, "127.0.2.1"), Verdict::Passed);

        gate.apply(&GatePolicy::default()).unwrap();
        assert_eq!(verdict(gate, "127.39.0.1"), Verdict::Passed);
        gate.set_keep([0; 4]);
        assert_eq!(verdict(gate, "127.0.1.1"), Verdict::Shed);
        gate.set_keep([16; 4]);
        assert_eq!(verdict(gate, "127.0.1.1"), Verdict::Passed);
    });
}
