//! The command line, and what it comes to once it is checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent_common::frame::UDP_PAYLOAD_LEN_MAX;
use clap::ValueEnum;
use penstock_client::datagram::{PAYLOAD_LEN_IPV4, PAYLOAD_LEN_IPV6};
use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;
use penstock_proto::reason::Reason;

use super::from::Sources;
use super::hostile;
use crate::command::target::{self, ReportForm, Target};
use crate::config::settings::Protocol;
use crate::exit::{Exit, Failure};
use crate::limits::{CONNECTIONS_MAX, TCP_PAYLOAD_LEN_MAX};

/// How long a run with `--records` and without `--for` may take.
const TIME_MAX_WITH_RECORDS: Duration = Duration::from_secs(60);
const TIME_DEFAULT: Duration = Duration::from_secs(10);

/// Generate load: at a rate, or flat out.
///
/// Payloads are encoded before the clock starts; sending one costs little, so that the receiver is
/// what is measured. A run ends by itself: after --for (10 s unless told otherwise), or after
/// --records, and then waits at most 10 s for what is not acknowledged yet.
///
/// A frame is due at its place in the schedule, and the latency of its acknowledgement counts from
/// there, not from when it got out: a receiver that stalls cannot hide it. All records of a
/// template have the time at which the run began.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  100,000 records/s over TCP for 10 s:
    penstock load --to tcp://127.0.0.1:4600
  Flat out from processor 1, four connections, with this host's own lines:
    penstock load --to tcp://127.0.0.1:4600 --rate max --connections 4 --cpu 1 --lines /var/log/dpkg.log
  UDP, one million records and no more, from 100 sources, one percent of the frames malformed:
    penstock load --to udp://127.0.0.1:4600 --rate max --records 1000000 --sources 100 --hostile 1

Exit codes: 0 the run went as asked · 64 usage · 66 no such input file · 69 nobody there, or a \
connection was lost · 74 something was not settled, or a malformed frame was taken")]
pub struct Arguments {
    /// Where to: tcp://HOST:PORT or udp://HOST:PORT
    #[arg(long, value_name = "TARGET")]
    pub to: Target,
    /// protobuf, avro or json
    #[arg(long, default_value = "protobuf", value_parser = target::encoding)]
    pub encoding: Encoding,
    /// Version of the Avro schema: v1, v2 or v3 [default: v3]
    #[arg(long, value_name = "VERSION", value_parser = target::schema)]
    pub schema: Option<SchemaVersion>,
    /// Compress payloads with zstd, at level 3 or the one given
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
          default_missing_value = "3", allow_hyphen_values = true,
          value_parser = target::zstd_level)]
    pub zstd: Option<i32>,
    /// Records per frame; over UDP at most as many as fit the payload
    #[arg(long, default_value_t = 50, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Records per second, or max
    #[arg(long, default_value = "100000", value_name = "N|max", value_parser = rate)]
    pub rate: Rate,
    /// How long: 500ms, 10s, 5m [default: 10s; with --records: until they are sent, at most 60s]
    #[arg(long = "for", value_name = "TIME", value_parser = target::duration)]
    pub time: Option<Duration>,
    /// How many records, exactly
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// TCP connections, each a producer of its own
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "sources",
          value_parser = clap::value_parser!(u16).range(1..=CONNECTIONS_MAX as i64))]
    pub connections: u16,
    /// UDP sockets, each a producer of its own
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=CONNECTIONS_MAX as i64))]
    pub sources: u16,
    /// Send from this address, or from those of ADDRESS/LEN in turn; the host must have them
    #[arg(long, value_name = "PREFIX")]
    pub from: Option<Sources>,
    /// Priority of all frames: critical, high, normal or background
    #[arg(long, value_name = "PRIORITY", default_value = "normal", value_parser = priority)]
    pub priority: u8,
    /// Seed of the generated lines
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Take the lines from this file instead, over and over (at most 16 MiB of them)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub lines: Vec<PathBuf>,
    /// Longest payload in bytes [default: UDP 1432, or 1412 over IPv6; TCP 1048576]
    #[arg(long, value_name = "BYTES")]
    pub payload_max: Option<usize>,
    /// Have the kernel cut one send into many equal datagrams (UDP)
    #[arg(long, value_enum, default_value_t = Switch::On, value_name = "on|off")]
    pub gso: Switch,
    /// Add malformed frames of every kind: so many percent of all frames; 100: nothing else
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub hostile: f64,
    /// Only malformed frames that earn these reasons, such as bad_magic,truncated
    #[arg(long, value_name = "REASON", value_delimiter = ',', requires = "hostile",
          value_parser = hostile_reason)]
    pub hostile_reasons: Vec<Reason>,
    /// Do not ask for acknowledgements (TCP)
    #[arg(long)]
    pub no_ack: bool,
    /// Stay on this processor
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// Allow a target that is not this host. It must be yours.
    #[arg(long)]
    pub allow_remote: bool,
    /// Form of the report on standard output
    #[arg(long, value_enum, default_value_t = ReportForm::Text)]
    pub report: ReportForm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    Max,
    RecordsPerSecond(u64),
}

