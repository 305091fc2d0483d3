//! The journal has no room: by its own limit, by the disk's, by the file system's refusal. Senders are
//! told to try later, nothing that was acknowledged is lost unless the configuration says so, and
//! the agent goes on by itself once there is room.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_proto::reason::Reason;
use penstock_proto::wire::AckStatus;
use penstock_tests::agent::client::{Answer, Connection, Datagrams, critical_frame, line_frame};
use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::law::{Offered, disagreements, drained};
use penstock_tests::agent::metrics::Metrics;
use penstock_tests::agent::{Agent, Home, penstock, stored, wait_for};
use penstock_tests::mount::{Tmpfs, private_or_skip};
use penstock_tests::netns::skip;

const PRODUCER: u64 = 9;
const SOON: Duration = Duration::from_secs(20);
/// Frames of 256 KiB: a segment of 8 MiB holds 31.
const BODY_LEN: usize = 256 << 10;

/// The smallest journal that one shard takes: 32 MiB in segments of 8 MiB.
fn config(more: &'static str) -> Config {
    Config {
        journal_max_size: "32MiB",
        more,
        ..Config::new(Gate::UserSpace)
    }
}

fn drop_oldest(home: &Home) {
    let folder = home.path().join("conf.d");
    fs::create_dir_all(&folder).expect("make a folder");
    let text = "[journal]\non_full = \"drop_oldest\"\n";
    fs::write(folder.join("full.toml"), text).expect("write a file");
}

fn body(sequence: u64) -> String {
    let number = format!("{sequence} ");
    number.clone() + &"x".repeat(BODY_LEN - number.len())
}

/// A producer that sends one frame after the other.
struct Sender {
    connection: Connection,
    sequence: u64,
    acknowledged: Vec<u64>,
}

impl Sender {
    fn new(agent: &Agent) -> Self {
        Self {
            connection: Connection::open(agent.tcp()),
            sequence: 0,
            acknowledged: Vec::new(),
        }
    }

    fn send(&mut self) -> Answer {
        self.sequence += 1;
        let frame = line_frame(PRODUCER, self.sequence, &body(self.sequence));
        self.connection.send(&frame);
        let answer = self.connection.answers(1)[0];
        if answer == Answer::durable(PRODUCER, self.sequence) {
            self.acknowledged.push(self.sequence);
        }
        answer
    }

    /// Sends until a frame is told to try later; returns its reason.
    fn fill(&mut self) -> u8 {
        for _ in 0..400 {
            let answer = self.send();
            if answer.status == AckStatus::TryLater {
                return answer.reason;
            }
            assert_eq!(answer.status, AckStatus::Durable, "{answer:?}");
        }
        panic!("400 frames were taken: nothing is ever full");
    }

    /// Sends until one is taken again.
    fn resume(&mut self) {
        wait_for("a frame is taken again", SOON, || {
            (self.send().status == AckStatus::Durable).then_some(())
        });
    }
}

/// Each acknowledged frame stands in the stored files once, and nothing else does.
fn assert_stored(home: &Home, acknowledged: &[u64]) {
    let stored = stored::read(&home.records());
    let expected: BTreeMap<String, u64> = acknowledged.iter().map(|&n| (body(n), 1)).collect();
    let expected: BTreeMap<&str, u64> = expected.iter().map(|(b, n)| (&**b, *n)).collect();
    assert!(stored::bodies(&stored) == expected, "each frame once");
}

fn refusing(metrics: &Metrics, cause: &str) -> u64 {
    metrics.one("penstock_journal_refusing_shards", &[("cause", cause)])
}

fn wait_until_refusing(agent: &Agent, cause: &str) {
    wait_for("the journal refuses", SOON, || {
        (refusing(&agent.metrics(), cause) == 1).then_some(())
    });
    wait_for("/readyz says 503", SOON, || {
        (agent.get("/readyz").0 == 503).then_some(())
    });
}

fn wait_until_ready(agent: &Agent) {
    wait_for("/readyz says 200", SOON, || {
        (agent.get("/readyz").0 == 200).then_some(())
    });
    assert_eq!(
        agent.metrics().sum("penstock_journal_refusing_shards", &[]),
        0
    );
}

/// Seconds of the processor that the agent has used.
fn cpu_seconds(agent: &Agent) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("its stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let fields: Vec<&str> = fields.split(' ').collect();
    // proc(5): utime and stime are fields 14 and 15, of which two stand before the parenthesis.
    let ticks: u64 = [11, 12]
        .map(|at| fields[at].parse::<u64>().expect("ticks"))
        .iter()
        .sum();
    ticks as f64 / 100.0
}

