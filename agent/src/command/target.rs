//! Where `send` and `load` send to, and other words of their command lines.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use penstock_proto::avro::SchemaVersion;
use penstock_proto::encoding::Encoding;

use crate::config::settings::Protocol;
use crate::exit::{Exit, Failure};

/// `tcp://HOST:PORT` or `udp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub protocol: Protocol,
    pub host_and_port: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("expected tcp://HOST:PORT or udp://HOST:PORT")?;
        let protocol = match scheme {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(format!("{other}:// is not known; tcp:// and udp:// are")),
        };
        let host_and_port = rest.trim_end_matches('/');
        let port = host_and_port.rsplit_once(':').map(|(_, port)| port);
        match port.map(str::parse::<u16>) {
            Some(Ok(1..)) => Ok(Self {
                protocol,
                host_and_port: host_and_port.to_owned(),
            }),
            _ => Err(
                "expected a port from 1 to 65535 after the host, as in tcp://127.0.0.1:4600".into(),
            ),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(out, "{scheme}://{}", self.host_and_port)
    }
}

impl Target {
    /// The first address that the host's name has.
    pub fn resolve(&self) -> Result<SocketAddr, Failure> {
        let unavailable = |what: String| Failure::new(Exit::Unavailable, format!("{self}: {what}"));
        self.host_and_port
            .to_socket_addrs()
            .map_err(|error| unavailable(format!("the name cannot be resolved: {error}")))?
            .next()
            .ok_or_else(|| unavailable("the name has no address".into()))
    }
}

/// A time with its unit: `250ms`, `10s`, `5m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("the unit is missing: {text}s, for example")),
        unit => return Err(format!("{unit} is no unit of time; ms, s, m and h are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{digits:?} is no whole number"))?;
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".into())
}

/// An encoding by its word.
pub fn encoding(word: &str) -> Result<Encoding, String> {
    Encoding::ALL
        .into_iter()
        .find(|encoding| encoding.label() == word)
        .ok_or_else(|| {
            let words: Vec<&str> = Encoding::ALL.iter().map(|e| e.label()).collect();
            format!("expected one of: {}", words.join(", "))
        })
}

/// A level of zstd. Those beyond 19 ask the receiver for more memory than a payload is worth.
pub fn zstd_level(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(level @ -7..=19) => Ok(level),
        _ => Err("expected a level from -7 (fastest) to 19 (smallest)".into()),
    }
}

/// A version of the Avro schema by its word.
pub fn schema(word: &str) -> Result<SchemaVersion, String> {
    SchemaVersion::ALL
        .into_iter()
        .find(|schema| schema.label() == word)
        .ok_or_else(|| {
            let words: Vec<&str> = SchemaVersion::ALL.iter().map(|s| s.label()).collect();
            format!("expected one of: {}", words.join(", "))
        })
}

/// The version to write with; `--schema` makes sense for Avro only.
pub fn schema_for(
    encoding: Encoding,
    schema: Option<SchemaVersion>,
) -> Result<SchemaVersion, Failure> {
    if schema.is_some() && encoding != Encoding::Avro {
        let message = "--schema: only records as Avro have one (--encoding avro)";
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(schema.unwrap_or_default())
}

/// How a command reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportForm {
    /// For people.
    Text,
    /// One JSON object on standard output.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_a_scheme_and_a_port() {
        let target: Target = "tcp://[::1]:4600".parse().unwrap();
        assert_eq!(target.protocol, Protocol::Tcp);
        assert_eq!(target.resolve().unwrap(), "[::1]:4600".parse().unwrap());
        assert_eq!(target.to_string(), "tcp://[::1]:4600");
        for wrong in [
            "127.0.0.1:4600",
            "http://h:1",
            "tcp://h",
            "tcp://h:0",
            "udp://h:70000",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn levels_are_those_of_zstd() {
        assert_eq!(zstd_level("19"), Ok(19));
        assert_eq!(zstd_level("-7"), Ok(-7));
        for wrong in ["20", "-8", "fast", ""] {
            assert!(zstd_level(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn schemas_are_avros() {
        assert_eq!(schema("v2"), Ok(SchemaVersion::V2));
        assert!(schema("v4").is_err());
        let asked = Some(SchemaVersion::V1);
        assert_eq!(
            schema_for(Encoding::Avro, asked).unwrap(),
            SchemaVersion::V1
        );
        let newest = schema_for(Encoding::Avro, None).unwrap();
        assert_eq!(newest, SchemaVersion::V3);
        assert!(schema_for(Encoding::Json, None).is_ok());
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let failure = schema_for(encoding, asked).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["10", "s", "1.5s", "3 s", "4d", "99999999999999999999h", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
