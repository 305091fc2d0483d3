//! Records in, settled frames out: batches, what to do when there is no room, and the spool, around
//! the protocol's state machine ([`Exchange`]).
//!
//! A driver asks [`Producer::poll`] what is to be done and does it: [`crate::Sender`] with a
//! blocking thread and a socket, the tests with a made-up agent. Without a spool nothing here does
//! I/O; with one, `push`, `tend` and `persist` do, and nothing else.

use std::time::Instant;

use agent_common::frame::{FLAG_ACKNOWLEDGE, FrameHeader};
use penstock_proto::v1::LogRecord;

use crate::batch::Batch;
pub use crate::exchange::Demand;
use crate::exchange::{Exchange, earliest, number};
use crate::options::{Options, Overflow};
use crate::report::{Report, Tally};
use crate::spool::{Recovered, Spool, SpoolError};
use crate::window::OUTSTANDING_FRAMES_MAX;

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The window, the buffer or the spool is full: exchange with the agent, then push again.
    #[error("as many frames or bytes as allowed are not settled yet")]
    Full,
    #[error("the record takes {len} bytes, more than the {max} of a payload")]
    TooLong { len: usize, max: usize },
    #[error("the producer was told that no more records come")]
    Finished,
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// One producer: its id, its frames, its books.
#[derive(Debug)]
pub struct Producer {
    exchange: Exchange,
    spool: Option<Spool>,
    /// The batch that is being filled, and since when.
    open: Batch,
    open_since: Option<Instant>,
    finishing: bool,
    /// Since when records wait, if any do.
    waiting_since: Option<Instant>,
    records_taken: u64,
    records_too_long: u64,
    records_dropped_newest: u64,
}

impl Producer {
    /// A producer for one life: its id is random and ends with it.
    pub fn new(options: Options) -> Self {
        Self::with_targets(options, 1)
    }

    /// The same with a list of targets, of which [`Demand::Connect`] names one by its place.
    pub fn with_targets(options: Options, targets: usize) -> Self {
        Self::with_id(options, targets, crate::random_producer_id())
    }

    /// The same with an id of the caller's choosing, for simulations that are to be replayed. Two
    /// lives with one id would be taken for one.
    pub fn with_id(options: Options, targets: usize, id: u64) -> Self {
        Self::of(options, targets, id, 1, None, Recovered::default())
    }

    /// A producer whose id, sequence and records outlive a restart.
    pub fn with_spool(
        options: Options,
        targets: usize,
        spool: Spool,
        recovered: Recovered,
    ) -> Self {
        let (id, base) = (spool.producer(), spool.base());
        Self::of(options, targets, id, base, Some(spool), recovered)
    }

    fn of(
        options: Options,
        targets: usize,
        id: u64,
        first_sequence: u64,
        spool: Option<Spool>,
        recovered: Recovered,
    ) -> Self {
        let options = Options {
            batch_bytes_max: options.batch_bytes_max.min(options.payload_len_max),
            batch_records_max: options.batch_records_max.max(1),
            buffer_bytes_max: options.buffer_bytes_max.max(2 * options.payload_len_max),
            ..options
        };
        let open = Batch::new(options.encoding, options.schema).with_zstd(options.zstd_level);
        let mut exchange = Exchange::new(options, id, first_sequence, targets);
        exchange.report_mut().recovered = recovered.unsettled;
        Self {
            exchange,
            spool,
            open,
            open_since: None,
            finishing: false,
            waiting_since: None,
            records_taken: 0,
            records_too_long: 0,
            records_dropped_newest: 0,
        }
    }

    pub fn id(&self) -> u64 {
        self.exchange.id()
    }

    pub fn options(&self) -> &Options {
        self.exchange.options()
    }

    /// The state machine, for the driver.
    pub fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// Takes a record into the batch that is being filled. With an [`Overflow`] that drops, `Ok`
    /// also stands for a record that was dropped: the report counts those.
    pub fn push(&mut self, record: &LogRecord, now: Instant) -> Result<(), PushError> {
        if self.finishing {
            return Err(PushError::Finished);
        }
        loop {
            match self.push_into_room(record, now) {
                Err(PushError::Full) => {}
                outcome => return outcome,
            }
            let overflow = self.options().overflow;
            if overflow == Overflow::Wait {
                return Err(PushError::Full);
            }
            if overflow == Overflow::DropNewest || !self.drop_oldest(now)? {
                self.records_dropped_newest += 1;
                return Ok(());
            }
        }
    }

