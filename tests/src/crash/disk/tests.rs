use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Disk;
use super::cut::Survival;
use super::fault::{Call, Effect, Fault};
use super::image::{Image, PAGE_LEN, ROOT};
use crate::crash::mounted_or_skip;

const PAGES: u64 = 64;

fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn make(image: &mut Image, name: &str) -> u64 {
    let made = image.make(ROOT, OsStr::new(name), 0o640, false);
    made.expect("a new name").ino
}

fn read(image: &Image, name: &str) -> Option<Vec<u8>> {
    let ino = image.lookup(ROOT, OsStr::new(name)).ok()?;
    Some(image.read(ino, 0, 1 << 20).expect("a file"))
}

#[test]
fn bytes_need_the_file_synced_and_names_the_folder() {
    let mut image = Image::new(PAGES);
    let both = make(&mut image, "both");
    image.write(both, 0, b"kept").unwrap();
    image.sync(both).unwrap();
    let only_name = make(&mut image, "only_name");
    image.write(only_name, 0, b"lost").unwrap();
    image.sync_folder(ROOT).unwrap();
    image.write(both, 4, b", lost").unwrap();
    let only_bytes = make(&mut image, "only_bytes");
    image.write(only_bytes, 0, b"kept, but where?").unwrap();
    image.sync(only_bytes).unwrap();

    image.cut(Survival::NOTHING, &mut random(1));
    assert_eq!(read(&image, "both").as_deref(), Some(&b"kept"[..]));
    assert_eq!(read(&image, "only_name").as_deref(), Some(&b""[..]));
    assert_eq!(read(&image, "only_bytes"), None);
    assert_eq!(image.write(both, 0, b"x"), Err(libc::ESTALE));
}

#[test]
fn a_kill_loses_nothing() {
    let mut image = Image::new(PAGES);
    let file = make(&mut image, "a");
    image.write(file, PAGE_LEN as u64 - 2, b"four").unwrap();
    image
        .rename(ROOT, OsStr::new("a"), OsStr::new("b"))
        .unwrap();
    image.cut(Survival::EVERYTHING, &mut random(1));
    let bytes = read(&image, "b").expect("the new name");
    assert_eq!(bytes.len(), PAGE_LEN + 2);
    assert_eq!(&bytes[PAGE_LEN - 2..], b"four");
    assert_eq!(read(&image, "a"), None);
}

