//! The configuration of one life, as a test varies it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::forbid;

/// Where the gate shall stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `gate.mode = "auto"`: eBPF where the host has it.
    Kernel,
    /// `gate.mode = "off"`; where this run forbids eBPF "auto", so that the agent finds out itself.
    UserSpace,
}

/// Two listeners, `udp` and `tcp`, and one sink, `files`; ports are the kernel's choice.
#[derive(Clone, Debug)]
pub struct Config {
    pub gate: Gate,
    pub shards: u16,
    pub journal_max_size: &'static str,
    pub commit_interval: &'static str,
    pub udp_address: String,
    pub tcp_address: String,
    pub admin_address: String,
    /// SO_RCVBUF of the UDP listener.
    pub udp_receive_buffer: &'static str,
    /// Instead of the home's own.
    pub data_dir: Option<PathBuf>,
    /// More lines, before the first table.
    pub top: &'static str,
    /// More lines of `[journal]`.
    pub journal: &'static str,
    /// More lines of `[gate]`.
    pub gate_more: &'static str,
    /// A folder of users' writer schemas.
    pub schemas_dir: Option<PathBuf>,
    /// More lines, at the end of the file.
    pub more: &'static str,
}

/// A loopback address of the caller's own, port 0. For an agent that comes back to its port: outgoing
/// connections bear 127.0.0.1, so that none of them can take the port meanwhile, not even one to
/// the port itself.
pub fn own_address() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    format!(
        "127.{}.{}.{}:0",
        1 + process % 250,
        process / 250 % 250,
        1 + number % 250
    )
}

impl Config {
    pub fn new(gate: Gate) -> Self {
        Self {
            gate,
            shards: 1,
            journal_max_size: "64MiB",
            commit_interval: "5ms",
            udp_address: "127.0.0.1:0".to_owned(),
            tcp_address: "127.0.0.1:0".to_owned(),
            admin_address: "127.0.0.1:0".to_owned(),
            udp_receive_buffer: "16MiB",
            data_dir: None,
            top: "",
            journal: "",
            gate_more: "",
            schemas_dir: None,
            more: "",
        }
    }

    pub fn text(&self, data_dir: &Path) -> String {
        let Self {
            shards,
            journal_max_size,
            commit_interval,
            udp_address,
            tcp_address,
            admin_address,
            udp_receive_buffer,
            top,
            journal,
            gate_more,
            more,
            ..
        } = self;
        // The disk of a test's own making may hold no sockets: then it stays in the home.
        let socket = match &self.data_dir {
            Some(_) => format!("socket = \"{}\"", data_dir.with_extension("sock").display()),
            None => String::new(),
        };
        let data_dir = self.data_dir.as_deref().unwrap_or(data_dir).display();
        let gate = match self.gate {
            Gate::Kernel => "auto",
            Gate::UserSpace if forbid::forbids(forbid::BPF) => "auto",
            Gate::UserSpace => "off",
        };
        let schemas_dir = match &self.schemas_dir {
            Some(folder) => format!("schemas_dir = \"{}\"", folder.display()),
            None => String::new(),
        };
        // `min_free` is about the host's disk, which is not the tests' subject.
        format!(
            r#"
data_dir = "{data_dir}"
{schemas_dir}
shards = {shards}
memory_max = "512MiB"
{top}
[admin]
address = "{admin_address}"
{socket}
[journal]
max_size = "{journal_max_size}"
min_free = "1MiB"
commit_interval = "{commit_interval}"
{journal}
[gate]
mode = "{gate}"
{gate_more}
[listeners.udp]
address = "udp://{udp_address}"
receive_buffer = "{udp_receive_buffer}"
[listeners.tcp]
address = "tcp://{tcp_address}"
[sinks.files]
type = "file"
{more}
"#
        )
    }
}
