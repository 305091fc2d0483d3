//! Sockets, in the order that leaves no hole: made, set up, put behind the gate (their cookie into its
//! map, then its filter onto them; its tracepoint is there since it was opened), bound; then steered.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use agent_common::frame::UDP_PAYLOAD_LEN_MAX;
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use crate::config::settings::{ListenerSettings, Protocol};
use crate::daemon::systemd::SocketStore;
use crate::exit::{Exit, Failure};
use crate::gate::{Gate, GateError, GateKind, SocketKey};
use crate::limits;
use crate::shard::op::ListenerId;

/// One listener's sockets, one per shard, all on one address.
pub struct Bound {
    pub address: SocketAddr,
    pub sockets: Vec<Socket>,
    pub payload_len_max: u32,
}

/// Binds a listener on every shard, or takes over the sockets that an earlier life has left. With
/// more than one shard the sockets share the address (SO_REUSEPORT, Linux 3.9); the kernel spreads
/// senders over them by a hash of addresses and ports until `steer` does it.
///
/// All of them or none: where one cannot be had the others are closed again.
pub fn bind(
    id: ListenerId,
    settings: &ListenerSettings,
    shards: u16,
    gate: &mut Gate,
    store: &mut SocketStore,
) -> Result<Bound, Failure> {
    let mut sockets = Vec::new();
    match bind_all(id, settings, shards, gate, store, &mut sockets) {
        Ok(address) => {
            for (shard, socket) in (0..).zip(&sockets) {
                store.keep(settings, shard, socket);
            }
            Ok(Bound {
                address,
                sockets,
                payload_len_max: payload_len_max(settings),
            })
        }
        Err(failure) => {
            close(settings, sockets, gate);
            Err(failure)
        }
    }
}

/// Closes sockets; the gate forgets them.
pub fn close(settings: &ListenerSettings, sockets: Vec<Socket>, gate: &mut Gate) {
    for socket in sockets {
        let key = SocketKey::of(socket.as_fd());
        drop(socket);
        match key {
            Ok(key) => gate.forget(key),
            Err(error) => tracing::warn!(listener = %settings.name, "SO_COOKIE: {error}"),
        }
    }
}

fn payload_len_max(settings: &ListenerSettings) -> u32 {
    match settings.protocol {
        Protocol::Udp => UDP_PAYLOAD_LEN_MAX,
        Protocol::Tcp => limits::TCP_PAYLOAD_LEN_MAX as u32,
    }
}

fn bind_all(
    id: ListenerId,
    settings: &ListenerSettings,
    shards: u16,
    gate: &mut Gate,
    store: &mut SocketStore,
    sockets: &mut Vec<Socket>,
) -> Result<SocketAddr, Failure> {
    let payload_len_max = payload_len_max(settings);
    let held: Vec<Option<Socket>> = (0..shards)
        .map(|shard| store.take(settings, shard))
        .collect();
    let mut address = settings.address;
    let joins_held = held.iter().flatten().next();
    if let Some(first) = joins_held {
        address = local_address(settings, first)?;
    }
    let joins_held = joins_held.is_some();
    for (shard, held) in (0..).zip(held) {
        let is_held = held.is_some();
        let socket = match held {
            Some(socket) => take_over(settings, socket, gate.kind()),
            None => open(settings, shard > 0 || joins_held),
        }
        .map_err(|error| failure(settings, &error))?;
        sockets.push(socket);
        let socket = sockets.last().expect("just pushed");
        gate.guard(id, payload_len_max, socket.as_fd())
            .map_err(|error| guard(settings, &error))?;
        if !is_held {
            socket
                .bind(&address.into())
                .map_err(|error| failure(settings, &error))?;
        }
        // The first was bound alone, as another agent of this user would share the address in
        // silence; the kernel looks at the option of both when the next socket is bound. One that was
        // taken over may be of a life with more shards, or fewer.
        socket
            .set_reuse_port(shards > 1)
            .map_err(|error| failure(settings, &error))?;
        if !is_held && settings.protocol == Protocol::Tcp {
            socket
                .listen(i32::from(limits::LISTEN_BACKLOG))
                .map_err(|error| failure(settings, &error))?;
        }
        // Port 0 is a free port, the same one for every shard.
        address = local_address(settings, socket)?;
    }
    Ok(address)
}

