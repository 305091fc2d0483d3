//! The promises of `Op` and `Completion`, over io_uring and over epoll alike: one suite, generic over
//! the fence, with real sockets and real files.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::thread;

use penstock::journal::format::segment_file_name;
use penstock::limits::{SEND_BUFFER_LEN, TCP_BUFFER_LEN};
use penstock::shard::op::{
    Bundle, Completion, Errno, Kernel, Lease, Op, PeerId, Received, SegmentFile, SendLease,
};
use penstock_tests::agent::client::Datagrams;
use penstock_tests::fence::{BLOCK_LEN, LISTENER, Make, PEER, Rig, bundles, connection, socket};
use penstock_tests::over_both_fences;

over_both_fences!(
    connections_are_accepted_until_it_is_cancelled,
    a_stream_comes_whole_and_in_order,
    a_cancelled_receive_leaves_its_bytes,
    a_stream_waits_for_buffers,
    a_reset_is_an_error,
    datagrams_come_one_by_one,
    a_bundle_says_where_its_datagrams_end,
    datagrams_wait_for_buffers,
    a_cancelled_listener_keeps_its_datagrams,
    what_is_sent_arrives,
    a_full_socket_holds_a_send_up,
    a_shutdown_ends_a_send,
    the_sending_side_ends_alone,
    a_header_is_looked_at_once_it_is_whole,
    a_short_stream_is_looked_at_too,
    a_cancelled_look_leaves_the_socket,
    a_connection_moves_to_another_fence,
    a_segment_s_life,
    what_fails_on_disk_is_said,
    many_writes_come_back_each_with_its_block,
    another_thread_wakes_it,
);

const CANCELED: Errno = Errno(libc::ECANCELED);

// ---- connections arrive ----

fn accepted(completion: Completion) -> (TcpStream, bool) {
    let Completion::Accepted {
        listener: LISTENER,
        result: Ok(accepted),
        more,
    } = completion
    else {
        panic!("no connection: {completion:?}");
    };
    // SAFETY: the completion brought the descriptor, and nobody else has it.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(accepted.socket.0) });
    assert_eq!(accepted.address, stream.peer_addr().ok());
    assert!(stream.nodelay().expect("an option"));
    (stream, more)
}

fn connections_are_accepted_until_it_is_cancelled<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    // As a life with the other fence may have left it.
    for nonblocking in [false, true] {
        listener.set_nonblocking(nonblocking).expect("a flag");
        rig.kernel.push(Op::Accept {
            listener: LISTENER,
            socket: socket(&listener),
        });
        rig.is_quiet();
        for _ in 0..3 {
            let peer = TcpStream::connect(address).expect("connect");
            let (own, more) = accepted(rig.take());
            assert_eq!(own.peer_addr().ok(), peer.local_addr().ok());
            assert!(more);
        }
        let end = rig.answer(Op::AcceptCancel { listener: LISTENER });
        assert!(
            matches!(
                end,
                Completion::Accepted {
                    listener: LISTENER,
                    result: Err(CANCELED),
                    more: false
                }
            ),
            "{end:?}"
        );
        let _waits = TcpStream::connect(address).expect("the queue takes it");
        rig.is_quiet();
        // It was never lost: whoever accepts next has it.
        rig.kernel.push(Op::Accept {
            listener: LISTENER,
            socket: socket(&listener),
        });
        accepted(rig.take());
        rig.answer(Op::AcceptCancel { listener: LISTENER });
    }
}

// ---- bytes arrive ----

fn receive(own: &TcpStream) -> Op {
    Op::Receive {
        peer: PEER,
        socket: socket(own),
    }
}

/// Bytes whose place shows.
fn numbered(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at / 4) >> (8 * (at % 4))) as u8)
        .collect()
}

fn a_stream_comes_whole_and_in_order<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    rig.kernel.push(receive(&own));
    rig.is_quiet();
    let sent = numbered(20 * TCP_BUFFER_LEN + 5);
    thread::scope(|scope| {
        scope.spawn(|| {
            peer.write_all(&sent).expect("write");
            peer.shutdown(Shutdown::Write).expect("shut down");
        });
        let mut received = Vec::new();
        loop {
            let (bytes, end) = rig.read();
            received.extend(bytes);
            match end {
                Ok(()) => break,
                // The peer was quicker than this test: it had filled all buffers.
                end => assert_eq!(end, Err(libc::ENOBUFS)),
            }
            rig.kernel.push(receive(&own));
        }
        assert!(received == sent, "{} of {}", received.len(), sent.len());
    });
    rig.is_quiet();
}

