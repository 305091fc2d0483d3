//! A blocking driver for [`Producer`]: one thread, one TCP connection at a time, no runtime.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use penstock_proto::v1::LogRecord;

use crate::options::Options;
use crate::producer::{Demand, Producer, PushError};
use crate::report::Report;
use crate::spool::{Spool, SpoolError, SpoolOptions};
use crate::transport::Transport;

/// The longest wait in one round while `send` or `finish` block.
const ROUND_MAX: Duration = Duration::from_millis(500);

/// Why a record or the end could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    NotTaken(PushError),
    #[error("no answer from {target} for {} s{}", after.as_secs_f32(), describe(last_error))]
    GaveUp {
        target: String,
        after: Duration,
        /// The last thing that went wrong with the connection.
        last_error: Option<io::Error>,
    },
    #[error("waiting for the connection (poll): {0}")]
    Wait(io::Error),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl From<PushError> for SendError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Spool(error) => Self::Spool(error),
            error => Self::NotTaken(error),
        }
    }
}

fn describe(last_error: &Option<io::Error>) -> String {
    last_error
        .as_ref()
        .map(|error| format!("; the last attempt: {error}"))
        .unwrap_or_default()
}

/// A producer with its connection.
///
/// ```no_run
/// use penstock_client::{LogRecord, Options, Sender};
///
/// let mut sender = Sender::new("127.0.0.1:4600", Options::default());
/// sender.send(&LogRecord { body: "hello".into(), ..LogRecord::default() })?;
/// let report = sender.finish()?;
/// assert_eq!(report.acknowledged().records, 1);
/// # Ok::<(), penstock_client::SendError>(())
/// ```
#[derive(Debug)]
pub struct Sender {
    producer: Producer,
    transport: Transport,
}

impl Sender {
    /// `target` is `HOST:PORT`; it is resolved anew at each connection. Nothing is opened yet.
    pub fn new(target: impl Into<String>, options: Options) -> Self {
        Self::with_targets(vec![target.into()], options)
    }

    /// The same with several targets: the first is preferred, the others stand in for it
    /// (`Options::failover_after`, `Options::return_after`).
    pub fn with_targets(targets: Vec<String>, options: Options) -> Self {
        Self {
            producer: Producer::with_targets(options, targets.len()),
            transport: Transport::new(targets),
        }
    }

    /// The same with a spool: records, id and sequence outlive a restart of this program. What an
    /// earlier life left unsettled is sent first; [`Report::recovered`] says how much that is.
    pub fn with_spool(
        targets: Vec<String>,
        options: Options,
        spool: SpoolOptions,
    ) -> Result<Self, SpoolError> {
        let (spool, recovered) = Spool::open(spool, options.payload_len_max)?;
        let mut producer = Producer::with_spool(options, targets.len(), spool, recovered);
        producer.begin(Instant::now());
        Ok(Self {
            producer,
            transport: Transport::new(targets),
        })
    }

    /// Takes a record. Where there is no room it waits, or drops and counts: `Options::overflow`.
    ///
    /// Fails where the record is too long, or where nothing was settled for
    /// `Options::give_up_after`. The record is not taken then; those before it still are.
    pub fn send(&mut self, record: &LogRecord) -> Result<(), SendError> {
        loop {
            match self.producer.push(record, Instant::now()) {
                Ok(()) if self.producer.has_pending() => {
                    self.advance(None, Duration::ZERO)?;
                    return Ok(());
                }
                Ok(()) => return Ok(()),
                Err(PushError::Full) => {
                    self.give_up_if_stalled()?;
                    self.advance(None, ROUND_MAX)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// With a spool: makes every record taken so far durable there, so that it is sent even if this
    /// program, or its host, ends now.
    pub fn persist(&mut self) -> Result<(), SendError> {
        loop {
            match self.producer.persist(Instant::now()) {
                Err(PushError::Full) => {
                    self.give_up_if_stalled()?;
                    self.advance(None, ROUND_MAX)?;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Sends what is left and waits until everything is settled or `Options::give_up_after` has
    /// passed without an answer. [`Sender::report`] tells what became of it in either case; with a
    /// spool, what is not settled then is sent by the next life.
    pub fn finish(&mut self) -> Result<Report, SendError> {
        self.producer.finish();
        loop {
            self.producer.tend(Instant::now())?;
            if self.producer.poll(Instant::now()) == Demand::Done {
                break;
            }
            self.give_up_if_stalled()?;
            self.advance(None, ROUND_MAX)?;
        }
        // Its last turn closes the connection.
        self.advance(None, Duration::ZERO)?;
        Ok(self.producer.report())
    }

    pub fn report(&self) -> Report {
        self.producer.report()
    }

    /// Fails where records wait and nothing was settled for `Options::give_up_after`.
    pub fn give_up_if_stalled(&mut self) -> Result<(), SendError> {
        let after = self.producer.options().give_up_after;
        match self.producer.stalled_since() {
            Some(since) if since.elapsed() >= after => {
                let target = self.producer.exchange().target();
                Err(SendError::GaveUp {
                    target: self.transport.target(target).to_owned(),
                    after,
                    last_error: self.transport.take_error(),
                })
            }
            _ => Ok(()),
        }
    }

    /// One round: waits for the connection, for `input` to be readable or for `wait_max`, and
    /// exchanges what can be without blocking. For programs that wait for something else as well:
    /// `true` where `input` can be read (or is at its end).
    pub fn advance(
        &mut self,
        input: Option<BorrowedFd<'_>>,
        wait_max: Duration,
    ) -> Result<bool, SendError> {
        let now = Instant::now();
        self.producer.tend(now)?;
        let demand = self.producer.poll(now);
        self.transport
            .turn(self.producer.exchange(), demand, input, wait_max)
            .map_err(SendError::Wait)
    }
}
