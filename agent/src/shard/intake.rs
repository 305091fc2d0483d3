//! What happens to a frame: checked, decoded, copied into the journal; or refused and counted. The
//! one place where either is counted.

use std::net::SocketAddr;

use penstock_proto::reason::Reason;

use crate::decode::Decoder;
use crate::frame::Frame;
use crate::journal::format::Envelope;
use crate::journal::writer::{Room, Ticket, Writer};
use crate::shard::counters::ShardCounters;
use crate::shard::op::{ListenerId, Now};

/// All frames are kept: the ratio that shedding lowers, in sixteenths.
const KEEP_ALL: u8 = 16;

/// From whom a frame came, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub listener: ListenerId,
    pub peer: Option<SocketAddr>,
}

/// The decoder, the journal and the counts of one shard.
pub struct Intake {
    pub decoder: Decoder,
    pub journal: Writer,
    pub counters: ShardCounters,
}

impl Intake {
    /// Takes a whole frame. `room` is what the journal said just before: `Yes` or `Refused`.
    #[inline]
    pub fn take(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        room: Room,
        now: Now,
    ) -> Result<Ticket, Reason> {
        let payload = frame.checked_payload();
        let checked = payload.and_then(|payload| {
            let checked = self.decoder.validate(&payload, frame.header.records)?;
            match room {
                Room::Refused(reason) => Err(reason),
                Room::Yes => Ok((payload.encoding, checked)),
                Room::Wait => unreachable!("the caller waits"),
            }
        });
        let (encoding, checked) = match checked {
            Ok(checked) => checked,
            Err(reason) => {
                self.refuse(origin.listener, reason);
                return Err(reason);
            }
        };
        let envelope = Envelope {
            observed_time_unix_nano: now.unix_ns,
            listener: origin.listener.0,
            keep_sixteenths: KEEP_ALL,
            peer: origin.peer,
        };
        let records = frame.header.records;
        let ticket = self.journal.append(&envelope, frame.bytes, records, now);
        let counts = &mut self.counters.listeners[usize::from(origin.listener.0)];
        counts.received_frames += 1;
        counts.accepted_frames[encoding.index()] += 1;
        counts.accepted_records[encoding.index()] += u64::from(records);
        counts.unmapped_fields += checked.unmapped_fields;
        Ok(ticket)
    }

    /// Counts a frame that is not taken, whatever the protocol then answers.
    pub fn refuse(&mut self, listener: ListenerId, reason: Reason) {
        let counts = &mut self.counters.listeners[usize::from(listener.0)];
        counts.received_frames += 1;
        counts.refused_frames[reason.index()] += 1;
    }
}
