//! One GET to the agent's admin address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// An agent on a core that is busy still answers within this.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// The body of a 200; anything else is an error. HTTP/1.0, so that the answer ends with the
/// connection.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("GET {path}: the answer has no header");
    };
    let status = head.split(' ').nth(1).context("no status")?;
    ensure!(status == "200", "GET {path}: status {status}");
    Ok(body.to_owned())
}
