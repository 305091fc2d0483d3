//! Agent to agent: each record that the first one acknowledged stands once in the files of the
//! second, whichever of them is killed, and whenever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use penstock_client::{LogRecord, Options, Sender};
use penstock_tests::agent::config::{Config, Gate, own_address};
use penstock_tests::agent::{Agent, Home, stored, wait_for};

const DRAIN_MAX: Duration = Duration::from_secs(60);

/// One agent and its lives, always at the same address.
struct Host {
    home: Home,
    config: Config,
    agent: Option<Agent>,
    tcp: SocketAddr,
}

impl Host {
    fn start(more: &str) -> Self {
        let home = Home::new();
        let mut config = Config {
            more: Box::leak(more.to_owned().into_boxed_str()),
            tcp_address: own_address(),
            ..Config::new(Gate::UserSpace)
        };
        let agent = home.start(&config);
        let tcp = agent.tcp();
        config.tcp_address = tcp.to_string();
        Self {
            home,
            config,
            agent: Some(agent),
            tcp,
        }
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("running")
    }

    fn kill_and_start(&mut self) {
        self.agent.take().expect("running").kill();
        self.agent = Some(self.home.start(&self.config));
    }

    fn drained(&self, sink: &str) {
        wait_for(&format!("{sink} has no lag"), DRAIN_MAX, || {
            let status = self.agent().status();
            let sinks = status["sinks"].as_array().expect("an array").clone();
            let found = sinks.iter().find(|each| each["name"] == sink);
            (found.expect("the sink")["lag_records"] == 0).then_some(())
        });
    }
}

fn forwarding(to: SocketAddr) -> String {
    format!("[sinks.upstream]\ntype = \"penstock\"\nto = [\"tcp://{to}\"]\n")
}

/// Sends numbered records until told to stop; every one of them is acknowledged at the end.
fn produce(to: SocketAddr, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) -> u64 {
    let options = Options {
        batch_records_max: 20,
        backoff_max: Duration::from_millis(200),
        give_up_after: Duration::from_secs(60),
        ..Options::default()
    };
    let mut sender = Sender::new(to.to_string(), options);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..40 {
            let record = LogRecord {
                body: format!("line {number}"),
                ..LogRecord::default()
            };
            sender.send(&record).expect("taken");
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
    let report = sender.finish().expect("all settled");
    assert_eq!(report.acknowledged().records, number, "{report:?}");
    number
}

#[test]
fn either_end_is_killed_and_each_record_is_stored_once() {
    let mut receiver = Host::start("");
    let mut forwarder = Host::start(&forwarding(receiver.tcp));
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let producer = {
        let (to, stop, sent) = (forwarder.tcp, Arc::clone(&stop), Arc::clone(&sent));
        thread::spawn(move || produce(to, stop, sent))
    };
    for round in 0..6u64 {
        // A different moment each time, and never before there is something on its way.
        let before = sent.load(Ordering::Relaxed);
        wait_for("more is sent", DRAIN_MAX, || {
            (sent.load(Ordering::Relaxed) > before).then_some(())
        });
        thread::sleep(Duration::from_millis(40 + 67 * (round * round % 7)));
        match round % 2 {
            0 => receiver.kill_and_start(),
            _ => forwarder.kill_and_start(),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let number = producer.join().expect("all acknowledged");
    forwarder.drained("upstream");
    receiver.drained("files");
    let errors = forwarder.agent().metrics();
    let refused = [("sink", "upstream"), ("reason", "refused")];
    assert_eq!(errors.one("penstock_sink_errors_total", &refused), 0);
    forwarder.agent.take().expect("running").stop();
    receiver.agent.take().expect("running").stop();
    for host in [&forwarder, &receiver] {
        let records = stored::read(&host.home.records());
        let bodies = stored::bodies(&records);
        for wanted in 0..number {
            let count = bodies.get(format!("line {wanted}").as_str());
            assert_eq!(count, Some(&1), "line {wanted} of {number}");
        }
        assert_eq!(records.len() as u64, number, "and nothing else");
    }
}

#[test]
fn a_receiver_that_is_away_is_lag_and_an_error_count_and_no_failure() {
    let mut receiver = Host::start("");
    let forwarder = Host::start(&forwarding(receiver.tcp));
    receiver.agent.take().expect("running").stop();
    let mut sender = Sender::new(forwarder.tcp.to_string(), Options::default());
    for number in 0..100 {
        let body = format!("line {number}");
        let record = LogRecord {
            body,
            ..LogRecord::default()
        };
        sender.send(&record).expect("taken");
    }
    assert_eq!(sender.finish().expect("settled").durable.records, 100);
    forwarder.drained("files");
    wait_for("the sink has tried", DRAIN_MAX, || {
        let labels = [("sink", "upstream"), ("reason", "connection")];
        let metrics = forwarder.agent().metrics();
        (metrics.one("penstock_sink_errors_total", &labels) > 0).then_some(())
    });
    let metrics = forwarder.agent().metrics();
    let upstream = [("sink", "upstream")];
    assert_eq!(metrics.one("penstock_sink_lag_records", &upstream), 100);
    assert_eq!(forwarder.agent().get("/readyz").0, 200);
    receiver.agent = Some(receiver.home.start(&receiver.config));
    forwarder.drained("upstream");
    let metrics = forwarder.agent().metrics();
    assert_eq!(metrics.one("penstock_sink_records_total", &upstream), 100);
    receiver.agent.take().expect("running").stop();
    let records = stored::read(&receiver.home.records());
    assert_eq!(records.len(), 100);
    assert!(stored::bodies(&records).values().all(|count| *count == 1));
}
