//! The crates that the binary is linked with, and their licences, for the copyright file.

use std::collections::BTreeSet;

use crate::process;

/// A line for each crate of others that `penstock` is linked with: name, version, licence.
pub fn licences() -> anyhow::Result<String> {
    let arguments =
        "tree --locked --package penstock --edges normal --prefix none --format {p}|{l}";
    let tree = process::capture(process::cargo().args(arguments.split(' ')))?;
    let lines: BTreeSet<String> = tree.lines().filter_map(line).collect();
    Ok(lines.into_iter().collect())
}

/// `None` for crates of this workspace, which cargo shows with their folder, and for procedural
/// macros, which are no part of the binary.
fn line(shown: &str) -> Option<String> {
    // A crate that was shown before has a star.
    let (package, licence) = shown.trim_end_matches(" (*)").split_once('|')?;
    match package.split(' ').collect::<Vec<_>>()[..] {
        [name, version] => Some(format!("{name} {version} {licence}\n")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_linked_crates_of_others_are_listed() {
        let said = line("aya v0.14.0|MIT OR Apache-2.0 (*)");
        assert_eq!(said.as_deref(), Some("aya v0.14.0 MIT OR Apache-2.0\n"));
        assert_eq!(line("penstock v0.1.0 (/src/agent)|Apache-2.0"), None);
        assert_eq!(line("serde_derive v1.0.1 (proc-macro)|MIT"), None);
        assert_eq!(line(""), None);
    }
}
