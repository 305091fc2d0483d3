//! The admin HTTP server, on the control thread: `/metrics`, `/healthz`, `/readyz` and
//! `/api/v1/status`. It asks nobody for a password: its address is loopback unless configured
//! otherwise. What changes the agent goes over the control socket instead.

mod readiness;
mod route;
mod socket;
mod status;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::daemon::request::Ask;
use crate::metric::Registry;
pub use readiness::{Condition, Readiness};
pub use socket::{ControlSocket, bind_control};
pub use status::{JournalStatus, KeepStatus, ListenerStatus, SinkStatus, Status, StatusSource};

/// What the server is bounded by.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once; further ones wait in the kernel's backlog.
    connections: usize,
    /// Bytes of a request's line and headers. A body is never read.
    head_len: usize,
    /// The whole life of a connection: one request and its answer, then it is closed.
    connection_time: Duration,
    /// How long answers under way may take once the agent stops.
    stop_time: Duration,
}

const LIMITS: Limits = Limits {
    // Some scrapers, a person's browser, and room; each holds a descriptor and about 20 KiB.
    connections: 32,
    // The least that hyper takes.
    head_len: 8192,
    // Prometheus gives up after 10 s by default.
    connection_time: Duration::from_secs(10),
    stop_time: Duration::from_secs(1),
};

/// What the answers are made of.
#[derive(Clone)]
pub struct AdminState {
    pub registry: Arc<Registry>,
    pub readiness: Arc<Readiness>,
    pub source: Arc<dyn StatusSource>,
}

/// Answers on both sockets until `shutdown` is done, then finishes what is under way, for a second
/// at most. The caller binds them, so that a port in use gets its exit code.
///
/// What changes the agent is served on the control socket only, whose file says who may.
pub async fn serve(
    listener: TcpListener,
    control: ControlSocket,
    state: AdminState,
    ask: mpsc::Sender<Ask>,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopped) = watch::channel(());
    let until = |mut stopped: watch::Receiver<()>| async move {
        let _ = stopped.changed().await;
    };
    let changes = UnixListener::from_std(control.listener.try_clone()?)?;
    let control_router = route::control_router(state.clone(), ask);
    let router = route::router(state);
    let (answers, changed, ()) = tokio::join!(
        serve_within(LIMITS, listener, router, until(stopped.clone())),
        serve_within(LIMITS, changes, control_router, until(stopped)),
        async {
            shutdown.await;
            drop(stop);
        },
    );
    answers.and(changed)
}

/// A socket that connections are accepted from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    fn accept(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> std::io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> std::io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

async fn serve_within(
    limits: Limits,
    listener: impl Accept,
    router: axum::Router,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // The slot comes first: without one nothing is accepted.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        let slot = slot.expect("the semaphore is never closed");
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if is_transient(&error) => {
                // Out of descriptors, or a peer that is gone already: neither ends the server, and
                // the wait keeps the first from spinning.
                tracing::warn!(%error, "accept on the admin address failed; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(limits.head_len)
                // `connection_time` bounds the headers too.
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that is late, gone or talks no HTTP is its own affair.
            let _ = tokio::time::timeout(limits.connection_time, connection).await;
            drop(slot);
        });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(limits.stop_time, finish).await;
    Ok(())
}

