//! A blocking driver for [`Producer`]: one thread, one TCP connection at a time, no runtime.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use penstock_proto::v1::LogRecord;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::options::Options;
use crate::producer::{Demand, Producer, PushError};
use crate::report::Report;

/// Bytes written per round, so that acknowledgements are read in between.
const WRITE_BYTES_PER_ROUND: usize = 1 << 20;
/// The longest wait in one round while `send` or `finish` block.
const ROUND_MAX: Duration = Duration::from_millis(500);

/// Why a record or the end could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    NotTaken(#[from] PushError),
    #[error("no answer from {target} for {} s{}", after.as_secs_f32(), describe(last_error))]
    GaveUp {
        target: String,
        after: Duration,
        /// The last thing that went wrong with the connection.
        last_error: Option<io::Error>,
    },
    #[error("waiting for the connection (poll): {0}")]
    Wait(io::Error),
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
    target: String,
    stream: Option<TcpStream>,
    inbox: Box<[u8]>,
    last_error: Option<io::Error>,
}

impl Sender {
    /// `target` is `HOST:PORT`; it is resolved anew at each connection. Nothing is opened yet.
    pub fn new(target: impl Into<String>, options: Options) -> Self {
        Self {
            producer: Producer::new(options),
            target: target.into(),
            stream: None,
            inbox: vec![0; 16 << 10].into_boxed_slice(),
            last_error: None,
        }
    }

    /// Takes a record; waits where as much as allowed is not settled yet.
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

    /// Sends what is left and waits until everything is settled or `Options::give_up_after` has
    /// passed without an answer. [`Sender::report`] tells what became of it in either case.
    pub fn finish(&mut self) -> Result<Report, SendError> {
        self.producer.finish();
        while self.producer.poll(Instant::now()) != Demand::Done {
            self.give_up_if_stalled()?;
            self.advance(None, ROUND_MAX)?;
        }
        self.stream = None;
        Ok(self.producer.report())
    }

    pub fn report(&self) -> Report {
        self.producer.report()
    }

    /// Fails where records wait and nothing was settled for `Options::give_up_after`.
    pub fn give_up_if_stalled(&mut self) -> Result<(), SendError> {
        let after = self.producer.options().give_up_after;
        match self.producer.stalled_since() {
            Some(since) if since.elapsed() >= after => Err(SendError::GaveUp {
                target: self.target.clone(),
                after,
                last_error: self.last_error.take(),
            }),
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
        let wait_until = |wake: Option<Instant>| match wake {
            Some(wake) => wake.saturating_duration_since(now).min(wait_max),
            None => wait_max,
        };
        match self.producer.poll(now) {
            Demand::Done => {
                self.stream = None;
                Ok(false)
            }
            Demand::Idle { wake } => {
                self.stream = None;
                let ready = wait(None, input, wait_until(wake)).map_err(SendError::Wait)?;
                Ok(ready.input)
            }
            Demand::Connect => {
                self.connect();
                Ok(false)
            }
            Demand::Exchange { write, wake } => {
                let interest = match write {
                    true => PollFlags::IN | PollFlags::OUT,
                    false => PollFlags::IN,
                };
                let stream = self
                    .stream
                    .as_ref()
                    .expect("connected, so there is a stream");
                let ready = wait(Some((stream, interest)), input, wait_until(wake))
                    .map_err(SendError::Wait)?;
                if ready
                    .stream
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                {
                    self.receive();
                }
                if ready.stream.contains(PollFlags::OUT) {
                    self.transmit();
                }
                Ok(ready.input)
            }
        }
    }

    fn connect(&mut self) {
        self.stream = None;
        let timeout = self.producer.options().connect_timeout;
        match open(&self.target, timeout) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.producer.on_connected(Instant::now());
            }
            Err(error) => {
                self.last_error = Some(error);
                self.producer.on_connect_failed(Instant::now());
            }
        }
    }

    fn receive(&mut self) {
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut self.inbox) {
                Ok(0) => self.lose(io::Error::other("the agent closed the connection")),
                Ok(len) => {
                    self.producer
                        .on_received(&self.inbox[..len], Instant::now());
                    if !self.producer.is_connected() {
                        self.lose(io::Error::other(
                            "the agent could not follow, or be followed",
                        ));
                    }
                    if len < self.inbox.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lose(error),
            }
        }
    }

    fn transmit(&mut self) {
        let mut written = 0;
        while written < WRITE_BYTES_PER_ROUND
            && let Some(stream) = &mut self.stream
        {
            let bytes = self.producer.outbound(Instant::now());
            if bytes.is_empty() {
                return;
            }
            match stream.write(bytes) {
                Ok(len) => {
                    self.producer.on_sent(len);
                    written += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the agent said before it closed may still lie in the receive buffer: the
                // next round reads it, and then the end.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.last_error = Some(error);
                    return self.receive();
                }
                Err(error) => self.lose(error),
            }
        }
    }

    fn lose(&mut self, error: io::Error) {
        self.stream = None;
        self.last_error = Some(error);
        self.producer.on_disconnected(Instant::now());
    }
}

/// The first of the target's addresses that takes a connection.
fn open(target: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                // Frames are whole messages: waiting to fill a segment only delays them.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// What `wait` was woken for.
struct Ready {
    stream: PollFlags,
    /// There is something to read, or the end.
    input: bool,
}

/// Waits for any of the descriptors, at most so long.
fn wait(
    stream: Option<(&TcpStream, PollFlags)>,
    input: Option<BorrowedFd<'_>>,
    at_most: Duration,
) -> io::Result<Ready> {
    let mut descriptors = Vec::with_capacity(2);
    if let Some((stream, interest)) = stream {
        descriptors.push(PollFd::new(stream, interest));
    }
    if let Some(input) = &input {
        descriptors.push(PollFd::new(input, PollFlags::IN));
    }
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as _,
        tv_nsec: at_most.subsec_nanos().into(),
    };
    match poll(&mut descriptors, Some(&timeout)) {
        // A signal woke nobody: the descriptors say so themselves.
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut events = descriptors.iter().map(PollFd::revents);
    let none = PollFlags::empty();
    Ok(Ready {
        stream: stream.and_then(|_| events.next()).unwrap_or(none),
        input: events.next().is_some_and(|events| !events.is_empty()),
    })
}
