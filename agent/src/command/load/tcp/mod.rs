//! Load over TCP: one thread, nonblocking sockets.

mod alone;
mod lane;

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::DRAIN_TIME_MAX;
use super::frames::Frames;
use super::kernel::{Waiting, wait};
use super::pacing::Pace;
use super::plan::Plan;
use super::report::Books;
use crate::exit::Failure;
use alone::Alone;
use lane::Lane;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Runs the load; the books and the nanoseconds that it took.
pub fn run(plan: &Plan, frames: &mut Frames) -> Result<(Books, u64), Failure> {
    let mut lanes = Vec::with_capacity(plan.lanes);
    for lane in 0..plan.lanes {
        let from = plan.from.map(|from| from.of_lane(lane));
        lanes.push(Lane::connect(plan, from)?);
    }
    let mut run = Run {
        frames,
        books: Books::default(),
        pace: Pace::start(plan.records_per_second, plan.records, plan.time),
        acknowledge: plan.acknowledge,
        address: plan.address,
        alone: None,
        alone_next_ns: 0,
    };
    let mut waiting = Vec::with_capacity(lanes.len() + 1);
    let mut sent_all_ns = None;
    let mut turn = 0;
    loop {
        let now_ns = run.pace.now_ns();
        let open = lanes.iter().filter(|lane| lane.stream.is_some()).count();
        if sent_all_ns.is_none() && (run.pace.is_over(now_ns) || open == 0) {
            sent_all_ns = Some(now_ns);
        }
        // The lanes take turns at being first: what is due goes to who has room.
        turn += 1;
        for index in 0..lanes.len() {
            let index = (index + turn) % lanes.len();
            lanes[index].pump(&mut run, sent_all_ns.is_none(), now_ns);
        }
        run.tend_alone(now_ns);
        if let Some(since_ns) = sent_all_ns {
            let settled = lanes.iter().all(Lane::is_done) && run.alone.is_none();
            if settled || now_ns - since_ns > DRAIN_TIME_MAX.as_nanos() as u64 {
                break;
            }
        }
        waiting.clear();
        for lane in &lanes {
            // A lane that is closed stands as a descriptor that poll passes over.
            let descriptor = lane.stream.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            waiting.push(Waiting::new(descriptor, !lane.queue.is_empty()));
        }
        if let Some(alone) = &run.alone {
            waiting.push(Waiting::new(alone.stream.as_raw_fd(), alone.has_more()));
        }
        let at_most = match sent_all_ns {
            None => run.wait_max(&lanes, now_ns),
            Some(_) => Duration::from_millis(20),
        };
        wait(&mut waiting, at_most).map_err(|error| Failure::io("poll", &error))?;
        let now_ns = run.pace.now_ns();
        for (lane, waiting) in lanes.iter_mut().zip(&waiting) {
            if waiting.is_readable() {
                lane.receive(&mut run, now_ns);
            }
        }
    }
    let taken_ns = run.pace.now_ns();
    for lane in &lanes {
        for sent in lane.window.unsettled() {
            if sent.hostile.is_none() {
                run.books.frames_unsettled += 1;
                run.books.records_unsettled += run.frames.records(sent.template as usize);
            }
        }
    }
    Ok((run.books, taken_ns))
}

/// What the lanes share.
struct Run<'a> {
    frames: &'a mut Frames,
    books: Books,
    pace: Pace,
    acknowledge: bool,
    address: SocketAddr,
    /// The connection that carries a hostile frame after which none can follow.
    alone: Option<Alone>,
    alone_next_ns: u64,
}

impl Run<'_> {
    /// How long nothing will be due on any lane.
    fn wait_max(&self, lanes: &[Lane], now_ns: u64) -> Duration {
        let long = Duration::from_millis(100);
        let deferred_ns = lanes.iter().filter_map(|lane| lane.deferred.front());
        let deferred = deferred_ns
            .map(|(due_ns, _)| Duration::from_nanos(due_ns.saturating_sub(now_ns)))
            .min();
        // Where something is due now and was not sent, an event on a socket must come first.
        let due = self.pace.wait(now_ns);
        let has_way = |lane: &Lane| lane.can_take(self.acknowledge) && lane.queue.is_empty();
        let at_once = due.is_none() && lanes.iter().any(has_way);
        let due = if at_once { Some(Duration::ZERO) } else { due };
        [deferred, due]
            .into_iter()
            .flatten()
            .fold(long, Duration::min)
    }
}

fn open(address: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let until = Instant::now() + CONNECT_TIME_MAX;
    loop {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        match socket.connect_timeout(&address.into(), CONNECT_TIME_MAX) {
            Ok(()) => {
                let stream = TcpStream::from(socket);
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // A signal, not an answer.
            Err(error) if error.kind() == ErrorKind::Interrupted && Instant::now() < until => {}
            Err(error) => return Err(error),
        }
    }
}
