//! A tree of files with the modes that they will have, whatever this process's umask is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::process;

pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty one: what an earlier run has left there goes.
    pub fn begin(root: &Path) -> anyhow::Result<Self> {
        if root.exists() {
            std::fs::remove_dir_all(root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let tree = Self {
            root: root.to_owned(),
        };
        tree.folder("")?;
        Ok(tree)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A folder and those above it, each 0755.
    pub fn folder(&self, path: &str) -> anyhow::Result<PathBuf> {
        let folder = self.path(path);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        for above in folder.ancestors() {
            set_mode(above, 0o755)?;
            if above == self.root {
                break;
            }
        }
        Ok(folder)
    }

    pub fn file(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let (folder, _) = path.rsplit_once('/').unwrap_or(("", path));
        self.folder(folder)?;
        let file = self.path(path);
        std::fs::write(&file, content)
            .with_context(|| format!("cannot write {}", file.display()))?;
        set_mode(&file, mode)
    }

    pub fn copy(&self, path: &str, mode: u32, from: &Path) -> anyhow::Result<()> {
        let content =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, mode, content)
    }

    /// `PATH.gz`, without the time and the name that gzip would put in.
    pub fn gzipped(&self, path: &str, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.file(path, 0o644, content)?;
        process::run(
            Command::new("gzip")
                .arg("-9nf")
                .arg(self.path(path))
                .stdin(Stdio::null()),
        )
    }

    /// Every file, as a path from the root, sorted.
    pub fn files(&self) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path();
                    let inside = path.strip_prefix(&self.root).expect("found below the root");
                    found.push(inside.display().to_string());
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}
