//! TCP and the gate, by the real binary: who may open a connection, and how many at once. In the
//! kernel a denied source's SYN is dropped; without eBPF its connection is closed at accept.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use penstock_tests::agent::config::{Config, Gate};
use penstock_tests::agent::{Agent, Home, wait_for};
use penstock_tests::in_both_gates;
use socket2::{Domain, Socket, Type};

in_both_gates!(
    a_source_has_so_many_connections_at_once,
    a_denied_source_opens_none
);

const SOON: Duration = Duration::from_secs(10);
/// A SYN that is dropped is sent again after a second: until then there is no answer.
const NO_ANSWER: Duration = Duration::from_millis(700);

fn start(home: &Home, gate: Gate, gate_more: &'static str) -> Agent {
    home.start(&Config {
        shards: 2,
        gate_more,
        ..Config::new(gate)
    })
}

fn connect(from: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let from: SocketAddr = from.parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), NO_ANSWER)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// The agent closes it without a word: its end, or a reset.
fn is_closed(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn closed(agent: &Agent, reason: &str) -> u64 {
    let labels = [("listener", "tcp"), ("reason", reason)];
    agent
        .metrics()
        .one("penstock_connections_closed_total", &labels)
}

fn open(agent: &Agent, count: u64) {
    wait_for("connections", SOON, || {
        let open = agent
            .metrics()
            .sum("penstock_connections", &[("listener", "tcp")]);
        (open == count).then_some(())
    });
}

fn a_source_has_so_many_connections_at_once(gate: Gate) {
    let home = Home::new();
    let agent = start(&home, gate, "connections_per_source = 2\n");
    let first = connect("127.9.0.1:0", agent.tcp()).expect("the first");
    let second = connect("127.9.0.1:0", agent.tcp()).expect("the second");
    open(&agent, 2);
    let third = connect("127.9.0.1:0", agent.tcp()).expect("accepted, to be told so by its end");
    assert!(is_closed(third));
    assert_eq!(closed(&agent, "too_many_from_source"), 1);
    let other = connect("127.9.0.2:0", agent.tcp()).expect("of another source");
    open(&agent, 3);
    drop(first);
    open(&agent, 2);
    let again = connect("127.9.0.1:0", agent.tcp()).expect("in the place of the first");
    open(&agent, 3);
    assert_eq!(closed(&agent, "too_many_from_source"), 1);
    drop((second, other, again));
    agent.stop();
}

fn a_denied_source_opens_none(gate: Gate) {
    let home = Home::new();
    let agent = start(&home, gate, "deny = [\"127.66.0.0/16\"]\n");
    let denied = connect("127.66.1.2:0", agent.tcp());
    match gate {
        Gate::Kernel => {
            assert_eq!(denied.expect_err("no answer").kind(), ErrorKind::TimedOut);
            let labels = [("listener", "tcp"), ("verdict", "denied")];
            wait_for("the SYN is counted", SOON, || {
                let metrics = agent.metrics();
                let denied = metrics.one("penstock_gate_connections_total", &labels);
                (denied > 0).then_some(())
            });
            assert_eq!(closed(&agent, "denied"), 0);
        }
        Gate::UserSpace => {
            assert!(is_closed(denied.expect("accepted by the kernel")));
            assert_eq!(closed(&agent, "denied"), 1);
        }
    }
    let welcome = connect("127.67.1.2:0", agent.tcp()).expect("not denied");
    open(&agent, 1);
    drop(welcome);
    agent.stop();
}
