//! Load over UDP: many datagrams a system call, and with GSO many a message.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use agent_common::frame::FRAME_HEADER_LEN;
use penstock_proto::reason::Reason;

use super::frames::{Drawn, Frames};
use super::kernel::{Message, send_messages};
use super::pacing::Pace;
use super::plan::Plan;
use super::report::{Books, count};
use super::window::Window;
use crate::exit::{Exit, Failure};

/// Messages of one `sendmmsg`.
const MESSAGES_MAX: usize = 64;
/// Bytes of one `sendmmsg`: eight full bundles.
const TURN_BYTES_MAX: usize = 512 << 10;
/// Datagrams of one message: the kernel's bound (UDP_MAX_SEGMENTS, 128 since 6.9).
const SEGMENTS_MAX: usize = 64;
/// Bytes of one message: 65,535 − 20 (IPv4) − 8 (UDP).
const MESSAGE_LEN_MAX: usize = 65_507;
/// How long a full send buffer may hold up one call.
const SEND_TIME_MAX: Duration = Duration::from_secs(1);

/// The datagrams of one message, all of one length.
struct Bundle {
    template: usize,
    /// Bytes of each datagram.
    len: usize,
    headers: Vec<[u8; FRAME_HEADER_LEN]>,
    hostile: Vec<Option<Reason>>,
}

impl Bundle {
    fn takes(&self, drawn: &Drawn, len: usize, gso: bool) -> bool {
        gso && drawn.template == self.template
            && len == self.len
            && self.headers.len() < SEGMENTS_MAX
            && (self.headers.len() + 1) * self.len <= MESSAGE_LEN_MAX
    }

    fn is_full(&self) -> bool {
        self.headers.len() >= SEGMENTS_MAX || (self.headers.len() + 1) * self.len > MESSAGE_LEN_MAX
    }

    fn message<'a>(&'a self, frames: &'a Frames) -> Message<'a> {
        let payload = &frames.payload(self.template);
        let mut slices = Vec::with_capacity(2 * self.headers.len());
        for header in &self.headers {
            let header_len = self.len.min(FRAME_HEADER_LEN);
            slices.push(IoSlice::new(&header[..header_len]));
            slices.push(IoSlice::new(&payload[..self.len - header_len]));
        }
        Message {
            slices,
            segment_len: (self.headers.len() > 1).then_some(self.len as u16),
        }
    }
}

/// Runs the load; the books and the nanoseconds that it took.
pub fn run(plan: &Plan, frames: &mut Frames) -> Result<(Books, u64), Failure> {
    let mut sources = Vec::with_capacity(plan.lanes);
    for lane in 0..plan.lanes {
        sources.push((open(plan, lane)?, Window::new()));
    }
    let mut books = Books::default();
    let mut pace = Pace::start(plan.records_per_second, plan.records, plan.time);
    let mut turn = 0;
    loop {
        let now_ns = pace.now_ns();
        if pace.is_over(now_ns) {
            break;
        }
        if let Some(wait) = pace.wait(now_ns) {
            std::thread::sleep(wait);
            continue;
        }
        turn += 1;
        let source_index = turn % sources.len();
        let (socket, window) = &mut sources[source_index];
        let bundles = draw(plan, frames, &mut pace, window, now_ns);
        send(plan, socket, frames, &bundles, &mut books)?;
    }
    Ok((books, pace.now_ns()))
}

/// What is due, as far as one call carries it.
fn draw(
    plan: &Plan,
    frames: &mut Frames,
    pace: &mut Pace,
    window: &mut Window,
    now_ns: u64,
) -> Vec<Bundle> {
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut bytes = 0;
    while bytes < TURN_BYTES_MAX {
        // Datagrams of one message are of one length, which those of one template are.
        let prefer = match bundles.last() {
            Some(last) if plan.gso && !last.is_full() => Some(last.template),
            None | Some(_) if bundles.len() < MESSAGES_MAX => None,
            _ => break,
        };
        let Some(drawn) = frames.draw(pace, now_ns, prefer) else {
            break;
        };
        let sequence = match drawn.hostile {
            None => window.begin_unanswered(),
            // Not numbered: the numbers that the agent finds missing are then good frames'.
            Some(_) => window.next_sequence(),
        };
        let header = frames.header(&drawn, window.producer, sequence);
        let len = match drawn.hostile {
            Some(Reason::Truncated) => FRAME_HEADER_LEN - 1,
            _ => FRAME_HEADER_LEN + frames.payload(drawn.template).len(),
        };
        bytes += len;
        match bundles.last_mut() {
            Some(last) if last.takes(&drawn, len, plan.gso) => {
                last.headers.push(header);
                last.hostile.push(drawn.hostile);
            }
            _ => bundles.push(Bundle {
                template: drawn.template,
                len,
                headers: vec![header],
                hostile: vec![drawn.hostile],
            }),
        }
    }
    bundles
}

fn send(
    plan: &Plan,
    socket: &UdpSocket,
    frames: &Frames,
    bundles: &[Bundle],
    books: &mut Books,
) -> Result<(), Failure> {
    let messages: Vec<Message<'_>> = bundles.iter().map(|b| b.message(frames)).collect();
    let mut done = 0;
    let mut errors = 0;
    while done < messages.len() {
        let end = messages.len().min(done + MESSAGES_MAX);
        match send_messages(socket, &messages[done..end]) {
            Ok(sent) => {
                for bundle in &bundles[done..done + sent] {
                    account(frames, bundle, books);
                }
                done += sent;
            }
            // The answer to an earlier datagram: nobody listens. The error is now taken, and the
            // datagram that met it was not sent.
            Err(error) if may_pass(&error) && errors < 1000 => {
                errors += 1;
                books.send_errors += 1;
            }
            Err(error) => {
                let message = format!("send to {}: {error}", plan.target);
                return Err(Failure::new(Exit::Unavailable, message));
            }
        }
    }
    Ok(())
}

fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::Interrupted | ErrorKind::WouldBlock
    )
}

fn account(frames: &Frames, bundle: &Bundle, books: &mut Books) {
    books.bytes_sent += (bundle.len * bundle.headers.len()) as u64;
    for hostile in &bundle.hostile {
        match hostile {
            Some(reason) => count(&mut books.hostile_sent, *reason as u8, 1),
            None => {
                books.frames_sent += 1;
                books.records_sent += frames.records(bundle.template);
            }
        }
    }
}

fn open(plan: &Plan, lane: usize) -> Result<UdpSocket, Failure> {
    let any: SocketAddr = match plan.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let from = plan.from.map_or(any, |from| from.of_lane(lane));
    let socket = UdpSocket::bind(from)
        .map_err(|error| Failure::io(format!("bind a UDP socket to {}", from.ip()), &error))?;
    let connected = socket
        .connect(plan.address)
        .and_then(|()| socket.set_write_timeout(Some(SEND_TIME_MAX)))
        // A larger buffer spares waits on a real card; what the host allows is taken.
        .and_then(|()| socket2::SockRef::from(&socket).set_send_buffer_size(4 << 20));
    connected.map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format!("connect to {}: {error}", plan.target),
        )
    })?;
    Ok(socket)
}
