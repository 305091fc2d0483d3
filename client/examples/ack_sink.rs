//! Reads frames over TCP, looks at their headers only, and acknowledges them at once: what a
//! sender can do when nothing holds it up. It stores nothing and must not be taken for an agent.
//!
//! ```sh
//! cargo run --release -p penstock-client --example ack_sink -- 127.0.0.1:4600
//! ```

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::wire::{Ack, AckStatus};

fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:4600".to_owned());
    let listener = TcpListener::bind(address)?;
    eprintln!("listening at {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 20];
    // The header that a read's end cut, and the bytes left of the frame being stepped over.
    let mut header = [0; FRAME_HEADER_LEN];
    let mut header_len = 0;
    let mut skip = 0;
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..len];
        let mut last: Option<FrameHeader> = None;
        let mut count = 0;
        loop {
            let skipped = skip.min(rest.len());
            rest = &rest[skipped..];
            skip -= skipped;
            if skip == 0 && header_len == FRAME_HEADER_LEN {
                last = Some(FrameHeader::read(&header));
                count += 1;
                header_len = 0;
            }
            if rest.is_empty() {
                break;
            }
            let taken = rest.len().min(FRAME_HEADER_LEN - header_len);
            header[header_len..][..taken].copy_from_slice(&rest[..taken]);
            header_len += taken;
            rest = &rest[taken..];
            if header_len == FRAME_HEADER_LEN {
                skip = FrameHeader::read(&header).payload_len as usize;
            }
        }
        if let Some(last) = last.filter(FrameHeader::wants_ack) {
            let ack = Ack {
                status: AckStatus::Durable,
                reason: 0,
                producer: last.producer,
                sequence: last.sequence,
                retry_after_ms: 0,
                count,
            };
            stream.write_all(&ack.write())?;
        }
    }
}
