//! What kept sockets lose between two lives, while nobody counts: the old life's filter refuses, the
//! kernel drops where a buffer is full. The socket itself counts both together (SO_MEMINFO's drops,
//! Linux 4.12); an orderly end writes that number down, and the next life takes the difference.
//!
//! The kernel counts a bundle as one, so it is a lower bound of datagrams. After a crash there is
//! nothing to compare with, and nothing is said.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use socket2::Socket;

const FILE: &str = "kept-sockets";

/// The drops of each kept socket at the end of a life, by the socket's number in the kernel, which
/// is never given out twice.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DropsAtEnd(HashMap<u64, u64>);

impl DropsAtEnd {
    pub fn record(&mut self, cookie: u64, drops: u64) {
        self.0.insert(cookie, drops);
    }

    /// What a socket has dropped since; `None` where it was not written down.
    pub fn since(&self, cookie: u64, drops: u64) -> Option<u64> {
        Some(drops.saturating_sub(*self.0.get(&cookie)?))
    }

    /// Reads what the last life has left and removes it: it holds for one start only.
    pub fn take(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text?,
        };
        fs::remove_file(&path)?;
        Ok(Self::parse(&text))
    }

    /// Leaves it to the next life. It is not synced: after a power loss the sockets are gone too.
    pub fn leave(&self, data_dir: &Path) -> io::Result<()> {
        fs::write(data_dir.join(FILE), self.text())
    }

    /// A line for each socket: its number and its drops.
    fn text(&self) -> String {
        let lines = self.0.iter();
        lines
            .map(|(cookie, drops)| format!("{cookie} {drops}\n"))
            .collect()
    }

    /// Lines that are none of ours are passed over.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (cookie, drops) = line.split_once(' ')?;
            Some((cookie.parse().ok()?, drops.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }
}

/// A socket's number in the kernel, and what it has dropped since it was made.
pub fn drops_of(socket: &Socket) -> io::Result<(u64, u64)> {
    let mut cookie = [0u64; 1];
    get(socket, libc::SO_COOKIE, &mut cookie)?;
    // linux/sock_diag.h: SK_MEMINFO_DROPS is the last of nine.
    let mut memory = [0u32; 9];
    get(socket, libc::SO_MEMINFO, &mut memory)?;
    Ok((cookie[0], u64::from(memory[8])))
}

fn get<T>(socket: &Socket, option: i32, values: &mut [T]) -> io::Result<()> {
    let mut len = size_of_val(values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `values`; both callers'
    // integers may have any bits.
    let read = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match read {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_life_leaves_the_next_one_takes_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut left = DropsAtEnd::default();
        left.record(71, 5);
        left.record(72, 0);
        left.leave(folder.path()).expect("written");
        let taken = DropsAtEnd::take(folder.path()).expect("read");
        assert_eq!(taken, left);
        assert_eq!(taken.since(71, 9), Some(4));
        assert_eq!(taken.since(72, 0), Some(0));
        assert_eq!(taken.since(73, 4), None, "another socket");
        let again = DropsAtEnd::take(folder.path()).expect("read");
        assert_eq!(again, DropsAtEnd::default());
    }

    #[test]
    fn a_full_buffer_is_in_the_sockets_own_count() {
        let socket = Socket::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("bind"));
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = socket.local_addr().expect("an address").as_socket();
        let (cookie, before) = drops_of(&socket).expect("asked");
        assert_eq!(before, 0);
        for _ in 0..100 {
            sender
                .send_to(&[0; 1000], to.expect("internet"))
                .expect("sent");
        }
        let (same, after) = drops_of(&socket).expect("asked");
        assert_eq!(same, cookie);
        // On loopback the receive path is run by the sender: what is not queued is dropped.
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1000];
        let received = (0..100)
            .take_while(|_| socket.recv(&mut buffer).is_ok())
            .count();
        assert_eq!(after, 100 - received as u64);
    }

    #[test]
    fn other_text_is_passed_over() {
        let parsed = DropsAtEnd::parse("1 2\n\nhello\n3\nx 4\n5 6\n");
        assert_eq!((parsed.since(1, 2), parsed.since(5, 7)), (Some(0), Some(1)));
        assert_eq!(parsed.0.len(), 2);
    }
}
