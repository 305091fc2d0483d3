//! The two tables that recovery decides by: what a place without a sound block means, and what
//! becomes of a file. A test shows that every combination of inputs meets exactly one row or cannot
//! be; `tests` reaches every row with files.

/// What stands in a stretch in which no sound block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bytes {
    /// Zeroes: preallocated and never written.
    Nothing,
    /// A whole header, but of another segment, position or salt.
    Stale,
    /// Anything else.
    Torn,
}

/// What is known of such a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub bytes: Bytes,
    /// It begins before D, the highest durable mark that any block carries: somebody was told that
    /// what stood there is stored.
    pub acknowledged: bool,
    /// A sound block stands behind it.
    pub followed: bool,
    /// It lies behind the base of a later segment: its own was poisoned.
    pub superseded: bool,
}

/// The rows' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceCase {
    Clean,
    TornTail,
    StaleBlock,
    LostWrite,
    DamagedMiddle,
    DamagedEnd,
    PoisonedPredecessor,
}

/// What is done about a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceAction {
    /// The journal ends here; there is nothing to cut.
    End,
    /// The journal ends here; what follows goes.
    Cut,
    /// Reported; the good blocks on both sides stay.
    StepOver,
    /// Reported; a block without entries is written at D, so that no position before it is given
    /// out again.
    Mark,
    /// Never looked at.
    Ignore,
}

pub struct PlaceRow {
    superseded: Option<bool>,
    acknowledged: Option<bool>,
    followed: Option<bool>,
    bytes: &'static [Bytes],
    pub case: PlaceCase,
    pub action: PlaceAction,
}

const ANY: &[Bytes] = &[Bytes::Nothing, Bytes::Stale, Bytes::Torn];
const NO: Option<bool> = Some(false);
const YES: Option<bool> = Some(true);

const fn place(
    superseded: Option<bool>,
    acknowledged: Option<bool>,
    followed: Option<bool>,
    bytes: &'static [Bytes],
    case: PlaceCase,
    action: PlaceAction,
) -> PlaceRow {
    PlaceRow {
        superseded,
        acknowledged,
        followed,
        bytes,
        case,
        action,
    }
}

/// Several blocks are in flight when the power goes: a whole one behind a torn one is an ordinary
/// crash, so D draws the line, and not what follows.
#[rustfmt::skip]
pub const PLACES: [PlaceRow; 7] = [
    //    superseded acknowledged followed  bytes              case                            action
    place(NO,        NO,          NO,       &[Bytes::Nothing], PlaceCase::Clean,               PlaceAction::End),
    place(NO,        NO,          YES,      &[Bytes::Nothing], PlaceCase::LostWrite,           PlaceAction::Cut),
    place(NO,        NO,          None,     &[Bytes::Torn],    PlaceCase::TornTail,            PlaceAction::Cut),
    place(NO,        NO,          None,     &[Bytes::Stale],   PlaceCase::StaleBlock,          PlaceAction::Cut),
    place(NO,        YES,         YES,      ANY,               PlaceCase::DamagedMiddle,       PlaceAction::StepOver),
    place(NO,        YES,         NO,       ANY,               PlaceCase::DamagedEnd,          PlaceAction::Mark),
    place(YES,       None,        None,     ANY,               PlaceCase::PoisonedPredecessor, PlaceAction::Ignore),
];

impl PlaceRow {
    fn meets(&self, place: &Place) -> bool {
        let agrees = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        agrees(self.superseded, place.superseded)
            && agrees(self.acknowledged, place.acknowledged)
            && agrees(self.followed, place.followed)
            && self.bytes.contains(&place.bytes)
    }
}

impl Place {
    pub fn row(&self) -> &'static PlaceRow {
        let row = PLACES.iter().find(|row| row.meets(self));
        row.unwrap_or_else(|| panic!("no row for {self:?}"))
    }
}

