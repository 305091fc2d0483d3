//! Commit, rotation, resume and retention on the real file system.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::sink::file::cursor::{CursorFile, SavedCursor};
use crate::sink::sample::{SampleEntry, SampleJournal, numbered};
use crate::sink::{Cursor, SinkError};

/// A journal of `blocks` blocks with three records each.
fn journal(data_dir: &Path, blocks: u64) -> (SampleJournal, Vec<LogRecord>) {
    let mut journal = SampleJournal::new(data_dir);
    let mut all = Vec::new();
    for block in 0..blocks {
        let records: Vec<_> = (block * 3..block * 3 + 3).map(numbered).collect();
        journal.append(&[SampleEntry::protobuf(block, records.clone())]);
        all.extend(records);
    }
    (journal, all)
}

#[test]
fn sealed_files_hold_the_records_once_and_are_the_groups_to_read() {
    let endings = [
        ".avro",
        ".avro",
        ".avro",
        ".jsonl",
        ".jsonl.zst",
        ".pb",
        ".pb.zst",
    ];
    for (format, ending) in FORMATS.into_iter().zip(endings) {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, records) = journal(folder.path(), 4);
        let mut sink = sink(folder.path(), &settings_of(format));
        assert_eq!(sink.resume().expect("resume"), None);
        sink.begin(Cursor::default()).expect("begin");
        assert_eq!(output_names(folder.path()), Vec::<String>::new());
        deliver(&mut sink, &journal.folder, 0, journal.position);
        sink.commit().expect("commit");
        let names = output_names(folder.path());
        assert!(
            names.len() == 1 && names[0].ends_with(&format!("Z-files-s00{ending}.open")),
            "{names:?}"
        );
        assert_eq!(output_bodies(folder.path()), bodies_of(&records));
        let cursor = sink.seal().expect("seal");
        assert_eq!(
            cursor,
            Cursor {
                position: journal.position,
                records: 12
            }
        );
        let sealed = output_names(folder.path());
        assert_eq!(sealed, [names[0].trim_end_matches(".open")]);
        assert_eq!(output_bodies(folder.path()), bodies_of(&records));
        let path = folder.path().join("records").join(&sealed[0]);
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        // The umask may take more away.
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
        // Sealing again finds nothing to do.
        sink.seal().expect("seal");
        assert_eq!(output_names(folder.path()), sealed);
    }
}

#[test]
fn what_was_not_committed_is_cut_and_delivered_again() {
    for format in FORMATS {
        cut_and_deliver_again(&settings_of(format));
    }
}

fn cut_and_deliver_again(settings: &SinkSettings) {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, records) = journal(folder.path(), 6);
    {
        let mut sink = sink(folder.path(), settings);
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        deliver(&mut sink, &journal.folder, 0, 3 * 4096);
        sink.commit().expect("commit");
        deliver(&mut sink, &journal.folder, 3 * 4096, journal.position);
        // In the file, but never committed.
        let Sinks {
            encoder, output, ..
        } = parts(&mut sink);
        output.write_block(encoder).expect("write");
    }
    assert_eq!(output_bodies(folder.path()).len(), 18);
    let mut sink = sink(folder.path(), settings);
    let cursor = sink.resume().expect("resume").expect("a cursor");
    assert_eq!(
        cursor,
        Cursor {
            position: 3 * 4096,
            records: 9
        }
    );
    assert_eq!(output_bodies(folder.path()), bodies_of(&records[..9]));
    deliver(
        &mut sink,
        &journal.folder,
        cursor.position,
        journal.position,
    );
    sink.seal().expect("seal");
    assert_eq!(
        output_names(folder.path()).len(),
        1,
        "the file is gone on with"
    );
    assert_eq!(output_bodies(folder.path()), bodies_of(&records));
}

struct Sinks<'a, D: Disk> {
    encoder: &'a mut crate::sink::file::encoder::Encoder,
    output: &'a mut crate::sink::file::output::Output<D>,
}

fn parts<D: Disk>(sink: &mut FileSink<D>) -> Sinks<'_, D> {
    Sinks {
        encoder: &mut sink.encoder,
        output: &mut sink.output,
    }
}

#[test]
fn a_full_or_old_file_is_sealed_at_the_next_commit() {
    for (rotate_size, rotate_age) in [(1, 3600), (u64::MAX, 0)] {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, records) = journal(folder.path(), 3);
        let settings = SinkSettings {
            rotate_size,
            rotate_age: Duration::from_secs(rotate_age),
            ..settings(Compression::Zstd)
        };
        let mut sink = sink(folder.path(), &settings);
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        for block in 0..3 {
            deliver(&mut sink, &journal.folder, block * 4096, (block + 1) * 4096);
            sink.commit().expect("commit");
        }
        let names = output_names(folder.path());
        assert!(
            names.len() == 3 && names.iter().all(|name| name.ends_with(".avro")),
            "{names:?}"
        );
        assert_eq!(output_bodies(folder.path()), bodies_of(&records));
    }
}

