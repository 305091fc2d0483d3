//! What happens to a frame: checked, decoded, copied into the journal; or refused and counted. The
//! one place where either is counted.

use std::net::SocketAddr;

use agent_common::keep::{KEEP_ALL, Keep};
use penstock_proto::reason::Reason;

use crate::decode::{Decoder, Payload};
use crate::frame::Frame;
use crate::journal::dedup::{Judgement, Known};
use crate::journal::format::Envelope;
use crate::journal::writer::{Room, Ticket, Writer};
use crate::shard::counters::ShardCounters;
use crate::shard::op::{ListenerId, Now};
use crate::shard::tenant::{TenantSlot, Tenants, Wait};

/// From whom a frame came, and over what.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub listener: ListenerId,
    pub peer: Option<SocketAddr>,
}

/// What holds for a frame by what it came over.
pub enum Terms<'a> {
    /// Over TCP: a retry is told apart by where its producer stands among those that are remembered;
    /// and what it may have is asked of its tenant, where there are any. It is never shed.
    Stream {
        known: &'a mut Known,
        tenant: Option<TenantSlot>,
    },
    /// Over UDP: what is kept of each priority. The gate has asked this too, of a bundle as a whole;
    /// here it is asked again of each datagram, as a ratio may have fallen since, and as those of a
    /// bundle pass together.
    ///
    /// `in_force` is what the gate goes by; a ratio of it is stored with the frame, so that counts can
    /// be scaled back.
    Datagram { keep: Keep, in_force: Keep },
}

/// What became of a frame. Whatever it is, it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It is in the journal's memory.
    Accepted(Ticket),
    /// It was taken before; that is durable once the journal is up to `behind`.
    Duplicate {
        behind: u64,
    },
    Refused(Reason),
    /// Its tenant has what it may have, for now.
    Limited(Wait),
}

/// The decoder, the journal and the counts of one shard.
pub struct Intake {
    pub decoder: Decoder,
    pub journal: Writer,
    pub counters: ShardCounters,
    /// `None`: nobody is limited.
    pub tenants: Option<Box<Tenants>>,
}

impl Intake {
    /// Takes a whole frame. `room` is what the journal said just before: `Yes` or `Refused`.
    ///
    /// A frame that was taken before is told apart before its payload is decoded, but after its
    /// checksum: what is compared must be what was sent. Its tenant is asked last, of a
    /// good frame that is new: what is refused for good must not be told to come again, and what is
    /// stored already is settled at once.
    #[inline]
    pub fn take(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        room: Room,
        terms: Terms<'_>,
        now: Now,
    ) -> Taken {
        let header = &frame.header;
        let (mut known, tenant, keep_sixteenths) = match terms {
            Terms::Stream { known, tenant } => (
                Some(known).filter(|_| header.producer != 0),
                tenant,
                KEEP_ALL,
            ),
            Terms::Datagram { keep, in_force } => {
                if !keep.keeps(header.priority, header.sequence) {
                    return self.refused(origin, Reason::Shed);
                }
                // What is stored was kept, whatever is in force by now: never 0.
                let kept = keep.of(header.priority);
                let ratio = in_force.of(header.priority).clamp(1, kept);
                (None, None, ratio)
            }
        };
        if let Err(reason) = frame.check_payload() {
            return self.refused(origin, reason);
        }
        if let Some(known) = &mut known {
            let windows = self.journal.windows_mut();
            let (producer, sequence) = (header.producer, header.sequence);
            let crc = header.payload_crc;
            match windows.judge(known, producer, sequence, crc, now.unix_ns) {
                Judgement::New => {}
                Judgement::Duplicate { behind } => {
                    self.refuse(origin.listener, Reason::Duplicate);
                    return Taken::Duplicate { behind };
                }
                Judgement::Conflict => return self.refused(origin, Reason::SequenceConflict),
                Judgement::TooOld => return self.refused(origin, Reason::SequenceTooOld),
                Judgement::TooMany => return self.refused(origin, Reason::TooManyProducers),
            }
        }
        let payload = Payload::of(header, frame.payload());
        let checked = payload.and_then(|payload| {
            let checked = self.decoder.validate(&payload, header.records)?;
            match room {
                Room::Refused(reason) => Err(reason),
                Room::Yes => Ok((payload.encoding, checked)),
                Room::Wait => unreachable!("the caller waits"),
            }
        });
        let (encoding, checked) = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.refused(origin, reason),
        };
        if let (Some(tenants), Some(slot)) = (&mut self.tenants, tenant) {
            let load = self.journal.load();
            let admitted = tenants.admit(slot, frame.bytes.len(), &load, now.monotonic_ns);
            if let Err(wait) = admitted {
                self.refuse(origin.listener, wait.limit.reason());
                return Taken::Limited(wait);
            }
        }
        let envelope = Envelope {
            observed_time_unix_nano: now.unix_ns,
            listener: origin.listener.0,
            keep_sixteenths,
            peer: origin.peer,
            deduplicated: known.is_some(),
        };
        let records = header.records;
        let ticket = self.journal.append(&envelope, frame.bytes, records, now);
        if let Some(known) = known {
            self.journal.windows_mut().take(
                known,
                header.producer,
                header.sequence,
                header.payload_crc,
                // The position just behind the block's first byte is within it: once it is durable,
                // so is the block.
                ticket.0 + 1,
                now.unix_ns,
            );
        }
        if let (Some(tenants), Some(slot)) = (&mut self.tenants, tenant) {
            tenants.on_taken(slot, ticket, frame.bytes.len());
        }
        let counts = &mut self.counters.listeners[usize::from(origin.listener.0)];
        counts.received_frames += 1;
        counts.accepted_frames[encoding.index()] += 1;
        counts.accepted_records[encoding.index()] += u64::from(records);
        counts.unmapped_fields += checked.unmapped_fields;
        Taken::Accepted(ticket)
    }

    fn refused(&mut self, origin: Origin, reason: Reason) -> Taken {
        self.refuse(origin.listener, reason);
        Taken::Refused(reason)
    }

    /// Counts a frame that is not taken, whatever the protocol then answers.
    pub fn refuse(&mut self, listener: ListenerId, reason: Reason) {
        let counts = &mut self.counters.listeners[usize::from(listener.0)];
        counts.received_frames += 1;
        counts.refused_frames[reason.index()] += 1;
    }
}