impl PlaceCase {
    /// For the log and for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::TornTail => "torn tail",
            Self::StaleBlock => "stale block of another use",
            Self::LostWrite => "lost write",
            Self::DamagedMiddle => "damaged middle",
            Self::DamagedEnd => "damaged end",
            Self::PoisonedPredecessor => "poisoned predecessor",
        }
    }

    /// Acknowledged bytes are gone. A crash alone never does that.
    pub const fn is_damage(self) -> bool {
        matches!(self, Self::DamagedMiddle | Self::DamagedEnd)
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its header page is sound.
    pub header: bool,
    /// A block of it knew that some of it was durable.
    pub knew_durable: bool,
    /// It holds positions before the journal's end.
    pub holds: bool,
    /// It is the newest one that begins exactly at the end, and is needed to say so.
    pub boundary: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentCase {
    /// Kept; the last one is cut to the journal's end.
    Kept,
    /// Kept for whoever can read its entries: which listeners they name is lost.
    DamagedHeader,
    /// Kept, cut to its header: its base is where its predecessor's valid part ends, and where it is
    /// the only one, all that tells which positions were given out.
    Boundary,
    /// Behind the cut, or poisoned before anything of it was durable: removed.
    Empty,
    /// Its creation was not finished: removed.
    Unborn,
}

pub struct SegmentRow {
    header: Option<bool>,
    knew_durable: Option<bool>,
    holds: Option<bool>,
    boundary: Option<bool>,
    pub case: SegmentCase,
}

const fn segment(
    header: Option<bool>,
    knew_durable: Option<bool>,
    holds: Option<bool>,
    boundary: Option<bool>,
    case: SegmentCase,
) -> SegmentRow {
    SegmentRow {
        header,
        knew_durable,
        holds,
        boundary,
        case,
    }
}

#[rustfmt::skip]
pub const SEGMENTS: [SegmentRow; 6] = [
    //      header knew durable holds boundary
    segment(YES,   None,        YES,  NO,      SegmentCase::Kept),
    segment(YES,   None,        NO,   YES,     SegmentCase::Boundary),
    segment(YES,   None,        NO,   NO,      SegmentCase::Empty),
    segment(NO,    YES,         YES,  NO,      SegmentCase::DamagedHeader),
    segment(NO,    YES,         NO,   NO,      SegmentCase::Empty),
    segment(NO,    NO,          NO,   NO,      SegmentCase::Unborn),
];

impl SegmentRow {
    fn meets(&self, facts: &SegmentFacts) -> bool {
        let agrees = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        agrees(self.header, facts.header)
            && agrees(self.knew_durable, facts.knew_durable)
            && agrees(self.holds, facts.holds)
            && agrees(self.boundary, facts.boundary)
    }
}

impl SegmentFacts {
    pub fn case(&self) -> SegmentCase {
        let row = SEGMENTS.iter().find(|row| row.meets(self));
        row.unwrap_or_else(|| panic!("no row for {self:?}")).case
    }
}

impl SegmentCase {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::DamagedHeader => "damaged header",
            Self::Boundary => "boundary",
            Self::Empty => "empty",
            Self::Unborn => "unborn",
        }
    }

    pub const fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::DamagedHeader | Self::Boundary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [bool; 2] = [false, true];

    #[test]
    fn every_place_meets_exactly_one_row() {
        let mut met = [0; PLACES.len()];
        for bytes in [Bytes::Nothing, Bytes::Stale, Bytes::Torn] {
            for number in 0..8 {
                let place = Place {
                    bytes,
                    acknowledged: BOTH[number & 1],
                    followed: BOTH[number >> 1 & 1],
                    superseded: BOTH[number >> 2],
                };
                let rows: Vec<_> = (0..PLACES.len())
                    .filter(|at| PLACES[*at].meets(&place))
                    .collect();
                assert_eq!(rows.len(), 1, "{place:?} meets {rows:?}");
                met[rows[0]] += 1;
            }
        }
        // Three kinds of bytes, eight combinations of the rest.
        assert_eq!(met, [1, 1, 2, 2, 3, 3, 12]);
    }

    #[test]
    fn every_file_meets_exactly_one_row_or_cannot_be() {
        let mut met = [0; SEGMENTS.len()];
        let mut impossible = 0;
        for number in 0..16 {
            let facts = SegmentFacts {
                header: BOTH[number & 1],
                knew_durable: BOTH[number >> 1 & 1],
                holds: BOTH[number >> 2 & 1],
                boundary: BOTH[number >> 3],
            };
            let rows: Vec<_> = (0..SEGMENTS.len())
                .filter(|at| SEGMENTS[*at].meets(&facts))
                .collect();
            // It begins before the end or at it; only a header says that it begins at the end; and
            // without a header or such a block nothing says where it begins.
            let cannot_be = match facts.header {
                true => facts.holds && facts.boundary,
                false => facts.boundary || (facts.holds && !facts.knew_durable),
            };
            assert_eq!(
                rows.len(),
                usize::from(!cannot_be),
                "{facts:?} meets {rows:?}"
            );
            match rows.first() {
                Some(at) => met[*at] += 1,
                None => impossible += 1,
            }
        }
        assert_eq!((met, impossible), ([2, 2, 2, 1, 1, 1], 7));
    }

    #[test]
    fn only_what_nobody_was_told_of_is_cut() {
        for row in PLACES {
            let cuts = matches!(row.action, PlaceAction::Cut | PlaceAction::End);
            assert_eq!(cuts, row.acknowledged == NO, "{:?}", row.case);
            assert_eq!(
                row.case.is_damage(),
                row.acknowledged == YES,
                "{:?}",
                row.case
            );
        }
    }
}
