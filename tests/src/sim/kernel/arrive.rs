//! Reaping: what the worker is told from here on counts as arrived.

use agent_common::classify::check_datagram;
use penstock::shard::op::{Completion, Received};
use penstock_proto::reason::Reason;

use super::super::frame::{Fate, PAYLOAD_LEN_MAX};
use super::super::network::{ConnId, Packet};
use super::event::ECANCELED;
use super::world::World;

impl World {
    pub(super) fn on_reap(&mut self, at: usize, completion: &Completion) {
        match completion {
            Completion::Received { peer, result, more } => {
                let Some(id) = self.conn_of_peer(at, *peer) else {
                    panic!("a completion for {peer:?}, whose socket was closed before it");
                };
                self.conns[id].unreaped -= 1;
                self.conns[id].multishot = *more;
                match result {
                    Ok(Received::Data(lease)) => self.arrive_bytes(id, lease.len as usize),
                    Ok(Received::End) => self.arrive_end(id),
                    Err(errno) if errno.0 == libc::ENOBUFS || *errno == ECANCELED => {}
                    Err(_) => self.arrive_end(id),
                }
            }
            Completion::PeerPeeked { peer, .. } => {
                let id = self.conn_of_peer(at, *peer);
                let conn = &mut self.conns[id.expect("a peek on an open socket")];
                conn.unreaped -= 1;
                conn.multishot = false;
            }
            Completion::AckSent { peer, .. } => {
                let id = self.conn_of_peer(at, *peer);
                self.conns[id.expect("a send on an open socket")].unreaped -= 1;
            }
            Completion::Accepted { listener, more, .. } => {
                self.ports[at].backlog_mut(listener.0).multishot = *more;
            }
            Completion::ReceivedFrom {
                listener,
                result,
                more,
            } => {
                self.ports[at].datagrams_mut(listener.0).multishot = *more;
                if let Ok(bundle) = result {
                    let packet = self.ports[at].unread.remove(&bundle.lease.id());
                    self.arrive_datagrams(at, listener.0, &packet.expect("it was put there"));
                }
            }
            _ => {}
        }
    }

    fn arrive_bytes(&mut self, id: ConnId, len: usize) {
        let conn = &mut self.conns[id];
        conn.reaped += len;
        while let Some(&(end, number)) = conn.frames.front() {
            let line = self.book.line_mut(number);
            let start = end - line.frame.bytes.len();
            if conn.framing_lost || conn.reaped < start + line.frame.decided_at {
                break;
            }
            if !std::mem::replace(&mut conn.decided, true) {
                line.arrived += 1;
                if conn.leaving {
                    conn.arrivals_late.count(line.frame.fate);
                } else {
                    conn.arrivals.count(line.frame.fate);
                }
                let lost = matches!(line.frame.fate, Fate::FramingLost(_));
                let owed = line.frame.wants_ack && !lost && !conn.leaving;
                let waiting = conn.waiting.entry(line.frame.key).or_default();
                waiting.push((number, owed));
                conn.framing_lost |= lost;
            }
            if conn.reaped < end {
                break;
            }
            conn.frames.pop_front();
            conn.decided = false;
        }
    }

    /// A stream's end or error was reaped: a frame that it cuts counts as one truncated.
    fn arrive_end(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        let Some(&(end, number)) = conn.frames.front() else {
            return;
        };
        let start = end - self.book.line(number).frame.bytes.len();
        if conn.framing_lost || conn.decided || conn.reaped <= start {
            return;
        }
        let truncated = Fate::Refused(Reason::Truncated);
        if conn.leaving {
            conn.arrivals_late.count(truncated);
        } else {
            conn.arrivals.count(truncated);
        }
    }

    /// A bundle was reaped.
    fn arrive_datagrams(&mut self, at: usize, listener: u16, packet: &Packet) {
        let tallies = &mut self.ports[at].tallies;
        let tally = tallies.get_mut(&listener).expect("a listener");
        let count = packet.frames.len() as u64;
        let last = packet.frames.len() - 1;
        let is_frame = |at: usize, bytes: &[u8]| {
            let cut = if at == last { packet.cut } else { 0 };
            let left = &bytes[..bytes.len() - cut];
            left.first_chunk().is_some_and(|header| {
                check_datagram(header, left.len() as u32, PAYLOAD_LEN_MAX).is_ok()
            })
        };
        let mut frames = packet.frames.iter().enumerate();
        if self.stand_in
            && !frames.any(|(at, &number)| is_frame(at, &self.book.line(number).frame.bytes))
        {
            tally.gate_malformed += count;
            return;
        }
        tally.datagrams += count;
        for (at, &number) in packet.frames.iter().enumerate() {
            let line = self.book.line_mut(number);
            if at == last && packet.cut > 0 {
                tally.certain.count(Fate::Refused(Reason::Truncated));
            } else {
                line.arrived += 1;
                tally.certain.count(line.frame.fate);
            }
        }
    }
}