/// accept(2): errors of the new connection, or of resources that may come back.
fn is_transient(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPERM
        )
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread::JoinHandle;

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Source {
        refreshed: AtomicU32,
    }

    impl StatusSource for Source {
        fn refresh(&self) {
            self.refreshed.fetch_add(1, Ordering::Relaxed);
        }

        fn status(&self) -> Status {
            Status {
                version: "1.2.3",
                pid: 42,
                uptime_seconds: 1.5,
                config: "built-in settings".to_owned(),
                io: "io_uring".to_owned(),
                gate: "user".to_owned(),
                listeners: Vec::new(),
                journal: Vec::new(),
                sinks: Vec::new(),
                pressure: vec![0.25],
                keep_sixteenths: KeepStatus::of(agent_common::keep::Keep::ALL),
                schemas: Vec::new(),
                top_sources: Vec::new(),
            }
        }
    }

    struct Server {
        address: SocketAddr,
        readiness: Arc<Readiness>,
        source: Arc<Source>,
        stop: Option<oneshot::Sender<()>>,
        thread: Option<JoinHandle<std::io::Result<()>>>,
    }

    impl Server {
        fn start(limits: Limits) -> Self {
            let readiness = Arc::new(Readiness::default());
            let source = Arc::new(Source::default());
            let state = AdminState {
                registry: Arc::new(Registry::new()),
                readiness: Arc::clone(&readiness),
                source: Arc::clone(&source) as Arc<dyn StatusSource>,
            };
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            listener.set_nonblocking(true).expect("non-blocking");
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let shutdown = async {
                        let _ = stopped.await;
                    };
                    serve_within(limits, listener, route::router(state), shutdown).await
                })
            });
            Self {
                address,
                readiness,
                source,
                stop: Some(stop),
                thread: Some(thread),
            }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).expect("a connection");
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).expect("a timeout");
            stream
        }

        /// Sends bytes and returns all that comes until the server closes.
        fn exchange(&self, request: &[u8]) -> String {
            let mut stream = self.connect();
            stream.write_all(request).expect("sent");
            let mut answer = Vec::new();
            // A reset after the answer is as good as a close.
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8(answer).expect("text")
        }

        fn get(&self, path: &str) -> String {
            self.exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        }

        fn stop(mut self) {
            drop(self.stop.take());
            let thread = self.thread.take().expect("started");
            thread.join().expect("no panic").expect("no error");
        }
    }

    fn body(answer: &str) -> serde_json::Value {
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
    }

    #[test]
    fn each_path_answers() {
        let server = Server::start(LIMITS);
        let metrics = server.get("/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(metrics.contains("\npenstock_ingest_duration_seconds_count 0\n"));
        assert_eq!(server.source.refreshed.load(Ordering::Relaxed), 1);

        let healthz = server.get("/healthz");
        assert!(healthz.starts_with("HTTP/1.1 200 OK\r\n"), "{healthz}");

        let status = server.get("/api/v1/status");
        assert!(status.starts_with("HTTP/1.1 200 OK\r\n"), "{status}");
        assert!(
            status.contains("content-type: application/json\r\n"),
            "{status}"
        );
        assert_eq!(body(&status)["version"], "1.2.3");
        assert_eq!(body(&status)["pid"], 42);
        assert_eq!(body(&status)["ready"], false);
        assert_eq!(server.source.refreshed.load(Ordering::Relaxed), 2);
        server.stop();
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let server = Server::start(LIMITS);
        let answer = server.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let missing = serde_json::json!(["listeners_bound", "journal_writable"]);
        assert_eq!(body(&answer)["missing"], missing);

        server.readiness.set(Condition::ListenersBound, true);
        let answer = server.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(
            body(&answer)["missing"],
            serde_json::json!(["journal_writable"])
        );

        server.readiness.set(Condition::JournalWritable, true);
        let answer = server.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(body(&answer)["ready"], true);

        server.readiness.set(Condition::JournalWritable, false);
        assert!(server.get("/readyz").starts_with("HTTP/1.1 503 "));
        server.stop();
    }

    #[test]
    fn other_paths_and_methods_are_told_so_in_json() {
        let server = Server::start(LIMITS);
        for path in ["/", "/metrics/", "/api/v2/status", "/%2e%2e/etc/passwd"] {
            let answer = server.get(path);
            assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
            assert_eq!(body(&answer)["error"], "not found");
        }
        let post = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
        let answer = server.exchange(post);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(
            answer.to_lowercase().contains("\r\nallow: get,head\r\n"),
            "{answer}"
        );
        assert_eq!(body(&answer)["error"], "method not allowed");

        let head = server.exchange(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        server.stop();
    }

    #[test]
    fn what_is_too_long_or_no_http_is_refused_and_the_server_goes_on() {
        let server = Server::start(LIMITS);
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(3 * LIMITS.head_len));
        let answer = server.exchange(long.as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or_default();
        // Refused, or cut off before the answer could be read.
        assert!(["", "414", "431"].contains(&status), "{answer}");
        let answer = server.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
        assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
        server.stop();
    }

    #[test]
    fn a_silent_connection_is_closed_and_its_place_is_free_again() {
        let server = Server::start(Limits {
            connections: 1,
            connection_time: Duration::from_millis(200),
            ..LIMITS
        });
        let mut silent = server.connect();
        // The only place is taken: this answer comes once the silent one has been closed.
        assert!(server.get("/healthz").starts_with("HTTP/1.1 200 "));
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).expect("closed by the server");
        assert!(rest.is_empty());
        server.stop();
    }
}
