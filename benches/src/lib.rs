//! What the benchmarks have in common: the log lines they work on, and in `ingest` the parts of the
//! end-to-end benchmark.

use std::path::Path;

pub mod gate;
pub mod ingest;
pub mod rig;

/// A log event before it is encoded.
#[derive(Clone, Debug)]
pub struct Line {
    pub time_unix_nano: u64,
    pub severity_number: u32,
    pub service_name: String,
    pub host_name: String,
    pub body: String,
    pub attributes: Vec<(String, String)>,
}

/// The lines of the file that `PENSTOCK_LOG_LINES` names, else `count` made ones.
pub fn lines(count: usize) -> Vec<Line> {
    match std::env::var_os("PENSTOCK_LOG_LINES") {
        Some(file) => read_lines(Path::new(&file)),
        None => make_lines(count),
    }
}

fn read_lines(file: &Path) -> Vec<Line> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| {
        panic!("cannot read PENSTOCK_LOG_LINES={}: {error}", file.display())
    });
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter(|line| !line.is_empty())
        .enumerate()
        .map(|(index, body)| line(index as u64, body.to_owned()))
        .collect()
}

/// Lines that look like those of a few services, about 150 bytes long; the same ones every time.
fn make_lines(count: usize) -> Vec<Line> {
    let mut random = SplitMix(1);
    (0..count as u64)
        .map(|index| {
            let a = random.next();
            let b = random.next();
            let body = match a % 6 {
                0 => format!(
                    "GET /api/v2/tenants/{:016x}/servers/detail?limit={} HTTP/1.1\" status: {} len: {} time: 0.{:07} agent=curl/8.5.0 request_id=req-{b:016x} upstream=10.11.{}.{}",
                    b, a % 500, [200, 200, 200, 404, 500][(b % 5) as usize], a % 9000, b % 10_000_000, a % 255, b % 255
                ),
                1 => format!(
                    "Failed password for invalid user {} from {}.{}.{}.{} port {} ssh2: maximum authentication attempts exceeded, disconnecting; session {:08x}",
                    ["admin", "webmaster", "oracle", "test"][(a % 4) as usize], a % 223, b % 255, a % 251, b % 253, 1024 + a % 60000, b as u32
                ),
                2 => format!(
                    "PacketResponder {} for block blk_{} terminating, src: /10.251.{}.{}:50010 dest: /10.250.{}.{}:50010 of size {} in {} ms, replicas 3",
                    a % 3, b as i64, a % 255, b % 255, b % 254, a % 254, a % 67_108_864, b % 900
                ),
                3 => format!(
                    "Notification time out: {}; my state LOOKING, leader {}, zxid 0x{:x}, round 0x{:x}, peer epoch 0x{:x}, connection to /10.10.34.{}:3888 refused",
                    a % 60000, a % 5, b, a % 99, b % 7, a % 40
                ),
                4 => format!(
                    "slow query ({} ms): SELECT id, owner, state FROM jobs WHERE owner = \"{:08x}\" AND state <> 'done' ORDER BY created_at DESC LIMIT {} -- rows {}",
                    a % 30000, b as u32, 1 + a % 100, b % 100
                ),
                _ => format!(
                    "task attempt_{}_{:04}_m_{:06}_0 done: committed {} records in {} ms, spilled {} bytes, heap 71 % of 2.00 GiB – no retry",
                    1_445_144_423_722u64, a % 9999, b % 999_999, a % 1_000_000, b % 60_000, b % 1_000_000_000
                ),
            };
            line(index, body)
        })
        .collect()
}

fn line(index: u64, body: String) -> Line {
    const SERVICES: [&str; 4] = ["nova-api", "sshd", "datanode", "zookeeper"];
    const HOSTS: [&str; 3] = ["web-17", "db-03", "worker-112"];
    const SEVERITIES: [u32; 5] = [9, 9, 9, 13, 17];
    Line {
        time_unix_nano: 1_700_000_000_000_000_000 + index * 1_048_573,
        severity_number: SEVERITIES[index as usize % SEVERITIES.len()],
        service_name: SERVICES[index as usize % SERVICES.len()].to_owned(),
        host_name: HOSTS[index as usize % HOSTS.len()].to_owned(),
        body,
        attributes: vec![
            ("pid".to_owned(), (1000 + index % 30_000).to_string()),
            ("stream".to_owned(), "stdout".to_owned()),
        ],
    }
}

/// Steele, Lea and Flood's SplitMix64: enough for text that must only look random.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
