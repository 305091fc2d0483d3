//! The spool's files: recovery from every cut, damage told from a torn tail, one user at a time.

use std::fs;

use agent_common::frame::FLAG_ACKNOWLEDGE;
use penstock_proto::wire::write_frame;

use super::*;

/// In memory where the host has that: what is tested is which bytes are there, not the disk.
pub(crate) fn scratch_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    }
    .expect("a temporary folder")
}

fn frame(spool: &Spool, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        encoding: 3,
        flags: FLAG_ACKNOWLEDGE,
        priority: 2,
        payload_len: 0,
        records: 2,
        producer: spool.producer(),
        sequence: spool.next_sequence(),
        payload_crc: 0,
    };
    let mut bytes = Vec::new();
    write_frame(&mut bytes, header, payload);
    bytes
}

fn append(spool: &mut Spool, payload: &[u8]) -> Vec<u8> {
    let bytes = frame(spool, payload);
    spool.append(&bytes, Instant::now()).expect("room on disk");
    bytes
}

fn open(folder: &Path) -> (Spool, Recovered) {
    Spool::open(SpoolOptions::new(folder), 1 << 10).expect("a spool")
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "spool"))
        .collect();
    paths.sort();
    paths
}

fn read_all(spool: &mut Spool) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| spool.read_next().expect("readable"))
        .map(|(bytes, records)| {
            assert_eq!(records, 2);
            bytes
        })
        .collect()
}

#[test]
fn a_file_cut_at_every_byte_keeps_every_whole_frame_before_the_cut() {
    let source = scratch_folder();
    let (mut spool, _) = open(source.path());
    let id = spool.producer();
    // Where each entry ends, and what holds from there on: frames appended, base.
    let mut ends = vec![(HEADER_LEN as u64, 0u64, 1u64)];
    let mut frames = Vec::new();
    for (number, settled) in [(1, None), (2, Some(2)), (3, None), (4, Some(4)), (5, None)] {
        frames.push(append(&mut spool, format!("payload {number}").as_bytes()));
        ends.push((spool.active().len, number, ends.last().unwrap().2));
        if let Some(base) = settled {
            spool.settle_below(base, Instant::now()).unwrap();
            ends.push((spool.active().len, number, base));
        }
    }
    spool.sync().unwrap();
    drop(spool);
    let [path] = segments(source.path()).try_into().expect("one segment");
    let bytes = fs::read(&path).unwrap();

    for cut in 0..=bytes.len() {
        let folder = scratch_folder();
        let copy = folder.path().join(path.file_name().unwrap());
        fs::write(&copy, &bytes[..cut]).unwrap();
        let opened = Spool::open(SpoolOptions::new(folder.path()), 1 << 10);
        let whole = ends.iter().rfind(|(end, ..)| *end <= cut as u64);
        let Some(&(end, appended, base)) = whole else {
            // The header was synced before the file had its name: this is no crash's doing.
            let error = opened.expect_err("no id to go on with");
            assert!(
                matches!(error, SpoolError::Damaged { at: 0, .. }),
                "{error}"
            );
            continue;
        };
        let (mut spool, recovered) = opened.expect("a torn tail");
        assert_eq!(recovered.torn_bytes, cut as u64 - end, "cut at {cut}");
        assert_eq!(
            (spool.producer(), spool.next_sequence()),
            (id, appended + 1)
        );
        assert_eq!(
            (spool.base(), recovered.unsettled.frames),
            (base, appended + 1 - base)
        );
        let expected = &frames[base as usize - 1..appended as usize];
        assert_eq!(read_all(&mut spool), expected, "cut at {cut}");
        // It goes on from there, and another life sees it.
        let next = append(&mut spool, b"after the cut");
        drop(spool);
        let (mut spool, recovered) = open(folder.path());
        assert_eq!(recovered.torn_bytes, 0);
        assert_eq!(read_all(&mut spool).last(), Some(&next));
    }
}

#[test]
fn a_changed_byte_is_never_believed() {
    let source = scratch_folder();
    let (mut spool, _) = open(source.path());
    let frames: Vec<_> = (0..3).map(|n| append(&mut spool, &[n; 9])).collect();
    drop(spool);
    let [path] = segments(source.path()).try_into().expect("one segment");
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let folder = scratch_folder();
        let copy = folder.path().join(path.file_name().unwrap());
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        fs::write(&copy, damaged).unwrap();
        match Spool::open(SpoolOptions::new(folder.path()), 1 << 10) {
            Err(error) => assert!(at < HEADER_LEN, "byte {at}: {error}"),
            Ok((mut spool, _)) => {
                let whole = (at - HEADER_LEN) / (frames[0].len() + ENTRY_OVERHEAD);
                assert_eq!(read_all(&mut spool), frames[..whole], "byte {at}");
            }
        }
    }
}

#[test]
fn segments_go_when_all_in_them_is_settled_and_the_last_stays() {
    let folder = scratch_folder();
    let (mut spool, _) = open(folder.path());
    spool.segment_len = 1000;
    let frames: Vec<_> = (0..40).map(|n| append(&mut spool, &[n; 200])).collect();
    let count = segments(folder.path()).len();
    assert!(count >= 10, "{count} segments of about 1,000 bytes");
    assert_eq!(read_all(&mut spool), frames);
    spool.settle_below(21, Instant::now()).unwrap();
    assert_eq!(segments(folder.path()).len(), spool.segments.len());
    assert!(spool.segments.len() < count && spool.segments[1].first_sequence > 21);
    let on_disk: u64 = segments(folder.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(spool.bytes(), on_disk);
    spool.settle_below(41, Instant::now()).unwrap();
    assert_eq!(segments(folder.path()).len(), 1);
    let id = spool.producer();
    drop(spool);
    let (mut spool, recovered) = open(folder.path());
    assert_eq!((spool.producer(), spool.next_sequence()), (id, 41));
    assert_eq!(recovered, Recovered::default());
    assert!(read_all(&mut spool).is_empty());
}

#[test]
fn damage_before_the_last_segment_is_an_error_and_not_a_shorter_spool() {
    let folder = scratch_folder();
    let (mut spool, _) = open(folder.path());
    spool.segment_len = 500;
    for number in 0..10 {
        append(&mut spool, &[number; 200]);
    }
    drop(spool);
    let paths = segments(folder.path());
    let good = fs::read(&paths[0]).unwrap();
    fs::write(&paths[0], &good[..good.len() - 1]).unwrap();
    let error = Spool::open(SpoolOptions::new(folder.path()), 1 << 10).expect_err("damage");
    assert!(matches!(error, SpoolError::Damaged { .. }), "{error}");
    fs::write(&paths[0], &good).unwrap();
    fs::remove_file(&paths[1]).unwrap();
    let error = Spool::open(SpoolOptions::new(folder.path()), 1 << 10).expect_err("a gap");
    assert!(
        error.to_string().contains("not the segment that follows"),
        "{error}"
    );
}

#[test]
fn two_users_are_one_too_many() {
    let folder = scratch_folder();
    let first = open(folder.path());
    let error = Spool::open(SpoolOptions::new(folder.path()), 1 << 10).expect_err("in use");
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
    drop(first);
    open(folder.path());
}
