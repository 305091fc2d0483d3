//! Who sends the most, of the sources that the gate counts.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use agent_common::observe::SourceCounts;
use agent_common::source::{FAMILY_UNKNOWN, FAMILY_V4, Source};
use serde::{Deserialize, Serialize};

/// The longest answer: a page of sources. `limits::CONTROL_ANSWER_LEN_MAX` holds it.
pub const TOP_MAX: usize = 1000;
/// An older look is no measure of what goes on now.
const LOOK_AGE_MAX: Duration = Duration::from_secs(60);

/// What the sources are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopBy {
    Datagrams,
    Bytes,
    Refused,
}

impl TopBy {
    const fn of(self, counts: &SourceCounts) -> u64 {
        match self {
            Self::Datagrams => counts.datagrams,
            Self::Bytes => counts.bytes,
            Self::Refused => counts.refused,
        }
    }
}

/// The noisiest sources, the noisiest first.
#[derive(Clone, Debug, Serialize)]
pub struct Top {
    /// How many sources the gate remembers now.
    pub known: usize,
    /// The time that the rates are of; none where there was no look of late.
    pub seconds: Option<f64>,
    pub sources: Vec<TopSource>,
}

/// A source, since the gate remembers it, and a second since the look before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopSource {
    /// An address, or a prefix where one makes a source.
    pub source: String,
    pub datagrams: u64,
    pub bytes: u64,
    pub refused: u64,
    pub datagrams_per_second: Option<f64>,
    pub bytes_per_second: Option<f64>,
    pub refused_per_second: Option<f64>,
}

/// The look before: as many sources as the gate remembers.
#[derive(Clone, Debug, Default)]
pub struct Who {
    last: Option<(Instant, HashMap<Source, SourceCounts>)>,
}

impl Who {
    /// The `count` noisiest of `sources`, by what came since the look before, or where there was
    /// none by all that came. `bits`: what of an address makes a source, IPv4 and IPv6.
    pub fn top(
        &mut self,
        sources: &[(Source, SourceCounts)],
        bits: (u8, u8),
        by: TopBy,
        count: usize,
        now: Instant,
    ) -> Top {
        let last = self.last.take();
        let last = last.filter(|(at, _)| now.duration_since(*at) < LOOK_AGE_MAX);
        let since = |source: &Source, counts: &SourceCounts| {
            let before = last.as_ref().and_then(|(_, last)| last.get(source));
            before.map_or(*counts, |before| difference(counts, before))
        };
        let mut order: Vec<(&(Source, SourceCounts), SourceCounts)> = sources
            .iter()
            .map(|one| (one, since(&one.0, &one.1)))
            .collect();
        order.sort_by_key(|(one, since)| {
            Reverse((by.of(since), by.of(&one.1), one.0.family, one.0.words))
        });
        let seconds = last
            .as_ref()
            .map(|(at, _)| now.duration_since(*at).as_secs_f64());
        let rate = |count: u64| {
            let seconds = seconds.filter(|seconds| *seconds > 0.0);
            seconds.map(|seconds| count as f64 / seconds)
        };
        let top = order
            .iter()
            .take(count)
            .map(|((source, counts), since)| TopSource {
                source: name(source, bits),
                datagrams: counts.datagrams,
                bytes: counts.bytes,
                refused: counts.refused,
                datagrams_per_second: rate(since.datagrams),
                bytes_per_second: rate(since.bytes),
                refused_per_second: rate(since.refused),
            });
        let top = Top {
            known: sources.len(),
            seconds,
            sources: top.collect(),
        };
        self.last = Some((now, sources.iter().copied().collect()));
        top
    }
}

/// The `count` that have sent the most since they are remembered, without rates.
pub fn totals(
    sources: &[(Source, SourceCounts)],
    bits: (u8, u8),
    by: TopBy,
    count: usize,
) -> Vec<TopSource> {
    Who::default()
        .top(sources, bits, by, count, Instant::now())
        .sources
}

/// A source that was forgotten meanwhile has begun anew, below what it was.
fn difference(now: &SourceCounts, before: &SourceCounts) -> SourceCounts {
    if now.datagrams < before.datagrams {
        return *now;
    }
    SourceCounts {
        datagrams: now.datagrams - before.datagrams,
        // The three are not read at one moment.
        bytes: now.bytes.saturating_sub(before.bytes),
        refused: now.refused.saturating_sub(before.refused),
    }
}

/// The source's address, with its length where that is not all of its bits.
pub fn name(source: &Source, (bits_v4, bits_v6): (u8, u8)) -> String {
    let Some(address) = address(source) else {
        return "unknown".to_owned();
    };
    match address {
        IpAddr::V4(_) if bits_v4 < 32 => format!("{address}/{bits_v4}"),
        IpAddr::V6(_) if bits_v6 < 128 => format!("{address}/{bits_v6}"),
        _ => address.to_string(),
    }
}

