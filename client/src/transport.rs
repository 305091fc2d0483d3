//! Sockets for an [`Exchange`]: one TCP connection at a time, on the calling thread.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exchange::{Demand, Exchange};

/// Bytes written per round, so that acknowledgements are read in between.
const WRITE_BYTES_PER_ROUND: usize = 1 << 20;
const INBOX_LEN: usize = 16 << 10;

/// The connection to one of several targets.
#[derive(Debug)]
pub struct Transport {
    /// `HOST:PORT`; resolved anew at each connection.
    targets: Vec<String>,
    stream: Option<TcpStream>,
    inbox: Box<[u8]>,
    last_error: Option<io::Error>,
}

impl Transport {
    pub fn new(targets: Vec<String>) -> Self {
        assert!(!targets.is_empty(), "a producer without a target");
        Self {
            targets,
            stream: None,
            inbox: vec![0; INBOX_LEN].into_boxed_slice(),
            last_error: None,
        }
    }

    pub fn target(&self, index: usize) -> &str {
        &self.targets[index]
    }

    /// The last thing that went wrong with a connection, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.last_error.take()
    }

    /// Does what `Exchange::poll` demanded: waits for the connection, for `input` to be readable or
    /// for `wait_max`, and exchanges what can be without blocking. `true` where `input` can be read
    /// (or is at its end). Only opening a connection blocks, for `Options::connect_timeout`.
    pub fn turn(
        &mut self,
        exchange: &mut Exchange,
        demand: Demand,
        input: Option<BorrowedFd<'_>>,
        wait_max: Duration,
    ) -> io::Result<bool> {
        let now = Instant::now();
        let wait_until = |wake: Option<Instant>| match wake {
            Some(wake) => wake.saturating_duration_since(now).min(wait_max),
            None => wait_max,
        };
        match demand {
            Demand::Done => {
                self.stream = None;
                Ok(false)
            }
            Demand::Idle { wake } => {
                self.stream = None;
                Ok(wait(None, input, wait_until(wake))?.input)
            }
            Demand::Connect { target } => {
                self.connect(exchange, target);
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
                let ready = wait(Some((stream, interest)), input, wait_until(wake))?;
                if ready
                    .stream
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                {
                    self.receive(exchange);
                }
                if ready.stream.contains(PollFlags::OUT) {
                    self.transmit(exchange);
                }
                Ok(ready.input)
            }
        }
    }

    fn connect(&mut self, exchange: &mut Exchange, target: usize) {
        self.stream = None;
        let timeout = exchange.options().connect_timeout;
        match open(&self.targets[target], timeout) {
            Ok(stream) => {
                self.stream = Some(stream);
                exchange.on_connected(Instant::now());
            }
            Err(error) => {
                self.last_error = Some(error);
                exchange.on_connect_failed(Instant::now());
            }
        }
    }

    fn receive(&mut self, exchange: &mut Exchange) {
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut self.inbox) {
                Ok(0) => self.lose(
                    exchange,
                    io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the agent closed the connection",
                    ),
                ),
                Ok(len) => {
                    exchange.on_received(&self.inbox[..len], Instant::now());
                    if !exchange.is_connected() {
                        self.lose(
                            exchange,
                            io::Error::other("the agent could not follow, or be followed"),
                        );
                    }
                    if len < self.inbox.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lose(exchange, error),
            }
        }
    }

    fn transmit(&mut self, exchange: &mut Exchange) {
        let mut written = 0;
        while written < WRITE_BYTES_PER_ROUND
            && let Some(stream) = &mut self.stream
        {
            let bytes = exchange.outbound(Instant::now());
            if bytes.is_empty() {
                return;
            }
            match stream.write(bytes) {
                Ok(len) => {
                    exchange.on_sent(len);
                    written += len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the agent said before it closed may still lie in the receive buffer: the
                // next round reads it, and then the end.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.last_error = Some(error);
                    return self.receive(exchange);
                }
                Err(error) => self.lose(exchange, error),
            }
        }
    }

    fn lose(&mut self, exchange: &mut Exchange, error: io::Error) {
        self.stream = None;
        self.last_error = Some(error);
        exchange.on_disconnected(Instant::now());
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
