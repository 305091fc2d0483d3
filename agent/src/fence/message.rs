//! What the kernel writes before a datagram's bytes: socket addresses and control messages, as
//! bytes and nothing but bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Reads a `sockaddr_in` or `sockaddr_in6`; `None` for another family or too few bytes.
pub fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(Ipv4Addr::from(octets).into(), port))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let ip: IpAddr = Ipv6Addr::from(octets).to_canonical();
            Some(SocketAddr::new(ip, port))
        }
        _ => None,
    }
}

/// `struct cmsghdr` on 64-bit Linux: length (8 bytes, with the header), level, type.
const CONTROL_HEADER_LEN: usize = 16;

/// The length of each aggregated datagram, from the control messages: UDP_GRO carries an int since
/// Linux 5.0 (`udp_cmsg_recv`).
pub fn gro_segment_len(mut control: &[u8]) -> Option<u16> {
    while control.len() >= CONTROL_HEADER_LEN {
        let len = u64::from_ne_bytes(*control.first_chunk()?) as usize;
        let level = i32::from_ne_bytes(*control[8..].first_chunk()?);
        let kind = i32::from_ne_bytes(*control[12..].first_chunk()?);
        // A length shorter than its own header ends the walk here.
        let data = control.get(CONTROL_HEADER_LEN..len)?;
        if level == libc::SOL_UDP && kind == libc::UDP_GRO {
            return u16::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok();
        }
        // Messages are aligned to the size of a long.
        control = control.get(len.next_multiple_of(8)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_kernel_writes_them() {
        let mut v4 = vec![0; 16];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[0x11, 0xf8, 127, 0, 0, 1]);
        assert_eq!(socket_address(&v4), Some("127.0.0.1:4600".parse().unwrap()));
        let mut v6 = vec![0; 28];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        v6[2..4].copy_from_slice(&[0, 80]);
        v6[23] = 1;
        assert_eq!(socket_address(&v6), Some("[::1]:80".parse().unwrap()));
        assert_eq!(socket_address(&v6[..20]), None);
        assert_eq!(socket_address(&[]), None);
    }

    #[test]
    fn the_segment_length_is_found_behind_another_message() {
        let mut control = Vec::new();
        for (level, kind, value) in [(libc::SOL_IP, 2, 64), (libc::SOL_UDP, libc::UDP_GRO, 1472)] {
            control.extend_from_slice(&20u64.to_ne_bytes());
            control.extend_from_slice(&level.to_ne_bytes());
            control.extend_from_slice(&kind.to_ne_bytes());
            control.extend_from_slice(&i32::to_ne_bytes(value));
            control.extend_from_slice(&[0; 4]);
        }
        assert_eq!(gro_segment_len(&control), Some(1472));
        assert_eq!(gro_segment_len(&control[..24]), None);
        assert_eq!(
            gro_segment_len(&[0; 16]),
            None,
            "a length of 0 ends the walk"
        );
    }
}
