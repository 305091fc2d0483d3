//! The steering in the real kernel: which shard's socket a bundle comes to, in network namespaces of
//! its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use agent_common::frame::FrameHeader;
use agent_common::steer::SteeredBy;
use agent_common::verdict::Verdict;
use penstock::config::settings::GateMode;
use penstock::gate::Gate;
use penstock::privilege;
use penstock::shard::op::ListenerId;
use penstock_proto::wire::write_frame;
use penstock_tests::agent::wait_for;
use penstock_tests::gate::with_gate_or_skip;
use penstock_tests::veth::Peer;
use socket2::{Domain, Socket, Type};

const LISTENER: ListenerId = ListenerId(1);
const PAYLOAD_LEN_MAX: u32 = 65_467;
const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

/// The shard of a producer, worked out as the documentation of `owner` has it, in wide numbers: the
/// upper half of the 64-bit product, times the shards, over 2^32.
fn owner_of(number: u64, shards: u64) -> usize {
    let product = u128::from(number) * 0x9E37_79B9_7F4A_7C15_u128 % (1 << 64);
    (((product >> 32) * u128::from(shards)) >> 32) as usize
}

fn frame(producer: u64, sequence: u64) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 1,
        flags: 0,
        priority: 2,
        payload_len: 0,
        records: 1,
        producer,
        sequence,
        payload_crc: 0,
    };
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, &[b'r'; 60]);
    bytes
}

/// A listener's sockets as the agent makes them: the first is bound alone.
fn listener(gate: &mut Gate, id: ListenerId, shards: usize, address: &str) -> Vec<UdpSocket> {
    let mut address: SocketAddr = address.parse().expect("an address");
    let mut sockets = Vec::new();
    for shard in 0..shards {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
        socket.set_reuse_port(shard > 0).unwrap();
        socket.set_recv_buffer_size(1 << 20).unwrap();
        set_int(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        gate.guard(id, PAYLOAD_LEN_MAX, socket.as_fd()).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = UdpSocket::from(socket);
        address = socket.local_addr().unwrap();
        sockets.push(socket);
    }
    sockets
}

fn steer(gate: &mut Gate, id: ListenerId, sockets: &[UdpSocket]) {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    assert!(
        gate.steer(id, &sockets).expect("steered"),
        "the kernel has no steering"
    );
}

fn set_int(socket: &impl AsRawFd, level: i32, option: i32, value: i32) {
    // SAFETY: an int's address and its size, alive for the call; the descriptor is open.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(status, 0, "setsockopt: {}", io::Error::last_os_error());
}

/// A sender; bundles are cut by the kernel into datagrams of one length.
fn sender(from: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).expect("bind");
    socket.connect(to).expect("connect");
    socket
}