fn a_cancelled_receive_leaves_its_bytes<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    rig.kernel.push(receive(&own));
    rig.begin();
    rig.kernel.push(Op::ReceiveCancel { peer: PEER });
    assert_eq!(rig.read(), (Vec::new(), Err(libc::ECANCELED)));
    peer.write_all(b"late").expect("write");
    rig.is_quiet();
    // A cancel of what is over says nothing.
    rig.kernel.push(Op::ReceiveCancel { peer: PEER });
    rig.is_quiet();
    rig.kernel.push(receive(&own));
    drop(peer);
    assert_eq!(rig.read(), (b"late".to_vec(), Ok(())));
}

fn data(completion: Completion) -> (PeerId, Lease) {
    match completion {
        Completion::Received {
            peer,
            result: Ok(Received::Data(lease)),
            more: true,
        } => (peer, lease),
        other => panic!("no data: {other:?}"),
    }
}

/// With every buffer held, receives end and say why; with buffers back they go on where they were.
fn a_stream_waits_for_buffers<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::with_buffers(make, 2, 2);
    let streams: Vec<_> = (0..3).map(|_| connection()).collect();
    let id = |slot| PeerId {
        slot,
        generation: 1,
    };
    let receive = |slot: u16| Op::Receive {
        peer: id(slot),
        socket: socket(&streams[usize::from(slot)].0),
    };
    let mut held = Vec::new();
    for slot in 0..2 {
        rig.kernel.push(receive(slot));
        (&streams[usize::from(slot)].1)
            .write_all(b"first")
            .expect("write");
        let (peer, lease) = data(rig.take());
        assert_eq!(peer, id(slot));
        assert_eq!(rig.kernel.bytes(&lease), b"first");
        held.push(lease);
    }
    rig.kernel.push(receive(2));
    (&streams[2].1).write_all(b"second").expect("write");
    let end = rig.take();
    assert!(
        matches!(
            end,
            Completion::Received {
                peer,
                result: Err(Errno(libc::ENOBUFS)),
                more: false
            } if peer == id(2)
        ),
        "{end:?}"
    );
    rig.is_quiet();
    for lease in held {
        rig.kernel.give_back(lease);
    }
    rig.kernel.push(receive(2));
    let (peer, lease) = data(rig.take());
    assert_eq!((peer, rig.kernel.bytes(&lease)), (id(2), &b"second"[..]));
    rig.kernel.give_back(lease);
}

fn a_reset_is_an_error<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, peer) = connection();
    rig.kernel.push(receive(&own));
    rig.begin();
    // Closed with a linger of nothing: a reset (tcp(7), socket(7)).
    socket2::SockRef::from(&peer)
        .set_linger(Some(std::time::Duration::ZERO))
        .expect("an option");
    drop(peer);
    assert_eq!(rig.read(), (Vec::new(), Err(libc::ECONNRESET)));
}

// ---- datagrams arrive ----

fn receive_from(own: &std::net::UdpSocket) -> Op {
    Op::ReceiveFrom {
        listener: LISTENER,
        socket: socket(own),
    }
}

fn bundle(completion: Completion) -> Bundle {
    match completion {
        Completion::ReceivedFrom {
            listener: LISTENER,
            result: Ok(bundle),
            more: true,
        } => bundle,
        other => panic!("no bundle: {other:?}"),
    }
}

fn payload<'a, K: Kernel>(rig: &'a Rig<K>, bundle: &Bundle) -> &'a [u8] {
    let bytes = rig.kernel.bytes(&bundle.lease);
    &bytes[bundle.payload.start as usize..bundle.payload.end as usize]
}

fn ended_with(completion: &Completion, errno: i32) -> bool {
    matches!(
        completion,
        Completion::ReceivedFrom {
            listener: LISTENER,
            result: Err(Errno(found)),
            more: false
        } if *found == errno
    )
}

