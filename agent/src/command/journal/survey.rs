//! What stands in a journal's folders, gathered; reads only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::journal::format::segment_number;
use crate::journal::recovery::table::{PlaceCase, SegmentCase};
use crate::journal::recovery::{self, Inspected};
use crate::sink::file::CURSORS_FOLDER;
use crate::sink::file::cursor::SavedCursor;

/// All of it. In JSON every number of bytes, positions and records is a number; times are
/// nanoseconds since 1970 as strings, because readers with double precision lose digits.
#[derive(Debug, Serialize)]
pub struct Survey {
    pub path: PathBuf,
    /// Process of the agent that runs in the data folder.
    pub agent: Option<u32>,
    pub shards: Vec<Shard>,
    /// One line for each thing that is wrong.
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Shard {
    pub folder: PathBuf,
    pub segments: Vec<Segment>,
    /// Files of which nothing is to be kept: their numbers.
    pub removed_segments: Vec<u64>,
    /// Where no sound block stands, by the row of recovery's table.
    pub places: Vec<Place>,
    /// Where a start would go on.
    pub end_position: u64,
    pub end_records: u64,
    /// Everything before it is known to be durable.
    pub durable_position: u64,
    pub sinks: Vec<SinkCursor>,
}

#[derive(Debug, Serialize)]
pub struct Segment {
    pub number: u64,
    pub case: SegmentCase,
    pub bytes: u64,
    pub base_position: u64,
    pub end_position: u64,
    pub blocks: u64,
    pub records: u64,
    pub created_unix_nano: Option<String>,
    pub first_observed_unix_nano: Option<String>,
    pub last_observed_unix_nano: Option<String>,
    /// What a start would do.
    pub start: StartAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAction {
    Keep,
    /// Cut to this many bytes: what was preallocated and not used, or a torn tail.
    CutTo(u64),
    Remove,
}

#[derive(Debug, Serialize)]
pub struct Place {
    pub case: PlaceCase,
    pub start_position: u64,
    pub end_position: u64,
}

#[derive(Debug, Serialize)]
pub struct SinkCursor {
    pub sink: String,
    pub position: u64,
    pub records: u64,
    pub lag_records: u64,
    /// The output file that it speaks of, and its committed length.
    pub output: Option<String>,
    pub output_bytes: Option<u64>,
}

/// Where things stand, by what `dir` is.
struct Folders {
    data: Option<PathBuf>,
    shards: Vec<PathBuf>,
}

impl Folders {
    fn of(dir: &Path) -> Result<Self, Failure> {
        let names = folder_names(dir)?;
        // `journal` without a parent of its own name in the path still has one.
        let full = fs::canonicalize(dir).map_err(|error| read_failure(dir, &error))?;
        let parent = |levels: usize| full.ancestors().nth(levels).map(Path::to_owned);
        let name = full.file_name().and_then(|name| name.to_str());
        if names.iter().any(|name| segment_number(name).is_some())
            || name.is_some_and(|name| shard_number(name).is_some())
        {
            let data = parent(2).filter(|_| {
                let journal = parent(1).and_then(|path| Some(path.file_name()? == "journal"));
                journal == Some(true)
            });
            return Ok(Self {
                data,
                shards: vec![dir.to_owned()],
            });
        }
        let (data, journal) = if names.iter().any(|name| name == "journal") {
            (Some(dir.to_owned()), dir.join("journal"))
        } else if name == Some("journal") || names.iter().any(|name| shard_number(name).is_some()) {
            let data = parent(1).filter(|_| name == Some("journal"));
            (data, dir.to_owned())
        } else {
            return Err(Failure::new(
                Exit::NoInput,
                format!("{}: no journal is here", dir.display()),
            ));
        };
        let names = folder_names(&journal)?.into_iter();
        Ok(Self {
            data,
            shards: names
                .filter(|name| shard_number(name).is_some())
                .map(|name| journal.join(name))
                .collect(),
        })
    }
}

impl Survey {
    pub fn of(dir: &Path) -> Result<Self, Failure> {
        let folders = Folders::of(dir)?;
        let mut survey = Self {
            path: dir.to_owned(),
            agent: folders.data.as_deref().and_then(running_agent),
            shards: Vec::new(),
            problems: Vec::new(),
        };
        for folder in folders.shards {
            let inspected = recovery::inspect(&folder)
                .map_err(|error| Failure::io("read the journal", &error.source).with(&error))?;
            let mut shard = Shard::of(folder, &inspected);
            shard.problems(&mut survey.problems);
            if let Some(data) = &folders.data {
                shard.read_cursors(&data.join(CURSORS_FOLDER), &mut survey.problems)?;
            }
            survey.shards.push(shard);
        }
        Ok(survey)
    }

    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        let mut text = text.expect("plain structs with names as keys");
        text.push('\n');
        text
    }
}

impl Shard {
    fn of(folder: PathBuf, inspected: &Inspected) -> Self {
        let start = &inspected.recovered.start;
        let report = &inspected.recovered.report;
        let segments = inspected.segments.iter().map(|found| {
            let stays = start
                .existing
                .iter()
                .find(|kept| kept.number == found.number);
            let time = |nano: u64| Some(nano.to_string());
            Segment {
                number: found.number,
                case: found.case,
                bytes: found.bytes,
                base_position: found.base,
                end_position: found.end,
                blocks: found.blocks,
                records: found.records,
                created_unix_nano: found
                    .has_header
                    .then(|| found.created_unix_nano.to_string()),
                first_observed_unix_nano: found.observed_unix_nano.and_then(|(at, _)| time(at)),
                last_observed_unix_nano: found.observed_unix_nano.and_then(|(_, at)| time(at)),
                start: match stays {
                    None => StartAction::Remove,
                    Some(kept) if kept.bytes < found.bytes => StartAction::CutTo(kept.bytes),
                    Some(_) => StartAction::Keep,
                },
            }
        });
        Self {
            segments: segments.collect(),
            removed_segments: report.removed.clone(),
            places: report
                .findings
                .iter()
                .map(|finding| Place {
                    case: finding.case,
                    start_position: finding.start,
                    end_position: finding.end,
                })
                .collect(),
            end_position: start.position,
            end_records: start.records,
            durable_position: inspected.durable,
            sinks: Vec::new(),
            folder,
        }
    }

