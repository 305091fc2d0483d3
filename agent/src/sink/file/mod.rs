//! The sink that writes files of stored records under `DATA/records/`: Avro object container files,
//! JSON lines or length-delimited Protobuf.
//!
//! A commit, step by step; a crash may come between any two of them:
//! 1. the open block is written and the output file synced (and, the first time, its folder);
//! 2. the cursor is written under another name, synced, renamed, its folder synced. It names the
//!    output file and the length that is committed. From here on the records are delivered;
//! 3. where the file is full or old enough, the cursor of step 2 said `sealing`: the file is renamed
//!    to its final name and the folder synced.
//!
//! `resume` undoes what came after step 2 of the last commit (it cuts the file to the committed
//! length), finishes step 3, and removes a file that no cursor has named yet.

mod attributes;
pub mod avro;
pub mod compress;
pub mod container;
pub mod cursor;
pub mod disk;
pub mod encoder;
mod jsonl;
pub mod keep;
pub mod name;
pub mod output;
mod protobuf;
pub mod read;
mod stream;
pub mod stream_reader;

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_proto::reason::Reason;

use crate::config::settings::SinkSettings;
use crate::decode::{Decoder, Payload};
use crate::journal::format::Entry;
use crate::record::EnvelopeView;
use crate::schema::table::Schemas;
use crate::sink::clock::Clock;
use crate::sink::file::cursor::{CursorFile, SavedCursor};
use crate::sink::file::disk::Disk;
use crate::sink::file::encoder::Encoder;
use crate::sink::file::keep::Keep;
use crate::sink::file::output::{Output, Reopened, failed};
use crate::sink::{Block, Cursor, Delivered, Sink, SinkError, SinkStats};

/// The folders within the data folder.
pub const RECORDS_FOLDER: &str = "records";
pub const CURSORS_FOLDER: &str = "cursors";

/// How often `keep` is looked at beside each seal: files grow old while nothing is written.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);

/// One sink's files of one shard.
pub struct FileSink<D: Disk> {
    name: String,
    data_dir: PathBuf,
    keep: Keep,
    keep_next: Instant,
    cursors: CursorFile,
    output: Output<D>,
    decoder: Decoder,
    encoder: Encoder,
    peer: PeerText,
    /// What the cursor's file says; `None` before there is one.
    saved: Option<SavedCursor>,
    /// What has been delivered.
    cursor: Cursor,
}

/// The last sender's address as text: senders come in runs.
#[derive(Default)]
struct PeerText {
    peer: Option<SocketAddr>,
    text: String,
}

impl PeerText {
    fn of(&mut self, peer: Option<SocketAddr>) -> &str {
        if self.peer != peer {
            self.peer = peer;
            self.text.clear();
            if let Some(peer) = peer {
                // Writing to a String does not fail.
                let _ = write!(self.text, "{peer}");
            }
        }
        &self.text
    }
}

impl<D: Disk> FileSink<D> {
    pub fn new(
        disk: D,
        settings: &SinkSettings,
        shard: u16,
        data_dir: &Path,
        schemas: &Schemas,
        stats: Arc<SinkStats>,
    ) -> io::Result<Self> {
        let cursors = data_dir.join(CURSORS_FOLDER);
        let records = data_dir.join(RECORDS_FOLDER);
        Ok(Self {
            name: settings.name.clone(),
            data_dir: data_dir.to_owned(),
            keep: Keep {
                size: settings.keep_size,
                age: settings.keep_age,
            },
            keep_next: disk.clock().instant(),
            cursors: CursorFile::new(cursors, &settings.name, shard),
            output: Output::new(disk, records, settings, shard, stats),
            decoder: Decoder::new(schemas),
            encoder: Encoder::new(settings.format, settings.compression)?,
            peer: PeerText::default(),
            saved: None,
            cursor: Cursor::default(),
        })
    }

    fn create_folders(&mut self) -> Result<(), SinkError> {
        let disk = &mut self.output.disk;
        for folder in [RECORDS_FOLDER, CURSORS_FOLDER] {
            let folder = self.data_dir.join(folder);
            disk.create_folder(&folder)
                .map_err(failed("create folder", &folder))?;
        }
        disk.sync_folder(&self.data_dir)
            .map_err(failed("sync folder", &self.data_dir))
    }

    /// Steps 1 to 3.
    fn commit_and(&mut self, seal: bool) -> Result<Cursor, SinkError> {
        if !self.encoder.is_empty() {
            self.output.write_block(&mut self.encoder)?;
        }
        let seal = seal || self.output.wants_seal();
        let changed = self
            .saved
            .as_ref()
            .is_none_or(|saved| saved.cursor != self.cursor);
        if changed || seal {
            let mut output = self.output.sync()?;
            if let Some(output) = &mut output {
                output.sealing = seal;
            }
            // Sealing with no file open and nothing new leaves nothing to say.
            if changed || output.is_some() {
                self.store(SavedCursor {
                    cursor: self.cursor,
                    output,
                })?;
            }
            if seal {
                self.seal_saved()?;
            }
        }
        if seal || self.clock().instant() >= self.keep_next {
            self.remove_excess()?;
        }
        Ok(self.cursor)
    }

