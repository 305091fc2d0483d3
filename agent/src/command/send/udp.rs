//! Lines over UDP, once each.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use penstock_client::datagram::{DatagramPacker, PAYLOAD_LEN_IPV4, PAYLOAD_LEN_IPV6};

use super::lines::{Line, Splitter};
use super::{Arguments, Input, Reason, Recorder, Summary, recorder};
use crate::exit::{Exit, Failure};

const CHUNK_LEN: usize = 64 << 10;
const PRIORITY_NORMAL: u8 = 2;

pub fn send(
    arguments: &Arguments,
    inputs: Vec<Input>,
    summary: &mut Summary,
) -> Result<(), Failure> {
    eprintln!(
        "penstock: UDP has no acknowledgements: what the network or the agent drops is not \
         noticed here and not sent again"
    );
    let address = arguments.to[0].resolve()?;
    let (any, payload_len_default): (SocketAddr, usize) = match address {
        SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), PAYLOAD_LEN_IPV4),
        SocketAddr::V6(_) => ((Ipv6Addr::UNSPECIFIED, 0).into(), PAYLOAD_LEN_IPV6),
    };
    let socket = UdpSocket::bind(any).map_err(|error| Failure::io("bind a UDP socket", &error))?;
    socket
        .connect(address)
        .map_err(|error| unavailable(arguments, &error))?;
    let mut lane = Lane {
        socket,
        packer: DatagramPacker::new(
            arguments.encoding,
            arguments.payload_max.unwrap_or(payload_len_default),
            arguments.batch,
            PRIORITY_NORMAL,
        )
        .with_schema(arguments.schema.unwrap_or_default())
        .with_zstd(arguments.zstd),
        arguments,
    };
    let mut chunk = vec![0; CHUNK_LEN];
    for mut input in inputs {
        let recorder = recorder(arguments, &input);
        let mut splitter = Splitter::default();
        loop {
            let len = input.read(&mut chunk)?;
            if len == 0 {
                break;
            }
            splitter.feed(&chunk[..len], |line| {
                lane.send_line(&recorder, line, summary)
            })?;
            // Less than was asked for: the input has no more for now, and what is there must not
            // wait for it.
            if len < CHUNK_LEN {
                lane.flush(summary)?;
            }
        }
        splitter.finish(|line| lane.send_line(&recorder, line, summary))?;
    }
    lane.flush(summary)?;
    // The answer to the last datagram, where nobody listens on this host.
    match lane.socket.take_error() {
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(unavailable(arguments, &error)),
    }
}

struct Lane<'a> {
    socket: UdpSocket,
    packer: DatagramPacker,
    arguments: &'a Arguments,
}

impl Lane<'_> {
    fn send_line(
        &mut self,
        recorder: &Recorder,
        line: Line<'_>,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        summary.lines_read += 1;
        if let Line::Text(text) = line {
            let record = recorder.record(text, summary);
            if let Ok(full) = self.packer.push(&record) {
                return self.send(full, summary);
            }
        }
        summary.refuse(Reason::TooLong.label(), 1);
        Ok(())
    }

    fn flush(&mut self, summary: &mut Summary) -> Result<(), Failure> {
        let last = self.packer.flush();
        self.send(last, summary)
    }

    fn send(
        &mut self,
        datagram: Option<(Vec<u8>, u32)>,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        let Some((bytes, records)) = datagram else {
            return Ok(());
        };
        loop {
            match self.socket.send(&bytes) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unavailable(self.arguments, &error)),
            }
        }
        summary.records_sent += u64::from(records);
        summary.frames_sent += 1;
        summary.bytes_sent += bytes.len() as u64;
        Ok(())
    }
}

fn unavailable(arguments: &Arguments, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("send to {}: {error}", arguments.to[0]),
    )
}
