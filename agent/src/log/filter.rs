//! Which events are logged: a level, and others for parts of the agent.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// `info`, or `warn,penstock::journal=debug`: checked, so that a misspelt level is no module's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

pub const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{part}\" is no level: {}", NoLevel::HELP)]
pub struct NoLevel {
    pub part: String,
}

impl NoLevel {
    pub const HELP: &str = "write error, warn, info, debug, trace or off, or a list such as \
                            warn,penstock::journal=debug";
}

impl LogFilter {
    pub fn env_filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.0).expect("checked when it was read")
    }
}

impl FromStr for LogFilter {
    type Err = NoLevel;

    fn from_str(text: &str) -> Result<Self, NoLevel> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let wrong = parts.iter().find(|part| !is_directive(part));
        let joined = parts.join(",");
        match wrong {
            None if EnvFilter::try_new(&joined).is_ok() => Ok(Self(joined)),
            wrong => Err(NoLevel {
                part: wrong.copied().unwrap_or(text).to_owned(),
            }),
        }
    }
}

/// A level, or a module's path and its level.
fn is_directive(part: &str) -> bool {
    let (module, level) = part.rsplit_once('=').unwrap_or(("penstock", part));
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    !module.is_empty() && module.bytes().all(is_path) && LEVELS.contains(&level)
}

impl fmt::Display for LogFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_lists_of_them_are_filters() {
        for good in [
            "info",
            "off",
            "warn,penstock::journal=debug",
            "penstock=trace",
        ] {
            assert_eq!(good.parse::<LogFilter>().expect(good).to_string(), good);
        }
        let spaced: LogFilter = "warn, hyper=info".parse().expect("blanks do no harm");
        assert_eq!(spaced.to_string(), "warn,hyper=info");
    }

    #[test]
    fn what_the_library_would_take_for_a_module_is_a_mistake() {
        for bad in [
            "",
            "inof",
            "INFO",
            "warn,",
            "penstock=loud",
            "=info",
            "a b=info",
            "[x]=info",
        ] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
        let error = "warn,inof".parse::<LogFilter>().expect_err("misspelt");
        assert!(
            error.to_string().starts_with("\"inof\" is no level"),
            "{error}"
        );
    }
}