#[test]
fn a_sink_that_is_not_enabled_holds_the_journal_up_to_its_limit_and_enabling_it_frees_it() {
    let home = Home::new();
    let agent = home.start(&config("enabled = false"));
    let mut sender = Sender::new(&agent);
    assert_eq!(sender.fill(), Reason::Backpressure as u8);
    wait_until_refusing(&agent, "max_size");

    // It waits; it does not spin.
    let (began, used) = (Instant::now(), cpu_seconds(&agent));
    std::thread::sleep(Duration::from_millis(1_500));
    let share = (cpu_seconds(&agent) - used) / began.elapsed().as_secs_f64();
    assert!(share < 0.5, "{share} of a core while it refuses");

    // UDP is refused and counted, and not held up by TCP. Of lesser priority it would be shed.
    let socket = Datagrams::open(agent.udp());
    for number in 0..10 {
        socket.send(&critical_frame(&format!("udp {number}")));
    }
    wait_for("UDP is refused", SOON, || {
        (agent.metrics().refused("udp", "backpressure") == 10).then_some(())
    });
    agent.stop();
    let survey = penstock(&["journal", "check", home.data().to_str().expect("UTF-8")]);
    assert!(
        survey.contains("nothing that was acknowledged is missing"),
        "{survey}"
    );

    let agent = home.start(&config(""));
    let mut again = Sender::new(&agent);
    again.sequence = sender.sequence;
    again.resume();
    let offered = Offered {
        backlog: sender.acknowledged.len() as u64,
        ..Offered::default()
    };
    drained(&agent, Gate::UserSpace, offered);
    agent.stop();
    sender.acknowledged.append(&mut again.acknowledged);
    assert_stored(&home, &sender.acknowledged);
}

