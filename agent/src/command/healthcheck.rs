//! `penstock healthcheck`: for container engines and scripts, which have no HTTP client at hand.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::config::print_text;
use crate::config;
use crate::exit::{Exit, Failure};

/// For connecting, asking and reading together. Docker gives a check 30 s, Kubernetes one.
const TIMEOUT: Duration = Duration::from_millis(900);
/// The answer is a status line, a few headers, and a short object.
const ANSWER_LEN_MAX: u64 = 64 << 10;

/// Ask the running agent whether it is ready: all listeners bound, the journal writable.
///
/// Asks /readyz on the admin address. Prints one line and ends with 0 where the agent is ready, 69
/// where it is not or does not answer within a second.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The agent's configuration file, for its admin address; without one,
    /// /etc/penstock/penstock.toml, and where that is missing 127.0.0.1:4680
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin address itself
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    address: Option<SocketAddr>,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let address = match arguments.address {
        Some(address) => address,
        None => {
            config::load(arguments.config.as_deref())?
                .settings
                .admin
                .address
        }
    };
    let address = reachable(address);
    let answer = ask(address)
        .map_err(|error| unavailable(format!("no answer from the agent on {address}: {error}")))?;
    match judge(&answer) {
        Health::Ready => print_text(&format!("ready: {address}\n")),
        Health::NotReady(missing) => Err(unavailable(format!("not ready: {missing}"))),
        Health::Unknown => Err(unavailable(format!(
            "{address} answers, but not as an agent does"
        ))),
    }
}

fn unavailable(message: String) -> Failure {
    Failure::new(Exit::Unavailable, message)
}

/// An agent that listens on every address is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The whole answer; the server closes behind it. Within `TIMEOUT`, however slowly it comes.
fn ask(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let end = Instant::now() + TIMEOUT;
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        // A timeout of nothing would be none at all.
        (!left.is_zero())
            .then_some(left)
            .ok_or(std::io::ErrorKind::TimedOut)
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while (answer.len() as u64) < ANSWER_LEN_MAX {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part)? {
            0 => break,
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    Ok(answer)
}

#[derive(Debug, PartialEq, Eq)]
enum Health {
    Ready,
    /// What is missing.
    NotReady(String),
    Unknown,
}

/// By the status, and by the body, so that another server's "200" is no health.
fn judge(answer: &[u8]) -> Health {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Health::Unknown;
    };
    let Ok(body) = serde_json::from_str::<serde_json::Value>(body) else {
        return Health::Unknown;
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    match (status, body["ready"].as_bool()) {
        ("200", Some(true)) => Health::Ready,
        ("503", Some(false)) => {
            let missing = body["missing"].as_array().into_iter().flatten();
            let missing: Vec<&str> = missing.filter_map(|name| name.as_str()).collect();
            Health::NotReady(missing.join(", "))
        }
        _ => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_is_ready_is_healthy() {
        let ready = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n\
                     {\"missing\":[],\"ready\":true}";
        assert_eq!(judge(ready.as_bytes()), Health::Ready);
        let not = "HTTP/1.1 503 Service Unavailable\r\n\r\n\
                   {\"missing\":[\"listeners_bound\",\"journal_writable\"],\"ready\":false}";
        let missing = Health::NotReady("listeners_bound, journal_writable".into());
        assert_eq!(judge(not.as_bytes()), missing);
        for other in [
            "",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\n\r\nIt works!",
            "HTTP/1.1 500 x\r\n\r\n{\"ready\":true}",
            "HTTP/1.1 404 Not Found\r\n\r\n{\"error\":\"not found\"}",
        ] {
            assert_eq!(judge(other.as_bytes()), Health::Unknown, "{other}");
        }
    }

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (configured, asked) in [
            ("0.0.0.0:4680", "127.0.0.1:4680"),
            ("[::]:4680", "[::1]:4680"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            let configured: SocketAddr = configured.parse().expect("an address");
            assert_eq!(reachable(configured).to_string(), asked);
        }
    }
}
