//! A survey for eyes.

use std::fmt::Write;

use super::survey::{Segment, Shard, StartAction, Survey};
use crate::config::format_size;
use crate::journal::recovery::table::SegmentCase;
use crate::sink::file::name::Civil;

pub fn show(survey: &Survey) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = show_all(survey, &mut out);
    out
}

fn show_all(survey: &Survey, out: &mut String) -> std::fmt::Result {
    if let Some(process) = survey.agent {
        writeln!(
            out,
            "an agent runs here (process {process}): its last blocks may be on their way and look torn"
        )?;
    }
    for shard in &survey.shards {
        show_shard(shard, out)?;
    }
    if survey.shards.is_empty() {
        writeln!(out, "no shard has a journal yet")?;
    }
    for problem in &survey.problems {
        writeln!(out, "PROBLEM {problem}")?;
    }
    if survey.problems.is_empty() {
        writeln!(out, "nothing that was acknowledged is missing")?;
    }
    Ok(())
}

fn show_shard(shard: &Shard, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", shard.folder.display())?;
    for segment in &shard.segments {
        show_segment(segment, out)?;
    }
    let shown = |number: &u64| {
        shard
            .segments
            .iter()
            .any(|segment| segment.number == *number)
    };
    for number in shard
        .removed_segments
        .iter()
        .filter(|number| !shown(number))
    {
        writeln!(
            out,
            "  segment {number}: {}; a start removes it",
            SegmentCase::Unborn.label()
        )?;
    }
    for place in &shard.places {
        let (case, start, end) = (place.case.label(), place.start_position, place.end_position);
        match end > start {
            true => writeln!(out, "  {case}: positions {start} to {end}")?,
            false => writeln!(out, "  {case}: at position {start}")?,
        }
    }
    writeln!(
        out,
        "  goes on at position {}, behind {} records; known to be durable: {}",
        shard.end_position, shard.end_records, shard.durable_position
    )?;
    for cursor in &shard.sinks {
        write!(
            out,
            "  sink {}: at position {}, {} records behind",
            cursor.sink, cursor.position, cursor.lag_records
        )?;
        match (&cursor.output, cursor.output_bytes) {
            (Some(output), Some(bytes)) => writeln!(out, "; {output} up to byte {bytes}")?,
            _ => writeln!(out)?,
        }
    }
    Ok(())
}

fn show_segment(segment: &Segment, out: &mut String) -> std::fmt::Result {
    write!(
        out,
        "  segment {}: {}, positions {} to {}, {}, {} blocks, {} records",
        segment.number,
        segment.case.label(),
        segment.base_position,
        segment.end_position,
        format_size(segment.bytes),
        segment.blocks,
        segment.records,
    )?;
    let civil = |nano: &Option<String>| {
        let nano = nano.as_ref()?.parse().ok()?;
        Some(Civil::from_unix_nano(nano))
    };
    if let (Some(first), Some(last)) = (
        civil(&segment.first_observed_unix_nano),
        civil(&segment.last_observed_unix_nano),
    ) {
        write!(out, ", observed {first} to {last}")?;
    }
    match segment.start {
        StartAction::Keep => writeln!(out),
        StartAction::CutTo(bytes) => writeln!(out, "; a start cuts it to {bytes} bytes"),
        StartAction::Remove => writeln!(out, "; a start removes it"),
    }
}
