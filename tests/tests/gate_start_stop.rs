//! A start and a stop without a hole: a sender that begins before the agent and ends after it finds
//! each of its datagrams in a count, the kernel's "no such port" or one of the gate's.

use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use penstock_tests::agent::client::line_frame;
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::{Home, stored};
use penstock_tests::gate::privileged_or_skip;

/// In a namespace of its own nobody else has it.
const ADDRESS: &str = "127.0.0.1:4600";

#[test]
fn over_a_start_and_a_stop_under_load_every_datagram_is_counted() {
    privileged_or_skip("gate_start_stop", || {
        let home = Home::new();
        let stop = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || send_until(&stop)
        });
        for _ in 0..2 {
            let agent = home.start(&Config {
                udp_address: ADDRESS.to_owned(),
                shards: 2,
                ..Config::new(Gate::Kernel)
            });
            thread::sleep(Duration::from_millis(300));
            agent.stop();
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender");

        let lives: Vec<String> = home.logs().collect();
        let sum = |name: &str| lives.iter().map(|log| last_count(log, name)).sum::<u64>();
        let (passed, dropped) = (sum("passed"), sum("kernel_drops"));
        let judged = passed + sum("malformed") + sum("shed") + sum("closing");
        let homeless = no_ports();
        assert_eq!(
            sent,
            homeless + judged,
            "{homeless} found no port: {lives:?}"
        );
        assert!(
            homeless > 0 && passed > 0,
            "{homeless} and {passed} of {sent}"
        );
        assert_eq!(stored::read(&home.records()).len() as u64, passed - dropped);
    });
}

/// Some thousand a second, one frame of one record each; how many the kernel took.
fn send_until(stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let frame = line_frame(0, 0, &format!("number {sent}"));
        // Not connected: that nobody listens is no error of the next one.
        socket.send_to(&frame, ADDRESS).expect("sent");
        sent += 1;
        thread::sleep(Duration::from_micros(100));
    }
    sent
}

/// A field of the line that the agent ends with: `name=number`.
fn last_count(log: &str, name: &str) -> u64 {
    let line = log
        .lines()
        .find(|line| line.contains("the gate's last counts") && line.contains("listener=udp"))
        .unwrap_or_else(|| panic!("no last counts in {log}"));
    let field = format!(" {name}=");
    let (_, rest) = line.split_once(&field).expect("a count");
    let digits = rest.split(' ').next().expect("a number");
    digits.parse().expect("a number")
}

/// Datagrams of this namespace for which nobody had a socket: `NoPorts`, the second number of the
/// second `Udp:` line.
fn no_ports() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("counters");
    let numbers = text
        .lines()
        .filter_map(|line| line.strip_prefix("Udp: "))
        .nth(1)
        .expect("numbers");
    let second = numbers.split(' ').nth(1).expect("NoPorts");
    second.parse().expect("a number")
}
