//! One GET to the agent's admin address, with bounds on time and size.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

const PATIENCE: Duration = Duration::from_secs(5);
const BODY_LEN_MAX: u64 = 16 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// HTTP/1.0, so that the answer is not chunked and ends with the connection.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let asked = || format!("GET http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(asked)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .with_context(asked)?;
    let mut bytes = Vec::new();
    stream
        .take(BODY_LEN_MAX)
        .read_to_end(&mut bytes)
        .with_context(asked)?;
    parse(&String::from_utf8_lossy(&bytes)).with_context(asked)
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("the answer has no header: {text:?}");
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_and_the_body_are_read() {
        let text =
            "HTTP/1.0 503 Service Unavailable\r\ncontent-type: text/plain\r\n\r\nnot\r\n\r\nyet";
        assert_eq!(
            parse(text).unwrap(),
            Answer {
                status: 503,
                body: "not\r\n\r\nyet".into()
            }
        );
    }

    #[test]
    fn half_an_answer_is_an_error() {
        assert!(parse("HTTP/1.0 200 OK\r\n").is_err());
        assert!(parse("\r\n\r\n").is_err());
    }
}
