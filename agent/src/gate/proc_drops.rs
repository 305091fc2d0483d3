//! Kernel drops where the tracepoint cannot say them: the `drops` column of /proc/net/udp.
//!
//! It counts packets, not datagrams (a bundle is one), and does not say why; so it is a lower
//! bound, which the log says once. It also counts what the socket filter dropped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use crate::shard::op::ListenerId;

/// The thread's own network namespace: a test lives in another than its process.
const TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Sockets whose drops are looked up by inode, as the descriptors belong to the shards.
#[derive(Default)]
pub struct ProcDrops {
    sockets: Vec<Watched>,
    /// Of sockets that were forgotten, by listener.
    gone: BTreeMap<u16, u64>,
}

struct Watched {
    listener: ListenerId,
    inode: u64,
    /// The highest value seen: a closed socket leaves the tables, its drops stay ours.
    drops: Cell<u64>,
}

impl ProcDrops {
    pub fn watch(&mut self, listener: ListenerId, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.push(Watched {
            listener,
            inode: inode(socket)?,
            drops: Cell::new(0),
        });
        Ok(())
    }

    /// Packets dropped at the sockets of a listener.
    pub fn of(&self, listener: ListenerId) -> u64 {
        for table in TABLES {
            // IPv6 may be switched off; what cannot be read keeps the value it had.
            if let Ok(text) = fs::read_to_string(table) {
                self.update(&text);
            }
        }
        let ours = self.sockets.iter().filter(|s| s.listener == listener);
        let gone = self.gone.get(&listener.0).copied().unwrap_or_default();
        gone + ours.map(|socket| socket.drops.get()).sum::<u64>()
    }

    /// The socket is closed, and its inode's number may be another's soon.
    pub fn forget(&mut self, inode: u64) {
        let Some(at) = self.sockets.iter().position(|s| s.inode == inode) else {
            return;
        };
        let socket = self.sockets.swap_remove(at);
        *self.gone.entry(socket.listener.0).or_default() += socket.drops.get();
    }

    fn update(&self, table: &str) {
        for (inode, drops) in table.lines().filter_map(inode_and_drops) {
            for socket in self.sockets.iter().filter(|s| s.inode == inode) {
                socket.drops.set(socket.drops.get().max(drops));
            }
        }
    }
}

/// The number by which the tables name a socket.
pub(super) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::File::from(socket.try_clone_to_owned()?);
    Ok(file.metadata()?.ino())
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`; the heading has
/// words where the numbers stand.
fn inode_and_drops(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(9);
    let inode = fields.next()?.parse().ok()?;
    let drops = fields.nth(2)?.parse().ok()?;
    Some((inode, drops))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from a Linux 6.18 host.
    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  317: 0100007F:11F8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 48213 2 00000000b1d7c5a3 1958
";

    #[test]
    fn a_closed_socket_keeps_its_drops() {
        let mut drops = ProcDrops::default();
        for (listener, inode) in [(0, 48213), (1, 7)] {
            drops.sockets.push(Watched {
                listener: ListenerId(listener),
                inode,
                drops: Cell::new(0),
            });
        }
        drops.update(TABLE);
        drops.update("");
        assert_eq!(drops.sockets[0].drops.get(), 1958);
        assert_eq!(drops.sockets[1].drops.get(), 0);
        // Its inode's number is another socket's, of another listener.
        drops.forget(48213);
        drops.sockets.push(Watched {
            listener: ListenerId(2),
            inode: 48213,
            drops: Cell::new(0),
        });
        assert_eq!(drops.of(ListenerId(0)), 1958);
        assert_eq!(drops.sockets.len(), 2);
    }
}
