//! The control socket: a Unix socket whose file permissions decide who may change the agent.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// The owner and the group may ask, others not.
const MODE: u32 = 0o660;

/// The bound socket; its file goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    pub listener: UnixListener,
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket, over the file that an agent left behind which was killed.
pub fn bind_control(path: &Path) -> Result<ControlSocket, Failure> {
    let listener = bind(path).map_err(|error| match error.kind() {
        // sun_path of unix(7) has 108 bytes.
        io::ErrorKind::InvalidInput => Failure::new(
            Exit::Config,
            format!(
                "the control socket's path {} is too long for the kernel (107 bytes); name a \
                 shorter one as admin.socket",
                path.display()
            ),
        ),
        _ => Failure::io(
            format!("the control socket: cannot listen on {}", path.display()),
            &error,
        ),
    })?;
    Ok(ControlSocket {
        listener,
        path: path.to_owned(),
    })
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    // Between the two calls the umask's permissions hold, and nobody is answered yet.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket that nobody listens on any more; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let is_refused = || {
        UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && is_refused() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let first = bind_control(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("a file").permissions();
        assert_eq!(mode.mode() & 0o777, 0o660);
        assert!(bind_control(&path).is_err(), "in use");
        // As a kill leaves it: the file without its listener.
        std::mem::forget(without_listener(first));
        bind_control(&path).expect("bound over what was left behind");
        assert!(!path.exists(), "gone with its owner");
    }

    /// Closes the listener and keeps the file.
    fn without_listener(mut socket: ControlSocket) -> ControlSocket {
        let (other, _) = UnixStream::pair().expect("a pair");
        socket.listener = UnixListener::from(std::os::fd::OwnedFd::from(other));
        socket
    }

    #[test]
    fn a_file_of_another_kind_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        std::fs::write(&path, "mine").expect("written");
        assert!(bind_control(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("there"), b"mine");
    }

    #[test]
    fn a_path_too_long_is_a_mistake_of_the_configuration() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let failure = bind_control(&path).expect_err("too long");
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.contains("admin.socket"), "{failure}");
    }
}
