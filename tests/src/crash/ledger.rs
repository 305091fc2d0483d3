//! Lays what was acknowledged beside what is stored, record for record.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use penstock::sink::file::container::{ContainerReader, Next, Stored};

use super::producer::{Sent, parse, record};

/// How many of each kind of difference are named.
const EXAMPLES: usize = 5;

/// What came of the comparison.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Of those: as written and not synced.
    pub only_written: u64,
    /// Of those: sent again, and taken before. What recovery keeps it has synced.
    pub duplicate: u64,
    /// Acknowledged and not stored.
    pub lost: u64,
    /// Records that are stored more than once.
    pub twice: u64,
    /// Stored, and nobody sent it; or changed on the way.
    pub strangers: u64,
    /// Whatever else should not be: refusals, files that cannot be read or are left open.
    pub faults: Vec<String>,
    /// What the agent was told, for messages.
    pub setting: String,
    /// Some of those that were lost, doubled or strange.
    examples: Vec<String>,
}

impl Verdict {
    /// Acknowledged means stored, and stored means sent, readable to the end.
    pub fn is_at_least_once(&self) -> bool {
        self.lost == 0 && self.strangers == 0 && self.faults.is_empty()
    }

    /// The same, and each once.
    pub fn is_exactly_once(&self) -> bool {
        self.is_at_least_once() && self.twice == 0
    }

    fn example(&mut self, kind: &str, what: &str) {
        let same = self.examples.iter().filter(|each| each.starts_with(kind));
        if same.count() < EXAMPLES {
            self.examples.push(format!("{kind}: {what}"));
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            formatter,
            "{} records acknowledged, {} lost, {} stored twice, {} strange ({})",
            self.acknowledged, self.lost, self.twice, self.strangers, self.setting
        )?;
        for line in self.faults.iter().chain(&self.examples) {
            writeln!(formatter, "  {line}")?;
        }
        Ok(())
    }
}

/// Compares what `sent` says with the files in `records`, all of which must be sealed: the producers
/// are done and the agent has stopped.
pub fn compare(campaign: u64, sent: &[Sent], records: &Path) -> Verdict {
    let mut verdict = Verdict::default();
    let mut counts: Vec<Vec<u32>> = Vec::new();
    for (producer, sent) in sent.iter().enumerate() {
        verdict.acknowledged += sent.report.acknowledged().records;
        verdict.only_written += sent.report.written.records;
        verdict.duplicate += sent.report.duplicate.records;
        let refused = sent.report.refused.iter().map(|(reason, _)| reason);
        let refused: Vec<&str> = refused.collect();
        if let Some(why) = &sent.gave_up {
            let fault = format!("producer {producer} gave up: {why}");
            verdict.faults.push(fault);
        }
        if !refused.is_empty() {
            let fault = format!("frames of producer {producer} were refused: {refused:?}");
            verdict.faults.push(fault);
        }
        if sent.report.stray_acks > 0 {
            let count = sent.report.stray_acks;
            let fault = format!("producer {producer} got {count} answers to no question");
            verdict.faults.push(fault);
        }
        counts.push(vec![0; sent.taken as usize]);
    }
    let mut strangers = Vec::new();
    for path in files(records) {
        if path.extension().is_none_or(|ending| ending != "avro") {
            let fault = format!("{} is left behind", path.display());
            verdict.faults.push(fault);
            continue;
        }
        let read = read(&path, |stored| {
            let claimed = parse(stored.body).filter(|(of, producer, number)| {
                *of == campaign && record(*of, *producer, *number).body == stored.body
            });
            let count = claimed.and_then(|(_, producer, number)| {
                counts.get_mut(producer)?.get_mut(number as usize)
            });
            match count {
                Some(count) => *count += 1,
                None => strangers.push(stored.body.to_owned()),
            }
        });
        if let Err(fault) = read {
            verdict.faults.push(fault);
        }
    }
    verdict.strangers = strangers.len() as u64;
    for body in &strangers {
        verdict.example("strange", body);
    }
    // Every record that was taken is acknowledged: the producers did not give up, and nothing was
    // refused. Else the faults say so.
    for (producer, counts) in counts.iter().enumerate() {
        for (number, count) in counts.iter().enumerate() {
            match count {
                0 => {
                    verdict.lost += 1;
                    verdict.example("lost", &format!("{producer}/{number}"));
                }
                1 => {}
                _ => {
                    verdict.twice += 1;
                    let what = format!("{producer}/{number}, {count} times");
                    verdict.example("twice", &what);
                }
            }
        }
    }
    verdict
}

/// The sealed files of a folder that cannot be read to their end. A sealed name may be picked up by
/// anybody at any time, so this holds at each moment, also right after a crash.
pub fn unreadable(records: &Path) -> Vec<String> {
    let files = files(records).into_iter();
    let sealed = files.filter(|path| path.extension().is_some_and(|ending| ending == "avro"));
    sealed
        .filter_map(|path| read(&path, |_| ()).err())
        .collect()
}

/// The files by name; none where there is no folder yet.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort_unstable();
    paths
}

fn read(path: &Path, mut visit: impl FnMut(&Stored<'_>)) -> Result<(), String> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut reader = ContainerReader::open(file).map_err(|error| wrong(&error))?;
    loop {
        match reader.read_next().map_err(|error| wrong(&error))? {
            Next::Records(block) => block.iter().for_each(&mut visit),
            Next::End => return Ok(()),
            Next::Partial => return Err(wrong(&"ends within a block")),
        }
    }
}
