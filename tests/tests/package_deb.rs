//! The Debian package: installed, upgraded, removed and purged in a root of its own, whose systemd
//! is not booted. (tests/systemd_* has the same under a booted one.)

use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_tests::agent::binary;
use penstock_tests::chroot::Root;
use penstock_tests::{mount, netns};

const UNIT_ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/penstock.service";

/// `cargo xtask dist` around the binary under test; the package that it has made.
fn dist(output: &Path, version: &str, umask: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = Command::new("sh")
        .args(["-c", "umask $0 && exec \"$@\"", umask])
        .arg(cargo)
        .args(["xtask", "dist", "--profile", "dev", "--version", version])
        .arg("--binary")
        .arg(binary())
        .arg("--output")
        .arg(output)
        .current_dir(workspace)
        .env("SOURCE_DATE_EPOCH", "1750000000")
        .output()
        .expect("run cargo");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let architecture = Command::new("dpkg").arg("--print-architecture").output();
    let architecture = String::from_utf8(architecture.expect("run dpkg").stdout).expect("text");
    output.join(format!("penstock_{version}_{}.deb", architecture.trim()))
}

fn is_debian() -> bool {
    ["dpkg-deb", "dpkg-shlibdeps", "deb-systemd-helper"]
        .iter()
        .all(|program| Path::new("/usr/bin").join(program).exists())
}

/// A root with two versions of the package in it.
fn with_packages(test: &'static str, body: impl FnOnce(&Root) + Send + 'static) {
    if !is_debian() {
        return netns::skip(
            test,
            "this host has not Debian's packaging tools (dpkg-dev)",
        );
    }
    mount::private_or_skip(test, move || {
        let folder = tempfile::tempdir().expect("a folder");
        let root = match Root::over_this_host(folder.path()) {
            Ok(root) => root,
            Err(why) => return netns::skip(test, &format!("no overlay over this host: {why}")),
        };
        for (version, name) in [("0.1.0", "old.deb"), ("0.1.1", "new.deb")] {
            let package = dist(&folder.path().join("dist"), version, "022");
            let tarball = package.with_extension("tar.gz");
            std::fs::copy(package, root.inside(name)).expect("copied into the root");
            std::fs::copy(tarball, root.inside("penstock.tar.gz")).expect("copied into the root");
        }
        // Rebuilding the index of all man pages takes seconds and is none of ours.
        root.run("rm -f /var/lib/man-db/auto-update");
        body(&root);
    });
}

/// The package's line in dpkg's status, without the line's end.
fn status(root: &Root) -> String {
    let script = "dpkg-query -W -f '${db:Status-Abbrev}${Version}' penstock 2>/dev/null || true";
    root.run(script)
}

#[test]
fn installs_upgrades_removes_and_purges() {
    with_packages("installs_upgrades_removes_and_purges", |root| {
        root.run("dpkg -i /old.deb");
        assert_eq!(status(root), "ii 0.1.0");
        assert!(
            root.has(UNIT_ENABLED),
            "a fresh install enables the service"
        );
        let account = root.run("getent passwd penstock");
        let fields: Vec<&str> = account.trim().split(':').collect();
        assert_eq!((fields[0], fields[5]), ("penstock", "/var/lib/penstock"));
        assert_eq!(
            root.run("getent group penstock | cut -d: -f1"),
            "penstock\n"
        );
        // Nothing that was installed differs from what the package says it is.
        assert_eq!(root.run("dpkg --verify penstock"), "");
        let conffiles = root.run("dpkg-query -W -f '${Conffiles}' penstock");
        assert!(conffiles.trim().starts_with("/etc/penstock/penstock.toml "));
        assert_eq!(conffiles.trim().lines().count(), 1, "{conffiles}");
        // The account can read the configuration, and the agent takes it.
        let checked =
            root.run("setpriv --reuid=penstock --regid=penstock --clear-groups penstock check");
        assert!(
            checked.contains("/etc/penstock/penstock.toml: no mistakes"),
            "{checked}"
        );
        let shown = root.run("penstock config show");
        assert!(
            shown.contains("data_dir = \"/var/lib/penstock\""),
            "{shown}"
        );
        assert!(
            shown.contains("socket = \"/run/penstock/control.sock\""),
            "{shown}"
        );
        for page in [
            "man1/penstock.1",
            "man1/penstock-run.1",
            "man5/penstock.toml.5",
        ] {
            root.run(&format!(
                "gzip -dc /usr/share/man/{page}.gz | grep -q '^.SH'"
            ));
        }
        root.run(
            "bash -c '. /usr/share/bash-completion/completions/penstock && complete -p penstock'",
        );

        // What the administrator has changed and added survives an upgrade, and so does a decision
        // against the service.
        root.write(
            "/etc/penstock/penstock.toml",
            &format!("# mine\n{}", root.read("/etc/penstock/penstock.toml")),
        );
        root.write("/etc/penstock/conf.d/mine.toml", "stop_timeout = \"40s\"\n");
        root.run("systemctl disable penstock.service");
        root.run("dpkg -i /new.deb");
        assert_eq!(status(root), "ii 0.1.1");
        assert!(!root.has(UNIT_ENABLED), "the administrator had disabled it");
        assert!(
            root.read("/etc/penstock/penstock.toml")
                .starts_with("# mine\n")
        );
        assert!(root.has("/etc/penstock/conf.d/mine.toml"));

        root.write(
            "/var/lib/penstock/journal/shard-000/segment",
            "acknowledged",
        );
        root.run("dpkg -r penstock");
        assert_eq!(status(root), "rc 0.1.1");
        assert!(!root.has("/usr/bin/penstock"));
        assert!(
            root.has("/etc/penstock/penstock.toml"),
            "a removal keeps it"
        );

        let said = root.run("dpkg -P penstock");
        assert!(
            !root.has("/etc/penstock"),
            "a purge takes the configuration"
        );
        let data = "/var/lib/penstock/journal/shard-000/segment";
        assert_eq!(root.read(data), "acknowledged");
        assert!(
            said.contains("/var/lib/penstock; rm -r removes them"),
            "{said}"
        );

        // From nothing again; a data folder with nothing in it goes.
        root.run("rm -r /var/lib/penstock");
        root.run("dpkg -i /new.deb && mkdir /var/lib/penstock && dpkg -P penstock");
        assert!(!root.has("/var/lib/penstock"));
        assert!(!root.has(UNIT_ENABLED));
        assert_eq!(
            root.run("find / -xdev -name '*penstock*' -newer /new.deb -path '/etc/*'"),
            ""
        );
    });
}