fn local_address(settings: &ListenerSettings, socket: &Socket) -> Result<SocketAddr, Failure> {
    let local = socket
        .local_addr()
        .map_err(|error| failure(settings, &error))?;
    let address = local.as_socket();
    Ok(address.expect("an internet socket has an internet address"))
}

/// Has the gate steer what comes to a listener, from here on to these sockets. Without steering
/// nothing is lost but the spreading: the agent goes on.
pub fn steer(id: ListenerId, settings: &ListenerSettings, bound: &Bound, gate: &mut Gate) {
    if settings.protocol == Protocol::Tcp || bound.sockets.len() < 2 {
        return;
    }
    let sockets: Vec<_> = bound.sockets.iter().map(Socket::as_fd).collect();
    let why = match gate.steer(id, &sockets) {
        Ok(true) => return,
        Ok(false) => "there is no steering in the kernel".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::info!(
        listener = %settings.name,
        "datagrams are spread over the shards by the kernel's hash of addresses and ports: {why}"
    );
}

fn new_socket(settings: &ListenerSettings) -> io::Result<Socket> {
    let (kind, protocol) = match settings.protocol {
        Protocol::Udp => (Type::DGRAM, IpProtocol::UDP),
        Protocol::Tcp => (Type::STREAM, IpProtocol::TCP),
    };
    Socket::new(Domain::for_address(settings.address), kind, Some(protocol))
}

fn open(settings: &ListenerSettings, shared: bool) -> io::Result<Socket> {
    let socket = new_socket(settings)?;
    socket.set_reuse_port(shared)?;
    if settings.protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    set_up(settings, &socket)?;
    Ok(socket)
}

/// Makes a socket of an earlier life this one's. Where this life has a filter for it, that one
/// replaces the earlier life's in one step, so that no datagram goes unjudged; where it has none, the
/// old one must go, as it would drop without a count.
fn take_over(settings: &ListenerSettings, socket: Socket, gate: GateKind) -> io::Result<Socket> {
    if gate == GateKind::UserSpace {
        detach(&socket, libc::SO_DETACH_FILTER)?;
        detach(&socket, libc::SO_DETACH_REUSEPORT_BPF)?;
    }
    set_up(settings, &socket)?;
    Ok(socket)
}

/// Takes a program off, if there is one: ENOENT says that there is none, and EINVAL that the socket
/// is in no group that could have one.
fn detach(socket: &Socket, option: i32) -> io::Result<()> {
    let nothing_there = [Some(libc::ENOENT), Some(libc::EINVAL)];
    match set_int(socket, libc::SOL_SOCKET, option, 0) {
        Err(error) if nothing_there.contains(&error.raw_os_error()) => Ok(()),
        detached => detached,
    }
}

fn set_up(settings: &ListenerSettings, socket: &Socket) -> io::Result<()> {
    if settings.protocol == Protocol::Udp {
        enable_gro(socket)?;
    }
    if let Some(bytes) = settings.receive_buffer {
        set_receive_buffer(socket, settings, bytes)?;
    }
    Ok(())
}

/// Bundles instead of single datagrams (UDP_GRO, Linux 5.0).
fn enable_gro(socket: &Socket) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Asks past net.core.rmem_max first, which takes CAP_NET_ADMIN; then for what the host allows.
pub fn set_receive_buffer(
    socket: &Socket,
    settings: &ListenerSettings,
    bytes: u64,
) -> io::Result<()> {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
        socket.set_recv_buffer_size(wanted as usize)?;
    }
    // The kernel reports twice what was set: its own overhead is in it (socket(7)).
    let granted = socket.recv_buffer_size()? / 2;
    if granted < wanted as usize {
        tracing::warn!(
            listener = %settings.name,
            "receive_buffer is {granted} bytes, not {wanted}: raise it with \
             `sysctl -w net.core.rmem_max={wanted}`, or give the agent CAP_NET_ADMIN",
        );
    }
    Ok(())
}

fn set_int(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: an int's address and its size, alive for the call; the descriptor is open.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn failure(settings: &ListenerSettings, error: &io::Error) -> Failure {
    let scheme = match settings.protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    };
    Failure::io(
        format!(
            "listener {}: cannot listen on {scheme}://{}",
            settings.name, settings.address
        ),
        error,
    )
}

fn guard(settings: &ListenerSettings, error: &GateError) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("listener {}: the gate: {error}", settings.name),
    )
}
