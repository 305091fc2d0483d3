//! Root becomes somebody else, and keeps for a while what a start takes.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

use caps::{CapSet, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{AccessFlags, User, access, geteuid, setgroups, setresgid, setresuid};

use super::{PrivilegeError, STARTING, read, reduce};

/// Folders below the data folder that are looked into: `journal/shard-00`, `records`, `cursors`.
const DEPTH_MAX: usize = 2;

/// Becomes `name`, in its own group and in no other.
pub fn enter(name: &str, data_dir: &Path) -> Result<(), PrivilegeError> {
    let looked_up = User::from_name(name).map_err(|errno| PrivilegeError::Call {
        call: "getpwnam_r",
        source: errno.into(),
    })?;
    let user = looked_up.ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))?;
    if user.uid.is_root() {
        return Err(PrivilegeError::Root {
            name: name.to_owned(),
        });
    }
    let started_by = geteuid();
    if started_by == user.uid {
        return Ok(());
    }
    if !started_by.is_root() {
        return Err(PrivilegeError::NotRoot {
            name: name.to_owned(),
            uid: started_by.as_raw(),
        });
    }
    make_data_folder(data_dir, &user).map_err(|source| PrivilegeError::Call {
        call: "making data_dir for the configured user",
        source,
    })?;
    switch(&user)?;
    look_through(data_dir, data_dir, name, 0)
}

/// The user could not make it where only root may; what is there already is left as it is.
fn make_data_folder(path: &Path, user: &User) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::create_dir_all(above)?;
    }
    DirBuilder::new().mode(0o750).create(path)?;
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
}

/// The groups first, as only root may change them. PR_SET_KEEPCAPS: without it the kernel takes all
/// capabilities from a process that is no longer root, and the gate could not be loaded.
fn switch(user: &User) -> Result<(), PrivilegeError> {
    let failed = |call| {
        move |errno: nix::Error| PrivilegeError::Call {
            call,
            source: errno.into(),
        }
    };
    let has = read(CapSet::Permitted)?;
    let keep: CapsHashSet = STARTING
        .into_iter()
        .filter(|one| has.contains(one))
        .collect();
    setgroups(&[]).map_err(failed("setgroups"))?;
    setresgid(user.gid, user.gid, user.gid).map_err(failed("setresgid"))?;
    prctl::set_keepcaps(true).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
    setresuid(user.uid, user.uid, user.uid).map_err(failed("setresuid"))?;
    prctl::set_keepcaps(false).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
    // Permitted is still everything, in force is nothing: `reduce` wants what is in force permitted.
    reduce(&keep, &keep)
}

/// What an earlier life left behind as root would fail later, by one file's name and without a word
/// about what to do. Called as the user, who by now has no right to overrule permissions.
fn look_through(
    path: &Path,
    data_dir: &Path,
    name: &str,
    depth: usize,
) -> Result<(), PrivilegeError> {
    let no_way = |source: io::Error| PrivilegeError::NoWay {
        path: path.display().to_string(),
        name: name.to_owned(),
        source,
    };
    // The data folder may be a file system of its own.
    if depth == 1 && path.ends_with("lost+found") {
        return Ok(());
    }
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // A file that went meanwhile is nobody's.
        Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
        Err(error) => return Err(no_way(error)),
    };
    if metadata.is_symlink() && depth > 0 {
        return Ok(());
    }
    let is_folder = fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let mut wanted = AccessFlags::R_OK | AccessFlags::W_OK;
    wanted.set(AccessFlags::X_OK, is_folder);
    if access(path, wanted).is_err() {
        return Err(PrivilegeError::NotOurs {
            path: path.display().to_string(),
            owner: metadata.uid(),
            name: name.to_owned(),
            data_dir: data_dir.display().to_string(),
        });
    }
    if !is_folder || depth > DEPTH_MAX {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(no_way)? {
        let entry = entry.map_err(no_way)?;
        look_through(&entry.path(), data_dir, name, depth + 1)?;
    }
    Ok(())
}
