//! What a shard's folder holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ReadError;
use crate::journal::format::{
    FormatFault, SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name, segment_number,
};

/// A segment that exists, with its header.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub header: SegmentHeader,
}

/// What a shard's folder holds, in order of number. A file whose header page cannot be read is no
/// segment yet (its creation was not finished) or no longer.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub segments: Vec<Segment>,
    pub unreadable: Vec<(PathBuf, FormatFault)>,
}

/// Lists a shard's folder. Headers that `known` holds are not read again: they never change.
pub fn list_segments(folder: &Path, known: &Listing) -> Result<Listing, ReadError> {
    let io_error = |call: &'static str| {
        let path = folder.to_owned();
        move |source| ReadError::Io { call, path, source }
    };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error("read folder"))? {
        let name = entry.map_err(io_error("read folder"))?.file_name();
        numbers.extend(name.to_str().and_then(segment_number));
    }
    numbers.sort_unstable();
    let mut listing = Listing::default();
    for number in numbers {
        let path = folder.join(segment_file_name(number));
        let found = known
            .segments
            .binary_search_by_key(&number, |segment| segment.header.number);
        if let Ok(index) = found {
            listing.segments.push(known.segments[index].clone());
            continue;
        }
        match read_segment_header(&path) {
            Ok(header) if header.number == number => {
                listing.segments.push(Segment { path, header });
            }
            Ok(_) => listing.unreadable.push((path, FormatFault::Stale)),
            Err(ReadError::Header { path, fault }) => listing.unreadable.push((path, fault)),
            // Retention may remove a file between the listing and the look into it.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

/// Reads one segment's header page.
pub fn read_segment_header(path: &Path) -> Result<SegmentHeader, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Io {
        call: "open",
        path: path.to_owned(),
        source,
    })?;
    let mut page = [0; SEGMENT_HEADER_LEN];
    match file.read_exact_at(&mut page, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ReadError::Header {
                path: path.to_owned(),
                fault: FormatFault::Short,
            });
        }
        Err(source) => {
            return Err(ReadError::Io {
                call: "read",
                path: path.to_owned(),
                source,
            });
        }
    }
    SegmentHeader::read(&page).map_err(|fault| ReadError::Header {
        path: path.to_owned(),
        fault,
    })
}

/// Where a journal's oldest segment begins: position and records before it. `None`: no segment.
pub fn oldest(folder: &Path) -> Result<Option<(u64, u64)>, ReadError> {
    let listing = list_segments(folder, &Listing::default())?;
    Ok(listing
        .segments
        .first()
        .map(|segment| (segment.header.base, segment.header.records_before)))
}