#[test]
fn a_renaming_is_never_half_done() {
    let mut outcomes = [0; 2];
    for seed in 0..100 {
        let mut image = Image::new(PAGES);
        for (name, text) in [("old", b"1"), ("new", b"2")] {
            let file = make(&mut image, name);
            image.write(file, 0, text).unwrap();
            image.sync(file).unwrap();
        }
        image.sync_folder(ROOT).unwrap();
        image
            .rename(ROOT, OsStr::new("new"), OsStr::new("old"))
            .unwrap();
        let half = Survival {
            names: 0.5,
            ..Survival::NOTHING
        };
        image.cut(half, &mut random(seed));
        match (
            read(&image, "old").as_deref(),
            read(&image, "new").as_deref(),
        ) {
            (Some(b"1"), Some(b"2")) => outcomes[0] += 1,
            (Some(b"2"), None) => outcomes[1] += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(outcomes.iter().all(|count| *count > 20), "{outcomes:?}");
}

#[test]
fn unsynced_pages_survive_one_by_one_and_torn() {
    let (mut whole, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let mut image = Image::new(PAGES);
        let file = make(&mut image, "a");
        image.write(file, 0, &[1; 4 * PAGE_LEN]).unwrap();
        image.sync(file).unwrap();
        image.sync_folder(ROOT).unwrap();
        image.write(file, 0, &[2; 4 * PAGE_LEN]).unwrap();
        let some = Survival {
            names: 0.0,
            pages: 0.5,
            torn: 0.5,
        };
        image.cut(some, &mut random(seed));
        for page in read(&image, "a").expect("a file").chunks(PAGE_LEN) {
            match (page.contains(&1), page.contains(&2)) {
                (true, false) => lost += 1,
                (false, true) => whole += 1,
                _ => torn += 1,
            }
        }
    }
    assert_eq!(whole + lost + torn, 200);
    assert!(
        whole > 60 && lost > 20 && torn > 20,
        "{whole} {lost} {torn}"
    );
}

#[test]
fn what_a_failed_sync_left_no_later_one_writes() {
    let mut image = Image::new(PAGES);
    let file = make(&mut image, "a");
    image.sync_folder(ROOT).unwrap();
    image.write(file, 0, &[1; PAGE_LEN]).unwrap();
    image.sync_failed(file).unwrap();
    image.write(file, PAGE_LEN as u64, &[2; PAGE_LEN]).unwrap();
    image.sync(file).unwrap();
    assert_eq!(read(&image, "a").unwrap()[..PAGE_LEN], [1; PAGE_LEN]);
    image.cut(Survival::NOTHING, &mut random(1));
    let left = read(&image, "a").unwrap();
    assert_eq!(left[..PAGE_LEN], [0; PAGE_LEN]);
    assert_eq!(left[PAGE_LEN..], [2; PAGE_LEN]);
}

#[test]
fn a_cut_file_that_grows_again_reads_as_zeroes() {
    let mut image = Image::new(PAGES);
    let file = make(&mut image, "a");
    image.sync_folder(ROOT).unwrap();
    image.write(file, 0, &[1; 3 * PAGE_LEN]).unwrap();
    image.sync(file).unwrap();
    image.set_len(file, 10).unwrap();
    image.set_len(file, 2 * PAGE_LEN as u64).unwrap();
    let expected = [&[1; 10][..], &[0; 2 * PAGE_LEN - 10]].concat();
    assert_eq!(read(&image, "a").unwrap(), expected);
    image.sync(file).unwrap();
    image.cut(Survival::NOTHING, &mut random(1));
    assert_eq!(read(&image, "a").unwrap(), expected);
}

#[test]
fn room_is_counted_in_pages_and_given_back() {
    let mut image = Image::new(4);
    let (one, two) = (make(&mut image, "one"), make(&mut image, "two"));
    image.allocate(one, 0, 3 * PAGE_LEN as u64).unwrap();
    image.write(one, 0, &[1; 2 * PAGE_LEN]).unwrap();
    assert_eq!(image.pages_used(), 3);
    image.write(two, 0, &[2; PAGE_LEN]).unwrap();
    assert_eq!(image.write(two, PAGE_LEN as u64, &[2]), Err(libc::ENOSPC));
    // Gone for good once no sync could bring the name back.
    image.remove(ROOT, OsStr::new("one"), false).unwrap();
    image.sync_folder(ROOT).unwrap();
    assert_eq!(image.pages_used(), 1);
    image.write(two, PAGE_LEN as u64, &[2]).unwrap();
}

/// The same through the kernel: O_DIRECT, preallocation, a kill-free cut, faults.
#[test]
fn the_mounted_disk_forgets_what_was_not_synced() {
    mounted_or_skip(
        "the_mounted_disk_forgets_what_was_not_synced",
        |disk: &Disk| {
            let path = disk.path().join("synced");
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            let file = options.custom_flags(libc::O_DIRECT).open(&path).unwrap();
            let page = aligned_page(7);
            file.write_all_at(page.0.as_slice(), 0).unwrap();
            file.sync_data().unwrap();
            fs::write(disk.path().join("never"), "synced").unwrap();
            File::open(disk.path()).unwrap().sync_all().unwrap();
            file.write_all_at(page.0.as_slice(), PAGE_LEN as u64)
                .unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 2 * PAGE_LEN as u64);

            disk.cut(Survival::NOTHING, &mut random(1));
            assert!(file.write_at(page.0.as_slice(), 0).is_err(), "a stale file");
            assert_eq!(fs::read(&path).unwrap(), [7; PAGE_LEN]);
            assert_eq!(fs::read(disk.path().join("never")).unwrap(), b"");
            let mut names: Vec<_> = fs::read_dir(disk.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["never", "synced"]);

            let fail = |call, errno| Fault {
                call,
                within: "ever",
                after: 1,
                times: 1,
                effect: Effect::Fail(errno),
            };
            disk.arm(fail(Call::Sync, libc::EIO));
            let mut file = File::create(disk.path().join("never")).unwrap();
            file.write_all(b"more").unwrap();
            file.sync_all().unwrap();
            let error = file.sync_all().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            file.sync_all().unwrap();
            assert_eq!(disk.struck(), 1);

            disk.limit_free(0);
            let error = file.write_all(&[1; 2 * PAGE_LEN]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            disk.lift_limit();
            file.write_all(&[1; 2 * PAGE_LEN]).unwrap();
        },
    );
}

#[repr(align(4096))]
struct Aligned([u8; PAGE_LEN]);

fn aligned_page(byte: u8) -> Box<Aligned> {
    Box::new(Aligned([byte; PAGE_LEN]))
}
