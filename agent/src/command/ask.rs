//! Asks the running agent, over its control socket: for every command that changes it or looks into
//! it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::{Request as HttpRequest, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::config;
use crate::daemon::request::Request;
use crate::exit::{Exit, Failure};
use crate::limits::CONTROL_ANSWER_LEN_MAX;

/// The agent answers between two looks at everything else; the server gives a connection as long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which agent.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The running agent's configuration file, for where its control socket is; without one,
    /// /etc/penstock/penstock.toml, and where that is missing the built-in settings
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The control socket itself
    #[arg(long, value_name = "PATH", conflicts_with = "config", global = true)]
    socket: Option<PathBuf>,
}

impl Target {
    /// Where the agent listens for requests.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => Ok(config::load(self.config.as_deref())?
                .settings
                .admin_socket()),
        }
    }

    /// The agent's answer; refused with exit 78, 69 where no agent answers, 77 without permission.
    pub fn ask(&self, request: &Request) -> Result<Value, Failure> {
        ask(&self.socket()?, request)
    }
}

pub fn ask(socket: &Path, request: &Request) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start a runtime", &error))?;
    runtime.block_on(async {
        match tokio::time::timeout(TIMEOUT, exchange(socket, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(unavailable(socket, "no answer in ten seconds")),
        }
    })
}

async fn exchange(socket: &Path, request: &Request) -> Result<Value, Failure> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .map_err(|error| not_connected(socket, &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unavailable(socket, error))?;
    // It ends with the answer, or with the runtime.
    tokio::spawn(connection);
    let body = serde_json::to_vec(request)
        .map_err(|error| Failure::new(Exit::Software, format!("a request as JSON: {error}")))?;
    let post = HttpRequest::post("/api/v1/control")
        .header(header::HOST, "penstock")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .expect("a request of constant parts");
    let answer = sender
        .send_request(post)
        .await
        .map_err(|error| unavailable(socket, error))?;
    let status = answer.status();
    let bytes = to_bytes(Body::new(answer.into_body()), CONTROL_ANSWER_LEN_MAX)
        .await
        .map_err(|error| unavailable(socket, error))?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        // axum says in plain text what it could not read.
        Value::String(String::from_utf8_lossy(&bytes).into_owned())
    });
    match status {
        StatusCode::OK => Ok(value),
        StatusCode::CONFLICT => {
            let why = value["error"].as_str().unwrap_or("refused");
            Err(Failure::new(Exit::Config, why))
        }
        _ => Err(Failure::new(
            Exit::Unavailable,
            format!(
                "the agent does not understand this request ({status}: {}): is it of another \
                 version? /api/v1/status says",
                value.as_str().unwrap_or_default().trim()
            ),
        )),
    }
}

fn not_connected(socket: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            format!(
                "{}: {error}: whoever its file lets in may ask (its owner and group, and root)",
                socket.display()
            ),
        ),
        _ => unavailable(socket, error),
    }
}

fn unavailable(socket: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!(
            "no agent answers on {}: {error}: is it running, and with this configuration? Name \
             its file with -c, or its socket with --socket",
            socket.display()
        ),
    )
}
