//! What is drawn, and what the command line allows.

use std::time::Duration;

use agent_common::frame::FrameHeader;
use clap::Parser;
use penstock_proto::reason::Reason;

use super::frames::Frames;
use super::pacing::Pace;
use super::plan::{Arguments, Plan};
use super::templates::Templates;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    arguments: Arguments,
}

fn plan(words: &str) -> Result<Plan, String> {
    let words = ["load"].into_iter().chain(words.split(' '));
    let parsed = CommandLine::try_parse_from(words).map_err(|error| error.to_string())?;
    Plan::new(&parsed.arguments).map_err(|failure| failure.message)
}

/// The priority and the reason of the first hundred frames.
fn draw(words: &str) -> Vec<(u8, Option<Reason>)> {
    let plan = plan(words).expect("a plan");
    let mut frames = Frames::new(&plan, Templates::build(&plan).expect("templates"));
    let mut pace = Pace::start(None, None, Duration::from_secs(600));
    (0..100)
        .map(|sequence| {
            let drawn = frames.draw(&mut pace, 0, None).expect("always due");
            let header = frames.header(&drawn, 7, sequence + 1);
            (FrameHeader::read(&header).priority, drawn.hostile)
        })
        .collect()
}

#[test]
fn every_frame_has_the_priority_asked_for() {
    for (word, number) in [
        ("critical", 0),
        ("high", 1),
        ("normal", 2),
        ("background", 3),
    ] {
        let drawn = draw(&format!("--to udp://127.0.0.1:1 --priority {word}"));
        assert!(
            drawn.iter().all(|&(priority, _)| priority == number),
            "{word}"
        );
    }
    assert!(plan("--to udp://127.0.0.1:1 --priority urgent").is_err());
}

#[test]
fn the_hostile_share_is_of_the_kinds_asked_for() {
    let only = draw("--to udp://127.0.0.1:1 --hostile 100 --hostile-reasons bad_magic,truncated");
    let of = |reason| {
        only.iter()
            .filter(|&&(_, hostile)| hostile == Some(reason))
            .count()
    };
    assert_eq!(of(Reason::BadMagic), 50);
    assert_eq!(of(Reason::Truncated), 50);
    let half = draw("--to udp://127.0.0.1:1 --hostile 50");
    assert_eq!(
        half.iter().filter(|(_, hostile)| hostile.is_some()).count(),
        50
    );
    for (words, complaint) in [
        ("--to tcp://127.0.0.1:1 --hostile 100", "over UDP only"),
        ("--to udp://127.0.0.1:1 --hostile 101", "from 0 to 100"),
        (
            "--to udp://127.0.0.1:1 --hostile 1 --hostile-reasons foreign_producer",
            "not of this",
        ),
        (
            "--to udp://127.0.0.1:1 --hostile-reasons bad_magic",
            "--hostile",
        ),
        ("--to udp://127.0.0.1:1 --from ::1", "other family"),
    ] {
        let message = plan(words).expect_err(words);
        assert!(message.contains(complaint), "{words}: {message}");
    }
}