    fn push_into_room(&mut self, record: &LogRecord, now: Instant) -> Result<(), PushError> {
        let payload_len_max = self.options().payload_len_max;
        if !self.has_bytes_for(payload_len_max) {
            return Err(PushError::Full);
        }
        if self.open.records() >= self.options().batch_records_max && !self.seal(now)? {
            return Err(PushError::Full);
        }
        let batch_bytes_max = self.options().batch_bytes_max;
        if self.open.push(record, batch_bytes_max).is_err() {
            if !self.open.is_empty() && !self.seal(now)? {
                return Err(PushError::Full);
            }
            // Alone it may be longer than a batch should be.
            if let Err(no_room) = self.open.push(record, payload_len_max) {
                self.records_too_long += 1;
                return Err(PushError::TooLong {
                    len: no_room.record_len,
                    max: payload_len_max,
                });
            }
        }
        if self.waiting_since.is_none() || self.unsettled_frames().frames == 0 {
            self.waiting_since = Some(now);
        }
        self.records_taken += 1;
        self.open_since.get_or_insert(now);
        if self.open_is_full() {
            // Where there is no room, a later `push` or `poll` closes it.
            self.seal(now)?;
        }
        Ok(())
    }

    /// Whether another payload of this length would still fit, beside what is held.
    fn has_bytes_for(&self, payload_len: usize) -> bool {
        let open = self.open.payload().len();
        match &self.spool {
            // The open batch is one entry, and the payload may become another.
            Some(spool) => spool.has_room(open + payload_len + 256),
            None => {
                let held = self.exchange.bytes() + open;
                held + payload_len <= self.options().buffer_bytes_max
            }
        }
    }

    /// Makes room by dropping what waits longest; `false` where nothing may be dropped.
    fn drop_oldest(&mut self, now: Instant) -> Result<bool, SpoolError> {
        if let Some(spool) = &mut self.spool {
            let (unread, rest) = spool.drop_oldest(now)?;
            self.exchange.give_up_below(rest);
            self.exchange.report_mut().dropped_oldest.add_all(unread);
            return Ok(true);
        }
        if self.exchange.drop_oldest().is_some() {
            return Ok(true);
        }
        // Everything else was begun. A batch that waits for room alone is older than the record.
        if self.open.is_empty() {
            return Ok(false);
        }
        let mut dropped = Tally::default();
        dropped.add(self.open.records());
        self.exchange.report_mut().dropped_oldest.add_all(dropped);
        self.open.clear();
        self.open_since = None;
        Ok(true)
    }

    fn open_is_full(&self) -> bool {
        self.open.records() >= self.options().batch_records_max
            || self.open.payload().len() >= self.options().batch_bytes_max
    }

    /// Closes the open batch; `false` where there is no room for another frame.
    fn seal(&mut self, now: Instant) -> Result<bool, SpoolError> {
        if self.open.is_empty() {
            return Ok(true);
        }
        let has_room = match &self.spool {
            Some(spool) => spool.has_room(self.open.payload().len() + 128),
            None => self.exchange.has_room(),
        };
        if !has_room {
            return Ok(false);
        }
        let records = self.open.records();
        let header = FrameHeader {
            encoding: 0,
            flags: FLAG_ACKNOWLEDGE,
            priority: self.options().priority,
            payload_len: 0,
            records: 0,
            producer: 0,
            sequence: 0,
            payload_crc: 0,
        };
        let mut frame = self.open.seal(header);
        self.open_since = None;
        if let Some(spool) = &mut self.spool {
            // On disk it has its number from the first: resent, it is the same byte for byte.
            number(&mut frame, spool.producer(), spool.next_sequence());
            spool.append(&frame, now)?;
            if spool.unread().frames > 1 || !has_memory(&self.exchange, frame.len()) {
                return Ok(true);
            }
            spool.skip_last();
        }
        self.exchange.enqueue(frame, records, now);
        Ok(true)
    }

    /// No more records come: what is there is closed, sent and waited for.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// What a spool wants done: batches closed in time, frames written, synced and read back, what
    /// is settled noted. Without a spool `poll` does all there is to do.
    pub fn tend(&mut self, now: Instant) -> Result<(), SpoolError> {
        self.seal_in_time(now)?;
        let Some(spool) = &mut self.spool else {
            return Ok(());
        };
        spool.settle_below(self.exchange.base(), now)?;
        while spool.unread().frames > 0
            && has_memory(&self.exchange, 0)
            && let Some((frame, records)) = spool.read_next()?
        {
            self.exchange.enqueue(frame, records, now);
        }
        // Marks that are not synced hold up the window as unsettled frames would.
        let held_up = self.exchange.next_sequence() >= limit_above(spool.synced_base())
            && spool.base() > spool.synced_base();
        if held_up || self.finishing || spool.sync_due().is_some_and(|due| due <= now) {
            spool.sync()?;
        }
        let limit = spool.synced_end().min(limit_above(spool.synced_base()));
        self.exchange.set_begin_limit(limit);
        Ok(())
    }

