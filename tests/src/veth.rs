//! A wire: a pair of veth devices between the calling thread's network namespace and another, where
//! a thread runs what it is handed. Unlike on loopback, what is sent goes through a device, and through
//! GRO where that is on.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use crate::netns;

const HERE: &str = "here0";
const THERE: &str = "there0";

/// linux/ethtool.h.
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;

type Job = Box<dyn FnOnce() + Send>;

/// The other end of the wire; its namespace, and so the wire, goes with it.
pub struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Peer {
    /// Call it in a namespace of one's own (`netns::run`). Addresses come with their prefix length.
    /// With `gro` packets are joined behind the wire; in either case the kernel cuts bundles up
    /// before it.
    pub fn new(here: &[&str], there: &[&str], gro: bool) -> Self {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (report, reported) = mpsc::channel();
        let thread = thread::spawn(move || {
            let run = netns::run(move || live(&report, &waiting));
            run.expect("a network namespace");
        });
        let other: libc::pid_t = reported.recv().expect("the other end's thread");
        ip(&format!(
            "link add {HERE} type veth peer name {THERE} netns {other}"
        ));
        set_up(HERE, here, gro);
        let peer = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        let there: Vec<String> = there.iter().map(|&address| address.to_owned()).collect();
        peer.run(move || {
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            set_up(THERE, &there, gro);
        });
        peer
    }

    /// Runs `job` at the other end, to its end. A panic goes on in the caller.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (report, reported) = mpsc::channel();
        let job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = report.send(outcome);
        });
        let jobs = self.jobs.as_ref().expect("until it is dropped");
        jobs.send(job).expect("the other end lives");
        match reported.recv().expect("an outcome") {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn live(report: &Sender<libc::pid_t>, waiting: &Receiver<Job>) {
    // SAFETY: takes nothing and cannot fail.
    let _ = report.send(unsafe { libc::gettid() });
    while let Ok(job) = waiting.recv() {
        job();
    }
}

fn set_up(device: &str, addresses: &[&str], gro: bool) {
    // A bundle would cross the wire whole; so it is cut up before.
    ip(&format!("link set {device} gso_max_segs 1"));
    // The kernel offers to GRO only what comes from a device that leaves TCP's cutting to software.
    set(device, ETHTOOL_STSO, false);
    set(device, ETHTOOL_SGRO, gro);
    for address in addresses {
        // Without duplicate address detection an IPv6 address can be used at once.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("address add {address} dev {device}{nodad}"));
    }
    ip(&format!("link set {device} up"));
}

/// Runs iproute2's `ip` in the calling thread's namespace.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("run ip (Debian: iproute2)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

fn set(device: &str, command: u32, on: bool) {
    let value: [u32; 2] = [command, u32::from(on)];
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket for the ioctl");
    // SAFETY: `ifreq` is integers, arrays and unions of them: all zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_ptr().cast_mut().cast();
    // SAFETY: SIOCETHTOOL reads an `ifreq` and the two numbers that it points to; both outlive the
    // call.
    let status =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(
        status,
        0,
        "SIOCETHTOOL {command:#x}: {}",
        std::io::Error::last_os_error()
    );
}
