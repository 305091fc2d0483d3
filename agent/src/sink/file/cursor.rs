//! The cursor's file: how far one sink has come in one shard's journal, and where its output stood.
//!
//! `DATA/cursors/files-s00.cursor`, text that a person can read:
//! ```text
//! penstock-cursor 1
//! position 1052672
//! records 48231
//! output 20261120T124501.123456789Z-files-s00.avro open 734003
//! crc32c 1f0e44a2
//! ```
//! `output` is `-` where no file is begun; its state is `open` or `sealing`, then the committed
//! length in bytes. The checksum covers the lines before it.
//!
//! It is replaced as a whole: written under another name, synced, renamed, and the folder synced.

use penstock_proto::checksum::crc32c;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use crate::sink::file::disk::Disk;
use crate::sink::file::name::Owner;
use crate::sink::{Cursor, SinkError};

/// More than any cursor's text: two numbers, a name and a length.
const TEXT_LEN_MAX: u64 = 1024;
const VERSION_LINE: &str = "penstock-cursor 1";

/// What the cursor's file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCursor {
    pub cursor: Cursor,
    pub output: Option<SavedOutput>,
}

/// The output file that the cursor speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedOutput {
    /// The name it has once it is sealed.
    pub sealed_name: String,
    /// Bytes of it that are committed.
    pub len: u64,
    /// Nothing will be added: it is renamed, or was just about to be.
    pub sealing: bool,
}

impl SavedCursor {
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{VERSION_LINE}\nposition {}\nrecords {}\n",
            self.cursor.position, self.cursor.records
        );
        // Writing to a String does not fail.
        let _ = match &self.output {
            None => writeln!(text, "output -"),
            Some(output) => writeln!(
                text,
                "output {} {} {}",
                output.sealed_name,
                if output.sealing { "sealing" } else { "open" },
                output.len
            ),
        };
        with_checksum(text)
    }

    pub fn from_text(text: &[u8]) -> Result<Self, &'static str> {
        let mut lines = without_checksum(text)?.lines();
        if lines.next() != Some(VERSION_LINE) {
            return Err("another version");
        }
        let mut field = |name: &str| {
            let line = lines.next()?;
            line.strip_prefix(name)?.strip_prefix(' ')
        };
        let mut number = |name: &str| field(name).and_then(|value| value.parse::<u64>().ok());
        let cursor = Cursor {
            position: number("position").ok_or("no position")?,
            records: number("records").ok_or("no records")?,
        };
        let output = match field("output").ok_or("no output")? {
            "-" => None,
            output => Some(read_output(output).ok_or("a strange output")?),
        };
        Ok(Self { cursor, output })
    }
}

/// Adds the last line.
pub fn with_checksum(mut text: String) -> String {
    let crc = crc32c(text.as_bytes());
    // Writing to a String does not fail.
    let _ = writeln!(text, "crc32c {crc:08x}");
    text
}

/// The lines before the last one, which is their checksum.
pub fn without_checksum(text: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "not text")?;
    let (body, crc) = text.rsplit_once("crc32c ").ok_or("no checksum")?;
    let crc = crc.strip_suffix('\n').ok_or("cut short")?;
    match crc.len() == 8 && u32::from_str_radix(crc, 16) == Ok(crc32c(body.as_bytes())) {
        true => Ok(body),
        false => Err("wrong checksum"),
    }
}

fn read_output(text: &str) -> Option<SavedOutput> {
    let mut words = text.split(' ');
    let sealed_name = words.next()?;
    let sealing = match words.next()? {
        "open" => false,
        "sealing" => true,
        _ => return None,
    };
    let len = words.next()?.parse().ok()?;
    // The name becomes a path: only names of our own making.
    let ours =
        Owner::of(sealed_name).is_some_and(|owner| !owner.open) && !sealed_name.contains('/');
    (ours && words.next().is_none()).then(|| SavedOutput {
        sealed_name: sealed_name.to_owned(),
        len,
        sealing,
    })
}

/// Where one sink and shard keep their cursor.
#[derive(Debug)]
pub struct CursorFile {
    folder: PathBuf,
    path: PathBuf,
    temporary: PathBuf,
}

