//! `penstock gate`.

mod limit;
mod show;
mod top;
mod watch;

use clap::ValueEnum;
use serde_json::Value;

use super::ask::Target;
use super::config::print_text;
use crate::daemon::gate_requests::{GateRequest, TopBy};
use crate::daemon::request::Request;
use crate::exit::Failure;

/// See and change what the gate of a running agent lets in.
///
/// A change holds at once, and until the agent is reloaded or started again: to keep it, write it to
/// the configuration's `[gate]` as well. A change that is refused changes nothing and ends with 78; 69:
/// no agent answers; 77: its socket does not let you in.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What holds now; a + marks what is not in the configuration, a - what is missing of it
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a prefix in. With entries here, what no list names is denied
    Allow {
        /// 10.0.0.0/8, 2001:db8::/32, or an address alone
        #[arg(required = true, value_name = "PREFIX")]
        prefixes: Vec<String>,
    },
    /// Drop everything from a prefix
    Deny {
        /// 203.0.113.0/24, 2001:db8::/32, or an address alone
        #[arg(required = true, value_name = "PREFIX")]
        prefixes: Vec<String>,
    },
    /// Limit each source within a prefix; replaces the limit that it had
    Limit {
        /// A prefix; or source_limit, for every source that no prefix holds; or newcomers, for all
        /// unknown sources together
        #[arg(value_name = "PREFIX")]
        sources: String,
        /// 50k/s 200k: datagrams a second and at once; 10MB/s 40MB: the same in bytes; or by name, as
        /// in the configuration: connection_rate=100/s connection_burst=1k
        #[arg(required = true, value_name = "RATE")]
        rates: Vec<String>,
    },
    /// How much of a priority is kept at the most
    Keep {
        /// critical, high, normal or background
        priority: String,
        /// 8/16, or 50%
        ratio: String,
    },
    /// Take prefixes out of every list and limit that has them
    Remove {
        /// A prefix, source_limit or newcomers
        #[arg(required = true, value_name = "PREFIX")]
        prefixes: Vec<String>,
    },
    /// Back to what the configuration says
    Reset,
    /// Who sends the most
    Top {
        /// What to order by
        #[arg(long, value_enum, default_value_t = By::Datagrams)]
        by: By,
        /// How many sources, at most 1000
        #[arg(short = 'n', long, default_value_t = 10, value_name = "COUNT",
              value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
        /// The time between the two looks that the rates are the difference of
        #[arg(long, default_value = "1s", value_name = "TIME", value_parser = top::interval)]
        interval: std::time::Duration,
        /// As JSON, totals only
        #[arg(long)]
        json: bool,
    },
    /// Show refused datagrams as they come: who, where, why, and how they begin
    ///
    /// A sample: the agent hands on a bounded number a second, and says how many it left out.
    Watch {
        /// For how long
        #[arg(long = "for", default_value = "10m", value_name = "TIME", value_parser = watch::time)]
        duration: std::time::Duration,
        /// End after this many
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<u64>,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Datagrams,
    Bytes,
    Refused,
}

impl From<By> for TopBy {
    fn from(by: By) -> Self {
        match by {
            By::Datagrams => Self::Datagrams,
            By::Bytes => Self::Bytes,
            By::Refused => Self::Refused,
        }
    }
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = arguments.target;
    let request = match arguments.what {
        What::Show { json } => {
            let answer = ask(&target, GateRequest::Show)?;
            return match json {
                true => print_json(&answer),
                false => print_text(&show::table(&answer)),
            };
        }
        What::Top {
            by,
            count,
            interval,
            json,
        } => return top::run(&target, by.into(), usize::from(count), interval, json),
        What::Watch {
            duration,
            count,
            json,
        } => return watch::run(&target, duration, count, json),
        What::Allow { prefixes } => GateRequest::Allow { prefixes },
        What::Deny { prefixes } => GateRequest::Deny { prefixes },
        What::Limit { sources, rates } => GateRequest::Limit {
            sources,
            limit: limit::words(&rates)?,
        },
        What::Keep { priority, ratio } => GateRequest::Keep { priority, ratio },
        What::Remove { prefixes } => GateRequest::Remove { prefixes },
        What::Reset => GateRequest::Reset,
    };
    let answer = ask(&target, request)?;
    print_text(&show::changes(&answer))
}

fn ask(target: &Target, request: GateRequest) -> Result<Value, Failure> {
    target.ask(&Request::Gate(request))
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print_text(&format!("{value:#}\n"))
}