#[test]
fn a_connection_is_not_read_while_the_journal_refuses_and_its_bytes_are_kept() {
    let home = Home::new();
    let agent = home.start(&config("enabled = false"));
    let mut sender = Sender::new(&agent);
    sender.fill();
    // What is sent now stays with the kernel but for what is read once a second, and each whole
    // frame that is read is answered: none of it is lost or taken out of order.
    let received = || {
        agent
            .metrics()
            .one("penstock_received_bytes_total", &[("listener", "tcp")])
    };
    let before = received();
    let stream = sender
        .connection
        .stream()
        .try_clone()
        .expect("a second handle");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut stream = stream;
        let mut sent = 0;
        for number in 0..200 {
            let frame = line_frame(PRODUCER, 1_000 + number, &body(1_000 + number));
            if stream.write_all(&frame).is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    std::thread::sleep(Duration::from_millis(1_500));
    let read = received() - before;
    // A receive that is armed again hands over what the kernel holds, at most 64 buffers of 128 KiB:
    // at the beginning, and twice since.
    assert!(read <= 3 * (8 << 20), "{read} bytes were read of 50 MiB");
    // The reader of answers sees them come in order, without a gap.
    let mut next = 1_000;
    while next < 1_003 {
        for answer in sender.connection.answers(1) {
            assert_eq!(
                (answer.sequence, answer.status),
                (next, AckStatus::TryLater)
            );
            next += 1;
        }
    }
    sender
        .connection
        .stream()
        .shutdown(std::net::Shutdown::Both)
        .expect("close");
    writer.join().expect("the writer ends");
    agent.stop();
}

#[test]
fn drop_oldest_takes_everything_and_counts_what_a_stuck_sink_lost() {
    let home = Home::new();
    drop_oldest(&home);
    // Where the sink's folder should be, there is a file.
    fs::create_dir(home.data()).expect("create the data folder");
    fs::write(home.records(), "in the way").expect("write a file");
    let agent = home.start(&config(""));
    let mut sender = Sender::new(&agent);
    for _ in 0..160 {
        assert_eq!(sender.send().status, AckStatus::Durable);
    }
    fs::remove_file(home.records()).expect("remove the file");
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    let skipped = |reason| {
        let labels = [("sink", "files"), ("reason", reason)];
        metrics.one("penstock_sink_skipped_records_total", &labels)
    };
    let dropped = skipped("dropped");
    // 160 frames are six segments, of which four fit: at least two are gone, and at most all but two.
    assert!((31..=140).contains(&dropped), "{dropped}");
    assert_eq!(skipped("unreadable"), 0);
    let errors = [("sink", "files"), ("reason", "dropped")];
    assert_eq!(metrics.one("penstock_sink_errors_total", &errors), 1);
    let limit = metrics.one("penstock_journal_limit_bytes", &[]);
    assert!(metrics.one("penstock_journal_bytes", &[]) <= limit);
    let log = agent.stop();
    let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(
        said("its oldest segments are dropped undelivered"),
        1,
        "once an episode"
    );
    assert_eq!(said("this sink lagged too far behind"), 1);
    // What is left is the newest, whole.
    assert_stored(&home, &sender.acknowledged[dropped as usize..]);
}

#[test]
fn what_an_earlier_life_dropped_is_told_apart_from_what_is_missing() {
    let home = Home::new();
    drop_oldest(&home);
    let agent = home.start(&config("enabled = false"));
    let mut sender = Sender::new(&agent);
    for _ in 0..160 {
        assert_eq!(sender.send().status, AckStatus::Durable);
    }
    agent.stop();
    // The sink begins with the oldest segment there is: it never had a cursor, so it skips nothing.
    let agent = home.start(&config(""));
    wait_for("all is delivered", SOON, || {
        let metrics = agent.metrics();
        (metrics.one("penstock_sink_lag_records", &[("sink", "files")]) == 0).then_some(())
    });
    let delivered = agent
        .metrics()
        .one("penstock_sink_records_total", &[("sink", "files")]);
    agent.stop();
    // Held back once more, now with a cursor, until what it has still to get is dropped.
    let agent = home.start(&config("enabled = false"));
    let mut more = Sender::new(&agent);
    more.sequence = 160;
    for _ in 0..160 {
        assert_eq!(more.send().status, AckStatus::Durable);
    }
    agent.stop();
    let agent = home.start(&config(""));
    let offered = Offered {
        backlog: 160,
        ..Offered::default()
    };
    let metrics = drained(&agent, Gate::UserSpace, offered);
    let skipped = metrics.one(
        "penstock_sink_skipped_records_total",
        &[("sink", "files"), ("reason", "dropped")],
    );
    assert!(skipped >= 31, "{skipped}");
    agent.stop();
    sender.acknowledged.drain(..160 - delivered as usize);
    sender
        .acknowledged
        .extend(&more.acknowledged[skipped as usize..]);
    assert_stored(&home, &sender.acknowledged);
}

#[test]
fn one_stuck_sink_delays_no_other() {
    let home = Home::new();
    // A cursor that is none: this sink does not guess, and tries again and again.
    let cursors = home.data().join("cursors");
    fs::create_dir_all(&cursors).expect("make a folder");
    let stuck = cursors.join("stuck-s00.cursor");
    fs::write(&stuck, "not a cursor").expect("write a file");
    let agent = home.start(&config("[sinks.stuck]\ntype = \"file\""));
    let mut sender = Sender::new(&agent);
    for _ in 0..40 {
        assert_eq!(sender.send().status, AckStatus::Durable);
    }
    let lag = |sink| {
        agent
            .metrics()
            .one("penstock_sink_lag_records", &[("sink", sink)])
    };
    wait_for("the other sink keeps up", SOON, || {
        (lag("files") == 0).then_some(())
    });
    assert_eq!(lag("stuck"), 40);
    sender.fill();
    wait_for("the other sink keeps up", SOON, || {
        (lag("files") == 0).then_some(())
    });
    // The operator removes the cursor, as the log says.
    assert!(
        agent
            .log()
            .contains("remove it to deliver the journal again")
    );
    fs::remove_file(&stuck).expect("remove the file");
    wait_for("the stuck sink catches up", SOON, || {
        (lag("stuck") == 0).then_some(())
    });
    sender.resume();
    drained(&agent, Gate::UserSpace, Offered::default());
    agent.stop();
}

#[test]
fn a_disk_that_fills_and_is_freed_again() {
    private_or_skip("a_disk_that_fills_and_is_freed_again", || {
        let home = Home::new();
        let tmpfs = Tmpfs::mount(&home.data(), "64m");
        let agent = home.start(&config(""));
        let mut sender = Sender::new(&agent);
        assert_eq!(sender.send().status, AckStatus::Durable);
        // Somebody else fills the disk, to the last byte.
        let ballast = home.data().join("ballast");
        fill(&ballast);
        let reason = sender.fill();
        assert_eq!(reason, Reason::Backpressure as u8);
        // min_free is 1 MiB, so whichever is looked at first.
        wait_for("the journal refuses", SOON, || {
            let metrics = agent.metrics();
            (refusing(&metrics, "disk_full") + refusing(&metrics, "min_free") == 1).then_some(())
        });
        wait_for("/readyz says 503", SOON, || {
            (agent.get("/readyz").0 == 503).then_some(())
        });
        assert_eq!(agent.get("/healthz").0, 200);
        assert!(agent.metrics().one("penstock_journal_disk_free_bytes", &[]) < 8 << 20);
        fs::remove_file(&ballast).expect("remove the ballast");
        sender.resume();
        wait_until_ready(&agent);
        drained(&agent, Gate::UserSpace, Offered::default());
        agent.stop();
        assert_stored(&home, &sender.acknowledged);
        drop(tmpfs);
    });
}

fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("create the ballast");
    for piece in [vec![0_u8; 64 << 10], vec![0; 1]] {
        while file.write_all(&piece).is_ok() {}
    }
}