#[test]
fn another_format_or_codec_after_a_restart_begins_another_file() {
    for before in FORMATS {
        for after in FORMATS.into_iter().filter(|after| *after != before) {
            let folder = tempfile::tempdir().expect("a folder");
            let (journal, records) = journal(folder.path(), 2);
            let mut first = sink(folder.path(), &settings_of(before));
            first.resume().expect("resume");
            first.begin(Cursor::default()).expect("begin");
            deliver(&mut first, &journal.folder, 0, 4096);
            first.commit().expect("commit");
            drop(first);
            let mut second = sink(folder.path(), &settings_of(after));
            let cursor = second.resume().expect("resume").expect("a cursor");
            assert_eq!(cursor.records, 3);
            deliver(
                &mut second,
                &journal.folder,
                cursor.position,
                journal.position,
            );
            second.commit().expect("commit");
            let names = output_names(folder.path());
            assert_eq!(names.len(), 2, "{before:?} to {after:?}");
            assert!(
                !names[0].ends_with(".open") && names[1].ends_with(".open"),
                "{names:?}"
            );
            assert_eq!(output_bodies(folder.path()), bodies_of(&records));
        }
    }
}

#[test]
fn orphans_go_where_a_cursor_tells_of_them_and_are_set_aside_where_none_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = settings(Compression::None);
    let records = folder.path().join("records");
    std::fs::create_dir(&records).expect("create");
    let orphan = "20261120T124501.123456789Z-files-s00.avro.open";
    let others = [
        "20261120T124501.123456789Z-audit-s00.avro.open",
        "20261120T124501.123456789Z-files-s01.avro.open",
    ];
    for name in others.iter().chain([&orphan]) {
        std::fs::write(records.join(name), "x").expect("write");
    }
    let mut without_cursor = sink(folder.path(), &settings);
    assert_eq!(without_cursor.resume().expect("resume"), None);
    without_cursor.begin(Cursor::default()).expect("begin");
    let set_aside = format!("{orphan}.orphan");
    assert_eq!(
        output_names(folder.path()),
        [others[0], &set_aside, others[1]]
    );
    std::fs::rename(records.join(&set_aside), records.join(orphan)).expect("rename");
    let mut with_cursor = sink(folder.path(), &settings);
    assert!(with_cursor.resume().expect("resume").is_some());
    assert_eq!(output_names(folder.path()), others);
}

#[test]
fn a_shortened_file_is_set_aside_and_a_removed_one_is_let_go() {
    for removed in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, records) = journal(folder.path(), 2);
        let settings = settings(Compression::None);
        let mut first = sink(folder.path(), &settings);
        first.resume().expect("resume");
        first.begin(Cursor::default()).expect("begin");
        deliver(&mut first, &journal.folder, 0, 4096);
        first.commit().expect("commit");
        drop(first);
        let open = folder
            .path()
            .join("records")
            .join(&output_names(folder.path())[0]);
        if removed {
            std::fs::remove_file(&open).expect("remove");
        } else {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&open)
                .expect("open");
            file.set_len(1_000).expect("shorten");
        }
        let mut second = sink(folder.path(), &settings);
        let cursor = second.resume().expect("resume").expect("a cursor");
        deliver(
            &mut second,
            &journal.folder,
            cursor.position,
            journal.position,
        );
        second.seal().expect("seal");
        let mut names = output_names(folder.path());
        if !removed {
            let aside = names.remove(0);
            assert!(aside.ends_with(".avro.open.damaged"), "{aside}");
            std::fs::remove_file(folder.path().join("records").join(aside)).expect("remove");
        }
        assert_eq!(names.len(), 1);
        assert_eq!(output_bodies(folder.path()), bodies_of(&records[3..]));
    }
}

#[test]
fn a_damaged_cursor_is_an_error_and_nothing_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, records) = journal(folder.path(), 1);
    let settings = settings(Compression::None);
    let mut first = sink(folder.path(), &settings);
    first.resume().expect("resume");
    first.begin(Cursor::default()).expect("begin");
    deliver(&mut first, &journal.folder, 0, journal.position);
    first.commit().expect("commit");
    drop(first);
    let path = folder.path().join("cursors/files-s00.cursor");
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, text.replace("position 4", "position 8")).expect("write");
    let error = sink(folder.path(), &settings).resume().expect_err("damage");
    assert!(matches!(error, SinkError::CursorDamaged { .. }), "{error}");
    assert_eq!(output_bodies(folder.path()), bodies_of(&records));
}

