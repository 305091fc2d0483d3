//! Reads what `cargo test -- --show-output` prints, line by line: counts tests, finds the ones that
//! skipped themselves, and keeps what passing tests print off the terminal.
//!
//! A test says that it skips by a line `SKIPPED: reason`, which the harness captures and shows under
//! the test's name, or by `SKIPPED: test: reason` written past the harness.

/// A test that lacks a capability prints a line that starts so, with the reason behind it.
const SKIPPED: &str = "SKIPPED:";

/// What a run of tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed as the harness counts: a test that skipped itself is among them.
    ok: u64,
    ignored: u64,
    pub failed: u64,
    /// `name: reason` of each test that skipped itself; only the reason where the name is unknown.
    pub skips: Vec<String>,
    pub failures: Vec<String>,
}

impl Counts {
    /// Another run's, beside these.
    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.ignored += other.ignored;
        self.failed += other.failed;
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
    }

    pub fn passed(&self) -> u64 {
        self.ok.saturating_sub(self.skips.len() as u64)
    }

    pub fn skipped(&self) -> u64 {
        self.ignored + self.skips.len() as u64
    }
}

/// Which part of a harness's output the next line stands in.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Running,
    /// Between `successes:` and what follows it: the output of tests that passed.
    Successes,
    Failures,
}

#[derive(Debug)]
pub struct Reader {
    part: Part,
    /// The test whose captured output is being read.
    test: String,
    /// Whether that test has said so already.
    has_skipped: bool,
    counts: Counts,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            part: Part::Running,
            test: String::new(),
            has_skipped: false,
            counts: Counts::default(),
        }
    }

    pub fn counts(self) -> Counts {
        self.counts
    }

    /// Takes one line; what is worth showing comes back.
    pub fn line(&mut self, line: &str) -> Option<String> {
        if let Some(result) = result_line(line) {
            self.part = Part::Running;
            self.counts.ok += result.ok;
            self.counts.failed += result.failed;
            self.counts.ignored += result.ignored;
            return Some(line.to_owned());
        }
        match line {
            "successes:" => self.part = Part::Successes,
            "failures:" => self.part = Part::Failures,
            _ => {}
        }
        if let Some(test) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.test = test.to_owned();
            self.has_skipped = false;
        }
        if let Some(test) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.counts.failures.push(test.to_owned());
        }
        // With one thread the harness has begun the test's own line when the test writes past it.
        let said = line.split_once(" ... ").map_or(line, |(_, rest)| rest);
        if let Some(reason) = said.trim_start().strip_prefix(SKIPPED) {
            return self.skip(reason.trim());
        }
        (self.part != Part::Successes).then(|| line.to_owned())
    }

    /// One test may say it more than once, once for each thing that it leaves out.
    fn skip(&mut self, reason: &str) -> Option<String> {
        if self.part == Part::Failures {
            // The test failed all the same: it is counted there.
            return Some(format!("{SKIPPED} {reason}"));
        }
        if self.part == Part::Running {
            let test = reason
                .split_once(": ")
                .map(|(test, _)| format!("{test}: "))
                .filter(|test| !test.trim_end().contains(' '));
            let known = |skip: &String| test.as_ref().is_some_and(|test| skip.starts_with(test));
            if self.counts.skips.iter().any(known) {
                return None;
            }
            self.counts.skips.push(reason.to_owned());
            return Some(format!("{SKIPPED} {reason}"));
        }
        if std::mem::replace(&mut self.has_skipped, true) {
            return None;
        }
        let skip = format!("{}: {reason}", self.test);
        self.counts.skips.push(skip.clone());
        Some(format!("{SKIPPED} {skip}"))
    }
}

struct ResultLine {
    ok: u64,
    failed: u64,
    ignored: u64,
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn result_line(line: &str) -> Option<ResultLine> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |word: &str| {
        counts.split(';').find_map(|part| {
            let (number, name) = part.trim().split_once(' ')?;
            (name == word).then(|| number.parse().ok()).flatten()
        })
    };
    Some(ResultLine {
        ok: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Counts, String) {
        let mut reader = Reader::new();
        let mut shown = String::new();
        for line in text.lines() {
            if let Some(line) = reader.line(line) {
                shown.push_str(&line);
                shown.push('\n');
            }
        }
        (reader.counts(), shown)
    }

    /// Captured from rustc 1.95's harness, cut.
    const PASSING: &str = "
running 4 tests
test tests::quiet ... ok
test tests::talks ... ok
test tests::needs_root ... ok
test tests::slow ... ignored

successes:

---- tests::talks stdout ----
a line nobody needs

---- tests::needs_root stdout ----
SKIPPED: needs CAP_BPF
SKIPPED: needs CAP_NET_ADMIN


successes:
    tests::needs_root
    tests::quiet
    tests::talks

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_skip_is_not_a_pass() {
        let (counts, shown) = read(PASSING);
        assert_eq!(counts.passed(), 2);
        assert_eq!(counts.skipped(), 2, "one ignored, one skipped itself");
        assert_eq!(counts.failed, 0);
        assert_eq!(counts.skips, ["tests::needs_root: needs CAP_BPF"]);
        assert!(shown.contains("SKIPPED: tests::needs_root: needs CAP_BPF\n"));
        assert!(!shown.contains("a line nobody needs"));
        assert!(shown.contains("test tests::talks ... ok\n"));
        assert!(shown.ends_with("finished in 0.00s\n"));
    }

    #[test]
    fn failures_are_shown_in_full_and_named() {
        let text = "\
running 2 tests
test a ... ok
test b ... FAILED

successes:

---- a stdout ----
noise


successes:
    a

failures:

---- b stdout ----

thread 'b' (12) panicked at src/lib.rs:3:5:
assertion failed: false


failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let (counts, shown) = read(text);
        assert_eq!((counts.passed(), counts.failed), (1, 1));
        assert_eq!(counts.failures, ["b"]);
        assert!(shown.contains("assertion failed: false\n"));
        assert!(!shown.contains("noise"));
    }

    #[test]
    fn several_harnesses_add_up() {
        let (counts, _) = read(&format!("{PASSING}{PASSING}"));
        assert_eq!((counts.passed(), counts.skipped()), (4, 4));
    }

    #[test]
    fn a_skip_written_past_the_harness_counts_once_for_each_test() {
        let (counts, shown) = read(
            "SKIPPED: no network namespaces here\n\
             SKIPPED: gate::counts: needs CAP_BPF\n\
             SKIPPED: gate::counts: needs CAP_NET_ADMIN\n\
             test gate::counts ... ok\n\
             test gate::drops ... SKIPPED: gate::drops: needs CAP_BPF\n\
             ok\n",
        );
        assert_eq!(
            counts.skips,
            [
                "no network namespaces here",
                "gate::counts: needs CAP_BPF",
                "gate::drops: needs CAP_BPF"
            ]
        );
        assert_eq!(shown.matches("SKIPPED: ").count(), 3);
    }
}
