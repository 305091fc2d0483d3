//! `systemctl reload` under a booted systemd: by the unit's own command, in its sandbox.

use std::net::{SocketAddr, TcpStream};

use penstock_tests::agent::client::{Answer, Connection, line_frame};
use penstock_tests::agent::{http, metrics::Metrics};
use penstock_tests::machine::{Machine, booted_or_skip, package};

const CONFIG: &str = r#"
data_dir = "/var/lib/penstock"
shards = 1
[admin]
address = "127.0.0.1:4680"
socket = "/run/penstock/control.sock"
[journal]
max_size = "128MiB"
min_free = "16MiB"
[listeners.tcp]
address = "tcp://127.0.0.1:4600"
[sinks.files]
type = "file"
"#;

fn last_reload_successful() -> u64 {
    let admin = SocketAddr::from(([127, 0, 0, 1], 4680));
    let (status, text) = http::get(admin, "/metrics").expect("metrics");
    assert_eq!(status, 200);
    Metrics::parse(&text).one("penstock_config_last_reload_successful", &[])
}

fn reload(machine: &Machine, config: &str) -> bool {
    machine.write("/etc/penstock/penstock.toml", config);
    let output = machine.output(&["systemctl", "reload", "penstock"]);
    output.status.success()
}

#[test]
fn a_reload_keeps_the_process_and_its_connections_and_a_wrong_file_changes_nothing() {
    let test = "a_reload_keeps_the_process_and_its_connections_and_a_wrong_file_changes_nothing";
    booted_or_skip(test, |machine| {
        machine.write("/etc/penstock/penstock.toml", CONFIG);
        package::install(machine, "0.1.0");
        let process = machine.main_process();
        assert_eq!(machine.service("NFileDescriptorStore"), "1");
        let mut connection = Connection::open(SocketAddr::from(([127, 0, 0, 1], 4600)));
        connection.send(&line_frame(1, 1, "before"));
        assert_eq!(connection.answers(1), [Answer::durable(1, 1)]);

        // Another listener comes, and its socket is kept too.
        let more = "[listeners.more]\naddress = \"tcp://127.0.0.1:4601\"\n";
        assert!(
            reload(machine, &format!("{CONFIG}{more}")),
            "{}",
            machine.journal()
        );
        assert_eq!(last_reload_successful(), 1);
        TcpStream::connect("127.0.0.1:4601").expect("the new listener listens");
        assert_eq!(machine.service("NFileDescriptorStore"), "2");

        assert!(!reload(
            machine,
            &format!("{CONFIG}{more}colour = \"red\"\n")
        ));
        assert_eq!(last_reload_successful(), 0);
        let journal = machine.journal();
        assert!(journal.contains("colour is no key here"), "{journal}");
        TcpStream::connect("127.0.0.1:4601").expect("it still listens");

        // It goes again, and nothing holds its address.
        assert!(reload(machine, CONFIG), "{}", machine.journal());
        assert_eq!(machine.service("NFileDescriptorStore"), "1");
        let refused = TcpStream::connect("127.0.0.1:4601").map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));

        // All that in one life, for one connection.
        connection.send(&line_frame(1, 2, "after"));
        assert_eq!(connection.answers(1), [Answer::durable(1, 2)]);
        assert_eq!(machine.main_process(), process);
        assert_eq!(machine.service("ActiveState"), "active");
    });
}
