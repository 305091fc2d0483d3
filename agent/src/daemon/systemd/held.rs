//! What a kept socket is called, and whether a socket is what a listener asks for.
//!
//! The name says it all, so that the next life finds its socket without asking anybody:
//!
//! ```text
//! apps/0/udp/0.0.0.0_4600      listener / shard / protocol / address
//! apps/1/tcp/[__]_4600         systemd allows no colon in a name: each is a low line
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use crate::config::settings::{ListenerSettings, Protocol};
use crate::fence::receive_queue;

/// A socket that an earlier life has bound, under the name that it gave it.
#[derive(Debug)]
pub struct Held {
    pub name: String,
    socket: Socket,
}

/// The name of one shard's socket of a listener.
pub fn name(listener: &ListenerSettings, shard: u16) -> String {
    format!("{}/{}", listener.name, place(listener, shard))
}

/// A name without its listener: a listener may be given another name and keep its sockets.
pub fn place(listener: &ListenerSettings, shard: u16) -> String {
    let address = listener.address.to_string().replace(':', "_");
    format!("{shard}/{}/{address}", listener.protocol.scheme())
}

impl Held {
    pub fn new(name: String, socket: OwnedFd) -> Self {
        let socket = Socket::from(socket);
        Self { name, socket }
    }

    pub fn place(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, place)| place)
    }

    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Bytes that wait in it, with the kernel's overhead.
    pub fn waiting_bytes(&self) -> u64 {
        receive_queue(self.socket.as_raw_fd()).used
    }

    /// Why it is not what the listener asks for, whatever its name says: a name is only text, and a
    /// store may be filled by hand.
    pub fn mismatch(&self, wanted: &ListenerSettings) -> Option<String> {
        match self.compare(wanted) {
            Ok(mismatch) => mismatch.map(str::to_owned),
            Err(error) => Some(format!("it is no socket: {error}")),
        }
    }

    fn compare(&self, wanted: &ListenerSettings) -> io::Result<Option<&'static str>> {
        let (kind, protocol) = match wanted.protocol {
            Protocol::Udp => (Type::DGRAM, IpProtocol::UDP),
            Protocol::Tcp => (Type::STREAM, IpProtocol::TCP),
        };
        if self.socket.r#type()? != kind || self.socket.protocol()? != Some(protocol) {
            return Ok(Some("it speaks another protocol"));
        }
        if self.socket.domain()? != Domain::for_address(wanted.address) {
            return Ok(Some("it is of another address family"));
        }
        if !is_at(self.socket.local_addr()?.as_socket(), wanted.address) {
            return Ok(Some("it is bound to another address"));
        }
        if wanted.protocol == Protocol::Tcp && !self.socket.is_listener()? {
            return Ok(Some("it does not listen"));
        }
        Ok(None)
    }
}

/// Port 0 asks for any port, and the one it became stays good.
fn is_at(bound: Option<SocketAddr>, wanted: SocketAddr) -> bool {
    bound.is_some_and(|bound| {
        bound.ip() == wanted.ip() && (wanted.port() == 0 || bound.port() == wanted.port())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(protocol: Protocol, address: &str) -> ListenerSettings {
        ListenerSettings {
            name: "apps".to_owned(),
            protocol,
            address: address.parse().expect("an address"),
            receive_buffer: None,
        }
    }

    #[test]
    fn names_hold_no_colon_and_say_where_a_socket_belongs() {
        let udp = listener(Protocol::Udp, "0.0.0.0:4600");
        assert_eq!(name(&udp, 0), "apps/0/udp/0.0.0.0_4600");
        let tcp = listener(Protocol::Tcp, "[::1]:514");
        assert_eq!(name(&tcp, 12), "apps/12/tcp/[__1]_514");
        // sd_notify(3): at most 255 characters, and the longest is far from it.
        let mut long = listener(
            Protocol::Udp,
            "[1111:2222:3333:4444:5555:6666:7777:8888]:65535",
        );
        long.name = "n".repeat(crate::limits::NAME_LEN_MAX);
        assert!(name(&long, crate::limits::SHARDS_MAX).len() < 100);
    }

    #[test]
    fn the_place_is_the_name_without_its_listener() {
        let udp = listener(Protocol::Udp, "0.0.0.0:4600");
        let held = Held::new(
            name(&udp, 3),
            OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").expect("bind")),
        );
        assert_eq!(held.place(), place(&udp, 3));
        let other = Held::new("other".to_owned(), held.into_socket().into());
        assert_eq!(other.place(), "");
    }

    #[test]
    fn a_socket_is_believed_only_where_it_is_what_is_asked_for() {
        let bound = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = bound.local_addr().expect("an address");
        let held = Held::new("n".to_owned(), bound.into());
        let mut wanted = listener(Protocol::Udp, &address.to_string());
        assert_eq!(held.mismatch(&wanted), None);
        let said = |wanted: &ListenerSettings| held.mismatch(wanted).expect("a mismatch");
        wanted.address.set_port(0);
        assert_eq!(held.mismatch(&wanted), None, "any port is its own");
        wanted.address.set_port(address.port() ^ 1);
        assert!(said(&wanted).contains("another address"));
        wanted.address = "127.0.0.2:0".parse().expect("an address");
        assert!(said(&wanted).contains("another address"));
        wanted.address = "[::1]:0".parse().expect("an address");
        assert!(said(&wanted).contains("family"));
        wanted.protocol = Protocol::Tcp;
        assert!(said(&wanted).contains("protocol"));

        let file = std::fs::File::open("/dev/null").expect("a file");
        let file = Held::new("n".to_owned(), file.into());
        assert!(
            file.mismatch(&wanted)
                .is_some_and(|said| said.contains("no socket"))
        );
    }

    #[test]
    fn a_tcp_socket_must_listen() {
        let wanted = listener(Protocol::Tcp, "127.0.0.1:0");
        let listening = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        assert_eq!(
            Held::new("n".to_owned(), listening.into()).mismatch(&wanted),
            None
        );
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, Some(IpProtocol::TCP)).expect("a socket");
        socket.bind(&wanted.address.into()).expect("bind");
        let bound = Held::new("n".to_owned(), socket.into());
        assert_eq!(
            bound.mismatch(&wanted).as_deref(),
            Some("it does not listen")
        );
    }
}
