//! A hostile frame after which no other can follow, on a connection of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};

use super::{Run, open};
use crate::command::load::frames::Drawn;
use crate::command::load::report::count;

/// Hostile frames that need a connection each are at least this far apart.
const LAST_OF_STREAM_GAP_NS: u64 = 10_000_000;
/// How long such a connection waits for the agent's answer and close.
const LAST_OF_STREAM_TIME_MAX_NS: u64 = 2_000_000_000;

/// One hostile frame on a connection of its own.
pub(super) struct Alone {
    pub(super) stream: TcpStream,
    bytes: Vec<u8>,
    sent: usize,
    inbox: Vec<u8>,
    until_ns: u64,
}

impl Alone {
    pub(super) fn has_more(&self) -> bool {
        self.sent < self.bytes.len()
    }

    /// `true` where the connection is over. The agent may close before it has read all.
    fn exchange(&mut self, bytes_sent: &mut u64) -> bool {
        if self.has_more() {
            match self.stream.write(&self.bytes[self.sent..]) {
                Ok(len) => {
                    self.sent += len;
                    *bytes_sent += len as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.sent = self.bytes.len(),
            }
        }
        let mut bytes = [0; ACK_LEN];
        match self.stream.read(&mut bytes) {
            Ok(0) => true,
            Ok(len) => {
                self.inbox.extend_from_slice(&bytes[..len]);
                false
            }
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

impl Run<'_> {
    /// Sends a frame on a connection of its own, unless the last one was a moment ago.
    pub(super) fn send_alone(&mut self, drawn: &Drawn, now_ns: u64) -> bool {
        if self.alone.is_some() || now_ns < self.alone_next_ns {
            return false;
        }
        self.alone_next_ns = now_ns + LAST_OF_STREAM_GAP_NS;
        let Ok(stream) = open(self.address, None) else {
            return false;
        };
        let mut bytes = self
            .frames
            .header(drawn, penstock_client::random_producer_id(), 1)
            .to_vec();
        bytes.extend_from_slice(self.frames.payload(drawn.template));
        self.alone = Some(Alone {
            stream,
            bytes,
            sent: 0,
            inbox: Vec::with_capacity(2 * ACK_LEN),
            until_ns: now_ns + LAST_OF_STREAM_TIME_MAX_NS,
        });
        let reason = drawn.hostile.expect("only hostile frames go alone");
        count(&mut self.books.hostile_sent, reason as u8, 1);
        true
    }

    pub(super) fn tend_alone(&mut self, now_ns: u64) {
        let Some(alone) = &mut self.alone else {
            return;
        };
        let ended = alone.exchange(&mut self.books.bytes_sent);
        let answer = alone.inbox.first_chunk().and_then(Ack::read);
        if answer.is_some() || ended || now_ns > alone.until_ns {
            match answer {
                Some(ack) if ack.status == AckStatus::Refused => {
                    count(&mut self.books.hostile_refused, ack.reason, 1);
                }
                Some(_) => self.books.hostile_accepted += 1,
                None => {}
            }
            self.alone = None;
        }
    }
}
