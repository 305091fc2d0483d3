//! Names of output files: they sort by time, and say whose they are.
//!
//! `20261120T124501.123456789Z-files-s00.avro`, and `….avro.open` while it is being written; also
//! `.jsonl`, `.jsonl.zst`, `.pb` and `.pb.zst`.

use std::fmt;

use crate::config::settings::{Compression, FileFormat};

/// What ends the name of a file that is being written.
pub const OPEN_SUFFIX: &str = ".open";
/// `20261120T124501.123456789Z`
const TIME_LEN: usize = 26;

/// What a file's name tells of its content. An Avro file says inside how it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Avro,
    Jsonl,
    JsonlZst,
    Pb,
    PbZst,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Avro,
        Self::Jsonl,
        Self::JsonlZst,
        Self::Pb,
        Self::PbZst,
    ];

    pub const fn extension(self) -> &'static str {
        match self {
            Self::Avro => ".avro",
            Self::Jsonl => ".jsonl",
            Self::JsonlZst => ".jsonl.zst",
            Self::Pb => ".pb",
            Self::PbZst => ".pb.zst",
        }
    }

    pub fn of(format: FileFormat, compression: Compression) -> Self {
        let zst = compression == Compression::Zstd;
        match format {
            FileFormat::Avro => Self::Avro,
            FileFormat::Jsonl if zst => Self::JsonlZst,
            FileFormat::Jsonl => Self::Jsonl,
            FileFormat::Protobuf if zst => Self::PbZst,
            FileFormat::Protobuf => Self::Pb,
        }
    }

    /// Of any file's name, whoever gave it; also of one that is being written.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(OPEN_SUFFIX).unwrap_or(name);
        Self::ALL
            .into_iter()
            .find(|kind| name.ends_with(kind.extension()))
    }
}

/// A time of the UTC calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub nanosecond: u32,
}

impl Civil {
    /// Nanoseconds since 1970 as a date. The algorithm counts years from 1 March, so that the leap
    /// day is a year's last: 400 years are 146,097 days (the Gregorian rule).
    pub fn from_unix_nano(unix_nano: u64) -> Self {
        let seconds = unix_nano / 1_000_000_000;
        let days = (seconds / 86_400) as i64 + 719_468; // from 0000-03-01
        let second_of_day = seconds % 86_400;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: month as u8,
            day: day as u8,
            hour: (second_of_day / 3_600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
            nanosecond: (unix_nano % 1_000_000_000) as u32,
        }
    }
}

/// RFC 3339 with all nine digits: `2026-11-20T12:45:01.123456789Z`.
impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            self.year, self.month, self.day, self.hour, self.minute, self.second, self.nanosecond
        )
    }
}

/// The sealed name of a file begun at `unix_nano` for a sink and shard.
pub fn sealed_name(unix_nano: u64, sink: &str, shard: u16, kind: Kind) -> String {
    let t = Civil::from_unix_nano(unix_nano);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}.{:09}Z-{sink}-s{shard:02}{}",
        t.year,
        t.month,
        t.day,
        t.hour,
        t.minute,
        t.second,
        t.nanosecond,
        kind.extension()
    )
}

/// The name while the file is being written.
pub fn open_name(sealed: &str) -> String {
    format!("{sealed}{OPEN_SUFFIX}")
}

/// Whose file it is, from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    pub sink: &'a str,
    pub shard: u16,
    pub kind: Kind,
    pub open: bool,
}

impl<'a> Owner<'a> {
    /// `None` for every name that `sealed_name` and `open_name` do not make.
    pub fn of(name: &'a str) -> Option<Self> {
        let (name, open) = match name.strip_suffix(OPEN_SUFFIX) {
            Some(sealed) => (sealed, true),
            None => (name, false),
        };
        let kind = Kind::of_name(name)?;
        let name = name.strip_suffix(kind.extension())?;
        let (time, rest) = name.split_at_checked(TIME_LEN)?;
        let time_fits = time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'.',
            25 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
        let (sink, shard) = rest.strip_prefix('-')?.rsplit_once("-s")?;
        let shard_fits = shard.len() >= 2 && shard.bytes().all(|byte| byte.is_ascii_digit());
        (time_fits && shard_fits && !sink.is_empty()).then_some(Self {
            sink,
            shard: shard.parse().ok()?,
            kind,
            open,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `date -u -d @N`.
    #[test]
    fn civil_dates_are_those_of_date() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_868_799_000_000_000, "2000-02-29T23:59:59.000000000Z"),
            (1_795_178_701_123_456_789, "2026-11-20T12:45:01.123456789Z"),
            (4_107_542_399_000_000_001, "2100-02-28T23:59:59.000000001Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ];
        for (unix_nano, expected) in cases {
            assert_eq!(Civil::from_unix_nano(unix_nano).to_string(), expected);
        }
    }

    #[test]
    fn a_name_says_whose_it_is() {
        let name = sealed_name(1_795_178_701_123_456_789, "audit-s01", 7, Kind::Avro);
        assert_eq!(name, "20261120T124501.123456789Z-audit-s01-s07.avro");
        let owner = Owner::of(&name).expect("our own name");
        assert_eq!(
            (owner.sink, owner.shard, owner.open),
            ("audit-s01", 7, false)
        );
        let open = open_name(&name);
        assert!(Owner::of(&open).is_some_and(|owner| owner.open));
    }

    #[test]
    fn a_name_says_what_is_in_it() {
        use Compression::{None as Plain, Snappy, Zstd};
        let cases = [
            (FileFormat::Avro, Plain, ".avro"),
            (FileFormat::Avro, Zstd, ".avro"),
            (FileFormat::Avro, Snappy, ".avro"),
            (FileFormat::Jsonl, Plain, ".jsonl"),
            (FileFormat::Jsonl, Zstd, ".jsonl.zst"),
            (FileFormat::Protobuf, Plain, ".pb"),
            (FileFormat::Protobuf, Zstd, ".pb.zst"),
        ];
        for (format, compression, extension) in cases {
            let kind = Kind::of(format, compression);
            let name = sealed_name(0, "files", 0, kind);
            assert_eq!(
                name,
                format!("19700101T000000.000000000Z-files-s00{extension}")
            );
            for name in [open_name(&name), name] {
                assert_eq!(Owner::of(&name).map(|owner| owner.kind), Some(kind));
                assert_eq!(Owner::of(&name).map(|owner| owner.sink), Some("files"));
            }
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "notes.avro",
            "20261120T124501.123456789Z-files-s00.csv",
            "20261120T124501.123456789Z-files-s00.avro.zst",
            "20261120T124501.123456789Z-files-s00.jsonl.gz",
            "20261120T124501.123456789Z--s00.avro",
            "20261120T124501.123456789Z-files-s0.avro",
            "20261120X124501.123456789Z-files-s00.avro",
            "20261120T124501.123456789Z-files-s99999.avro",
            "20261120T124501.123456789Z-files-s00.avro.open.open",
            "ä0261120T124501.123456789Z-files-s00.avro",
        ] {
            assert_eq!(Owner::of(name), None, "{name}");
        }
    }
}
