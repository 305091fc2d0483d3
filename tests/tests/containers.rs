//! The container files. No container engine runs here, so nothing of them is run: they are read, and
//! every command, port, path, capability and size in them is compared with what the binary takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use penstock::command::parses;
use penstock::config::{self, Settings, settings::Protocol};
use penstock::limits;
use penstock_tests::agent::Home;
use penstock_tests::agent::config::{Config, Gate};
use serde::Deserialize;
use serde_yaml_ng::Value;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A Dockerfile's instructions: the word and what follows it, continuation lines joined.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let lines = dockerfile
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let each = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    each.map(|line| {
        let (word, rest) = line.split_once(char::is_whitespace).expect("an argument");
        let rest: Vec<&str> = rest.split_whitespace().collect();
        (word.to_owned(), rest.join(" "))
    })
    .collect()
}

/// A list of words in the exec form, as `CMD ["a", "b"]`.
fn words(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json} is not in exec form: {error}"))
}

fn assert_parses(words: &[String]) {
    parses(words.iter().map(String::as_str)).unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// `4600/udp` for every listener and `4680/tcp` for the admin address.
fn ports(settings: &Settings) -> BTreeSet<String> {
    let listeners = settings
        .listeners
        .iter()
        .map(|listener| match listener.protocol {
            Protocol::Udp => format!("{}/udp", listener.address.port()),
            Protocol::Tcp => format!("{}/tcp", listener.address.port()),
        });
    listeners
        .chain([format!("{}/tcp", settings.admin.address.port())])
        .collect()
}

#[test]
fn the_dockerfile_names_what_exists_and_ends_without_privilege() {
    let all = instructions(&read("packaging/container/Dockerfile"));
    let known = "FROM WORKDIR COPY RUN USER VOLUME EXPOSE HEALTHCHECK STOPSIGNAL ENTRYPOINT CMD";
    let known: BTreeSet<&str> = known.split(' ').collect();
    let mut stages = Vec::new();
    for (word, rest) in &all {
        assert!(known.contains(word.as_str()), "{word} {rest}");
        let parts: Vec<&str> = rest.split(' ').collect();
        match (word.as_str(), parts.as_slice()) {
            ("FROM", [image, ..]) => {
                let (_, tag) = image.split_once(':').expect("an image with its tag");
                assert_ne!(tag, "latest");
                stages.push(*parts.last().expect("a stage's name, or the image"));
            }
            ("COPY", [from, _, _]) if from.starts_with("--from=") => {
                assert!(stages.contains(&&from["--from=".len()..]), "{rest}");
            }
            ("COPY", [from, _]) => assert!(workspace().join(from).exists(), "{rest}"),
            ("RUN", _) if rest.contains("cargo ") => {
                // The alias and the package are this workspace's.
                let is_known = [
                    "cargo xtask build-ebpf --install",
                    "cargo build --release --locked --package penstock",
                ];
                assert!(is_known.contains(&rest.as_str()), "{rest}");
            }
            _ => {}
        }
    }
    let last_stage = all
        .iter()
        .rposition(|(word, _)| word == "FROM")
        .expect("a stage");
    let shipped: BTreeMap<&str, &str> = all[last_stage..]
        .iter()
        .map(|(word, rest)| (word.as_str(), rest.as_str()))
        .collect();
    assert!(!["root", "0"].contains(&shipped["USER"]), "not as root");

    let settings = config::load(Some(&workspace().join("packaging/container/penstock.toml")))
        .expect("the image's configuration is right")
        .settings;
    let exposed: BTreeSet<String> = shipped["EXPOSE"].split(' ').map(str::to_owned).collect();
    assert_eq!(exposed, ports(&settings));
    assert_eq!(Path::new(shipped["VOLUME"]), settings.data_dir);
    let made = all
        .iter()
        .any(|(word, rest)| word == "RUN" && rest.contains("/run/penstock"));
    assert!(made && settings.admin_socket().starts_with("/run/penstock"));

    let (options, check) = shipped["HEALTHCHECK"]
        .split_once("CMD ")
        .expect("a command");
    let check = words(check);
    assert_eq!(check[1], "healthcheck");
    assert_parses(&check);
    assert!(
        options
            .split_whitespace()
            .all(|option| option.starts_with("--")),
        "{options}"
    );
    let command = [words(shipped["ENTRYPOINT"]), words(shipped["CMD"])].concat();
    assert_parses(&command);
    let copied = all
        .iter()
        .any(|(word, rest)| word == "COPY" && rest.ends_with(command[3].as_str()));
    assert!(copied, "the configuration is where it is looked for");
}

fn documents(path: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(&read(path))
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_sequence().expect("a list").iter();
    list.map(|item| item.as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn compose_runs_what_the_binary_takes_under_three_profiles() {
    let [compose] = &documents("packaging/container/compose.yaml")[..] else {
        panic!("one document");
    };
    let services = &compose["services"];
    let mut profiles = BTreeSet::new();
    for (name, service) in services.as_mapping().expect("services") {
        profiles.extend(strings(&service["profiles"]));
        if let Some(command) = service.get("command") {
            let command = strings(command);
            match command[0].as_str() {
                "cargo" => assert_eq!(command, ["cargo", "xtask", "test"]),
                _ => assert_parses(&[vec!["penstock".to_owned()], command].concat()),
            }
        }
        if let Some(build) = service.get("build") {
            let context = build["context"].as_str().expect("a folder");
            let context = workspace().join("packaging/container").join(context);
            let dockerfile = build["dockerfile"].as_str().expect("a file");
            assert!(context.join(dockerfile).is_file(), "{name:?}");
            if let Some(target) = build.get("target").and_then(Value::as_str) {
                let stage = format!(" AS {target}\n");
                assert!(
                    read("packaging/container/Dockerfile").contains(&stage),
                    "{target}"
                );
            }
        }
    }
    let expected = ["load", "run", "test"].map(str::to_owned);
    assert_eq!(profiles, expected.into());

    let settings = config::load(Some(&workspace().join("packaging/container/penstock.toml")))
        .expect("right")
        .settings;
    let agent = &services["agent"];
    let published = strings(&agent["ports"]);
    let inside = published
        .iter()
        .map(|port| port.rsplit(':').next().expect("a port").to_owned());
    assert_eq!(inside.collect::<BTreeSet<_>>(), ports(&settings));
    let mounted = strings(&agent["volumes"]).concat();
    assert_eq!(mounted, format!("data:{}", settings.data_dir.display()));
    let run = strings(&agent["tmpfs"]).concat();
    assert!(
        run.contains("uid=10001,gid=10001"),
        "the image's user: {run}"
    );
    assert!(read("packaging/container/Dockerfile").contains("--uid 10001"));
    assert_memory_is_enough(&settings, agent["mem_limit"].as_str().expect("a size"));
    let target = strings(&services["load"]["command"]);
    assert!(
        target.contains(&"tcp://agent:4600".to_owned()),
        "the service's name and port"
    );
}

/// The agent's own by the formula of limits.rs, and the UDP sockets' buffers, doubled by the kernel.
fn assert_memory_is_enough(settings: &Settings, limit: &str) {
    let digits = limit.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    assert!(["m", "Mi"].contains(&&limit[digits.len()..]), "{limit}");
    let limit = digits.parse::<u64>().expect("a number") << 20;
    let shards = settings.shard_count(64);
    assert_eq!(shards, 2, "what the limit was made for");
    let buffers = settings
        .listeners
        .iter()
        .filter(|one| one.protocol == Protocol::Udp);
    let buffers: u64 = buffers.filter_map(|one| one.receive_buffer).sum();
    let kernel = 2 * buffers * u64::from(shards);
    assert!(limits::memory_needed(shards, settings.sinks.len()) <= settings.memory_max);
    assert!(
        settings.memory_max + kernel <= limit,
        "{limit} bytes are too few"
    );
}

#[test]
fn the_daemon_set_names_what_exists_and_no_more_privilege_than_is_used() {
    let documents = documents("packaging/kubernetes/daemonset.yaml");
    let of = |kind: &str| {
        documents
            .iter()
            .find(|one| one["kind"] == kind)
            .expect("there")
    };
    let settings = config::parse(
        "penstock.toml",
        of("ConfigMap")["data"]["penstock.toml"]
            .as_str()
            .expect("text"),
    )
    .expect("the configuration is right");
    let set = of("DaemonSet");
    for one in [of("ConfigMap"), set] {
        assert_eq!(
            one["metadata"]["namespace"],
            of("Namespace")["metadata"]["name"]
        );
    }
    let spec = &set["spec"]["template"]["spec"];
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let container = &spec["containers"][0];

    let command = [vec!["penstock".to_owned()], strings(&container["args"])].concat();
    assert_parses(&command);
    let ready = strings(&container["readinessProbe"]["exec"]["command"]);
    assert_eq!(ready[1], "healthcheck");
    assert_parses(&ready);
    assert_eq!(ready.last(), command.last(), "the same configuration");

    let listed = container["ports"]
        .as_sequence()
        .expect("ports")
        .iter()
        .map(|port| {
            assert_eq!(
                port["containerPort"], port["hostPort"],
                "as the host's network wants"
            );
            let protocol = port["protocol"].as_str().expect("text").to_lowercase();
            format!(
                "{}/{protocol}",
                port["hostPort"].as_u64().expect("a number")
            )
        });
    assert_eq!(listed.collect::<BTreeSet<_>>(), ports(&settings));
    for probe in ["startupProbe", "livenessProbe"] {
        let get = &container[probe]["httpGet"];
        let address = format!(
            "{}:{}",
            get["host"].as_str().expect("an address"),
            get["port"].as_u64().expect("a port")
        );
        assert_eq!(address, settings.admin.address.to_string(), "{probe}");
    }

    let names = |list: &Value| -> BTreeSet<String> {
        let list = list.as_sequence().expect("a list").iter();
        list.map(|one| one["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&container["volumeMounts"]), names(&spec["volumes"]));
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_sequence()
        .expect("mounts")
        .iter()
        .map(|one| one["mountPath"].as_str().expect("a path"))
        .collect();
    assert!(
        mounts
            .iter()
            .any(|path| Path::new(path) == settings.data_dir)
    );
    assert!(
        mounts
            .iter()
            .any(|path| settings.admin_socket().starts_with(path))
    );

    let security = &container["securityContext"];
    assert_eq!(strings(&security["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(
        strings(&security["capabilities"]["add"]),
        ["BPF", "PERFMON", "NET_ADMIN"]
    );
    assert_eq!(security["privileged"], Value::Bool(false));
    assert_memory_is_enough(
        &settings,
        container["resources"]["limits"]["memory"]
            .as_str()
            .expect("a size"),
    );
    let patience = spec["terminationGracePeriodSeconds"]
        .as_u64()
        .expect("a number");
    assert!(
        patience > settings.stop_timeout.as_secs(),
        "longer than a stop may take"
    );
}

/// The paths that probes ask, and `penstock healthcheck`, of an agent that runs.
#[test]
fn probes_are_answered_by_a_running_agent() {
    let home = Home::new();
    let agent = home.start(&Config::new(Gate::UserSpace));
    let yaml = read("packaging/kubernetes/daemonset.yaml");
    let paths = yaml
        .split("path: /")
        .skip(1)
        .filter_map(|rest| rest.split(' ').next());
    let paths: Vec<&str> = paths.filter(|path| path.ends_with('z')).collect();
    assert_eq!(paths.len(), 2, "one for each of the two probes over HTTP");
    for path in paths {
        assert_eq!(agent.get(&format!("/{path}")).0, 200, "{path}");
    }
    let address = agent.admin().to_string();
    let healthy = healthcheck(&["--address", &address]);
    assert_eq!(healthy, (Some(0), format!("ready: {address}\n")));
    agent.stop();
    let (code, said) = healthcheck(&["--address", &address]);
    assert_eq!(code, Some(69), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&address), "{said}");
}

fn healthcheck(arguments: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(penstock_tests::agent::binary())
        .arg("healthcheck")
        .args(arguments)
        .output()
        .expect("run penstock");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}
