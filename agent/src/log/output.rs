//! Where the lines go: one layer, by the configured format and by what standard error is.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use tracing::Subscriber;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt};

use super::LogFormat;
use super::journald::Journald;

type Output<S> = Box<dyn Layer<S> + Send + Sync>;

/// The layer, and what should be said of the choice.
pub fn layer<S>(format: LogFormat) -> (Output<S>, Option<String>)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let wants_journald = match format {
        LogFormat::Journald => true,
        LogFormat::Auto => {
            let announced = std::env::var("JOURNAL_STREAM").ok();
            announced.is_some_and(|stream| is_stream(&stream, std::io::stderr()))
        }
        LogFormat::Human | LogFormat::Json => false,
    };
    if wants_journald {
        return match Journald::connect() {
            Ok(journald) => (journald.boxed(), None),
            Err(error) => {
                let trouble =
                    format!("the log goes to standard error: journald cannot be reached: {error}");
                (human(), Some(trouble))
            }
        };
    }
    match format {
        LogFormat::Json => (json(), None),
        _ => (human(), None),
    }
}

fn human<S>() -> Output<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(has_colours())
        .boxed()
}

/// One object a line: `timestamp`, `level`, `message`, `target` and the event's own fields.
fn json<S>() -> Output<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        .boxed()
}

/// Colours are for eyes: a log file and a service manager's journal get none.
fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}

/// Whether a file is the stream that JOURNAL_STREAM names by device and inode (systemd.exec(5)): a
/// child whose standard error was redirected still has the variable.
fn is_stream(announced: &str, file: impl AsFd) -> bool {
    let Ok(copy) = file.as_fd().try_clone_to_owned() else {
        return false;
    };
    std::fs::File::from(copy).metadata().is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt;
        announced == format!("{}:{}", metadata.dev(), metadata.ino())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_stream_is_known_by_device_and_inode() {
        let file = tempfile::tempfile().expect("a file");
        let metadata = file.metadata().expect("its metadata");
        let (device, inode) = (metadata.dev(), metadata.ino());
        assert!(is_stream(&format!("{device}:{inode}"), &file));
        for other in [format!("{device}:{}", inode + 1), "".into(), "8:x".into()] {
            assert!(!is_stream(&other, &file), "{other}");
        }
    }
}
