//! The sample of refused datagrams that people watch: numbered, bounded, and forgotten in order.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_common::frame::{FRAME_HEADER_LEN, FRAME_MAGIC, FrameHeader};
use agent_common::observe::RefusedSample;
use agent_common::verdict::Verdict;
use serde::{Deserialize, Serialize};

use super::who;

/// Watching ends this long after the last watcher asked: whoever watches asks four times a second.
pub const WATCH_LEASE: Duration = Duration::from_secs(2);
/// What is kept for watchers that ask: eight seconds of one CPU. 80 bytes each.
const KEPT_MAX: usize = 1024;

/// Why a header is none, in the order of `HeaderFault`.
const FAULTS: [(&str, &str); 10] = [
    ("truncated", "shorter than a header (40 bytes)"),
    ("magic", "does not begin with PNS"),
    ("version", "a version that is not 1"),
    ("encoding", "an encoding that the protocol does not name"),
    ("flags", "flags that have no meaning"),
    ("priority", "a priority above 3"),
    ("reserved", "byte 7 is not 0"),
    ("no_records", "says it has no records"),
    ("too_long", "a payload beyond the listener's limit"),
    ("length", "a payload that does not fill its datagram"),
];

/// The samples of late.
#[derive(Default)]
pub struct Kept {
    samples: VecDeque<(u64, u64, RefusedSample)>,
    /// The number of the next one, less 1: the first has number 1.
    last: u64,
}

impl Kept {
    pub fn push(&mut self, sample: RefusedSample) {
        if self.samples.len() == KEPT_MAX {
            self.samples.pop_front();
        }
        self.last += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = now.map_or(0, |now| now.as_millis() as u64);
        self.samples.push_back((self.last, unix_ms, sample));
    }

    /// What was kept behind this number, with `left_out` of it by whoever samples.
    pub fn after(&self, number: u64, left_out: u64, name: impl Fn(u32) -> String) -> Watched {
        // A number of another life of the agent is none of ours.
        let after = if number > self.last { 0 } else { number };
        let first = self
            .samples
            .front()
            .map_or(self.last + 1, |sample| sample.0);
        Watched {
            last: self.last,
            left_out,
            forgotten: first.saturating_sub(after + 1),
            samples: self
                .samples
                .iter()
                .filter(|sample| sample.0 > after)
                .map(|(number, unix_ms, sample)| Refused::of(*number, *unix_ms, sample, &name))
                .collect(),
        }
    }
}

/// An answer to whoever watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// The number to ask for next.
    pub last: u64,
    /// Bundles that were refused while somebody watched, and not sampled: since the agent began.
    pub left_out: u64,
    /// Samples that were forgotten before this watcher asked.
    pub forgotten: u64,
    pub samples: Vec<Refused>,
}

/// A refused bundle, by its first datagram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    pub number: u64,
    pub unix_ms: u64,
    pub source: String,
    pub listener: String,
    pub verdict: String,
    /// What is wrong with a malformed header.
    pub fault: Option<String>,
    pub reason: Option<String>,
    /// Of the bundle.
    pub datagrams: u32,
    /// Of the first one, in bytes.
    pub len: u32,
    /// How it begins, with everything but printable ASCII escaped.
    pub head: String,
    /// The same as fields, where it begins like a frame.
    pub header: Option<Header>,
}

/// A header's fields, none of which is to be believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub encoding: u8,
    pub flags: u8,
    pub priority: u8,
    pub payload_len: u32,
    pub records: u32,
    pub producer: u64,
    pub sequence: u64,
}

impl Refused {
    fn of(number: u64, unix_ms: u64, sample: &RefusedSample, name: impl Fn(u32) -> String) -> Self {
        let known = Verdict::ALL.get(usize::from(sample.verdict));
        let fault = usize::from(sample.fault)
            .checked_sub(1)
            .and_then(|at| FAULTS.get(at));
        let head_len = usize::from(sample.head_len).min(FRAME_HEADER_LEN);
        let is_frame = head_len == FRAME_HEADER_LEN && sample.head.starts_with(&FRAME_MAGIC);
        let header = is_frame.then(|| FrameHeader::read(&sample.head));
        Self {
            number,
            unix_ms,
            source: who::name(&sample.source, (32, 128)),
            listener: name(sample.listener),
            verdict: known
                .map_or("unknown", |verdict| verdict.label())
                .to_owned(),
            fault: fault.map(|(label, _)| (*label).to_owned()),
            reason: fault.map(|(_, text)| (*text).to_owned()),
            datagrams: sample.datagrams,
            len: sample.len,
            head: sample.head[..head_len].escape_ascii().to_string(),
            header: header.map(|header| Header {
                encoding: header.encoding,
                flags: header.flags,
                priority: header.priority,
                payload_len: header.payload_len,
                records: header.records,
                producer: header.producer,
                sequence: header.sequence,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::classify::HeaderFault;
    use agent_common::observe::fault_number;
    use agent_common::source::Source;

    #[test]
    fn every_fault_has_its_name() {
        for (fault, label) in [
            (HeaderFault::Truncated, "truncated"),
            (HeaderFault::Magic, "magic"),
            (HeaderFault::Version, "version"),
            (HeaderFault::Encoding, "encoding"),
            (HeaderFault::Flags, "flags"),
            (HeaderFault::Priority, "priority"),
            (HeaderFault::Reserved, "reserved"),
            (HeaderFault::NoRecords, "no_records"),
            (HeaderFault::TooLong, "too_long"),
            (HeaderFault::Length, "length"),
        ] {
            let number = usize::from(fault_number(Some(fault)));
            assert_eq!(FAULTS[number - 1].0, label);
        }
    }

    #[test]
    fn a_watcher_gets_what_came_since_and_is_told_what_it_missed() {
        let mut kept = Kept::default();
        let mut sample = RefusedSample {
            source: Source::v4(u32::from_ne_bytes([192, 0, 2, 7])),
            listener: 1,
            datagrams: 3,
            len: 5,
            verdict: Verdict::Malformed as u8,
            fault: fault_number(Some(HeaderFault::Truncated)),
            head_len: 5,
            ..RefusedSample::EMPTY
        };
        sample.head[..5].copy_from_slice(b"a\x1b[2J");
        kept.push(sample);
        let name = |listener| format!("listener{listener}");
        let first = kept.after(0, 9, name);
        assert_eq!((first.last, first.left_out, first.forgotten), (1, 9, 0));
        let one = &first.samples[0];
        assert_eq!(one.source, "192.0.2.7");
        assert_eq!(one.listener, "listener1");
        assert_eq!(one.verdict, "malformed");
        assert_eq!(one.fault.as_deref(), Some("truncated"));
        assert_eq!(one.head, "a\\x1b[2J", "nothing that moves a cursor");
        assert_eq!(one.header, None);
        assert!(kept.after(1, 9, name).samples.is_empty());
        for _ in 0..2 * KEPT_MAX {
            kept.push(sample);
        }
        let late = kept.after(1, 9, name);
        assert_eq!(late.samples.len(), KEPT_MAX);
        assert_eq!(late.samples[0].number, 2 + late.forgotten);
        assert_eq!(late.forgotten, KEPT_MAX as u64);
        // After a restart of the agent the numbers begin again.
        assert_eq!(kept.after(1 << 40, 0, name).samples.len(), KEPT_MAX);
    }
}