fn send_bundle(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    set_int(
        socket,
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        datagrams[0].len() as i32,
    );
    let bytes = datagrams.concat();
    assert_eq!(socket.send(&bytes).expect("send"), bytes.len());
    set_int(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
}

/// Frames as (producer, sequence), in the order in which they came, by shard; all frames here are
/// of one length, and other datagrams are producer 0.
fn drain(sockets: &[UdpSocket]) -> Vec<Vec<(u64, u64)>> {
    let len = frame(1, 1).len();
    let mut buffer = vec![0; 1 << 16];
    let mut shards = Vec::new();
    for socket in sockets {
        let mut frames = Vec::new();
        while let Ok(received) = socket.recv(&mut buffer) {
            for datagram in buffer[..received].chunks(len) {
                frames.push(match datagram.first_chunk() {
                    Some(header) if datagram.len() == len => {
                        let header = FrameHeader::read(header);
                        (header.producer, header.sequence)
                    }
                    _ => (0, 0),
                });
            }
        }
        shards.push(frames);
    }
    shards
}

/// Which shards have something of each producer.
fn homes(shards: &[Vec<(u64, u64)>]) -> BTreeMap<u64, BTreeSet<usize>> {
    let mut homes = BTreeMap::<u64, BTreeSet<usize>>::new();
    for (shard, frames) in shards.iter().enumerate() {
        for (producer, _) in frames {
            homes.entry(*producer).or_default().insert(shard);
        }
    }
    homes
}

/// Each producer's frames come to its shard alone, in the order in which they were sent.
fn assert_by_producer(shards: &[Vec<(u64, u64)>], producers: u64, frames: u64) {
    let homes = homes(shards);
    assert_eq!(homes.len() as u64, producers);
    for producer in 1..=producers {
        let shard = owner_of(producer, shards.len() as u64);
        assert_eq!(
            homes[&producer],
            BTreeSet::from([shard]),
            "producer {producer}"
        );
        let of_it = shards[shard].iter().filter(|(from, _)| *from == producer);
        let sequences: Vec<u64> = of_it.map(|(_, sequence)| *sequence).collect();
        assert_eq!(
            sequences,
            (1..=frames).collect::<Vec<_>>(),
            "producer {producer}"
        );
    }
}

fn steered(gate: &Gate, by: SteeredBy) -> u64 {
    gate.steered(LISTENER)[by as usize]
}

/// One address, one socket, many producers: they spread, and each keeps its order. By the kernel's
/// hash all of them would be one shard's.
fn one_address_spreads(gate: &mut Gate, address: &str, shards: usize) {
    const PRODUCERS: u64 = 40;
    const FRAMES: u64 = 25;
    let sockets = listener(gate, LISTENER, shards, address);
    let from = sender(address, sockets[0].local_addr().unwrap());
    for producer in 1..=PRODUCERS {
        from.send(&frame(producer, 1)).unwrap();
    }
    let before = homes(&drain(&sockets)).into_values().flatten();
    assert_eq!(
        before.collect::<BTreeSet<_>>().len(),
        1,
        "without steering: one shard"
    );
    assert_eq!(gate.steered(LISTENER), [0; SteeredBy::COUNT]);

    steer(gate, LISTENER, &sockets);
    for sequence in 1..=FRAMES {
        for producer in 1..=PRODUCERS {
            from.send(&frame(producer, sequence)).unwrap();
        }
    }
    let shards = drain(&sockets);
    assert_by_producer(&shards, PRODUCERS, FRAMES);
    assert!(shards.iter().all(|frames| !frames.is_empty()), "it spreads");
    // The program ran, once for each datagram, and never had to leave it to the kernel.
    assert_eq!(gate.steered(LISTENER), [PRODUCERS * FRAMES, 0, 0]);
    assert_eq!(gate.steered(ListenerId(0)), [0; SteeredBy::COUNT]);
    let passed = gate.counts(LISTENER).verdicts[Verdict::Passed as usize];
    assert_eq!(passed, PRODUCERS * (FRAMES + 1));
}

#[test]
fn one_address_spreads_over_two_shards() {
    with_gate_or_skip("gate_steer::two_shards", |gate| {
        one_address_spreads(gate, V4, 2)
    });
}

#[test]
fn one_address_spreads_over_three_shards_v6() {
    with_gate_or_skip("gate_steer::three_shards_v6", |gate| {
        one_address_spreads(gate, V6, 3)
    });
}

/// A bundle goes where its first producer belongs, as a whole.
#[test]
fn a_bundle_goes_to_its_first_producers_shard() {
    with_gate_or_skip("gate_steer::a_bundle", |gate| {
        let sockets = listener(gate, LISTENER, 2, V4);
        steer(gate, LISTENER, &sockets);
        let from = sender(V4, sockets[0].local_addr().unwrap());
        // `owner` gives producer 1 to the second of two shards, and 2 to the first.
        send_bundle(&from, &[frame(1, 1), frame(2, 1), frame(2, 2)]);
        send_bundle(&from, &[frame(2, 3), frame(1, 2)]);
        let shards = drain(&sockets);
        assert_eq!(shards[1], [(1, 1), (2, 1), (2, 2)]);
        assert_eq!(shards[0], [(2, 3), (1, 2)]);
        assert_eq!(gate.steered(LISTENER), [2, 0, 0], "bundles, not datagrams");
    });
}

/// Nobody's frames go by the sender's address, whatever its ports.
fn nobodys_frames_go_by_address(gate: &mut Gate, to: &str, sources: &[&str]) {
    const PORTS: usize = 5;
    let sockets = listener(gate, LISTENER, 4, to);
    steer(gate, LISTENER, &sockets);
    let to = sockets[0].local_addr().unwrap();
    let mut used = BTreeSet::new();
    for source in sources {
        for _ in 0..PORTS {
            sender(source, to).send(&frame(0, 1)).unwrap();
        }
        let shards = drain(&sockets);
        let home = shards.iter().position(|frames| !frames.is_empty()).unwrap();
        assert_eq!(shards[home].len(), PORTS, "{source}: all on one shard");
        let address: SocketAddr = source.parse().unwrap();
        let number = match address.ip() {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => {
                let whole = u128::from(address);
                ((whole >> 64) as u64).rotate_left(32) ^ whole as u64
            }
        };
        assert_eq!(home, owner_of(number, 4), "{source}");
        used.insert(home);
    }
    assert!(used.len() > 1, "several addresses spread: {used:?}");
    let count = (sources.len() * PORTS) as u64;
    assert_eq!(steered(gate, SteeredBy::Source), count);
}

#[test]
fn nobodys_frames_go_by_address_v4() {
    with_gate_or_skip("gate_steer::nobodys_v4", |gate| {
        let sources = ["127.0.0.1:0", "127.0.0.2:0", "127.1.2.3:0", "127.9.0.1:0"];
        nobodys_frames_go_by_address(gate, V4, &sources);
    });
}

/// What is no frame goes by address too; the filter then drops it on whichever socket.
#[test]
fn what_is_no_frame_goes_by_address() {
    with_gate_or_skip("gate_steer::no_frame", |gate| {
        let sockets = listener(gate, LISTENER, 2, V4);
        steer(gate, LISTENER, &sockets);
        let from = sender(V4, sockets[0].local_addr().unwrap());
        for len in [0, 1, 39, 40, 100] {
            from.send(&vec![b'x'; len]).unwrap();
        }
        assert_eq!(gate.steered(LISTENER), [0, 5, 0]);
        assert_eq!(gate.counts(LISTENER).verdicts, [0, 0, 5, 0, 0, 0]);
        assert!(drain(&sockets).iter().all(Vec::is_empty));
    });
}

/// What a reload does, by a thread that holds nothing: a listener comes, another goes and comes back
/// on the same port; its old sockets are cleared from the table by the kernel.
#[test]
fn listeners_come_and_go_without_a_capability() {
    with_gate_or_skip("gate_steer::come_and_go", |gate| {
        let first = listener(gate, ListenerId(0), 2, V4);
        steer(gate, ListenerId(0), &first);
        privilege::give_up();
        let held = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(held.contains("CapPrm:\t0000000000000000"), "{held}");

        for round in 1..=2 {
            let sockets = listener(gate, LISTENER, 2, V4);
            steer(gate, LISTENER, &sockets);
            let from = sender(V4, sockets[0].local_addr().unwrap());
            for sequence in 1..=5 {
                for producer in 1..=10 {
                    from.send(&frame(producer, sequence)).unwrap();
                }
            }
            assert_by_producer(&drain(&sockets), 10, 5);
            assert_eq!(gate.steered(LISTENER), [50 * round, 0, 0]);
        }
        // One shard's socket closed: its bundles are the kernel's to spread, and none is lost.
        let mut sockets = listener(gate, ListenerId(2), 2, V4);
        steer(gate, ListenerId(2), &sockets);
        let from = sender(V4, sockets[0].local_addr().unwrap());
        sockets.pop();
        for producer in 1..=10 {
            from.send(&frame(producer, 1)).unwrap();
        }
        let shards = drain(&sockets);
        assert_eq!(shards[0].len(), 10);
        let by_hash = (1..=10)
            .filter(|producer| owner_of(*producer, 2) == 1)
            .count() as u64;
        assert_eq!(gate.steered(ListenerId(2)), [10 - by_hash, 0, by_hash]);

        // The first listener has noticed nothing.
        let from = sender(V4, first[0].local_addr().unwrap());
        for producer in 1..=10 {
            from.send(&frame(producer, 1)).unwrap();
        }
        assert_by_producer(&drain(&first), 10, 1);
    });
}

/// A socket that an earlier life has steered and left (a service manager kept it) is steered by this
/// one.
#[test]
fn sockets_of_an_earlier_life_are_steered_anew() {
    with_gate_or_skip("gate_steer::earlier_life", |gate| {
        let sockets = listener(gate, LISTENER, 2, V4);
        let from = sender(V4, sockets[0].local_addr().unwrap());
        steer(gate, LISTENER, &sockets);
        from.send(&frame(1, 1)).unwrap();
        *gate = Gate::open(GateMode::Required).expect("another gate loads");
        for socket in &sockets {
            gate.guard(LISTENER, PAYLOAD_LEN_MAX, socket.as_fd())
                .unwrap();
        }
        steer(gate, LISTENER, &sockets);
        from.send(&frame(1, 2)).unwrap();
        assert_eq!(drain(&sockets)[1], [(1, 1), (1, 2)]);
        assert_eq!(gate.steered(LISTENER), [1, 0, 0]);
    });
}

#[test]
fn one_socket_needs_no_steering() {
    with_gate_or_skip("gate_steer::one_socket", |gate| {
        let sockets = listener(gate, LISTENER, 1, V4);
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        assert!(!gate.steer(LISTENER, &sockets).unwrap());
    });
}

/// Over a wire: several addresses; what is one send comes as single datagrams, or as bundles that GRO
/// has made of them.
fn over_a_wire(gate: &mut Gate, gro: bool) {
    const FRAMES: u64 = 60;
    const BUNDLE: u64 = 20;
    let peer = Peer::new(
        &["10.7.0.1/24", "fd07::1/64"],
        &["10.7.0.2/24", "10.7.0.3/24", "fd07::2/64"],
        gro,
    );
    let sockets = listener(gate, LISTENER, 2, "[::]:0");
    steer(gate, LISTENER, &sockets);
    let port = sockets[0].local_addr().unwrap().port();
    for (from, to) in [
        ("10.7.0.2:0", format!("10.7.0.1:{port}")),
        ("10.7.0.3:0", format!("10.7.0.1:{port}")),
        ("[fd07::2]:0", format!("[fd07::1]:{port}")),
    ] {
        let before = steered(gate, SteeredBy::Producer);
        let to: SocketAddr = to.parse().unwrap();
        let from = peer.run(move || sender(from, to));
        let mut shards = vec![Vec::new(); 2];
        for sequence in (1..=FRAMES).step_by(BUNDLE as usize) {
            for producer in 1..=4 {
                let bundle = (sequence..sequence + BUNDLE).map(|each| frame(producer, each));
                let bundle: Vec<_> = bundle.collect();
                let from = from.try_clone().unwrap();
                peer.run(move || send_bundle(&from, &bundle));
                // One at a time: a wire's queue that overflows is no subject of this test.
                let mut missing = BUNDLE as usize;
                wait_for("a bundle's datagrams", Duration::from_secs(10), || {
                    for (all, new) in shards.iter_mut().zip(drain(&sockets)) {
                        missing -= new.len();
                        all.extend(new);
                    }
                    (missing == 0).then_some(())
                });
            }
        }
        assert_by_producer(&shards, 4, FRAMES);
        let bundles = steered(gate, SteeredBy::Producer) - before;
        println!(
            "{from:?}, GRO {gro}: {} datagrams in {bundles} bundles",
            4 * FRAMES
        );
        match gro {
            true => assert!(bundles < 4 * FRAMES, "GRO has made no bundle"),
            false => assert_eq!(
                bundles,
                4 * FRAMES,
                "cut before the wire, not joined behind it"
            ),
        }
    }
    assert_eq!(steered(gate, SteeredBy::Hash), 0);
}

#[test]
fn over_a_wire_with_gro() {
    with_gate_or_skip("gate_steer::over_a_wire_with_gro", |gate| {
        over_a_wire(gate, true)
    });
}

#[test]
fn over_a_wire_without_gro() {
    with_gate_or_skip("gate_steer::over_a_wire_without_gro", |gate| {
        over_a_wire(gate, false)
    });
}

#[test]
fn raw_datagrams_of_several_addresses_spread() {
    with_gate_or_skip("gate_steer::several_addresses", |gate| {
        let addresses: Vec<String> = (2..10).map(|host| format!("fd07::{host}/64")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let peer = Peer::new(&["fd07::1/64"], &addresses, true);
        let sockets = listener(gate, LISTENER, 2, "[::]:0");
        steer(gate, LISTENER, &sockets);
        let to = SocketAddr::from((
            [0xfd07, 0, 0, 0, 0, 0, 0, 1],
            sockets[0].local_addr().unwrap().port(),
        ));
        let mut used = BTreeSet::new();
        for host in 2..10 {
            peer.run(move || {
                sender(&format!("[fd07::{host}]:0"), to)
                    .send(&frame(0, 1))
                    .unwrap()
            });
            let home = wait_for("a frame", Duration::from_secs(10), || {
                drain(&sockets).iter().position(|frames| !frames.is_empty())
            });
            // fd07:: is 0xfd07 at the top of the upper half: turned by 32 bits it is 0xfd07_0000.
            assert_eq!(home, owner_of(0xfd07_0000 ^ host, 2), "fd07::{host}");
            used.insert(home);
        }
        assert_eq!(used.len(), 2);
        assert_eq!(steered(gate, SteeredBy::Source), 8);
    });
}
