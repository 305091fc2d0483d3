//! How two versions of a schema get along: which reads which, and why not.

use serde::Serialize;

/// The name that the pair of an older and a newer version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// Each reads the other's data.
    Full,
    /// The newer reads the older's data, and not the other way round.
    Backward,
    /// The older reads the newer's data, and not the other way round.
    Forward,
    None,
}

impl Compatibility {
    pub fn of(new_reads_old: bool, old_reads_new: bool) -> Self {
        match (new_reads_old, old_reads_new) {
            (true, true) => Self::Full,
            (true, false) => Self::Backward,
            (false, true) => Self::Forward,
            (false, false) => Self::None,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::None => "none",
        }
    }
}

/// What a difference hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hurts {
    /// The newer reading the older's data.
    Backward,
    /// The older reading the newer's data.
    Forward,
    /// Both.
    Both,
    /// Nothing of what is read, but perhaps what it means, or a reader of another form of it.
    Note,
}

impl Hurts {
    pub fn is_backward(self) -> bool {
        matches!(self, Self::Backward | Self::Both)
    }

    pub fn is_forward(self) -> bool {
        matches!(self, Self::Forward | Self::Both)
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Backward => "breaks backward",
            Self::Forward => "breaks forward",
            Self::Both => "breaks both ways",
            Self::Note => "note",
        }
    }
}

/// One difference between an older and a newer version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub hurts: Hurts,
    /// Where in the schema; empty for the whole of it.
    pub path: String,
    pub what: String,
    /// Line in the newer version's file, where the place is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// The differences of a pair, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub findings: Vec<Finding>,
}

impl Comparison {
    pub fn new_reads_old(&self) -> bool {
        !self.findings.iter().any(|found| found.hurts.is_backward())
    }

    pub fn old_reads_new(&self) -> bool {
        !self.findings.iter().any(|found| found.hurts.is_forward())
    }

    pub fn compatibility(&self) -> Compatibility {
        Compatibility::of(self.new_reads_old(), self.old_reads_new())
    }
}