    fn problems(&self, problems: &mut Vec<String>) {
        for place in self.places.iter().filter(|place| place.case.is_damage()) {
            problems.push(format!(
                "{}: {}: acknowledged bytes between positions {} and {} are gone",
                self.folder.display(),
                place.case.label(),
                place.start_position,
                place.end_position,
            ));
        }
    }

    /// The cursors of all sinks that ever read this shard, configured now or not.
    fn read_cursors(&mut self, folder: &Path, problems: &mut Vec<String>) -> Result<(), Failure> {
        let name = self.folder.file_name().and_then(|name| name.to_str());
        let Some(shard) = name.and_then(shard_number) else {
            return Ok(());
        };
        let names = match fs::metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => folder_names(folder)?,
        };
        for name in names {
            let stem = name.strip_suffix(".cursor");
            let Some((sink, of_shard)) = stem.and_then(|stem| stem.rsplit_once("-s")) else {
                continue;
            };
            if of_shard.parse() != Ok(shard) {
                continue;
            }
            let path = folder.join(&name);
            let text = fs::read(&path).map_err(|error| read_failure(&path, &error))?;
            match SavedCursor::from_text(&text) {
                Ok(saved) => self.note_cursor(sink, saved, &path, problems),
                Err(what) => problems.push(format!("{}: damaged ({what})", path.display())),
            }
        }
        Ok(())
    }

    fn note_cursor(
        &mut self,
        sink: &str,
        saved: SavedCursor,
        path: &Path,
        problems: &mut Vec<String>,
    ) {
        let cursor = saved.cursor;
        let oldest = self.segments.iter().map(|segment| segment.base_position);
        if cursor.position > self.end_position {
            problems.push(format!(
                "{}: at position {}, beyond the journal's end {}: this is another journal's cursor",
                path.display(),
                cursor.position,
                self.end_position,
            ));
        } else if oldest.min().is_some_and(|oldest| cursor.position < oldest) {
            problems.push(format!(
                "{}: at position {}, before the oldest segment: what it had still to get was \
                 removed",
                path.display(),
                cursor.position,
            ));
        }
        self.sinks.push(SinkCursor {
            sink: sink.to_owned(),
            position: cursor.position,
            records: cursor.records,
            lag_records: self.end_records.saturating_sub(cursor.records),
            output_bytes: saved.output.as_ref().map(|output| output.len),
            output: saved.output.map(|output| output.sealed_name),
        });
    }
}

fn shard_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("shard-")?;
    (digits.len() >= 2 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

fn folder_names(folder: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error: io::Error| read_failure(folder, &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn read_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format_args!("read {}", path.display()), error)
}

/// The process that holds the data folder's lock, from the kernel's own list: to try the lock would
/// get in the way of an agent that starts just now. A line of /proc/locks reads
/// `1: FLOCK  ADVISORY  WRITE 4711 08:01:131074 0 EOF`; a process of another namespace shows as 0.
fn running_agent(data: &Path) -> Option<u32> {
    let inode = fs::metadata(data.join("lock")).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let holder = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "FLOCK")?;
        let is_held = words.get(at + 2) == Some(&"WRITE") && !words.contains(&"->");
        let file = words.get(at + 4)?.rsplit(':').next()?;
        (is_held && file.parse() == Ok(inode)).then(|| words[at + 3].parse().ok())?
    })?;
    // The same inode number on another file system: the lock file names its holder.
    let named = fs::read_to_string(data.join("lock")).ok()?;
    (named.trim().parse() == Ok(holder)).then_some(holder)
}
