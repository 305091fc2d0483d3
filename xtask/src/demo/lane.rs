//! The lanes: one listener for each encoding, plain and compressed, over TCP, three over UDP, and two
//! for the load.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How the records of a lane are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    /// With this version of the schema.
    Avro(&'static str),
    Json,
}

/// What goes through a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// This host's logs, by `penstock send`.
    Logs,
    /// Generated records, by `penstock load`; the values are its options'.
    Load {
        rate: &'static str,
        connections: &'static str,
        batch: &'static str,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Lane {
    /// Also the listener's.
    pub name: &'static str,
    pub protocol: Protocol,
    pub encoding: Encoding,
    pub zstd: bool,
    pub traffic: Traffic,
}

impl Lane {
    /// The options of `penstock send` and `penstock load` that encode as this lane does.
    pub fn encoding_options(&self) -> Vec<&'static str> {
        let mut options = match self.encoding {
            Encoding::Protobuf => vec!["--encoding", "protobuf"],
            Encoding::Avro(schema) => vec!["--encoding", "avro", "--schema", schema],
            Encoding::Json => vec!["--encoding", "json"],
        };
        if self.zstd {
            options.push("--zstd");
        }
        options
    }
}

const PLAIN: bool = false;
const ZSTD: bool = true;

pub const LANES: &[Lane] = &[
    logs("tcp-protobuf", Protocol::Tcp, Encoding::Protobuf, PLAIN),
    logs("tcp-protobuf-zstd", Protocol::Tcp, Encoding::Protobuf, ZSTD),
    logs("tcp-avro-v1", Protocol::Tcp, Encoding::Avro("v1"), PLAIN),
    logs(
        "tcp-avro-v1-zstd",
        Protocol::Tcp,
        Encoding::Avro("v1"),
        ZSTD,
    ),
    logs("tcp-avro-v2", Protocol::Tcp, Encoding::Avro("v2"), PLAIN),
    logs(
        "tcp-avro-v2-zstd",
        Protocol::Tcp,
        Encoding::Avro("v2"),
        ZSTD,
    ),
    logs("tcp-avro-v3", Protocol::Tcp, Encoding::Avro("v3"), PLAIN),
    logs(
        "tcp-avro-v3-zstd",
        Protocol::Tcp,
        Encoding::Avro("v3"),
        ZSTD,
    ),
    logs("tcp-json", Protocol::Tcp, Encoding::Json, PLAIN),
    logs("tcp-json-zstd", Protocol::Tcp, Encoding::Json, ZSTD),
    logs("udp-protobuf", Protocol::Udp, Encoding::Protobuf, PLAIN),
    logs(
        "udp-avro-v3-zstd",
        Protocol::Udp,
        Encoding::Avro("v3"),
        ZSTD,
    ),
    logs("udp-json", Protocol::Udp, Encoding::Json, PLAIN),
    Lane {
        name: "load-tcp",
        protocol: Protocol::Tcp,
        encoding: Encoding::Protobuf,
        zstd: PLAIN,
        traffic: Traffic::Load {
            rate: "max",
            // A shard owns a producer by its random id: with a few, both shards have work.
            connections: "8",
            batch: "50",
        },
    },
    Lane {
        name: "load-udp",
        protocol: Protocol::Udp,
        encoding: Encoding::Protobuf,
        zstd: PLAIN,
        traffic: Traffic::Load {
            rate: "100000",
            connections: "1",
            // About 200 bytes a record: this fills a datagram that crosses Ethernet in one piece.
            batch: "5",
        },
    },
];

const fn logs(name: &'static str, protocol: Protocol, encoding: Encoding, zstd: bool) -> Lane {
    Lane {
        name,
        protocol,
        encoding,
        zstd,
        traffic: Traffic::Logs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_sent_plain_and_compressed() {
        for encoding in [
            Encoding::Protobuf,
            Encoding::Avro("v1"),
            Encoding::Avro("v2"),
            Encoding::Avro("v3"),
            Encoding::Json,
        ] {
            for zstd in [PLAIN, ZSTD] {
                let lanes = LANES
                    .iter()
                    .filter(|lane| lane.encoding == encoding && lane.zstd == zstd);
                assert!(lanes.count() > 0, "{encoding:?}, zstd: {zstd}");
            }
        }
        // A listener's name has at most 32 characters, and the books are kept by name.
        let mut names: Vec<&str> = LANES.iter().map(|lane| lane.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LANES.len());
        assert!(names.iter().all(|name| name.len() <= 32));
    }

    #[test]
    fn options_are_those_of_the_commands() {
        let lane = LANES.iter().find(|lane| lane.name == "tcp-avro-v2-zstd");
        let options = lane.expect("a lane").encoding_options();
        assert_eq!(options, ["--encoding", "avro", "--schema", "v2", "--zstd"]);
    }
}