/// The address as others write it.
pub fn address(source: &Source) -> Option<IpAddr> {
    let [first, ..] = source.words;
    match source.family {
        FAMILY_UNKNOWN => None,
        FAMILY_V4 => Some(Ipv4Addr::from(first.to_ne_bytes()).into()),
        _ => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip(source.words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
    }
}

/// The sources of the stand-in: a bounded table that forgets who was silent the longest, roughly.
///
/// Two halves: who is seen comes into the young one; when that is full it becomes the old one, and
/// what is left in the old one, silent for as long as a half takes to fill, is forgotten. No list to
/// keep in order, nothing to allocate after the start.
pub struct Recent {
    young: HashMap<Source, SourceCounts>,
    old: HashMap<Source, SourceCounts>,
    half: usize,
}

impl Recent {
    /// For up to `sources` of them.
    pub fn new(sources: usize) -> Self {
        let half = sources / 2;
        Self {
            young: HashMap::with_capacity(half),
            old: HashMap::with_capacity(half),
            half,
        }
    }

    pub fn add(&mut self, source: Source, datagrams: u64, bytes: u64, refused: u64) {
        if !self.young.contains_key(&source) && self.young.len() >= self.half {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        let old = &mut self.old;
        let counts = self
            .young
            .entry(source)
            .or_insert_with(|| old.remove(&source).unwrap_or_default());
        counts.datagrams += datagrams;
        counts.bytes += bytes;
        counts.refused += refused;
    }

    pub fn all(&self) -> impl Iterator<Item = (Source, SourceCounts)> + '_ {
        self.young.iter().chain(&self.old).map(|(s, c)| (*s, *c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::from(text.parse::<IpAddr>().expect("an address"))
    }

    fn counts(datagrams: u64, bytes: u64, refused: u64) -> SourceCounts {
        SourceCounts {
            datagrams,
            bytes,
            refused,
        }
    }

    #[test]
    fn the_noisiest_comes_first_by_what_came_since_the_look_before() {
        let (a, b) = (source("192.0.2.1"), source("2001:db8::"));
        let mut who = Who::default();
        let start = Instant::now();
        let first = [(a, counts(1_000, 10, 0)), (b, counts(10, 2_000, 5))];
        let names = |top: &Top| {
            top.sources
                .iter()
                .map(|s| s.source.clone())
                .collect::<Vec<_>>()
        };
        let top = who.top(&first, (32, 64), TopBy::Datagrams, 10, start);
        assert_eq!(names(&top), ["192.0.2.1", "2001:db8::/64"]);
        assert_eq!((top.known, top.seconds), (2, None));
        assert_eq!(top.sources[0].datagrams_per_second, None);

        // Since then the second has sent more.
        let later = start + Duration::from_secs(2);
        let second = [(a, counts(1_010, 20, 0)), (b, counts(110, 2_100, 9))];
        let top = who.top(&second, (32, 64), TopBy::Datagrams, 1, later);
        assert_eq!(names(&top), ["2001:db8::/64"]);
        assert_eq!(top.sources[0].datagrams_per_second, Some(50.0));
        assert_eq!(top.sources[0].bytes_per_second, Some(50.0));
        assert_eq!(top.sources[0].refused_per_second, Some(2.0));
        assert_eq!(top.sources[0].datagrams, 110);

        // Forgotten and begun anew: all it has came since.
        let third = [(a, counts(7, 7, 7))];
        let top = who.top(
            &third,
            (32, 64),
            TopBy::Refused,
            10,
            later + Duration::from_secs(1),
        );
        assert_eq!(top.sources[0].datagrams_per_second, Some(7.0));
        // A look of long ago is none.
        let top = who.top(
            &third,
            (32, 64),
            TopBy::Bytes,
            10,
            later + Duration::from_secs(90),
        );
        assert_eq!(top.seconds, None);
    }

    #[test]
    fn addresses_are_what_they_were() {
        for text in ["192.0.2.1", "0.0.0.0", "2001:db8:1:2:3:4:5:6", "::1"] {
            assert_eq!(
                address(&source(text)).map(|a| a.to_string()).as_deref(),
                Some(text)
            );
        }
        assert_eq!(name(&source("10.1.2.0"), (24, 64)), "10.1.2.0/24");
        assert_eq!(name(&source("::1"), (32, 128)), "::1");
        assert_eq!(name(&Source::UNKNOWN, (32, 64)), "unknown");
    }

    #[test]
    fn the_table_keeps_whoever_is_seen_and_stays_within_its_bound() {
        let mut recent = Recent::new(8);
        let noisy = source("192.0.2.1");
        for at in 0..1_000u32 {
            recent.add(noisy, 1, 10, 0);
            recent.add(Source::v4(at.to_be()), 1, 1, 1);
            assert!(recent.all().count() <= 8);
        }
        let found = recent.all().find(|(source, _)| *source == noisy);
        assert_eq!(found, Some((noisy, counts(1_000, 10_000, 0))));
        let last = Source::v4(999u32.to_be());
        assert!(recent.all().any(|(source, _)| source == last));
        assert!(!recent.all().any(|(source, _)| source == Source::v4(0)));
    }
}
