//! The lanes: one listener for each protocol and encoding, and two for the load.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    pub fn label(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        }
    }
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
    pub traffic: Traffic,
}

pub const LANES: &[Lane] = &[
    logs("tcp-protobuf", Protocol::Tcp, Encoding::Protobuf),
    logs("tcp-json", Protocol::Tcp, Encoding::Json),
    logs("udp-protobuf", Protocol::Udp, Encoding::Protobuf),
    logs("udp-json", Protocol::Udp, Encoding::Json),
    Lane {
        name: "load-tcp",
        protocol: Protocol::Tcp,
        encoding: Encoding::Protobuf,
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
        traffic: Traffic::Load {
            rate: "100000",
            connections: "1",
            // About 200 bytes a record: this fills a datagram that crosses Ethernet in one piece.
            batch: "5",
        },
    },
];

const fn logs(name: &'static str, protocol: Protocol, encoding: Encoding) -> Lane {
    Lane {
        name,
        protocol,
        encoding,
        traffic: Traffic::Logs,
    }
}