impl CursorFile {
    pub fn new(folder: PathBuf, sink: &str, shard: u16) -> Self {
        let name = format!("{sink}-s{shard:02}.cursor");
        Self {
            path: folder.join(&name),
            temporary: folder.join(format!("{name}.tmp")),
            folder,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None` where there is none yet. Durable when it returns.
    pub fn load(&self, disk: &mut impl Disk) -> Result<Option<SavedCursor>, SinkError> {
        self.load_as(disk, SavedCursor::from_text)
    }

    /// The same for the cursor of another kind of sink.
    pub fn load_as<T>(
        &self,
        disk: &mut impl Disk,
        from_text: impl FnOnce(&[u8]) -> Result<T, &'static str>,
    ) -> Result<Option<T>, SinkError> {
        let text = match disk.read(&self.path, TEXT_LEN_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &self.path)(error)),
        };
        // Its name may be one that a sync of the folder failed on: what follows from the cursor must
        // not become durable before it.
        disk.sync_folder(&self.folder)
            .map_err(failed("sync folder", &self.folder))?;
        match from_text(&text) {
            Ok(saved) => Ok(Some(saved)),
            Err(what) => Err(SinkError::CursorDamaged {
                path: self.path.clone(),
                what,
            }),
        }
    }

    /// Durable when it returns.
    pub fn store(&self, disk: &mut impl Disk, saved: &SavedCursor) -> Result<(), SinkError> {
        self.store_text(disk, &saved.to_text())
    }

    /// The same for a cursor that is text already.
    pub fn store_text(&self, disk: &mut impl Disk, text: &str) -> Result<(), SinkError> {
        // A temporary file of an earlier try says nothing that is needed.
        match disk.remove(&self.temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &self.temporary)(error));
            }
            _ => {}
        }
        let mut file = disk
            .create(&self.temporary)
            .map_err(failed("create", &self.temporary))?;
        disk.write(&mut file, text.as_bytes())
            .map_err(failed("write", &self.temporary))?;
        disk.sync(&mut file)
            .map_err(failed("sync", &self.temporary))?;
        disk.rename(&self.temporary, &self.path)
            .map_err(failed("rename", &self.temporary))?;
        disk.sync_folder(&self.folder)
            .map_err(failed("sync folder", &self.folder))
    }
}

fn failed(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SinkError {
    move |source| SinkError::Cursor {
        call,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> SavedCursor {
        SavedCursor {
            cursor: Cursor {
                position: 1_052_672,
                records: 48_231,
            },
            output: Some(SavedOutput {
                sealed_name: "20261120T124501.123456789Z-files-s00.avro".to_owned(),
                len: 734_003,
                sealing: false,
            }),
        }
    }

    #[test]
    fn the_text_is_the_documented_one() {
        let text = saved().to_text();
        let expected = "penstock-cursor 1\nposition 1052672\nrecords 48231\n\
            output 20261120T124501.123456789Z-files-s00.avro open 734003\ncrc32c ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(SavedCursor::from_text(text.as_bytes()), Ok(saved()));
        let none = SavedCursor {
            output: None,
            ..saved()
        };
        assert_eq!(SavedCursor::from_text(none.to_text().as_bytes()), Ok(none));
    }

    #[test]
    fn no_changed_byte_and_no_shorter_text_is_believed() {
        let text = saved().to_text().into_bytes();
        for at in 0..text.len() {
            assert!(SavedCursor::from_text(&text[..at]).is_err(), "cut at {at}");
            for flip in [1, 0x20, 0x80] {
                let mut damaged = text.clone();
                damaged[at] ^= flip;
                let read = SavedCursor::from_text(&damaged);
                // Only the case of the checksum's own hexadecimal digits says the same.
                let same_digit =
                    damaged[at].eq_ignore_ascii_case(&text[at]) && at > text.len() - 10;
                assert!(
                    read.is_err() || same_digit,
                    "byte {at} ^ {flip:#x}: {read:?}"
                );
            }
        }
    }

    #[test]
    fn an_output_outside_its_folder_is_refused() {
        let strange = SavedCursor {
            output: Some(SavedOutput {
                sealed_name: "20261120T124501.123456789Z-../../etc-s00.avro".to_owned(),
                len: 1,
                sealing: true,
            }),
            ..saved()
        };
        assert_eq!(
            SavedCursor::from_text(strange.to_text().as_bytes()),
            Err("a strange output")
        );
    }
}