#[test]
fn min_free_is_kept() {
    private_or_skip("min_free_is_kept", || {
        let home = Home::new();
        let tmpfs = Tmpfs::mount(&home.data(), "64m");
        let folder = home.path().join("conf.d");
        fs::create_dir_all(&folder).expect("make a folder");
        let agent = home.start(&config("enabled = false"));
        let mut sender = Sender::new(&agent);
        assert_eq!(sender.send().status, AckStatus::Durable);
        // A little less than min_free (1 MiB) is left: not full, but low.
        let ballast = home.data().join("ballast");
        fs::write(&ballast, vec![0; (64 << 20) - (16 << 20) - (500 << 10)]).expect("write");
        sender.fill();
        wait_until_refusing(&agent, "min_free");
        let metrics = agent.metrics();
        assert_eq!(metrics.one("penstock_journal_min_free_bytes", &[]), 1 << 20);
        let free = metrics.one("penstock_journal_disk_free_bytes", &[]);
        assert!(free > 0, "{free} bytes free");
        fs::remove_file(&ballast).expect("remove the ballast");
        sender.resume();
        agent.stop();
        drop(tmpfs);
    });
}

#[test]
fn a_folder_that_takes_no_files_is_refused_and_tried_again() {
    private_or_skip(
        "a_folder_that_takes_no_files_is_refused_and_tried_again",
        || {
            let home = Home::new();
            let tmpfs = Tmpfs::mount(&home.data(), "128m");
            let agent = home.start(&config(""));
            let mut sender = Sender::new(&agent);
            assert_eq!(sender.send().status, AckStatus::Durable);
            let folder = home.data().join("journal/shard-00");
            if !set_immutable(&folder, true) {
                skip(
                    "a_folder_that_takes_no_files_is_refused_and_tried_again",
                    "tmpfs has no immutable flag (Linux 6.6)",
                );
                return;
            }
            assert_eq!(sender.fill(), Reason::JournalFailed as u8);
            wait_until_refusing(&agent, "failed");
            let call = [("call", "create")];
            let errors = agent
                .metrics()
                .one("penstock_journal_segment_errors_total", &call);
            // Once a second, and not as fast as it can.
            assert!((1..=5).contains(&errors), "{errors} attempts");
            assert!(set_immutable(&folder, false));
            sender.resume();
            wait_until_ready(&agent);
            drained(&agent, Gate::UserSpace, Offered::default());
            let log = agent.stop();
            let said = log
                .lines()
                .filter(|line| line.contains("cannot create a segment"))
                .count();
            assert_eq!(said, 1, "{log}");
            assert_stored(&home, &sender.acknowledged);
            drop(tmpfs);
        },
    );
}

/// `chattr +i`: not even root makes or removes files in the folder.
fn set_immutable(folder: &Path, immutable: bool) -> bool {
    const FS_IMMUTABLE_FL: libc::c_long = 0x10;
    let folder = fs::File::open(folder).expect("open the folder");
    let flags: libc::c_long = if immutable { FS_IMMUTABLE_FL } else { 0 };
    // SAFETY: the request reads an integer, which outlives the call.
    unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            libc::FS_IOC_SETFLAGS as _,
            &raw const flags,
        ) == 0
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_full_disk_and_no_signal() {
    let home = Home::new();
    let agent = home.start(&config("rotate = { size = \"1MiB\" }"));
    let mut sender = Sender::new(&agent);
    assert_eq!(sender.send().status, AckStatus::Durable);
    // Less than a segment, more than a sink's file.
    set_file_size_limit(&agent, 6 << 20);
    // The segment was allocated beyond the limit, and takes no write there: it is poisoned.
    assert_eq!(sender.fill(), Reason::JournalFailed as u8);
    wait_until_refusing(&agent, "disk_full");
    assert_eq!(sender.fill(), Reason::Backpressure as u8);
    set_file_size_limit(&agent, libc::RLIM_INFINITY);
    sender.resume();
    wait_until_ready(&agent);
    let metrics = drained(&agent, Gate::UserSpace, Offered::default());
    assert_eq!(
        disagreements(&metrics, Gate::UserSpace, Offered::default()),
        [""; 0]
    );
    agent.stop();
    assert_stored(&home, &sender.acknowledged);
}

fn set_file_size_limit(agent: &Agent, bytes: u64) {
    let limit = libc::rlimit64 {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: reads one rlimit64, alive for the call; nothing is written back.
    let set = unsafe {
        libc::prlimit64(
            agent.pid() as i32,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0, "prlimit: {}", std::io::Error::last_os_error());
}