    fn store(&mut self, saved: SavedCursor) -> Result<(), SinkError> {
        self.cursors.store(&mut self.output.disk, &saved)?;
        self.saved = Some(saved);
        Ok(())
    }

    /// Step 3, of the file that the saved cursor calls `sealing`.
    fn seal_saved(&mut self) -> Result<(), SinkError> {
        let Some(saved) = &mut self.saved else {
            return Ok(());
        };
        if let Some(output) = saved.output.take_if(|output| output.sealing) {
            self.output.seal(&output.sealed_name)?;
        }
        Ok(())
    }

    fn remove_excess(&mut self) -> Result<(), SinkError> {
        let clock = self.clock();
        self.keep_next = clock.instant() + KEEP_INTERVAL;
        let files = self.output.list()?;
        for name in self.keep.excess(&files, &self.name, clock.system()) {
            let path = self.output.folder.join(name);
            match self.output.disk.remove(&path) {
                Ok(()) => {
                    tracing::info!(sink = self.name, path = %path.display(), "removed, beyond `keep`");
                }
                // Another shard of this sink was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", &path)(error)),
            }
        }
        Ok(())
    }
}

impl<D: Disk> Sink for FileSink<D> {
    fn resume(&mut self) -> Result<Option<Cursor>, SinkError> {
        self.encoder.clear();
        self.output.forget();
        self.create_folders()?;
        self.saved = self.cursors.load(&mut self.output.disk)?;
        let files = self.output.list()?;
        let named = self.saved.as_ref().and_then(|saved| saved.output.clone());
        self.output
            .clear_orphans(&files, named.as_ref(), self.saved.is_some())?;
        let Some(saved) = &mut self.saved else {
            return Ok(None);
        };
        self.cursor = saved.cursor;
        let Some(output) = named else {
            return Ok(Some(self.cursor));
        };
        if output.sealing {
            saved.output = None;
            self.output.finish_seal(&output, &files)?;
            return Ok(Some(self.cursor));
        }
        match self.output.reopen(&output, &files)? {
            Reopened::Continued => {}
            Reopened::Gone => saved.output = None,
            Reopened::OtherHeader => {
                let mut sealing = saved.clone();
                if let Some(output) = &mut sealing.output {
                    output.sealing = true;
                }
                self.store(sealing)?;
                if let Some(saved) = &mut self.saved {
                    saved.output = None;
                }
                self.output.finish_seal(&output, &files)?;
            }
        }
        Ok(Some(self.cursor))
    }

    fn begin(&mut self, cursor: Cursor) -> Result<(), SinkError> {
        self.cursor = cursor;
        self.store(SavedCursor {
            cursor,
            output: None,
        })
    }

    fn deliver(&mut self, block: Block<'_>) -> Result<Delivered, SinkError> {
        let mut delivered = Delivered::default();
        for entry in block.entries() {
            match entry {
                Err(fault) => {
                    delivered.damaged_entries += 1;
                    delivered.first_fault.get_or_insert(fault);
                }
                Ok(entry) => {
                    delivered.observed_time_unix_nano = entry.envelope.observed_time_unix_nano;
                    if let Err(reason) = self.deliver_entry(&block, &entry, &mut delivered)? {
                        delivered.undecodable_entries += 1;
                        delivered.first_reason.get_or_insert(reason);
                    }
                }
            }
        }
        self.cursor = Cursor {
            position: block.end_position(),
            records: block.end_records(),
        };
        Ok(delivered)
    }

    fn skip_to(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    fn wants_commit(&self) -> bool {
        self.output.wants_seal() || self.clock().instant() >= self.keep_next
    }

    fn commit(&mut self) -> Result<Cursor, SinkError> {
        self.commit_and(false)
    }

    fn seal(&mut self) -> Result<Cursor, SinkError> {
        self.commit_and(true)
    }

    fn clock(&self) -> Clock {
        self.output.disk.clock()
    }
}

impl<D: Disk> FileSink<D> {
    /// Encodes the records of one entry. The inner `Err`: it cannot be decoded to its end, which
    /// validation on receipt excludes, but an older version reading a newer one's journal does not.
    fn deliver_entry(
        &mut self,
        block: &Block<'_>,
        entry: &Entry<'_>,
        delivered: &mut Delivered,
    ) -> Result<Result<(), Reason>, SinkError> {
        let payload = match Payload::of(&entry.header, entry.payload) {
            Ok(payload) => payload,
            Err(reason) => return Ok(Err(reason)),
        };
        let listener = usize::from(entry.envelope.listener);
        let (encoder, output) = (&mut self.encoder, &mut self.output);
        encoder.begin_entry(&EnvelopeView {
            observed_time_unix_nano: entry.envelope.observed_time_unix_nano,
            listener: block.listeners.get(listener).map_or("", String::as_str),
            peer_address: self.peer.of(entry.envelope.peer),
        });
        let mut written = Ok(());
        let decoded = self.decoder.for_each(&payload, |record| {
            // After a failed write the rest of the entry is of no use: it will come again.
            if written.is_err() {
                return;
            }
            encoder.push(record);
            delivered.records += 1;
            if encoder.is_full() {
                written = output.write_block(encoder);
            }
        });
        written?;
        Ok(decoded.map(|_| ()))
    }
}
