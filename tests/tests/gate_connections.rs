//! The filter of TCP listeners in the real kernel: who may open a connection, and that it looks at
//! nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, IntoRawFd};
use std::time::Duration;

use agent_common::connection::ConnectionVerdict;
use aya::sys::{Stats, enable_stats};
use penstock::fence::socket::accepted;
use penstock::gate::policy::{GatePolicy, Prefix, Rate, SourceLimit};
use penstock::gate::{Gate, object};
use penstock::shard::op::ListenerId;
use penstock_tests::gate::with_gate_or_skip;
use socket2::{Domain, Socket, Type};

const LISTENER: ListenerId = ListenerId(1);
/// Long enough for a handshake on loopback, too short for a second SYN (a second, RFC 6298).
const HANDSHAKE_MAX: Duration = Duration::from_millis(500);

fn listener(gate: &mut Gate, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    gate.guard(LISTENER, 1 << 20, socket.as_fd()).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

/// Tries once; one SYN.
fn connect(from: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let from: SocketAddr = from.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), HANDSHAKE_MAX)?;
    Ok(socket.into())
}

fn assert_dropped(outcome: std::io::Result<TcpStream>) {
    let error = outcome.expect_err("a connection that must not be");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "in silence: {error}");
}

/// Passed, denied, rate_limited, closing.
fn counts(gate: &Gate) -> [u64; ConnectionVerdict::COUNT] {
    gate.connections(LISTENER)
}

fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).expect("a prefix")
}

fn deny_lists_hold(gate: &mut Gate, address: &str, good: &str, bad: &str, deny: &str) {
    let listener = listener(gate, address);
    let to = listener.local_addr().unwrap();
    // Open before it is denied: it stays.
    let mut early = connect(bad, to).expect("not denied yet");
    let (mut early_accepted, _) = listener.accept().unwrap();
    let policy = GatePolicy {
        deny: vec![prefix(deny)],
        ..GatePolicy::default()
    };
    gate.apply(&policy).expect("a policy");
    assert_dropped(connect(bad, to));
    connect(good, to).expect("not denied");
    assert_eq!(counts(gate), [2, 1, 0, 0]);
    early.write_all(b"still here").unwrap();
    let mut bytes = [0; 10];
    early_accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here", "established streams are not cut");
}

#[test]
fn deny_lists_hold_v4() {
    with_gate_or_skip("gate_connections::deny_lists_hold_v4", |gate| {
        deny_lists_hold(
            gate,
            "127.0.0.1:0",
            "127.0.0.1:0",
            "127.5.0.1:0",
            "127.5.0.0/16",
        );
    });
}

/// An IPv6 socket that takes IPv4 too.
#[test]
fn deny_lists_hold_v4_on_v6() {
    with_gate_or_skip("gate_connections::deny_lists_hold_v4_on_v6", |gate| {
        let listener = listener(gate, "[::]:0");
        let port = listener.local_addr().unwrap().port();
        let policy = GatePolicy {
            deny: vec![prefix("127.5.0.0/16"), prefix("::1/128")],
            ..GatePolicy::default()
        };
        gate.apply(&policy).expect("a policy");
        connect("127.0.0.1:0", ([127, 0, 0, 1], port).into()).expect("not denied");
        assert_dropped(connect("127.5.0.1:0", ([127, 0, 0, 1], port).into()));
        assert_dropped(connect("[::1]:0", format!("[::1]:{port}").parse().unwrap()));
        assert_eq!(counts(gate), [1, 2, 0, 0]);
    });
}

#[test]
fn a_source_opens_so_many_connections() {
    with_gate_or_skip("gate_connections::rate", |gate| {
        let listener = listener(gate, "127.0.0.1:0");
        let to = listener.local_addr().unwrap();
        let policy = GatePolicy {
            source_limit: SourceLimit {
                // The next one comes after a minute and more.
                connections: Some(Rate {
                    sustained: 1,
                    burst: 3,
                }),
                ..SourceLimit::default()
            },
            // Without an allowance for newcomers a source begins with its burst.
            ..GatePolicy::default()
        };
        gate.apply(&policy).expect("a policy");
        let outcomes: Vec<bool> = (0..12)
            .map(|_| connect("127.0.0.2:0", to).is_ok())
            .collect();
        let opened = outcomes.iter().filter(|ok| **ok).count() as u64;
        let refused = outcomes.len() as u64 - opened;
        assert!(opened >= 3 && refused > 0, "{outcomes:?}");
        assert_eq!(counts(gate), [opened, 0, refused, 0]);
        connect("127.0.0.3:0", to).expect("another source has its own");
        assert_eq!(counts(gate), [opened + 1, 0, refused, 0]);
    });
}

#[test]
fn a_closing_listener_is_asked_in_vain() {
    with_gate_or_skip("gate_connections::closing", |gate| {
        let listener = listener(gate, "127.0.0.1:0");
        let to = listener.local_addr().unwrap();
        let mut open = connect("127.0.0.1:0", to).expect("open");
        let (mut other, _) = listener.accept().unwrap();
        gate.close(LISTENER);
        assert_dropped(connect("127.0.0.1:0", to));
        assert_eq!(counts(gate), [1, 0, 0, 1]);
        open.write_all(b"x").unwrap();
        other.read_exact(&mut [0]).unwrap();
    });
}

/// The kernel counts the program's runs: none for an accepted connection's segments. Where the filter
/// is left on, as the second half shows, each of them is one.
#[test]
fn the_filter_does_not_run_on_an_accepted_streams_segments() {
    with_gate_or_skip("gate_connections::runs", |gate| {
        const ROUNDS: usize = 50;
        let _counting = enable_stats(Stats::RunTime).expect("BPF_ENABLE_STATS");
        let runs = |gate: &Gate| {
            let all = gate.program_runs();
            all.iter()
                .find(|(name, _)| *name == object::CONNECTIONS)
                .expect("loaded")
                .1
        };
        let listener = listener(gate, "127.0.0.1:0");
        let to = listener.local_addr().unwrap();
        let talk = |near: &mut TcpStream, far: &mut TcpStream| {
            for _ in 0..ROUNDS {
                near.write_all(b"ping").unwrap();
                far.read_exact(&mut [0; 4]).unwrap();
                far.write_all(b"pong").unwrap();
                near.read_exact(&mut [0; 4]).unwrap();
            }
        };
        let mut near = connect("127.0.0.1:0", to).unwrap();
        let (far, _) = listener.accept().unwrap();
        let handshake = runs(gate);
        assert!(handshake >= 1, "it ran on the SYN");
        // What both fences make of a new connection.
        let socket = accepted(far.into_raw_fd()).socket;
        // SAFETY: `accepted` hands the descriptor on; nobody else owns it.
        let mut far = unsafe { <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(socket.0) };
        talk(&mut near, &mut far);
        assert_eq!(runs(gate), handshake, "not once more");

        let mut near = connect("127.0.0.1:0", to).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let before = runs(gate);
        talk(&mut near, &mut far);
        assert!(runs(gate) >= before + ROUNDS as u64, "the count can tell");
        assert_eq!(counts(gate), [2, 0, 0, 0]);
    });
}