    /// Makes every record taken so far durable in the spool. Without a spool it only closes the
    /// open batch.
    pub fn persist(&mut self, now: Instant) -> Result<(), PushError> {
        while !self.seal(now)? {
            let may_drop = self.options().overflow == Overflow::DropOldest;
            if !may_drop || !self.drop_oldest(now)? {
                return Err(PushError::Full);
            }
        }
        if let Some(spool) = &mut self.spool {
            spool.sync()?;
        }
        Ok(())
    }

    fn seal_in_time(&mut self, now: Instant) -> Result<(), SpoolError> {
        let lingered = self
            .open_since
            .is_some_and(|since| now >= since + self.options().linger);
        if lingered || self.finishing || self.open_is_full() {
            self.seal(now)?;
        }
        Ok(())
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Demand {
        let mut sync_due = None;
        match &self.spool {
            Some(spool) => sync_due = spool.sync_due(),
            None => {
                let sealed = self.seal_in_time(now);
                sealed.expect("without a spool there is no I/O to fail");
            }
        }
        let has_unread = self
            .spool
            .as_ref()
            .is_some_and(|spool| spool.unread().frames > 0);
        if self.finishing && self.open.is_empty() && !has_unread {
            self.exchange.finish();
        }
        let has_room = self.spool.is_some() || self.exchange.has_room();
        let linger_end = self
            .open_since
            .filter(|_| has_room)
            .map(|since| since + self.options().linger);
        match self.exchange.poll(now) {
            Demand::Idle { wake } => Demand::Idle {
                wake: earliest([wake, linger_end, sync_due]),
            },
            Demand::Exchange { write, wake } => Demand::Exchange {
                write,
                wake: earliest([wake, linger_end, sync_due]),
            },
            demand => demand,
        }
    }

    /// Whether frames wait to go out: the time to exchange with the agent.
    pub fn has_pending(&self) -> bool {
        let is_waiting = self
            .spool
            .as_ref()
            .is_some_and(|spool| spool.unread().frames > 0 || spool.sync_due().is_some());
        is_waiting || self.exchange.has_pending()
    }

    pub fn on_connected(&mut self, now: Instant) {
        self.exchange.on_connected(now);
    }

    pub fn on_connect_failed(&mut self, now: Instant) {
        self.exchange.on_connect_failed(now);
    }

    pub fn on_disconnected(&mut self, now: Instant) {
        self.exchange.on_disconnected(now);
    }

    pub fn is_connected(&self) -> bool {
        self.exchange.is_connected()
    }

    pub fn outbound(&mut self, now: Instant) -> &[u8] {
        self.exchange.outbound(now)
    }

    pub fn on_sent(&mut self, len: usize) {
        self.exchange.on_sent(len);
    }

    pub fn on_received(&mut self, bytes: &[u8], now: Instant) {
        self.exchange.on_received(bytes, now);
    }

    /// Frames that are not settled, wherever they are; the open batch is one.
    fn unsettled_frames(&self) -> Tally {
        let mut unsettled = self.exchange.unsettled();
        if !self.open.is_empty() {
            unsettled.add(self.open.records());
        }
        if let Some(spool) = &self.spool {
            unsettled.add_all(spool.unread());
        }
        unsettled
    }

    /// Since when records wait and nothing was settled; `None` where nothing waits.
    pub fn stalled_since(&self) -> Option<Instant> {
        if self.unsettled_frames().frames == 0 {
            return None;
        }
        self.waiting_since.max(self.exchange.settled_at())
    }

    /// Frames that an earlier life left count as waiting from here on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.waiting_since = Some(now);
    }

    /// The books as they stand.
    pub fn report(&self) -> Report {
        let report = Report {
            records_taken: self.records_taken,
            records_too_long: self.records_too_long,
            records_dropped_newest: self.records_dropped_newest,
            unsettled: self.unsettled_frames(),
            ..self.exchange.report().clone()
        };
        let settled = report.acknowledged().records + report.refused.total().records;
        assert_eq!(
            report.records_taken + report.recovered.records,
            settled + report.dropped_oldest.records + report.unsettled.records,
            "a record is in none or two of the books"
        );
        report
    }
}

/// Frames from this sequence on lie too far above an unsettled one.
fn limit_above(base: u64) -> u64 {
    base + OUTSTANDING_FRAMES_MAX as u64
}

/// Whether a frame that is on disk may also be held in memory.
fn has_memory(exchange: &Exchange, frame_len: usize) -> bool {
    let options = exchange.options();
    let len = frame_len.max(options.payload_len_max);
    exchange.has_room() && exchange.bytes() + len <= options.buffer_bytes_max
}

#[cfg(test)]
mod tests;