#[test]
fn keep_removes_sealed_files_of_this_sink_beyond_its_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, _) = journal(folder.path(), 4);
    let header_len = 2_000;
    let settings = SinkSettings {
        rotate_size: 1,
        // Two files, each a header of some 1,700 bytes and three short records.
        keep_size: 2 * header_len,
        ..settings(Compression::None)
    };
    let other = "20201120T124501.123456789Z-audit-s00.avro";
    let mut sink = sink(folder.path(), &settings);
    sink.resume().expect("resume");
    sink.begin(Cursor::default()).expect("begin");
    std::fs::write(folder.path().join("records").join(other), vec![0; 9_000]).expect("write");
    let mut sealed = Vec::new();
    for block in 0..4 {
        deliver(&mut sink, &journal.folder, block * 4096, (block + 1) * 4096);
        sink.commit().expect("commit");
        sealed.extend(output_names(folder.path()).pop());
    }
    let len = std::fs::metadata(folder.path().join("records").join(&sealed[3]));
    let len = len.expect("stat").len();
    assert!(
        (1_000..header_len).contains(&len),
        "two of {len} bytes, no more, are within `keep`"
    );
    assert_eq!(output_names(folder.path()), [other, &sealed[2], &sealed[3]]);
}

#[test]
fn a_file_to_be_sealed_that_lost_bytes_is_set_aside_and_not_filled_with_zeroes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, _) = journal(folder.path(), 2);
    let settings = settings(Compression::None);
    let cursor = {
        let mut sink = sink(folder.path(), &settings);
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        deliver(&mut sink, &journal.folder, 0, journal.position);
        sink.commit().expect("commit")
    };
    // The cursor says that the file is being sealed, as in the middle of that; the file is short.
    let cursors = CursorFile::new(folder.path().join("cursors"), "files", 0);
    let mut saved = cursors
        .load(&mut RealDisk)
        .expect("load")
        .expect("a cursor");
    let output = saved.output.as_mut().expect("an open file");
    output.sealing = true;
    let name = output_names(folder.path()).remove(0);
    let path = folder.path().join("records").join(&name);
    let file = std::fs::File::options()
        .write(true)
        .open(path)
        .expect("open");
    file.set_len(output.len - 10).expect("cut");
    cursors.store(&mut RealDisk, &saved).expect("store");

    let mut sink = sink(folder.path(), &settings);
    assert_eq!(sink.resume().expect("resume"), Some(cursor));
    assert_eq!(output_names(folder.path()), [format!("{name}.damaged")]);
}

#[test]
fn a_cursor_left_under_its_temporary_name_is_not_believed_and_not_in_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, records) = journal(folder.path(), 4);
    let settings = settings(Compression::None);
    let left = folder.path().join("cursors/files-s00.cursor.tmp");
    {
        let mut sink = sink(folder.path(), &settings);
        sink.resume().expect("resume");
        sink.begin(Cursor::default()).expect("begin");
        deliver(&mut sink, &journal.folder, 0, 2 * 4096);
        sink.commit().expect("commit");
        // Written and synced, and then the power went: a later cursor than the one in force.
        let later = SavedCursor {
            cursor: Cursor {
                position: journal.position,
                records: 12,
            },
            output: None,
        };
        std::fs::write(&left, later.to_text()).expect("write");
    }
    let mut sink = sink(folder.path(), &settings);
    let cursor = sink.resume().expect("resume").expect("a cursor");
    assert_eq!(cursor.position, 2 * 4096);
    deliver(
        &mut sink,
        &journal.folder,
        cursor.position,
        journal.position,
    );
    sink.seal().expect("seal");
    assert_eq!(output_bodies(folder.path()), bodies_of(&records));
    assert!(!left.exists());
}

#[test]
fn a_cursor_folder_that_vanishes_sets_the_open_file_aside_and_begins_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (journal, records) = journal(folder.path(), 4);
    let mut sink = sink(folder.path(), &settings(Compression::None));
    sink.resume().expect("resume");
    sink.begin(Cursor::default()).expect("begin");
    deliver(&mut sink, &journal.folder, 0, 2 * 4096);
    sink.commit().expect("commit");
    std::fs::remove_dir_all(folder.path().join("cursors")).expect("remove");
    deliver(&mut sink, &journal.folder, 2 * 4096, journal.position);
    let error = sink.commit().expect_err("nowhere to write the cursor");
    assert!(matches!(error, SinkError::Cursor { .. }), "{error}");
    // What the loop does after an error: the folder is made again, and nothing is guessed.
    assert_eq!(sink.resume().expect("resume"), None);
    let names = output_names(folder.path());
    assert!(
        names.len() == 1 && names[0].ends_with(".avro.open.orphan"),
        "{names:?}"
    );
    sink.begin(Cursor::default()).expect("begin");
    deliver(&mut sink, &journal.folder, 0, journal.position);
    sink.seal().expect("seal");
    std::fs::remove_file(folder.path().join("records").join(&names[0])).expect("remove");
    assert_eq!(output_bodies(folder.path()), bodies_of(&records));
}
