//! Log lines made up from a seed: the same seed gives the same lines, on any machine.

/// SplitMix64 (Steele, Lea, Flood 2014): ten lines, and the same numbers for ever.
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// A line, with the service that would have written it and its severity.
pub struct Line {
    pub service_name: &'static str,
    pub severity_number: u32,
    pub body: String,
}

const PATHS: [&str; 6] = [
    "orders",
    "customers",
    "cart/items",
    "search",
    "invoices",
    "sessions",
];
const USERS: [&str; 5] = ["deploy", "root", "backup", "admin", "postgres"];
const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Safari/605.1.15",
    "kube-probe/1.30 (linux/amd64; readiness; timeout=1s; period=10s)",
];

/// One line in the manner of what stands in real log folders.
pub fn line(random: &mut SplitMix64) -> Line {
    let (kind, a, b) = (random.below(10), random.below(65_536), random.below(256));
    let (c, d, id) = (random.below(256), random.below(60_000), random.next());
    match kind {
        0..=3 => Line {
            service_name: "nginx",
            severity_number: 9,
            body: format!(
                "10.{b}.{c}.{} - - \"GET /api/v1/{}/{a}?expand=items&page={} HTTP/1.1\" {} {d} \
                 \"-\" \"{}\" rt=0.{:03} rid={id:016x}",
                a & 255,
                random.pick(&PATHS),
                b,
                random.pick(&["200", "200", "200", "304", "404", "502"]),
                random.pick(&AGENTS),
                d % 1000,
            ),
        },
        4..=6 => Line {
            service_name: "checkout",
            severity_number: [5, 9, 9, 13][c as usize % 4],
            body: format!(
                "level=info msg=\"payment authorised\" order={a} amount={d}.{:02} currency=EUR \
                 gateway={} attempt={} elapsed_ms={} trace={id:016x} customer={:08x} \
                 region=eu-central-1 queue_depth={b}",
                b % 100,
                random.pick(&["adyen", "stripe", "klarna"]),
                c % 4 + 1,
                d % 900,
                id >> 32,
            ),
        },
        7 => Line {
            service_name: "sshd",
            severity_number: 9,
            body: format!(
                "Accepted publickey for {} from 192.168.{b}.{c} port {d} ssh2: \
                 ED25519 SHA256:{id:016x}{:016x}{a:04x} (session {a} opened, uid={b})",
                random.pick(&USERS),
                id.rotate_left(17),
            ),
        },
        8 => Line {
            service_name: "kernel",
            severity_number: 13,
            body: format!(
                "[{d}.{a:06}] [UFW BLOCK] IN=eth0 OUT= MAC=52:54:00:{b:02x}:{c:02x}:1f:52:54 \
                 SRC=203.0.113.{b} DST=10.0.{c}.7 LEN=60 TOS=0x00 PREC=0x00 TTL={} ID={a} DF \
                 PROTO=TCP SPT={d} DPT=22 WINDOW=64240",
                c / 2,
            ),
        },
        _ => Line {
            service_name: "inventory",
            severity_number: 17,
            body: format!(
                "java.util.concurrent.TimeoutException: no connection from pool \"{}\" within {d} ms \
                 at com.example.inventory.db.Pool.acquire(Pool.java:{a}) \
                 at com.example.inventory.StockService.reserve(StockService.java:{b}) [worker-{c}] \
                 request={id:016x}",
                random.pick(&["primary", "replica-a", "replica-b"]),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for seed 1234567, as published with the reference implementation.
        let mut random = SplitMix64::new(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.next()).collect();
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn lines_are_one_line_each_and_differ() {
        let mut random = SplitMix64::new(1);
        let lines: Vec<String> = (0..1000).map(|_| line(&mut random).body).collect();
        assert!(
            lines
                .iter()
                .all(|l| !l.contains('\n') && !l.contains("  ") && l.len() < 400)
        );
        let distinct: std::collections::HashSet<&String> = lines.iter().collect();
        assert_eq!(distinct.len(), 1000);
    }
}