fn datagrams_come_one_by_one<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let own = bundles();
    let sender = Datagrams::open(own.local_addr().expect("an address"));
    rig.kernel.push(receive_from(&own));
    rig.begin();
    // More than there are buffers; the longest that IPv4 has; one with nothing in it.
    let mut sent: Vec<Vec<u8>> = (0..40).map(|number| numbered(number + 1)).collect();
    sent.push(numbered(65_507));
    sent.push(Vec::new());
    for datagram in &sent {
        sender.send(datagram);
        let Completion::ReceivedFrom {
            result: Ok(bundle),
            more,
            ..
        } = rig.take()
        else {
            panic!("no bundle");
        };
        // A datagram with nothing in it ends a multishot receive of io_uring's.
        assert!(more || datagram.is_empty());
        assert_eq!(bundle.from, Some(sender.local()));
        assert_eq!(bundle.segment_len, None);
        assert!(!bundle.truncated);
        assert!(payload(&rig, &bundle) == datagram, "{bundle:?}");
        rig.kernel.give_back(bundle.lease);
    }
    rig.is_quiet();
}

fn a_bundle_says_where_its_datagrams_end<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let own = bundles();
    let sender = Datagrams::open(own.local_addr().expect("an address"));
    rig.kernel.push(receive_from(&own));
    rig.begin();
    let datagrams: Vec<Vec<u8>> = (0..9).map(|number| vec![number; 1000]).collect();
    let with_shorter_last = [datagrams.clone(), vec![b"end".to_vec()]].concat();
    for sent in [datagrams, with_shorter_last] {
        sender.send_bundle(&sent);
        let bundle = bundle(rig.take());
        assert_eq!(bundle.segment_len, Some(1000));
        assert_eq!(bundle.from, Some(sender.local()));
        assert!(payload(&rig, &bundle) == sent.concat(), "{bundle:?}");
        rig.kernel.give_back(bundle.lease);
    }
}

fn datagrams_wait_for_buffers<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::with_buffers(make, 2, 2);
    let own = bundles();
    let sender = Datagrams::open(own.local_addr().expect("an address"));
    rig.kernel.push(receive_from(&own));
    rig.begin();
    for number in 0..5 {
        sender.send(&[number]);
    }
    let mut held = Vec::new();
    let end = loop {
        match rig.take() {
            Completion::ReceivedFrom {
                result: Ok(bundle), ..
            } => held.push(bundle),
            end => break end,
        }
    };
    assert!(ended_with(&end, libc::ENOBUFS), "{end:?}");
    rig.is_quiet();
    // What had no buffer stayed in the socket, in its order.
    let mut seen = Vec::new();
    while seen.len() < 5 {
        assert!(held.len() <= 2, "{held:?}");
        for bundle in held.drain(..) {
            seen.extend_from_slice(payload(&rig, &bundle));
            rig.kernel.give_back(bundle.lease);
        }
        if seen.len() == 5 {
            break;
        }
        rig.kernel.push(receive_from(&own));
        while held.len() < 2.min(5 - seen.len()) {
            held.push(bundle(rig.take()));
        }
        rig.kernel
            .push(Op::ReceiveFromCancel { listener: LISTENER });
        let end = rig.take();
        let (no_buffers, canceled) = (
            ended_with(&end, libc::ENOBUFS),
            ended_with(&end, libc::ECANCELED),
        );
        assert!(no_buffers || canceled, "{end:?}");
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

fn a_cancelled_listener_keeps_its_datagrams<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let own = bundles();
    let sender = Datagrams::open(own.local_addr().expect("an address"));
    rig.kernel.push(receive_from(&own));
    rig.begin();
    let end = rig.answer(Op::ReceiveFromCancel { listener: LISTENER });
    assert!(ended_with(&end, libc::ECANCELED), "{end:?}");
    sender.send(b"kept");
    rig.is_quiet();
    let kept = bundle(rig.answer(receive_from(&own)));
    assert_eq!(payload(&rig, &kept), b"kept");
    rig.kernel.give_back(kept.lease);
}

// ---- answers go ----

/// A send buffer with all of its bytes filled.
fn filled<K: Kernel>(rig: &mut Rig<K>) -> SendLease {
    let mut lease = rig.kernel.take_send_buffer().expect("a send buffer");
    let bytes = numbered(SEND_BUFFER_LEN);
    rig.kernel
        .send_bytes_mut(&mut lease)
        .copy_from_slice(&bytes);
    lease.sent = 0;
    lease.filled = SEND_BUFFER_LEN as u32;
    lease
}

fn send(own: &TcpStream, lease: SendLease) -> Op {
    Op::AckSend {
        peer: PEER,
        socket: socket(own),
        lease,
    }
}

fn sent(completion: Completion) -> (SendLease, Result<u32, Errno>) {
    match completion {
        Completion::AckSent {
            peer: PEER,
            lease,
            result,
        } => (lease, result),
        other => panic!("no send: {other:?}"),
    }
}