/// With systemd's two commands replaced by ones that write down what they are asked.
#[test]
fn starts_restarts_and_stops_the_service_as_debian_s_users_expect() {
    with_packages("starts_restarts_and_stops_the_service", |root| {
        root.run("mkdir -p /run/systemd/system");
        for program in ["systemctl", "deb-systemd-invoke"] {
            let script = format!("#!/bin/sh\necho {program} \"$@\" >>/asked\n");
            root.write("/stand-in", &script);
            root.run(&format!(
                "rm -f /usr/bin/{program} && install /stand-in /usr/bin/{program}"
            ));
        }
        let asked = || {
            let asked = root.read("/asked");
            std::fs::remove_file(root.inside("/asked")).expect("begun anew");
            let ours = asked
                .lines()
                .filter(|line| line.starts_with("deb-systemd-invoke"));
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        root.run("dpkg -i /old.deb");
        assert_eq!(asked(), ["deb-systemd-invoke start penstock.service"]);
        root.run("dpkg -i /new.deb");
        assert_eq!(asked(), ["deb-systemd-invoke restart penstock.service"]);

        // A file that the new version refuses: the one that runs goes on, and it is said.
        root.write("/etc/penstock/conf.d/wrong.toml", "memory = \"1GiB\"\n");
        let said = root.run("dpkg -i /new.deb");
        assert_eq!(
            asked(),
            Vec::<String>::new(),
            "neither stopped nor restarted"
        );
        assert!(said.contains("penstock: NOT restarted"), "{said}");
        assert!(
            said.contains("wrong.toml:1"),
            "the mistake and its place: {said}"
        );

        root.run("dpkg -r penstock");
        assert_eq!(asked(), ["deb-systemd-invoke stop penstock.service"]);
    });
}

/// The same binary and the same SOURCE_DATE_EPOCH give the same bytes, whatever the umask.
#[test]
fn comes_out_the_same_byte_for_byte() {
    if !is_debian() {
        return netns::skip("comes_out_the_same", "this host has not dpkg-dev");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let results = [("a", "022"), ("b", "077")].map(|(name, umask)| {
        let output = folder.path().join(name);
        let package = dist(&output, "0.1.0", umask);
        // So that a time that is taken from the clock differs.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let tarball = package.with_extension("tar.gz");
        [package, tarball].map(|path| std::fs::read(path).expect("made"))
    });
    assert!(results[0] == results[1], "two runs differ");
}

/// The commands of INSTALL.md as they stand there. (Without a booted systemd `systemctl start` says
/// so and starts nothing.)
#[test]
fn the_tarball_s_note_installs_and_removes_it() {
    with_packages("the_tarball_s_note_installs_and_removes_it", |root| {
        root.run("tar -xzf /penstock.tar.gz");
        let note = root.read("/penstock-0.1.1-amd64/INSTALL.md");
        let blocks: Vec<&str> = note.split("```sh\n").skip(1).collect();
        let commands = |block: &str| {
            let (commands, _) = block.split_once("```").expect("the block ends");
            format!("set -e\ncd /penstock-0.1.1-amd64\n{commands}")
        };
        let [install, remove] = blocks[..] else {
            panic!("two blocks of commands: {note}");
        };
        let said = root.run(&commands(install));
        assert!(
            said.contains("/etc/penstock/penstock.toml: no mistakes"),
            "{said}"
        );
        assert!(root.has(UNIT_ENABLED));
        root.run("getent passwd penstock");
        root.run(&commands(remove));
        assert!(root.has("/etc/penstock/penstock.toml"));
        assert_eq!(
            root.run("find /usr -xdev -iname '*penstock*'"),
            "",
            "all of it"
        );
    });
}
