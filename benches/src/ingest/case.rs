//! What is sent, and to whom.

use serde::Serialize;

/// One way to send records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    TcpProtobuf,
    TcpJson,
    UdpGso,
    UdpPlain,
}

pub const CASES: [Case; 4] = [
    Case::TcpProtobuf,
    Case::TcpJson,
    Case::UdpGso,
    Case::UdpPlain,
];

impl Case {
    pub const fn label(self) -> &'static str {
        match self {
            Self::TcpProtobuf => "TCP Protobuf, batch 50",
            Self::TcpJson => "TCP JSON, batch 50",
            Self::UdpGso => "UDP Protobuf, GSO",
            Self::UdpPlain => "UDP Protobuf, no GSO",
        }
    }

    pub const fn is_udp(self) -> bool {
        matches!(self, Self::UdpGso | Self::UdpPlain)
    }

    /// The listener's name, and its protocol's.
    pub const fn listener(self) -> &'static str {
        if self.is_udp() { "udp" } else { "tcp" }
    }

    /// What `penstock load` is told of it. Over UDP a frame has as many records as fit the payload
    /// that crosses Ethernet unfragmented.
    pub const fn load_arguments(self) -> &'static [&'static str] {
        match self {
            Self::TcpProtobuf => &["--encoding=protobuf", "--batch=50", "--connections=4"],
            Self::TcpJson => &["--encoding=json", "--batch=50", "--connections=4"],
            Self::UdpGso => &["--encoding=protobuf", "--payload-max=1432", "--gso=on"],
            Self::UdpPlain => &["--encoding=protobuf", "--payload-max=1432", "--gso=off"],
        }
    }
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// Counts bytes.
    Bare,
    /// The agent, its sink not enabled.
    SinkIdle(Io),
    /// The agent with its file sink, both on one core.
    SinkRunning(Io),
}

/// The agent's kernel interface, as its configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Io {
    IoUring,
    Epoll,
}

impl Io {
    pub const fn word(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// All of them, in the order of the report.
pub const CONTENDERS: [Contender; 5] = [
    Contender::Bare,
    Contender::SinkIdle(Io::IoUring),
    Contender::SinkIdle(Io::Epoll),
    Contender::SinkRunning(Io::IoUring),
    Contender::SinkRunning(Io::Epoll),
];

impl Contender {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare receiver",
            Self::SinkIdle(Io::IoUring) => "sink idle",
            Self::SinkIdle(Io::Epoll) => "sink idle, epoll",
            Self::SinkRunning(Io::IoUring) => "sink running",
            Self::SinkRunning(Io::Epoll) => "sink running, epoll",
        }
    }
}
