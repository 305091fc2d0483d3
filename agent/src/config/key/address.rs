//! Addresses, with and without a protocol before them.

use std::net::SocketAddr;

use super::text;
use crate::config::document::Leaf;
use crate::config::mistake::Wrong;
use crate::config::settings::Protocol;
use crate::limits::FORWARD_TARGETS_MAX;

pub(super) fn parse_listener_address(leaf: &Leaf) -> Result<(Protocol, SocketAddr), Wrong> {
    const EXAMPLE: &str = "udp://0.0.0.0:4600";
    const HELP: &str = "write as in \"udp://0.0.0.0:4600\" or \"tcp://[::]:4600\"";
    let text = text(leaf, EXAMPLE)?;
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::new(format!("\"{text}\" has no protocol"), HELP));
    };
    let protocol = match scheme {
        "udp" => Protocol::Udp,
        "tcp" => Protocol::Tcp,
        "tls" | "syslog" | "otlp" | "unix" => {
            return Err(Wrong::new(
                format!("the protocol {scheme}:// is not in this version"),
                "this version knows udp:// and tcp://",
            ));
        }
        _ => return Err(Wrong::new(format!("{scheme}:// is no protocol"), HELP)),
    };
    let prefix = format!("{scheme}://");
    let address = socket_address(rest, "0.0.0.0:4600", &prefix)?;
    Ok((protocol, address))
}

/// Where a forwarding sink sends to, a list or one: `HOST:PORT` of each. Names are allowed, as they
/// are looked up at each connection.
pub(super) fn parse_forward_targets(leaf: &Leaf) -> Result<Vec<String>, Wrong> {
    const HELP: &str = "write as in [\"tcp://logs.example:4600\"]";
    let texts = match leaf {
        Leaf::List(items) => items.iter().map(|item| item.text.clone()).collect(),
        _ => vec![text(leaf, "tcp://logs.example:4600")?.to_owned()],
    };
    if texts.is_empty() || texts.len() > FORWARD_TARGETS_MAX {
        return Err(Wrong::new(
            format!("{} targets", texts.len()),
            format!("write 1 to {FORWARD_TARGETS_MAX}, the preferred one first"),
        ));
    }
    texts
        .iter()
        .map(|text| {
            let Some(rest) = text.strip_prefix("tcp://") else {
                let message = format!("\"{text}\" does not begin with tcp://, which answers");
                return Err(Wrong::new(message, HELP));
            };
            let has_port = rest.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0)
            });
            match has_port && !rest.contains('/') {
                true => Ok(rest.to_owned()),
                false => Err(Wrong::new(format!("\"{text}\" is no host and port"), HELP)),
            }
        })
        .collect()
}

/// An address and a port; names are refused, as what they stand for can change under the agent.
pub(super) fn socket_address(text: &str, example: &str, prefix: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let example = format!("write as in \"{prefix}{example}\"");
    if !prefix.is_empty() && text.contains('/') {
        return Err(Wrong::new(
            format!("\"{text}\": a path after the port"),
            example,
        ));
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(Wrong::new(
            format!("\"{text}\" begins with a protocol, which has no place here"),
            format!("write \"{}\"", rest.trim_end_matches('/')),
        ));
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        let whole = SocketAddr::new(ip, 4600);
        return Err(Wrong::new(
            format!("\"{text}\" has no port"),
            format!("write as in \"{prefix}{whole}\""),
        ));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if port.parse::<u16>().is_err() {
        let message = if port.is_empty() {
            format!("\"{text}\" has no port")
        } else {
            format!("\"{port}\" is no port")
        };
        return Err(Wrong::new(message, example));
    }
    if host.is_empty() || host == "*" {
        return Err(Wrong::new(
            format!("\"{text}\" has no address"),
            format!(
                "for every address write \"{prefix}0.0.0.0:{port}\" or \"{prefix}[::]:{port}\""
            ),
        ));
    }
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(Wrong::new(
            format!("\"{text}\": an IPv6 address before a port stands in brackets"),
            format!("write \"{prefix}[{host}]:{port}\""),
        ));
    }
    let help = if host == "localhost" {
        format!("write \"{prefix}127.0.0.1:{port}\"")
    } else {
        format!("use an address, as in \"{prefix}0.0.0.0:{port}\"")
    };
    Err(Wrong::new(
        format!("\"{host}\" is no address (names are not looked up here)"),
        help,
    ))
}
