//! The file that is being written: created, appended to, synced, sealed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::settings::{Compression, FileFormat, SinkSettings};
use crate::sink::file::avro::{SYNC_MARKER_LEN, new_sync_marker};
use crate::sink::file::cursor::SavedOutput;
use crate::sink::file::disk::{Disk, Listed};
use crate::sink::file::encoder::{Encoder, file_header};
use crate::sink::file::name::{Kind, Owner, open_name, sealed_name};
use crate::sink::{SinkError, SinkStats};

/// What is appended to a file's name when it is set aside: no reader takes it for a sink's file.
const DAMAGED_SUFFIX: &str = ".damaged";
const ORPHAN_SUFFIX: &str = ".orphan";

/// Writes the output files of one sink and shard, one at a time.
pub struct Output<D: Disk> {
    pub disk: D,
    pub folder: PathBuf,
    sink: String,
    shard: u16,
    format: FileFormat,
    compression: Compression,
    rotate_size: u64,
    rotate_age: Duration,
    stats: Arc<SinkStats>,
    current: Option<Current<D::File>>,
}

/// The file that is being written.
struct Current<F> {
    file: F,
    sealed_name: String,
    marker: [u8; SYNC_MARKER_LEN],
    len: u64,
    /// Whether its name would survive a power cut.
    name_synced: bool,
    rotate_at: Instant,
}

impl<D: Disk> Output<D> {
    pub fn new(
        disk: D,
        folder: PathBuf,
        settings: &SinkSettings,
        shard: u16,
        stats: Arc<SinkStats>,
    ) -> Self {
        Self {
            disk,
            folder,
            sink: settings.name.clone(),
            shard,
            format: settings.format,
            compression: settings.compression,
            rotate_size: settings.rotate_size,
            rotate_age: settings.rotate_age,
            stats,
            current: None,
        }
    }

    /// Drops the open file without a sync: what was not committed is to be cut.
    pub fn forget(&mut self) {
        self.current = None;
    }

    pub fn list(&mut self) -> Result<Vec<Listed>, SinkError> {
        self.disk
            .list(&self.folder)
            .map_err(failed("read folder", &self.folder))
    }

