//! What the agent says of its policy, for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

/// The policy in force; `+` marks what the configuration does not say, `-` what it says and does not
/// hold.
pub fn table(answer: &Value) -> String {
    let (now, file) = (&answer["policy"], &answer["configured"]);
    let mut rows = Vec::new();
    for list in ["allow", "deny"] {
        let of = |policy: &Value| -> Vec<String> { texts(&policy[list]) };
        let empty = match list {
            "allow" => "(no list: whoever is not denied may send)",
            _ => "(nobody)",
        };
        rows.push((list.to_owned(), differences(&of(now), &of(file)), empty));
    }
    for (name, empty) in [("source_limit", "(no limit)"), ("newcomers", "(no limit)")] {
        let of = |policy: &Value| pairs(&policy[name]);
        rows.push((name.to_owned(), differences(&of(now), &of(file)), empty));
    }
    let limits = |policy: &Value| -> Vec<String> {
        let table = policy["limits"].as_object().into_iter().flatten();
        table
            .map(|(prefix, limit)| format!("{prefix}: {}", pairs(limit).concat()))
            .collect()
    };
    let of_limits = differences(&limits(now), &limits(file));
    rows.insert(3, ("limits".to_owned(), of_limits, "(none)"));
    let keep = |policy: &Value| -> Vec<String> {
        ["critical", "high", "normal", "background"]
            .iter()
            .map(|name| format!("{name} {}", plain(&policy["keep"][name])))
            .collect()
    };
    rows.push(("keep".to_owned(), differences(&keep(now), &keep(file)), ""));
    for name in [
        "source_prefix_v4",
        "source_prefix_v6",
        "connections_per_source",
    ] {
        let of = |policy: &Value| match &policy[name] {
            Value::Null => Vec::new(),
            value => vec![plain(value)],
        };
        rows.push((
            name.to_owned(),
            differences(&of(now), &of(file)),
            "(no limit)",
        ));
    }
    let mut text = format!("gate: {}\n", plain(&answer["gate"]));
    for (name, lines, empty) in rows {
        let lines = match lines.is_empty() {
            true => vec![(' ', empty.to_owned())],
            false => lines,
        };
        for (at, (mark, line)) in lines.iter().enumerate() {
            let name = if at == 0 { name.as_str() } else { "" };
            line_of(&mut text, &format!("{name:<23}{mark} {line}"));
        }
    }
    if now != file {
        let source = plain(&answer["config"]);
        line_of(
            &mut text,
            &format!(
                "+ and -: changed while running, until the next reload or restart; not in {source}"
            ),
        );
    }
    text
}

/// What a change came to.
pub fn changes(answer: &Value) -> String {
    let mut text = String::new();
    for line in texts(&answer["changes"]) {
        line_of(&mut text, &line);
    }
    match (answer["changed"].as_bool(), answer["differs"].as_bool()) {
        (Some(true), Some(true)) => line_of(
            &mut text,
            "holds now, until the next reload or restart: to keep it, write it to [gate] in the \
             configuration",
        ),
        (Some(true), _) => line_of(&mut text, "holds now, and is what the configuration says"),
        _ => line_of(&mut text, "nothing was to be changed"),
    }
    text
}

/// Every line of both, in the first one's order, with its mark.
fn differences(now: &[String], file: &[String]) -> Vec<(char, String)> {
    let known: BTreeSet<&String> = file.iter().collect();
    let holding: BTreeSet<&String> = now.iter().collect();
    let held = now.iter().map(|line| match known.contains(line) {
        true => (' ', line.clone()),
        false => ('+', line.clone()),
    });
    let gone = file.iter().filter(|line| !holding.contains(line));
    held.chain(gone.map(|line| ('-', line.clone()))).collect()
}

/// A limit in one line; none for no limit.
fn pairs(limit: &Value) -> Vec<String> {
    // In the order of the configuration's example, which is not the alphabet's.
    let keys = [
        "rate",
        "burst",
        "byte_rate",
        "byte_burst",
        "connection_rate",
        "connection_burst",
    ];
    let given: Vec<String> = keys
        .iter()
        .filter(|key| !limit[**key].is_null())
        .map(|key| format!("{key} {}", plain(&limit[*key])))
        .collect();
    match given.is_empty() {
        true => Vec::new(),
        false => vec![given.join(", ")],
    }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(plain).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn line_of(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_marks_what_differs_from_the_configuration() {
        let policy = |deny: &[&str], normal: &str| {
            json!({
                "allow": [], "deny": deny, "source_limit": {}, "newcomers": {},
                "limits": {"10.0.0.0/8": {"rate": "50k/s", "burst": "200k"}},
                "keep": {"critical": "16/16", "high": "16/16", "normal": normal, "background": "16/16"},
                "source_prefix_v4": 32, "source_prefix_v6": 64, "connections_per_source": null,
            })
        };
        let answer = json!({
            "gate": "kernel", "config": "/etc/penstock/penstock.toml",
            "policy": policy(&["192.0.2.0/24", "203.0.113.7/32"], "8/16"),
            "configured": policy(&["192.0.2.0/24", "198.51.100.0/24"], "16/16"),
        });
        let expected = "\
gate: kernel
allow                    (no list: whoever is not denied may send)
deny                     192.0.2.0/24
                       + 203.0.113.7/32
                       - 198.51.100.0/24
source_limit             (no limit)
limits                   10.0.0.0/8: rate 50k/s, burst 200k
newcomers                (no limit)
keep                     critical 16/16
                         high 16/16
                       + normal 8/16
                         background 16/16
                       - normal 16/16
source_prefix_v4         32
source_prefix_v6         64
connections_per_source   (no limit)
+ and -: changed while running, until the next reload or restart; not in /etc/penstock/penstock.toml
";
        assert_eq!(table(&answer), expected);
    }
}