fn rate(word: &str) -> Result<Rate, String> {
    match word {
        "max" => Ok(Rate::Max),
        number => match number.parse() {
            Ok(0) | Err(_) => Err("expected a whole number of records per second, or max".into()),
            Ok(records) => Ok(Rate::RecordsPerSecond(records)),
        },
    }
}

/// The names of the frame's field, in the order of its numbers.
fn priority(word: &str) -> Result<u8, String> {
    const WORDS: [&str; 4] = ["critical", "high", "normal", "background"];
    let number = WORDS.iter().position(|&known| known == word);
    number
        .map(|number| number as u8)
        .ok_or_else(|| format!("expected one of {}", WORDS.join(", ")))
}

fn hostile_reason(word: &str) -> Result<Reason, String> {
    let known = [
        &hostile::IN_STREAM[..],
        &hostile::LAST_OF_STREAM,
        &hostile::DATAGRAM,
    ];
    let mut known = known.into_iter().flatten();
    known
        .find(|reason| reason.label() == word)
        .copied()
        .ok_or_else(|| "no frame is made to earn this reason".to_owned())
}

/// A run, checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub target: Target,
    pub address: SocketAddr,
    pub encoding: Encoding,
    pub schema: SchemaVersion,
    pub zstd_level: Option<i32>,
    pub batch_records: u32,
    /// `None`: as fast as it goes.
    pub records_per_second: Option<u64>,
    pub time: Duration,
    pub records: Option<u64>,
    /// Connections or sources.
    pub lanes: usize,
    /// `None`: what the kernel chooses.
    pub from: Option<Sources>,
    pub priority: u8,
    pub seed: u64,
    pub lines: Vec<PathBuf>,
    pub payload_len_max: usize,
    pub gso: bool,
    pub hostile_percent: f64,
    /// Empty: every kind there is.
    pub hostile_reasons: Vec<Reason>,
    pub acknowledge: bool,
    pub cpu: Option<usize>,
}

impl Plan {
    pub fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Exit::Usage, message);
        let address = arguments.to.resolve()?;
        if !address.ip().to_canonical().is_loopback() && !arguments.allow_remote {
            return Err(usage(format!(
                "{address} is another host; --allow-remote sends load there, if it is yours"
            )));
        }
        let (payload_len_default, payload_len_limit) = match (arguments.to.protocol, address) {
            (Protocol::Tcp, _) => (TCP_PAYLOAD_LEN_MAX, u32::MAX as usize),
            (Protocol::Udp, SocketAddr::V4(_)) => (PAYLOAD_LEN_IPV4, UDP_PAYLOAD_LEN_MAX as usize),
            (Protocol::Udp, SocketAddr::V6(_)) => (PAYLOAD_LEN_IPV6, UDP_PAYLOAD_LEN_MAX as usize),
        };
        let payload_len_max = arguments.payload_max.unwrap_or(payload_len_default);
        if payload_len_max > payload_len_limit {
            return Err(usage(format!(
                "--payload-max: at most {payload_len_limit} over this protocol"
            )));
        }
        if !(0.0..=100.0).contains(&arguments.hostile) {
            return Err(usage("--hostile: from 0 to 100 percent".into()));
        }
        if arguments.hostile == 100.0 && arguments.to.protocol == Protocol::Tcp {
            return Err(usage("--hostile 100: over UDP only".into()));
        }
        if let Some(from) = arguments.from
            && from.is_ipv4() != address.is_ipv4()
        {
            return Err(usage(format!("--from: {address} is of the other family")));
        }
        let kinds = hostile::kinds(arguments.to.protocol);
        if let Some(foreign) = arguments
            .hostile_reasons
            .iter()
            .find(|r| !kinds.contains(r))
        {
            let reason = foreign.label();
            return Err(usage(format!(
                "--hostile-reasons: {reason} is not of this protocol"
            )));
        }
        let time_default = match arguments.records {
            Some(_) => TIME_MAX_WITH_RECORDS,
            None => TIME_DEFAULT,
        };
        Ok(Self {
            target: arguments.to.clone(),
            address,
            encoding: arguments.encoding,
            schema: target::schema_for(arguments.encoding, arguments.schema)?,
            zstd_level: arguments.zstd,
            batch_records: arguments.batch,
            records_per_second: match arguments.rate {
                Rate::Max => None,
                Rate::RecordsPerSecond(rate) => Some(rate),
            },
            time: arguments.time.unwrap_or(time_default),
            records: arguments.records,
            // Of the two at most one was given; the other is 1.
            lanes: arguments.connections.max(arguments.sources).into(),
            from: arguments.from,
            priority: arguments.priority,
            seed: arguments.seed,
            lines: arguments.lines.clone(),
            payload_len_max,
            gso: arguments.gso == Switch::On,
            hostile_percent: arguments.hostile,
            hostile_reasons: arguments.hostile_reasons.clone(),
            acknowledge: arguments.to.protocol == Protocol::Tcp && !arguments.no_ack,
            cpu: arguments.cpu,
        })
    }
}
