//! Which frame comes next: good ones round the templates, and among them the hostile share.

use agent_common::frame::{FLAG_ZSTD, FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::checksum::crc32c;
use penstock_proto::reason::Reason;
use penstock_proto::wire::seal;

use super::hostile;
use super::pacing::Pace;
use super::plan::Plan;
use super::templates::{Template, Templates};

/// A frame that is due.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    pub template: usize,
    /// The reason that it is made to earn.
    pub hostile: Option<Reason>,
    pub intended_ns: u64,
}

pub struct Frames {
    pub templates: Templates,
    /// Payloads made for a reason: their place among the templates.
    forged: Vec<(Reason, usize)>,
    hostile_kinds: Vec<Reason>,
    hostile_drawn: usize,
    /// Nothing else is drawn: each takes a good one's place in the schedule.
    all_hostile: bool,
    /// Hostile frames per good one, and how many are due.
    hostile_share: f64,
    hostile_owed: f64,
    drawn: u64,
}

impl Frames {
    pub fn new(plan: &Plan, mut templates: Templates) -> Self {
        let mut hostile_kinds = hostile::kinds(plan.target.protocol);
        if !plan.hostile_reasons.is_empty() {
            hostile_kinds.retain(|reason| plan.hostile_reasons.contains(reason));
        }
        let good = templates.all[0].header;
        let mut forged = Vec::new();
        for &reason in &hostile_kinds {
            if let Some((encoding, payload)) = hostile::forge_payload(reason, plan.encoding) {
                // These payloads are as they are; only one says that it is compressed.
                let flags = good.flags & !FLAG_ZSTD | hostile::forged_flags(reason);
                let header = FrameHeader {
                    encoding: encoding as u8,
                    flags,
                    records: 1,
                    payload_len: payload.len() as u32,
                    payload_crc: crc32c(&payload),
                    ..good
                };
                forged.push((reason, templates.all.len()));
                templates.all.push(Template::forged(payload, header));
            }
        }
        let percent = plan.hostile_percent;
        Self {
            templates,
            forged,
            hostile_kinds,
            hostile_drawn: 0,
            all_hostile: percent == 100.0,
            hostile_share: percent / (100.0 - percent),
            hostile_owed: 0.0,
            drawn: 0,
        }
    }

    /// The next frame that is due. `prefer` names a template that it should use if it can.
    #[inline]
    pub fn draw(&mut self, pace: &mut Pace, now_ns: u64, prefer: Option<usize>) -> Option<Drawn> {
        let (records_max, intended_ns) = pace.due(now_ns)?;
        if self.hostile_owed >= 1.0 || self.all_hostile {
            if self.all_hostile {
                pace.begin(1);
            } else {
                self.hostile_owed -= 1.0;
            }
            let reason = self.hostile_kinds[self.hostile_drawn % self.hostile_kinds.len()];
            self.hostile_drawn += 1;
            return Some(self.forge(reason, prefer, intended_ns));
        }
        let template = prefer
            .filter(|&index| u64::from(self.templates.all[index].header.records) <= records_max)
            .unwrap_or_else(|| self.templates.choose(self.drawn, records_max));
        self.drawn += 1;
        self.hostile_owed += self.hostile_share;
        pace.begin(self.templates.all[template].header.records.into());
        Some(Drawn {
            template,
            hostile: None,
            intended_ns,
        })
    }

    fn forge(&self, reason: Reason, prefer: Option<usize>, intended_ns: u64) -> Drawn {
        let own = self.forged.iter().find(|(forged, _)| *forged == reason);
        Drawn {
            template: match own {
                Some((_, template)) => *template,
                None => prefer.unwrap_or(0),
            },
            hostile: Some(reason),
            intended_ns,
        }
    }

    /// The header with its checksum, or with what a hostile frame has in its place.
    #[inline]
    pub fn header(&self, drawn: &Drawn, producer: u64, sequence: u64) -> [u8; FRAME_HEADER_LEN] {
        let header = FrameHeader {
            producer,
            sequence,
            ..self.templates.all[drawn.template].header
        };
        match drawn.hostile {
            None => seal(&header),
            Some(reason) => hostile::forge_header(reason, header),
        }
    }

    #[inline]
    pub fn payload(&self, template: usize) -> &[u8] {
        &self.templates.all[template].payload
    }

    pub fn records(&self, template: usize) -> u64 {
        self.templates.all[template].header.records.into()
    }
}
