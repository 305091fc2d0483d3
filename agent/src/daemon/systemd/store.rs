//! Listening sockets in the service manager's store, from one life to the next.
//!
//! A socket that is kept goes on taking datagrams into its buffer and connections into its queue
//! while no agent runs: a restart, an upgrade and a crash lose no datagram below the buffer's size
//! and refuse no connection. The store is emptied by a stop that is not part of a restart.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::Socket;

use super::between::{DropsAtEnd, drops_of};
use super::held::{self, Held};
use crate::config::settings::{ListenerSettings, Protocol};

/// How long the service manager may take to close sockets that it was told to forget.
const BARRIER_MAX: Duration = Duration::from_secs(5);

/// The sockets that an earlier life has left, and where this life's sockets are kept.
#[derive(Debug, Default)]
pub struct SocketStore {
    /// How many sockets the service manager keeps for us; 0: none, and every method does nothing.
    room: usize,
    kept: usize,
    held: Vec<Held>,
    /// What the last life's sockets had dropped at its end.
    drops: DropsAtEnd,
    /// This life's UDP sockets by name, to be asked for their drops at the end.
    udp: Vec<(String, Socket)>,
}

impl SocketStore {
    /// What the service manager passed on. Call it once, before other threads are started: the
    /// descriptors are nobody's until then.
    pub fn from_environment() -> Self {
        let room = || std::env::var("FDSTORE").ok()?.trim().parse().ok();
        let is_told = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            room: is_told.then(room).flatten().unwrap_or(0),
            held: inherited(),
            ..Self::default()
        }
    }

    /// Reads what the last life has left in the data folder about its sockets.
    pub fn recall(&mut self, data_dir: &Path) {
        match DropsAtEnd::take(data_dir) {
            Ok(drops) => self.drops = drops,
            Err(error) => tracing::warn!("what kept sockets had dropped cannot be read: {error}"),
        }
    }

    /// Leaves the same to the next life, where there may be one with these sockets.
    pub fn leave(&self, data_dir: &Path) {
        if !self.is_complete() {
            return;
        }
        let mut drops = DropsAtEnd::default();
        for (cookie, count) in self
            .udp
            .iter()
            .filter_map(|(_, socket)| drops_of(socket).ok())
        {
            drops.record(cookie, count);
        }
        if let Err(error) = drops.leave(data_dir) {
            tracing::warn!("what kept sockets have dropped cannot be written: {error}");
        }
    }

    /// Closes what no listener asks for, before anything is bound: an address may have moved from
    /// one listener to another, and a socket of a shard that is gone would go on getting its part.
    pub fn release_unwanted(&mut self, listeners: &[ListenerSettings], shards: u16) {
        let wanted = |held: &Held| {
            let places = listeners.iter().flat_map(|listener| {
                (0..shards).map(move |shard| (listener, held::place(listener, shard)))
            });
            let mut fitting = places.filter(|(_, place)| place == held.place());
            match fitting.next() {
                None => Some("no listener asks for it".to_owned()),
                Some((listener, _)) => held.mismatch(listener),
            }
        };
        let mut has_closed = false;
        for held in std::mem::take(&mut self.held) {
            match wanted(&held) {
                None => self.held.push(held),
                Some(why) => {
                    let waiting_bytes = held.waiting_bytes();
                    tracing::warn!(
                        socket = %held.name, waiting_bytes,
                        "a socket of an earlier life is closed, and what waits in it is gone: {why}",
                    );
                    self.forget_name(&held.name);
                    has_closed = true;
                }
            }
        }
        if has_closed {
            self.wait_until_forgotten();
        }
    }

    /// An earlier life's socket for one shard of a listener, bound and, for TCP, listening.
    pub fn take(&mut self, listener: &ListenerSettings, shard: u16) -> Option<Socket> {
        let place = held::place(listener, shard);
        let index = self.held.iter().position(|held| held.place() == place)?;
        let held = self.held.swap_remove(index);
        tracing::info!(
            socket = %held.name, waiting_bytes = held.waiting_bytes(),
            "a socket of an earlier life is taken over",
        );
        if held.name != held::name(listener, shard) {
            // The store knows a socket by one name, and keeps the one that it heard first.
            self.forget_name(&held.name);
        }
        let socket = held.into_socket();
        self.tell_drops(listener, &socket);
        Some(socket)
    }

    /// Says what a socket dropped while no agent ran: it is in no life's metrics.
    fn tell_drops(&self, listener: &ListenerSettings, socket: &Socket) {
        let since = |(cookie, drops)| self.drops.since(cookie, drops);
        let dropped = drops_of(socket).ok().and_then(since).unwrap_or(0);
        if dropped > 0 {
            tracing::warn!(
                listener = %listener.name,
                "{dropped} datagrams or bundles were dropped while no agent ran: the receive buffer \
                 was full, or the gate refused them; a larger receive_buffer holds more",
            );
        }
    }

    /// Hands a bound socket to the store. A socket that is there already, under this name, stays.
    pub fn keep(&mut self, listener: &ListenerSettings, shard: u16, socket: &Socket) {
        self.kept += 1;
        if self.kept > self.room {
            return;
        }
        let name = held::name(listener, shard);
        if let (Protocol::Udp, Ok(socket)) = (listener.protocol, socket.try_clone()) {
            self.udp.push((name.clone(), socket));
        }
        // systemd's own poll is for descriptors that can hang up: these cannot.
        let message = [
            NotifyState::FdStore,
            NotifyState::FdName(&name),
            NotifyState::Custom("FDPOLL=0"),
        ];
        if let Err(error) = sd_notify::notify_with_fds(false, &message, &[socket.as_fd()]) {
            self.give_up(&error);
        }
    }

    /// Takes one shard's socket of a listener out of the store: for a listener that goes while the
    /// agent runs. The store's own descriptor would keep its address busy; when this returns it is
    /// closed.
    pub fn forget(&mut self, listener: &ListenerSettings, shard: u16) {
        let name = held::name(listener, shard);
        self.kept = self.kept.saturating_sub(1);
        self.udp.retain(|(kept, _)| *kept != name);
        self.forget_name(&name);
        self.wait_until_forgotten();
    }

    fn forget_name(&mut self, name: &str) {
        if self.room == 0 {
            return;
        }
        let message = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
        if let Err(error) = sd_notify::notify(false, &message) {
            self.give_up(&error);
        }
    }

    /// Messages are not answered, and an address is free only once the store has closed its sockets:
    /// the service manager closes what comes with BARRIER (systemd 246) after everything before it.
    fn wait_until_forgotten(&mut self) {
        if self.room == 0 {
            return;
        }
        let passed = io::pipe().and_then(|(mut reader, writer)| {
            let message = [NotifyState::Custom("BARRIER=1")];
            sd_notify::notify_with_fds(false, &message, &[writer.as_fd()])?;
            drop(writer);
            wait_for_end(&mut reader, BARRIER_MAX)
        });
        match passed {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("NOTIFY_SOCKET: the service manager is slow to let go of sockets")
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Whether all sockets outlive this process: what waits in them is the next life's, and a stop
    /// must not turn it away.
    pub fn is_complete(&self) -> bool {
        self.kept > 0 && self.kept <= self.room
    }

    /// Says what is kept, once all sockets are bound.
    pub fn report(&self) {
        match (self.room, self.is_complete()) {
            (0, _) => {}
            (_, true) => tracing::info!(
                sockets = self.kept,
                "the service manager keeps the listening sockets over a restart",
            ),
            (room, false) => tracing::warn!(
                "a restart closes the listening sockets: there are {} of them, and \
                 FileDescriptorStoreMax is {room}",
                self.kept,
            ),
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!("a restart closes the listening sockets: NOTIFY_SOCKET: {error}");
        self.room = 0;
    }
}

/// Waits until the pipe's other end is closed everywhere; `false` where that takes too long.
fn wait_for_end(reader: &mut io::PipeReader, limit: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, alive for the call, with an open descriptor.
    match unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as libc::c_int) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// The descriptors of LISTEN_FDS with their names.
fn inherited() -> Vec<Held> {
    match sd_notify::listen_fds_with_names(false) {
        // SAFETY: LISTEN_PID is this process: the service manager has opened these descriptors for
        // it, and nothing else in the process knows them. They are read once, at the start.
        Ok(fds) => fds
            .map(|(fd, name)| Held::new(name, unsafe { OwnedFd::from_raw_fd(fd) }))
            .collect(),
        Err(error) => {
            tracing::warn!(
                "LISTEN_FDS: {error}; the sockets of the earlier life are not taken over"
            );
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Protocol;
    use std::net::UdpSocket;

    fn listener(name: &str, address: std::net::SocketAddr) -> ListenerSettings {
        ListenerSettings {
            name: name.to_owned(),
            protocol: Protocol::Udp,
            address,
            receive_buffer: None,
        }
    }

    fn store(held: Vec<Held>) -> SocketStore {
        SocketStore {
            held,
            ..SocketStore::default()
        }
    }

    #[test]
    fn what_fits_is_taken_once_and_what_does_not_is_closed() {
        let bound = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = bound.local_addr().expect("an address");
        let apps = listener("apps", address);
        let gone = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let gone_address = gone.local_addr().expect("an address");
        let gone_name = held::name(&listener("gone", gone_address), 0);
        let mut store = store(vec![
            Held::new(gone_name, gone.into()),
            Held::new(held::name(&apps, 0), bound.into()),
        ]);
        store.release_unwanted(std::slice::from_ref(&apps), 1);
        UdpSocket::bind(gone_address).expect("its address is free again");
        let taken = store.take(&apps, 0).expect("kept");
        let local = taken.local_addr().expect("an address").as_socket();
        assert_eq!(local, Some(address));
        assert!(store.take(&apps, 0).is_none());
    }

    #[test]
    fn a_listener_with_another_name_keeps_its_socket() {
        let bound = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = bound.local_addr().expect("an address");
        let name = held::name(&listener("old", address), 0);
        let mut store = store(vec![Held::new(name, bound.into())]);
        let new = listener("new", address);
        store.release_unwanted(std::slice::from_ref(&new), 1);
        assert!(store.take(&new, 0).is_some());
    }

    #[test]
    fn a_name_that_lies_is_not_believed() {
        let bound = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let mut other = bound.local_addr().expect("an address");
        other.set_port(other.port() ^ 1);
        let wanted = listener("apps", other);
        let mut store = store(vec![Held::new(held::name(&wanted, 0), bound.into())]);
        store.release_unwanted(std::slice::from_ref(&wanted), 1);
        assert!(store.take(&wanted, 0).is_none());
    }

    #[test]
    fn a_pipe_ends_when_its_last_writer_is_gone() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let limit = Duration::from_millis(10);
        assert!(!wait_for_end(&mut reader, limit).expect("polled"));
        drop(writer);
        assert!(wait_for_end(&mut reader, limit).expect("polled"));
    }

    #[test]
    fn without_a_store_nothing_is_kept() {
        let bound = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let mut store = store(Vec::new());
        let address = bound.local_addr().expect("an address").as_socket();
        store.keep(&listener("apps", address.expect("internet")), 0, &bound);
        assert!(!store.is_complete());
    }

    #[test]
    fn more_sockets_than_the_store_has_room_for_are_not_complete() {
        let mut store = SocketStore {
            room: 1,
            ..SocketStore::default()
        };
        let bound = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let address = bound.local_addr().expect("an address").as_socket();
        let apps = listener("apps", address.expect("internet"));
        assert!(!store.is_complete(), "no socket yet");
        // Without NOTIFY_SOCKET sending does nothing and is no error.
        store.keep(&apps, 0, &bound);
        assert!(store.is_complete());
        store.keep(&apps, 1, &bound);
        assert!(!store.is_complete());
    }
}
