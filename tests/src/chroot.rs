//! A root of a test's own: this host's, under an overlay that takes every change, in a mount
//! namespace of its own. What is installed there is gone with the test, and the host never sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::mount::Tmpfs;

pub struct Root {
    path: PathBuf,
    /// What is written goes here; it goes last.
    _memory: Tmpfs,
}

impl Root {
    /// Call inside of `mount::private_or_skip`. `Err` says why there can be none.
    pub fn over_this_host(folder: &Path) -> Result<Self, String> {
        // A tmpfs takes an overlay's extended attributes; the temporary folder's file system may not.
        let memory = Tmpfs::mount(&folder.join("changes"), "1g");
        let (upper, work) = (folder.join("changes/upper"), folder.join("changes/work"));
        let path = folder.join("root");
        for folder in [&upper, &work, &path] {
            std::fs::create_dir(folder).expect("make a folder");
        }
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let shown = path.display().to_string();
        mount(&["-t", "overlay", "overlay", "-o", &layers, &shown])?;
        let root = Self {
            path,
            _memory: memory,
        };
        mount(&["-t", "proc", "proc", &root.inside("proc")])?;
        mount(&["--rbind", "/dev", &root.inside("dev")])?;
        // /run and /tmp are other file systems on many hosts; here they are empty in any case.
        for folder in ["run", "tmp"] {
            mount(&["-t", "tmpfs", "tmpfs", &root.inside(folder)])?;
        }
        Ok(root)
    }

    /// A path inside, as seen from here.
    pub fn inside(&self, path: &str) -> String {
        self.path
            .join(path.trim_start_matches('/'))
            .display()
            .to_string()
    }

    pub fn has(&self, path: &str) -> bool {
        Path::new(&self.inside(path)).symlink_metadata().is_ok()
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, content: &str) {
        let inside = PathBuf::from(self.inside(path));
        std::fs::create_dir_all(inside.parent().expect("a folder")).expect("make a folder");
        std::fs::write(inside, content).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Runs a shell's words as root inside.
    pub fn output(&self, script: &str) -> Output {
        Command::new("chroot")
            .arg(&self.path)
            .args(["/bin/sh", "-c", script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            // No systemd answers here: systemctl changes files and leaves the rest.
            .env("SYSTEMD_OFFLINE", "1")
            .stdin(Stdio::null())
            .output()
            .expect("run chroot")
    }

    /// The same, which must end well; both outputs together.
    pub fn run(&self, script: &str) -> String {
        let output = self.output(script);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            output.status.success(),
            "{script}: {}\n{said}",
            output.status
        );
        said
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The namespace would take them with it; the temporary folder is removed before that.
        let _ = Command::new("umount")
            .args(["--lazy", "--recursive"])
            .arg(&self.path)
            .status();
    }
}

fn mount(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).output();
    let output = output.map_err(|error| format!("mount cannot be run: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
