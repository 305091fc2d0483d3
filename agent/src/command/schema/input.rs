//! The versions that stand in a folder or a file.

use std::path::Path;

use crate::exit::{Exit, Failure};
use crate::limits::SCHEMA_FILES_MAX;
use crate::schema::file::FileError;
use crate::schema::version::{Version, in_order, is_version};

/// What was read, and what could not be.
pub(super) struct Input {
    /// In the order of their names, which is taken for the order in time.
    pub versions: Vec<Version>,
    pub broken: Vec<FileError>,
}

impl Input {
    /// The versions in a folder, or the one in a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::io(format_args!("read {}", path.display()), &error);
        let mut paths = Vec::new();
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if is_version(&path) {
                    paths.push(path);
                }
            }
        } else {
            paths.push(path.to_owned());
        }
        paths.sort();
        if paths.len() > SCHEMA_FILES_MAX {
            return Err(Failure::new(
                Exit::Usage,
                format!(
                    "{}: {} schema files, where at most {SCHEMA_FILES_MAX} are compared",
                    path.display(),
                    paths.len()
                ),
            ));
        }
        let mut input = Self {
            versions: Vec::new(),
            broken: Vec::new(),
        };
        for path in paths {
            match Version::read(&path) {
                Ok(version) => input.versions.push(version),
                Err(error) => input.broken.push(error),
            }
        }
        input.versions = in_order(input.versions);
        Ok(input)
    }

    /// How a command that compared what it could ends.
    pub fn outcome(&self) -> Result<(), Failure> {
        if self.broken.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.broken.iter().map(FileError::to_string).collect();
        Err(Failure::new(
            Exit::Config,
            format!("what could not be compared:\n{}", lines.join("\n")),
        ))
    }
}
