//! What a reload has come to, as `penstock reload` gets it over the control socket.

use serde::{Deserialize, Serialize};

/// Fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub outcome: Outcome,
    /// Where the settings came from.
    pub source: String,
    /// One line for each.
    pub changes: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub restart: Vec<String>,
    /// Schemas that are wrong.
    pub warnings: Vec<String>,
    /// Changes that go on by themselves behind the answer.
    pub unfinished: Vec<String>,
    /// Why nothing was changed: the mistakes with their lines, or the step that failed.
    pub error: Option<String>,
    /// The exit code that goes with it (sysexits).
    pub exit: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that can be changed is.
    #[default]
    Applied,
    /// It was only asked what would be.
    Planned,
    /// The files are wrong. Nothing was changed.
    Invalid,
    /// The files are right, and a step failed. Nothing was changed.
    Failed,
}

impl Report {
    pub fn is_successful(&self) -> bool {
        matches!(self.outcome, Outcome::Applied | Outcome::Planned)
    }

    /// For a person, each line ended.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        lines.extend(self.warnings.iter().map(|line| format!("warning: {line}")));
        lines.extend(self.changes.iter().cloned());
        let restart = self.restart.iter();
        lines.extend(restart.map(|key| format!("{key}: changed in the file, needs a restart")));
        let unfinished = self.unfinished.iter();
        lines.extend(unfinished.map(|line| format!("under way: {line}")));
        let source = &self.source;
        match self.outcome {
            Outcome::Applied if self.changes.is_empty() => {
                lines.push(format!("{source}: read again, nothing to change"));
            }
            Outcome::Applied => lines.push(format!("{source}: in force")),
            Outcome::Planned => lines.push(format!("{source}: nothing was changed (--dry-run)")),
            Outcome::Invalid | Outcome::Failed => {}
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