fn what_is_sent_arrives<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    let mut lease = filled(&mut rig);
    (lease.sent, lease.filled) = (100, 300);
    rig.kernel.push(send(&own, lease));
    // Not begun before the wait.
    peer.set_nonblocking(true).expect("a flag");
    let early = peer.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    peer.set_nonblocking(false).expect("a flag");
    let (lease, result) = sent(rig.take());
    assert_eq!(result, Ok(200));
    let mut bytes = [0; 200];
    peer.read_exact(&mut bytes).expect("read");
    assert_eq!(bytes[..], numbered(300)[100..]);
    rig.kernel.give_back_send(lease);
    // All of them are there again, and no more than that.
    let all: Vec<_> = std::iter::from_fn(|| rig.kernel.take_send_buffer()).collect();
    assert_eq!(all.len(), 4);
    assert!(
        all.iter()
            .all(|one| all.iter().filter(|two| one.id() == two.id()).count() == 1)
    );
}

/// Sends until the socket takes no more: the last send has no completion yet.
fn fill<K: Kernel>(rig: &mut Rig<K>, own: &TcpStream) -> u64 {
    let buffers = socket2::SockRef::from(own);
    buffers
        .set_send_buffer_size(4 * SEND_BUFFER_LEN)
        .expect("an option");
    let mut total = 0;
    loop {
        let lease = filled(rig);
        rig.kernel.push(send(own, lease));
        // The peer's side may take more while nobody reads, a moment later.
        let Some(completion) = rig.soon() else {
            return total;
        };
        let (lease, result) = sent(completion);
        total += u64::from(result.expect("sent"));
        rig.kernel.give_back_send(lease);
        assert!(total < 64 << 20, "a socket without an end");
    }
}

fn a_full_socket_holds_a_send_up<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    let before = fill(&mut rig, &own);
    let mut taken = vec![0; before as usize];
    peer.read_exact(&mut taken).expect("read");
    // Room again: the send goes on by itself.
    let (lease, result) = sent(rig.take());
    let last = result.expect("sent") as usize;
    assert!(last > 0);
    let mut rest = vec![0; last];
    peer.read_exact(&mut rest).expect("read");
    assert_eq!(rest, numbered(last));
    rig.kernel.give_back_send(lease);
}

fn a_shutdown_ends_a_send<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, _peer) = connection();
    rig.kernel.push(receive(&own));
    fill(&mut rig, &own);
    rig.kernel.push(Op::PeerShutdown {
        peer: PEER,
        socket: socket(&own),
    });
    // The send fails, the receive comes to its end; in whichever order.
    let mut ends = [rig.take(), rig.take()].map(|completion| match completion {
        Completion::AckSent { lease, result, .. } => {
            rig.kernel.give_back_send(lease);
            format!("{result:?}")
        }
        Completion::Received {
            result,
            more: false,
            ..
        } => format!("{result:?}"),
        other => panic!("{other:?}"),
    });
    ends.sort();
    assert_eq!(
        ends,
        [
            format!("{:?}", Err::<u32, _>(Errno(libc::EPIPE))),
            "Ok(End)".into()
        ]
    );
    close(&mut rig, own);
}

/// Closes the connection, which the fence then answers.
fn close<K: Kernel>(rig: &mut Rig<K>, own: impl IntoRawFd) {
    let closed = rig.answer(Op::PeerClose {
        peer: PEER,
        socket: penstock::shard::op::Socket(own.into_raw_fd()),
    });
    assert!(
        matches!(closed, Completion::PeerClosed { peer: PEER }),
        "{closed:?}"
    );
}

fn the_sending_side_ends_alone<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    rig.kernel.push(receive(&own));
    rig.begin();
    rig.kernel.push(Op::PeerEnd {
        peer: PEER,
        socket: socket(&own),
    });
    assert_eq!(peer.read(&mut [0]).expect("read"), 0, "the stream's end");
    peer.write_all(b"still read").expect("write");
    let (_, lease) = data(rig.take());
    assert_eq!(rig.kernel.bytes(&lease), b"still read");
    rig.kernel.give_back(lease);
    drop(peer);
    assert_eq!(rig.read(), (Vec::new(), Ok(())));
}

// ---- the first header is looked at ----

fn peek(own: &TcpStream) -> Op {
    Op::PeerPeek {
        peer: PEER,
        socket: socket(own),
    }
}

fn peeked(completion: Completion) -> Result<Vec<u8>, Errno> {
    match completion {
        Completion::PeerPeeked { peer: PEER, result } => {
            result.map(|peeked| peeked.bytes().to_vec())
        }
        other => panic!("no look: {other:?}"),
    }
}

