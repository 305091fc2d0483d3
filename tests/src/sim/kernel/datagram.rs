//! Datagrams: senders queue them, a socket hands them over by the bundle.

use penstock::shard::op::{Bundle, Completion, Errno, Group, Lease, ListenerId};

use super::super::network::Packet;
use super::super::producer::Touch;
use super::event::Event;
use super::world::World;

const ENOBUFS: Errno = Errno(libc::ENOBUFS);
/// Bytes before the payload in a buffer of a multishot recvmsg: result, name and control data.
const BUNDLE_PREFIX_LEN: usize = 16 + 32 + 64;

impl World {
    /// Puts a packet on a UDP socket's queue, for scenarios that say exactly what arrives.
    pub fn arrive(&mut self, at: usize, listener: u16, packet: Packet) {
        let socket = self.ports[at].datagrams_mut(listener);
        socket.queue.push_back(packet);
        self.touched.push(Touch::Datagrams(at, listener));
        self.look_at_touched();
    }

    pub(super) fn poke_datagrams(&mut self, at: usize, listener: u16) {
        let delay = self.network_delay();
        let socket = self.ports[at].datagrams_mut(listener);
        if socket.armed.is_some() && !socket.due && !socket.queue.is_empty() {
            socket.due = true;
            self.after_at(at, delay, Event::ReceiveFrom(listener));
        }
    }

    pub(super) fn on_receive_from(&mut self, at: usize, listener: u16) {
        let socket = self.ports[at].datagrams_mut(listener);
        socket.due = false;
        if socket.armed.is_none() || socket.queue.is_empty() {
            return;
        }
        let Some(buffer) = self.ports[at].udp.take(&mut self.rng) else {
            self.ports[at].datagrams_mut(listener).armed = None;
            self.note("no udp buffer", &[at as u64, u64::from(listener)]);
            self.struck.pool_exhausted += 1;
            self.complete(
                at,
                Completion::ReceivedFrom {
                    listener: ListenerId(listener),
                    result: Err(ENOBUFS),
                    more: false,
                },
            );
            return;
        };
        let ends = self.chance(self.faults.multishot_ends);
        let socket = self.ports[at].datagrams_mut(listener);
        let packet = socket.queue.pop_front().expect("the queue is not empty");
        if ends {
            socket.armed = None;
        }
        let len = packet.bytes.len() - packet.cut;
        let end = BUNDLE_PREFIX_LEN + len;
        let mut bytes = vec![0; BUNDLE_PREFIX_LEN];
        bytes.extend_from_slice(&packet.bytes[..len]);
        self.note("received from", &[u64::from(listener), len as u64]);
        self.complete_with(
            at,
            Completion::ReceivedFrom {
                listener: ListenerId(listener),
                result: Ok(Bundle {
                    lease: Lease::from_fence(Group::Udp, buffer, end as u32),
                    from: Some(packet.from),
                    payload: BUNDLE_PREFIX_LEN as u32..end as u32,
                    segment_len: packet.segment_len,
                    truncated: packet.cut > 0,
                }),
                more: !ends,
            },
            bytes,
        );
        self.ports[at].unread.insert(buffer, packet);
        self.touched.push(Touch::Datagrams(at, listener));
    }

    pub(super) fn on_sender(&mut self, index: usize) {
        if self.senders[index].is_done() {
            return;
        }
        let faults = self.faulty();
        let sender = &mut self.senders[index];
        let packet = sender.packet(&mut self.book, faults);
        let listener = sender.listener();
        let pause = sender.pause_ns();
        self.after(pause, Event::Sender(index));
        // The kernel picks a socket by the addresses: always the same.
        let ports: Vec<usize> = (0..self.ports.len())
            .filter(|&at| self.ports[at].datagrams().contains_key(&listener))
            .collect();
        let at = ports[index % ports.len()];
        let queue_max = self.sizes.udp_queue_max;
        let socket = self.ports[at].datagrams_mut(listener);
        if socket.queue.len() >= queue_max {
            self.kernel_drops += packet.frames.len() as u64;
            return;
        }
        for &number in &packet.frames {
            self.book.line_mut(number).sent += 1;
        }
        socket.queue.push_back(packet);
        self.touched.push(Touch::Datagrams(at, listener));
    }
}