    /// Appends the encoder's open block; creates the file where there is none.
    pub fn write_block(&mut self, encoder: &mut Encoder) -> Result<(), SinkError> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.create()?,
        };
        let path = || self.folder.join(open_name(&current.sealed_name));
        let block = encoder
            .finish(&current.marker)
            .map_err(|source| failed("compress for", &path())(source))?;
        // Not put back after a failure: nobody knows how much of the block is in the file.
        self.disk
            .write(&mut current.file, block)
            .map_err(|source| failed("write", &path())(source))?;
        current.len += block.len() as u64;
        self.stats
            .bytes_written
            .fetch_add(block.len() as u64, Ordering::Relaxed);
        self.current = Some(current);
        Ok(())
    }

    /// What the names of its files end in.
    fn kind(&self) -> Kind {
        Kind::of(self.format, self.compression)
    }

    fn create(&mut self) -> Result<Current<D::File>, SinkError> {
        let mut unix_nano = unix_nano_of(self.disk.clock().system());
        let (sealed_name, path, mut file) = loop {
            let sealed_name = sealed_name(unix_nano, &self.sink, self.shard, self.kind());
            let path = self.folder.join(open_name(&sealed_name));
            match self.disk.create(&path) {
                Ok(file) => break (sealed_name, path, file),
                // The clock stood still or went back.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => unix_nano += 1,
                Err(error) => return Err(failed("create", &path)(error)),
            }
        };
        let marker = new_sync_marker();
        let header = file_header(self.format, self.compression, &marker);
        if !header.is_empty() {
            self.disk
                .write(&mut file, &header)
                .map_err(failed("write", &path))?;
        }
        self.stats
            .bytes_written
            .fetch_add(header.len() as u64, Ordering::Relaxed);
        Ok(Current {
            file,
            sealed_name,
            marker,
            len: header.len() as u64,
            name_synced: false,
            rotate_at: self.disk.clock().instant() + self.rotate_age,
        })
    }

    /// Goes on with a file at its committed length. `false`: it cannot be gone on with.
    ///
    /// One that is shorter than what was committed, or whose header is not ours, is set aside; one
    /// that is not there was removed by somebody: either way its committed records are theirs now,
    /// and the journal goes on behind them. One of another codec or schema comes back as
    /// `OtherHeader`, and so does one of another format, which its name tells.
    pub fn reopen(&mut self, saved: &SavedOutput, files: &[Listed]) -> Result<Reopened, SinkError> {
        let name = open_name(&saved.sealed_name);
        let path = self.folder.join(&name);
        let Some(listed) = files.iter().find(|file| file.name == name) else {
            tracing::error!(
                sink = self.sink,
                path = %path.display(),
                "the file that was being written is gone; going on with a new one"
            );
            return Ok(Reopened::Gone);
        };
        if listed.len < saved.len {
            self.set_aside_short(&path, listed, saved)?;
            return Ok(Reopened::Gone);
        }
        let Some(marker) = self.marker_of(&path, saved)? else {
            return Ok(Reopened::OtherHeader);
        };
        let file = self
            .disk
            .open_cut(&path, saved.len)
            .map_err(failed("open", &path))?;
        // Its age stands in its name: is it older than a file begun one `rotate_age` ago?
        let now = self.disk.clock().system();
        let limit = unix_nano_of(now.checked_sub(self.rotate_age).unwrap_or(UNIX_EPOCH));
        let old = saved.sealed_name < sealed_name(limit, &self.sink, self.shard, self.kind());
        self.current = Some(Current {
            file,
            sealed_name: saved.sealed_name.clone(),
            marker,
            len: saved.len,
            name_synced: true,
            rotate_at: self.disk.clock().instant()
                + if old { Duration::ZERO } else { self.rotate_age },
        });
        Ok(Reopened::Continued)
    }

    /// The sync marker of a file that these settings would have begun in the same way; `None` for
    /// every other. A format without a beginning has no use for a marker.
    fn marker_of(
        &mut self,
        path: &Path,
        saved: &SavedOutput,
    ) -> Result<Option<[u8; SYNC_MARKER_LEN]>, SinkError> {
        if Owner::of(&saved.sealed_name).map(|owner| owner.kind) != Some(self.kind()) {
            return Ok(None);
        }
        let expected = file_header(self.format, self.compression, &[0; SYNC_MARKER_LEN]);
        let Some(marker_at) = expected.len().checked_sub(SYNC_MARKER_LEN) else {
            return Ok(Some(new_sync_marker()));
        };
        let header = self
            .disk
            .read(path, expected.len() as u64)
            .map_err(failed("read", path))?;
        let same = header.len() == expected.len() && header[..marker_at] == expected[..marker_at];
        Ok(same.then(|| {
            header[marker_at..]
                .try_into()
                .expect("the rest is the marker")
        }))
    }

    /// Whether the open file is big or old enough.
    pub fn wants_seal(&self) -> bool {
        self.current.as_ref().is_some_and(|current| {
            current.len >= self.rotate_size || self.disk.clock().instant() >= current.rotate_at
        })
    }

    /// Makes the open file and its name durable; what the cursor is to say of it.
    pub fn sync(&mut self) -> Result<Option<SavedOutput>, SinkError> {
        let Some(current) = &mut self.current else {
            return Ok(None);
        };
        let path = self.folder.join(open_name(&current.sealed_name));
        self.disk
            .sync(&mut current.file)
            .map_err(failed("sync", &path))?;
        if !current.name_synced {
            self.disk
                .sync_folder(&self.folder)
                .map_err(failed("sync folder", &self.folder))?;
            current.name_synced = true;
        }
        Ok(Some(SavedOutput {
            sealed_name: current.sealed_name.clone(),
            len: current.len,
            sealing: false,
        }))
    }

    /// Gives the file its final name; the cursor already says that nothing will be added.
    pub fn seal(&mut self, sealed_name: &str) -> Result<(), SinkError> {
        self.current = None;
        let open = self.folder.join(open_name(sealed_name));
        self.disk
            .rename(&open, &self.folder.join(sealed_name))
            .map_err(failed("rename", &open))?;
        self.disk
            .sync_folder(&self.folder)
            .map_err(failed("sync folder", &self.folder))?;
        self.stats.files_sealed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Finishes a seal that the cursor says was under way; it may have got to any of its steps.
    pub fn finish_seal(&mut self, saved: &SavedOutput, files: &[Listed]) -> Result<(), SinkError> {
        let name = open_name(&saved.sealed_name);
        let Some(listed) = files.iter().find(|file| file.name == name) else {
            // Renamed; the name itself may not be durable yet.
            return self
                .disk
                .sync_folder(&self.folder)
                .map_err(failed("sync folder", &self.folder));
        };
        let path = self.folder.join(&name);
        if listed.len < saved.len {
            // To cut it would fill it up with zeroes, and seal those as if they were records.
            return self.set_aside_short(&path, listed, saved);
        }
        let mut file = self
            .disk
            .open_cut(&path, saved.len)
            .map_err(failed("open", &path))?;
        self.disk.sync(&mut file).map_err(failed("sync", &path))?;
        self.seal(&saved.sealed_name)
    }

    /// Deals with open files of this sink and shard that the cursor does not name. With a cursor,
    /// they are from a crash before their first commit: all they hold is still in the journal, and
    /// they are removed. Without one, somebody removed the cursor: they may hold the only copy.
    pub fn clear_orphans(
        &mut self,
        files: &[Listed],
        named: Option<&SavedOutput>,
        has_cursor: bool,
    ) -> Result<(), SinkError> {
        let named = named.map(|output| open_name(&output.sealed_name));
        for file in files {
            let ours = Owner::of(&file.name).is_some_and(|owner| {
                owner.sink == self.sink && owner.shard == self.shard && owner.open
            });
            if !ours || named.as_ref() == Some(&file.name) {
                continue;
            }
            let path = self.folder.join(&file.name);
            if has_cursor {
                tracing::warn!(
                    sink = self.sink,
                    path = %path.display(),
                    "removed a file from before its first commit; its records are in the journal"
                );
                self.disk.remove(&path).map_err(failed("remove", &path))?;
            } else {
                tracing::error!(
                    sink = self.sink,
                    path = %path.display(),
                    "an open file, but no cursor that speaks of it; set aside as {ORPHAN_SUFFIX}"
                );
                self.set_aside(&file.name, ORPHAN_SUFFIX)?;
            }
        }
        Ok(())
    }

    fn set_aside_short(
        &mut self,
        path: &Path,
        listed: &Listed,
        saved: &SavedOutput,
    ) -> Result<(), SinkError> {
        tracing::error!(
            sink = self.sink,
            path = %path.display(),
            len = listed.len,
            committed = saved.len,
            "the file that was being written is shorter than what was synced; set aside as {DAMAGED_SUFFIX}"
        );
        self.set_aside(&listed.name, DAMAGED_SUFFIX)
    }

    fn set_aside(&mut self, name: &str, suffix: &str) -> Result<(), SinkError> {
        let path = self.folder.join(name);
        self.disk
            .rename(&path, &self.folder.join(format!("{name}{suffix}")))
            .map_err(failed("rename", &path))?;
        self.disk
            .sync_folder(&self.folder)
            .map_err(failed("sync folder", &self.folder))
    }
}

/// What came of going on with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    Continued,
    /// It is not there any more.
    Gone,
    /// It was begun with another codec or schema: to be sealed as it is.
    OtherHeader,
}

pub(in crate::sink) fn failed(
    call: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SinkError {
    move |source| SinkError::Output {
        call,
        path: path.to_owned(),
        source,
    }
}

fn unix_nano_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Below 2^64 until the year 2554.
    since.as_nanos() as u64
}