fn a_header_is_looked_at_once_it_is_whole<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    let bytes = numbered(100);
    rig.kernel.push(peek(&own));
    peer.write_all(&bytes[..39]).expect("write");
    rig.is_quiet();
    peer.write_all(&bytes[39..]).expect("write");
    assert_eq!(peeked(rig.take()).as_deref(), Ok(&bytes[..40]));
    rig.is_quiet();
    // It is all still there, and each byte counts again.
    rig.kernel.push(receive(&own));
    let (_, lease) = data(rig.take());
    assert_eq!(rig.kernel.bytes(&lease), bytes);
    rig.kernel.give_back(lease);
    peer.write_all(b"!").expect("write");
    let (_, lease) = data(rig.take());
    assert_eq!(rig.kernel.bytes(&lease), b"!");
    rig.kernel.give_back(lease);
}

fn a_short_stream_is_looked_at_too<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    rig.kernel.push(peek(&own));
    peer.write_all(b"short").expect("write");
    rig.is_quiet();
    drop(peer);
    assert_eq!(peeked(rig.take()).as_deref(), Ok(&b"short"[..]));
}

fn a_cancelled_look_leaves_the_socket<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let (own, mut peer) = connection();
    rig.kernel.push(peek(&own));
    peer.write_all(b"short").expect("write");
    rig.is_quiet();
    rig.kernel.push(Op::PeekCancel { peer: PEER });
    assert_eq!(peeked(rig.take()), Err(CANCELED));
    close(&mut rig, own);
}

/// One shard accepts and looks, another one receives: the first one's fence has nothing more to do
/// with the socket.
fn a_connection_moves_to_another_fence<K: Kernel>(make: Make<K>) {
    let (mut first, mut second) = (Rig::new(make), Rig::new(make));
    let (own, mut peer) = connection();
    let bytes = numbered(1000);
    peer.write_all(&bytes).expect("write");
    assert_eq!(
        peeked(first.answer(peek(&own))).as_deref(),
        Ok(&bytes[..40])
    );
    second.kernel.push(receive(&own));
    let (_, lease) = data(second.take());
    assert_eq!(second.kernel.bytes(&lease), bytes);
    second.kernel.give_back(lease);
    // The first one has a new peer in the slot, which is not mistaken for the old one.
    let (other, mut other_peer) = connection();
    let id = PeerId {
        generation: PEER.generation + 1,
        ..PEER
    };
    first.kernel.push(Op::Receive {
        peer: id,
        socket: socket(&other),
    });
    peer.write_all(b"to the second").expect("write");
    first.is_quiet();
    let (_, lease) = data(second.take());
    second.kernel.give_back(lease);
    other_peer.write_all(b"to the first").expect("write");
    let (peer, lease) = data(first.take());
    assert_eq!(
        (peer, first.kernel.bytes(&lease)),
        (id, &b"to the first"[..])
    );
    first.kernel.give_back(lease);
}

// ---- the journal ----

fn opened<K: Kernel>(rig: &mut Rig<K>, number: u64) -> Result<SegmentFile, Errno> {
    match rig.answer(Op::SegmentOpen { number }) {
        Completion::SegmentOpened {
            number: found,
            result,
        } if found == number => result,
        other => panic!("{other:?}"),
    }
}

