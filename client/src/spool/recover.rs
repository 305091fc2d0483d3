//! What an earlier life left on disk, read back.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::format::{self, Entry, HEADER_LEN, Header, Read};
use super::{
    Recovered, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN, SUFFIX, Segment, Spool, SpoolError, SpoolOptions,
    create, failed, sync_folder,
};
use crate::report::Tally;

/// What the segments say, one after the other.
#[derive(Default)]
struct Scan {
    producer: Option<u64>,
    next_sequence: u64,
    base: u64,
    /// Records of each frame from `frames_from` on.
    frames_from: u64,
    frames: VecDeque<u32>,
    torn_bytes: u64,
}

pub(super) fn recover(options: SpoolOptions, lock: File) -> Result<(Spool, Recovered), SpoolError> {
    let mut scan = Scan::default();
    let mut segments = VecDeque::new();
    let paths = list(&options)?;
    for (index, path) in paths.iter().enumerate() {
        let is_last = index + 1 == paths.len();
        segments.push_back(scan.segment(path.clone(), is_last)?);
    }
    if segments.is_empty() {
        let header = Header {
            producer: crate::random_producer_id(),
            first_sequence: 1,
        };
        segments.push_back(create(&options.folder, header)?);
        scan.producer = Some(header.producer);
        (scan.next_sequence, scan.base, scan.frames_from) = (1, 1, 1);
    }
    // What is kept is synced before anything of it is sent: it may have been in the page cache only.
    for segment in &segments {
        let synced = segment.file.sync_data();
        synced.map_err(failed("sync", &segment.path))?;
    }
    sync_folder(&options.folder)?;

    let settled = scan.base - scan.frames_from;
    let mut unsettled = Tally::default();
    for records in scan.frames.iter().skip(settled as usize) {
        unsettled.add(*records);
    }
    let recovered = Recovered {
        unsettled,
        torn_bytes: scan.torn_bytes,
    };
    let mut spool = Spool {
        segment_len: (options.size_max / 8).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX),
        producer: scan.producer.expect("each segment names it"),
        bytes: segments.iter().map(|segment| segment.len).sum(),
        next_sequence: scan.next_sequence,
        base: scan.base,
        synced_base: scan.base,
        synced_end: scan.next_sequence,
        synced_len: segments.back().map_or(0, |segment| segment.len),
        unsynced_since: None,
        read_sequence: scan.base,
        read_segment: segments[0].first_sequence,
        read_offset: HEADER_LEN as u64,
        unread: unsettled,
        poisoned: false,
        scratch: Vec::new(),
        segments,
        options,
        _lock: lock,
    };
    spool.remove_settled()?;
    Ok((spool, recovered))
}

/// The segments' paths in order. What a crash left half made is removed.
fn list(options: &SpoolOptions) -> Result<Vec<PathBuf>, SpoolError> {
    let folder = &options.folder;
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
        let path = entry.map_err(failed("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".tmp") {
            std::fs::remove_file(&path).map_err(failed("remove", &path))?;
        } else if name.ends_with(SUFFIX) {
            paths.push(path);
        }
    }
    // Twenty digits: the names sort as the numbers do.
    paths.sort();
    Ok(paths)
}

impl Scan {
    fn segment(&mut self, path: PathBuf, is_last: bool) -> Result<Segment, SpoolError> {
        let damaged = |at: usize, what| SpoolError::Damaged {
            path: path.clone(),
            at: at as u64,
            what,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let len = file.metadata().map_err(failed("stat", &path))?.len();
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0)
            .map_err(failed("read", &path))?;
        let header = Header::read(&bytes).map_err(|what| damaged(0, what))?;
        if self
            .producer
            .is_some_and(|producer| producer != header.producer)
        {
            return Err(damaged(8, "another producer's"));
        }
        if self.producer.is_some() && header.first_sequence != self.next_sequence {
            return Err(damaged(
                16,
                "not the segment that follows the one before it",
            ));
        }
        if self.producer.is_none() {
            // What came before was removed, so it was settled.
            self.base = header.first_sequence;
            self.frames_from = header.first_sequence;
            self.next_sequence = header.first_sequence;
        }
        self.producer = Some(header.producer);

        let mut at = HEADER_LEN;
        while at < bytes.len() {
            match format::read(&bytes[at..]) {
                Read::Entry(Entry::Frame { header, .. }, len) => {
                    if header.producer != self.producer.unwrap_or(0)
                        || header.sequence != self.next_sequence
                    {
                        return Err(damaged(at, "a frame out of its place"));
                    }
                    self.next_sequence += 1;
                    self.frames.push_back(header.records);
                    at += len;
                }
                Read::Entry(Entry::SettledBelow(base), len) => {
                    if base > self.next_sequence {
                        return Err(damaged(at, "a mark beyond the frames"));
                    }
                    self.base = self.base.max(base);
                    at += len;
                }
                // Segments are synced before their successor is begun: only the last can be torn.
                Read::Short | Read::Damaged if is_last => {
                    self.torn_bytes = (bytes.len() - at) as u64;
                    file.set_len(at as u64).map_err(failed("cut", &path))?;
                    break;
                }
                Read::Short | Read::Damaged => return Err(damaged(at, "an entry's checksum")),
            }
        }
        Ok(Segment {
            file,
            path,
            first_sequence: header.first_sequence,
            len: at as u64,
        })
    }
}
