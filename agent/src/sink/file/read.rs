//! Reads files of any of the sink's formats back, a block at a time: for `penstock cat`.
//!
//! What a file holds is told by its name's ending. A file with another name is looked into: an Avro
//! file and a zstd frame have magics, and a JSON line begins with a brace. Protobuf has nothing to
//! know it by and needs its name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sink::file::avro::CONTAINER_MAGIC;
use crate::sink::file::container::{ContainerError, ContainerReader, Next};
use crate::sink::file::name::Kind;
use crate::sink::file::stream::Form;
use crate::sink::file::stream_reader::StreamReader;

pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A file of records and how far it was read.
pub enum RecordsReader {
    Avro(ContainerReader),
    Stream(StreamReader),
}

impl RecordsReader {
    pub fn open(file: File, path: &Path) -> Result<Self, ContainerError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let kind = match name.and_then(Kind::of_name) {
            Some(kind) => kind,
            None => kind_by_content(&file)?,
        };
        Ok(match kind {
            Kind::Avro => Self::Avro(ContainerReader::open(file)?),
            Kind::Jsonl => Self::Stream(StreamReader::new(file, Form::Jsonl, false)),
            Kind::JsonlZst => Self::Stream(StreamReader::new(file, Form::Jsonl, true)),
            Kind::Pb => Self::Stream(StreamReader::new(file, Form::Protobuf, false)),
            Kind::PbZst => Self::Stream(StreamReader::new(file, Form::Protobuf, true)),
        })
    }

    /// The next block's records. After `Damaged` the reader has moved on to where it can go on.
    pub fn read_next(&mut self) -> Result<Next<'_>, ContainerError> {
        match self {
            Self::Avro(reader) => reader.read_next(),
            Self::Stream(reader) => reader.read_next(),
        }
    }
}

fn kind_by_content(file: &File) -> Result<Kind, ContainerError> {
    let mut first = Vec::new();
    read_range(file, 0, 4, &mut first)?;
    if first == CONTAINER_MAGIC {
        Ok(Kind::Avro)
    } else if first == ZSTD_MAGIC {
        Ok(Kind::JsonlZst)
    } else if first.starts_with(b"{") {
        Ok(Kind::Jsonl)
    } else {
        Err(ContainerError::UnknownKind)
    }
}

/// Reads up to `len` bytes from `offset` on; fewer only at the file's end.
pub(crate) fn read_range(
    file: &File,
    offset: u64,
    len: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    out.resize(len, 0);
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut out[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.truncate(filled);
    Ok(())
}
