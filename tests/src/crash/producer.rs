//! Producers that outlive the agent: they send numbered records, keep what was not acknowledged and
//! send it again, with the same id and sequences, until it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use penstock_client::{LogRecord, Options, Report, Sender};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Records that a producer hands over at once, and what it waits before the next: with records of
/// some 300 bytes, 10,000 a second each at the most.
const BURST: u64 = 20;
const BURST_PAUSE: Duration = Duration::from_millis(2);
/// The longest filler of a record.
const FILLER_LEN_MAX: usize = 600;

fn options(seed: u64) -> Options {
    Options {
        batch_records_max: 12,
        batch_bytes_max: 8 << 10,
        linger: Duration::from_millis(2),
        // What a producer holds unsettled, and so what a crash makes it send again.
        payload_len_max: 64 << 10,
        buffer_bytes_max: 512 << 10,
        connect_timeout: Duration::from_secs(1),
        ack_timeout: Duration::from_secs(5),
        // Lives last for a fraction of a second here.
        backoff_base: Duration::from_millis(5),
        backoff_max: Duration::from_millis(40),
        retry_after_max: Duration::from_millis(100),
        give_up_after: Duration::from_secs(40),
        jitter_seed: Some(seed),
        ..Options::default()
    }
}

/// Record `number` of `producer` in `campaign`: nobody else makes the same.
pub fn record(campaign: u64, producer: usize, number: u64) -> LogRecord {
    let seed = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((campaign << 8) + producer as u64);
    let mut random = StdRng::seed_from_u64(seed);
    let len = random.random_range(0..=FILLER_LEN_MAX);
    // Letters at random: a compressor takes them to three quarters, so that files fill up.
    let filler: String = (0..len)
        .map(|_| char::from(random.random_range(b'a'..=b'z')))
        .collect();
    LogRecord {
        time_unix_nano: 1_795_178_701_000_000_000 + number,
        severity_number: 9,
        service_name: "crash".to_owned(),
        body: format!("{campaign}/{producer}/{number} {filler}"),
        ..LogRecord::default()
    }
}

/// Which record a body claims to be: campaign, producer and number.
pub fn parse(body: &str) -> Option<(u64, usize, u64)> {
    let (name, _) = body.split_once(' ')?;
    let mut numbers = name.split('/');
    let campaign = numbers.next()?.parse().ok()?;
    let producer = numbers.next()?.parse().ok()?;
    let number = numbers.next()?.parse().ok()?;
    numbers
        .next()
        .is_none()
        .then_some((campaign, producer, number))
}

/// What became of one producer's records.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Records handed over: numbers 0 to this.
    pub taken: u64,
    pub report: Report,
    /// Why not everything was settled.
    pub gave_up: Option<String>,
}

/// Several producers at work.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    /// Records settled, all producers together.
    settled: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Sent>>,
}

impl Crowd {
    pub fn start(campaign: u64, producers: usize, to: SocketAddr, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let settled = Arc::new(AtomicU64::new(0));
        let start = |producer| {
            let (stop, settled) = (Arc::clone(&stop), Arc::clone(&settled));
            let options = options(seed.wrapping_add(producer as u64));
            let thread = std::thread::Builder::new().name(format!("producer-{producer}"));
            let work = move || work(campaign, producer, to, options, &stop, &settled);
            thread.spawn(work).expect("start a thread")
        };
        let threads = (0..producers).map(start).collect();
        Self {
            stop,
            settled,
            threads,
        }
    }

    /// Records acknowledged until now, a moment behind.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Lets everybody come to an end; what they sent, by producer.
    pub fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.threads.into_iter().map(|thread| thread.join());
        joined
            .map(|sent| sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    }
}

fn work(
    campaign: u64,
    producer: usize,
    to: SocketAddr,
    options: Options,
    stop: &AtomicBool,
    settled: &AtomicU64,
) -> Sent {
    let mut sender = Sender::new(to.to_string(), options);
    let mut taken = 0;
    let mut counted = 0;
    let mut count = |report: &Report| {
        let now = report.acknowledged().records;
        settled.fetch_add(now - counted, Ordering::Relaxed);
        counted = now;
    };
    let ended = 'sending: {
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                if let Err(error) = sender.send(&record(campaign, producer, taken)) {
                    break 'sending Err(error);
                }
                taken += 1;
            }
            let until = Instant::now() + BURST_PAUSE;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if let Err(error) = sender.advance(None, left) {
                    break 'sending Err(error);
                }
                // Without a connection, or with nothing to say, `advance` does not wait for long.
                if left < Duration::from_micros(200) {
                    break;
                }
            }
            count(&sender.report());
        }
        sender.finish().map(drop)
    };
    let report = sender.report();
    count(&report);
    Sent {
        taken,
        report,
        gave_up: ended.err().map(|error| error.to_string()),
    }
}
