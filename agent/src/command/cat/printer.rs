//! Where all sources print to: records to one side, notes about what could not be read to the other.

use std::io::{self, Write};

use super::json::json_line;
use super::text::text_line;
use super::{Format, Stop};
use crate::exit::Failure;
use crate::sink::file::container::Stored;

/// Writes records in the chosen format, and notes about what could not be read.
pub(super) struct Printer<W, E> {
    pub(super) out: W,
    pub(super) notes: E,
    pub(super) format: Format,
    pub(super) problems: u64,
    pub(super) line: String,
}

impl<W: Write, E: Write> Printer<W, E> {
    pub(super) fn record(&mut self, record: &Stored<'_>) -> Result<(), Stop> {
        self.line.clear();
        match self.format {
            Format::Text => text_line(record, &mut self.line),
            Format::Json => json_line(record, &mut self.line),
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes()).map_err(write_stop)
    }

    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(write_stop)
    }

    /// Something worth knowing that is in order.
    pub(super) fn note(&mut self, message: &str) {
        // Nobody is left to tell if standard error is gone.
        let _ = writeln!(self.notes, "penstock: {message}");
    }

    /// Something that could not be read.
    pub(super) fn problem(&mut self, message: &str) {
        self.problems += 1;
        self.note(message);
    }
}

fn write_stop(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::Closed,
        _ => Stop::Failed(Failure::io("write to standard output", &error)),
    }
}
