//! What stands in `schemas_dir`, and whether that has changed.
//!
//! The folder is looked at again and again rather than watched with inotify: that also works where
//! the folder is mounted from elsewhere, is a symbolic link that is switched as a whole (as
//! Kubernetes does with its volumes), or is made after the agent has started; and it costs one
//! `readdir` and a `stat` for each file, a few microseconds each.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::ENDING;
use crate::config::is_schema_name;
use crate::limits::SCHEMA_FILES_MAX;

/// One look: the schema files by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub files: Vec<Listed>,
    /// Files that are not looked at: their names are none, or there are too many. The first ones.
    pub left_out: Vec<(PathBuf, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The file's name without its ending.
    pub name: String,
    pub path: PathBuf,
    /// Changes whenever the content may have: device, inode, length, and the times of the last
    /// change of content and of inode in nanoseconds.
    mark: (u64, u64, u64, i128, i128),
}

impl Listing {
    pub fn of(folder: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(name) = file_name.strip_suffix(ENDING) else {
                continue;
            };
            if !is_schema_name(name) {
                let why = "its name is none for a schema: A to Z, a to z, 0 to 9, _ - and . make \
                           one, with a letter or a digit first";
                listing.left_out.push((path.clone(), why.to_owned()));
                continue;
            }
            let name = name.to_owned();
            // Follows symbolic links. A file that is gone since the listing is gone.
            let mark = match std::fs::metadata(&path) {
                Ok(metadata) => mark(&metadata),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            listing.files.push(Listed { name, path, mark });
        }
        listing.files.sort_by(|a, b| a.name.cmp(&b.name));
        for extra in listing
            .files
            .drain(SCHEMA_FILES_MAX.min(listing.files.len())..)
        {
            let why = format!("more than {SCHEMA_FILES_MAX} schema files");
            listing.left_out.push((extra.path, why));
        }
        listing.left_out.sort();
        listing.left_out.truncate(SCHEMA_FILES_MAX);
        Ok(listing)
    }
}

fn mark(metadata: &std::fs::Metadata) -> (u64, u64, u64, i128, i128) {
    let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        ns(metadata.mtime(), metadata.mtime_nsec()),
        ns(metadata.ctime(), metadata.ctime_nsec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_and_other_files_do_not_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("b.avsc"), "1").expect("write");
        std::fs::write(path("a.avsc"), "1").expect("write");
        std::fs::write(path("notes.txt"), "1").expect("write");
        std::fs::write(path("-odd.avsc"), "1").expect("write");
        let first = Listing::of(folder.path()).expect("a listing");
        let names: Vec<&str> = first.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(first.left_out.len(), 1);
        std::fs::write(path("notes.txt"), "22").expect("write");
        assert_eq!(Listing::of(folder.path()).expect("a listing"), first);
        std::fs::write(path("a.avsc"), "22").expect("write");
        assert_ne!(Listing::of(folder.path()).expect("a listing"), first);
        std::fs::remove_file(path("a.avsc")).expect("remove");
        let last = Listing::of(folder.path()).expect("a listing");
        assert_eq!(last.files.len(), 1);
    }
}