fn a_segment_s_life<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let file = opened(&mut rig, 12).expect("a new file");
    let path = rig.folder.path().join(segment_file_name(12));
    assert_eq!(
        opened(&mut rig, 12),
        Err(Errno(libc::EEXIST)),
        "it is never taken over"
    );
    let len = 4 * BLOCK_LEN as u64;
    let done = rig.answer(Op::SegmentAllocate {
        number: 12,
        file,
        len,
    });
    assert!(
        matches!(
            done,
            Completion::SegmentAllocated {
                number: 12,
                result: Ok(())
            }
        ),
        "{done:?}"
    );
    assert_eq!(fs::metadata(&path).expect("a file").len(), len);
    let done = rig.answer(Op::FolderSync { number: 12 });
    assert!(
        matches!(
            done,
            Completion::FolderSynced {
                number: 12,
                result: Ok(())
            }
        ),
        "{done:?}"
    );
    let mut block = rig.blocks.acquire().expect("a block");
    block.bytes_mut().copy_from_slice(&numbered(BLOCK_LEN));
    let done = rig.answer(Op::JournalWrite {
        file,
        block: block.id(),
        offset: 4096,
        len: 4096,
    });
    assert!(
        matches!(done, Completion::JournalWritten { block: id, result: Ok(4096) } if id == block.id()),
        "{done:?}"
    );
    let done = rig.answer(Op::JournalSync { file, segment: 12 });
    assert!(
        matches!(
            done,
            Completion::JournalSynced {
                segment: 12,
                result: Ok(())
            }
        ),
        "{done:?}"
    );
    let done = rig.answer(Op::SegmentClose { number: 12, file });
    assert!(
        matches!(
            done,
            Completion::SegmentClosed {
                number: 12,
                result: Ok(())
            }
        ),
        "{done:?}"
    );
    let stored = fs::read(&path).expect("the file");
    assert_eq!(stored[4096..8192], numbered(BLOCK_LEN)[..4096]);
    assert!(
        stored[..4096]
            .iter()
            .chain(&stored[8192..])
            .all(|&byte| byte == 0)
    );
    let done = rig.answer(Op::SegmentRemove { number: 12 });
    assert!(
        matches!(
            done,
            Completion::SegmentRemoved {
                number: 12,
                result: Ok(())
            }
        ),
        "{done:?}"
    );
    assert!(!path.exists());
}

fn what_fails_on_disk_is_said<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let done = rig.answer(Op::SegmentRemove { number: 5 });
    assert!(
        matches!(
            done,
            Completion::SegmentRemoved {
                number: 5,
                result: Err(Errno(libc::ENOENT))
            }
        ),
        "{done:?}"
    );
    let none = SegmentFile(-1);
    let bad = Errno(libc::EBADF);
    let block = rig.blocks.acquire().expect("a block");
    let done = rig.answer(Op::JournalWrite {
        file: none,
        block: block.id(),
        offset: 0,
        len: 4096,
    });
    assert!(
        matches!(done, Completion::JournalWritten { result: Err(errno), .. } if errno == bad),
        "{done:?}"
    );
    let done = rig.answer(Op::JournalSync {
        file: none,
        segment: 5,
    });
    assert!(
        matches!(done, Completion::JournalSynced { result: Err(errno), .. } if errno == bad),
        "{done:?}"
    );
    let done = rig.answer(Op::SegmentAllocate {
        number: 5,
        file: none,
        len: 4096,
    });
    assert!(
        matches!(done, Completion::SegmentAllocated { result: Err(errno), .. } if errno == bad),
        "{done:?}"
    );
}

/// All at once, in whatever order the disk finishes them; a sync pushed behind them comes back too.
fn many_writes_come_back_each_with_its_block<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    let file = opened(&mut rig, 1).expect("a new file");
    for round in 0..50_u8 {
        let mut open = Vec::new();
        for place in 0..4_u64 {
            let mut block = rig.blocks.acquire().expect("a block");
            block.bytes_mut().fill(round ^ place as u8);
            rig.kernel.push(Op::JournalWrite {
                file,
                block: block.id(),
                offset: place * BLOCK_LEN as u64,
                len: BLOCK_LEN as u32,
            });
            open.push(block);
        }
        while !open.is_empty() {
            let Completion::JournalWritten { block, result } = rig.take() else {
                panic!("no write");
            };
            assert_eq!(result, Ok(BLOCK_LEN as u32));
            let before = open.len();
            open.retain(|each| each.id() != block);
            assert_eq!(open.len(), before - 1, "{block:?} is told once");
        }
        let synced = rig.answer(Op::JournalSync { file, segment: 1 });
        assert!(
            matches!(synced, Completion::JournalSynced { result: Ok(()), .. }),
            "{synced:?}"
        );
        let stored = fs::read(rig.folder.path().join(segment_file_name(1))).expect("the file");
        let expected: Vec<u8> = (0..4)
            .flat_map(|place| vec![round ^ place; BLOCK_LEN])
            .collect();
        assert!(stored == expected, "round {round}");
    }
}

// ---- others ----

fn another_thread_wakes_it<K: Kernel>(make: Make<K>) {
    let mut rig = Rig::new(make);
    for _ in 0..3 {
        rig.is_quiet();
        let waker = rig.waker.clone();
        let thread = thread::spawn(move || waker.wake());
        // Without an end of its own.
        rig.kernel.wait(None).expect("a wait");
        let woken = rig.take();
        assert!(matches!(woken, Completion::Woken), "{woken:?}");
        thread.join().expect("the thread");
    }
}
