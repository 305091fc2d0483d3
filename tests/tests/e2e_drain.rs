//! SIGTERM under load: what was acknowledged is stored, every answer arrives, and it ends in time.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_client::{LogRecord, Options, Sender};
use penstock_proto::wire::{ACK_LEN, Ack, AckStatus};
use penstock_tests::agent::client::{Answer, line_frame};
use penstock_tests::agent::config::{Config, Gate, own_address};
use penstock_tests::agent::{Home, stored, wait_for};

const WAIT_MAX: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config::new(Gate::UserSpace)
}

/// Sends frames as fast as they are taken, on one thread, and reads answers on another, until the
/// agent ends the stream; then closes. What was answered, by sequence.
fn pour(to: std::net::SocketAddr, producer: u64, sent: Arc<AtomicU64>) -> BTreeMap<u64, AckStatus> {
    let stream = TcpStream::connect(to).expect("connect");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a limit");
    stream.set_write_timeout(Some(WAIT_MAX)).expect("a limit");
    let settled = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let writer = {
        let mut stream = stream.try_clone().expect("a second handle");
        let (settled, ended) = (Arc::clone(&settled), Arc::clone(&ended));
        thread::spawn(move || {
            for sequence in 1.. {
                // No more outstanding than the protocol allows.
                while sequence >= settled.load(Ordering::Relaxed) + 1024 {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::yield_now();
                }
                let frame = line_frame(producer, sequence, &format!("{producer}-{sequence}"));
                if ended.load(Ordering::Relaxed) || stream.write_all(&frame).is_err() {
                    return;
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut answers = BTreeMap::new();
    let mut reader = &stream;
    loop {
        let mut bytes = [0; ACK_LEN];
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            // The end of the stream, behind the last answer. A reset would be another error.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => panic!("producer {producer}: {error}"),
        }
        let ack = Ack::read(&bytes).expect("an answer");
        for answer in Answer::all_of(&ack) {
            answers.insert(answer.sequence, answer.status);
        }
        settled.store(answers.len() as u64, Ordering::Relaxed);
    }
    ended.store(true, Ordering::Relaxed);
    drop(stream);
    writer.join().expect("the writer");
    answers
}

#[test]
fn a_stop_under_load_stores_what_it_acknowledged_and_every_answer_arrives() {
    let home = Home::new();
    let agent = home.start(&config());
    let tcp = agent.tcp();
    let sent = Arc::new(AtomicU64::new(0));
    let producers: Vec<_> = (1..=4)
        .map(|producer| {
            let sent = Arc::clone(&sent);
            thread::spawn(move || pour(tcp, producer, sent))
        })
        .collect();
    wait_for("load", WAIT_MAX, || {
        (sent.load(Ordering::Relaxed) > 5_000).then_some(())
    });
    agent.stop();
    let mut acknowledged = Vec::new();
    for (producer, thread) in (1..).zip(producers) {
        for (sequence, status) in thread.join().expect("no reset") {
            // What came too late is told to try later, not acknowledged.
            match status {
                AckStatus::Durable => acknowledged.push(format!("{producer}-{sequence}")),
                AckStatus::TryLater => {}
                status => panic!("{producer}-{sequence}: {status:?}"),
            }
        }
    }
    let records = stored::read(&home.records());
    let bodies = stored::bodies(&records);
    for body in &acknowledged {
        assert_eq!(bodies.get(body.as_str()), Some(&1), "{body}");
    }
    // And no answer got lost on the way: what is stored was acknowledged.
    assert_eq!(records.len(), acknowledged.len());
}

#[test]
fn restarts_under_load_lose_and_double_nothing() {
    let home = Home::new();
    let mut config = Config {
        tcp_address: own_address(),
        ..config()
    };
    let mut agent = home.start(&config);
    config.tcp_address = agent.tcp().to_string();
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..2)
        .map(|producer| {
            let (to, stop) = (config.tcp_address.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let options = Options {
                    batch_records_max: 10,
                    backoff_max: Duration::from_millis(200),
                    give_up_after: WAIT_MAX,
                    ..Options::default()
                };
                let mut sender = Sender::new(to, options);
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let body = format!("{producer}-{number}");
                    let record = LogRecord {
                        body,
                        ..LogRecord::default()
                    };
                    sender.send(&record).expect("taken");
                    number += 1;
                    if number % 50 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                let report = sender.finish().expect("settled");
                assert_eq!(report.acknowledged().records, number);
                number
            })
        })
        .collect();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        agent.stop();
        agent = home.start(&config);
    }
    stop.store(true, Ordering::Relaxed);
    let numbers: Vec<u64> = producers
        .into_iter()
        .map(|producer| producer.join().expect("all acknowledged"))
        .collect();
    agent.stop();
    let records = stored::read(&home.records());
    let bodies = stored::bodies(&records);
    for (producer, number) in numbers.iter().enumerate() {
        for wanted in 0..*number {
            let body = format!("{producer}-{wanted}");
            assert_eq!(bodies.get(body.as_str()), Some(&1), "{body}");
        }
    }
    assert_eq!(records.len() as u64, numbers.iter().sum::<u64>());
}

#[test]
fn a_sink_that_cannot_deliver_does_not_hold_up_a_stop_beyond_its_time() {
    let home = Home::new();
    // Bound and never accepted from: connections are taken by the kernel, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = silent.local_addr().expect("an address");
    let more = format!("[sinks.upstream]\ntype = \"penstock\"\nto = \"tcp://{to}\"\n");
    let config = Config {
        more: Box::leak(more.into_boxed_str()),
        top: "stop_timeout = \"4s\"",
        ..config()
    };
    let agent = home.start(&config);
    let mut sender = Sender::new(agent.tcp().to_string(), Options::default());
    let body = "kept".to_owned();
    let record = LogRecord {
        body,
        ..LogRecord::default()
    };
    sender.send(&record).expect("taken");
    assert_eq!(sender.finish().expect("settled").durable.records, 1);
    let begun = Instant::now();
    agent.signal(libc::SIGTERM);
    let ended = agent.end();
    // Twice the configured time, on a machine that others use too; the default is 30 s.
    assert!(begun.elapsed() < Duration::from_secs(8), "{ended:?}");
    assert_eq!(ended.code, Some(74), "{ended:?}");
    assert!(
        ended.log.contains("1 records behind the journal"),
        "{ended:?}"
    );
    // The file sink was done, and the journal has what the other one still is to get.
    assert_eq!(stored::read(&home.records()).len(), 1);
    let agent = home.start(&config);
    let labels = [("sink", "upstream")];
    assert_eq!(agent.metrics().one("penstock_sink_lag_records", &labels), 1);
    agent.kill();
}
