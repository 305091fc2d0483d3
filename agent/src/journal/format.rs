//! The journal's bytes: a segment is a header page and then blocks; a block is a header and then
//! entries; an entry is an envelope and one frame. Integers are little-endian.
//!
//! ```text
//! DATA/journal/shard-00/0000000000000001.segment
//! ┌────────────────┬──────────────────────────────┬───────────────┬──
//! │ header page    │ block                        │ block         │ …
//! │ 4096 bytes     │ header │ entry │ entry │ pad │ header │ …    │
//! └────────────────┴──────────────────────────────┴───────────────┴──
//!                  ▲ position = base               ▲ a multiple of 4096
//! ```
//!
//! A *position* is a place in a shard's journal as a whole: it rises over segments without a gap
//! and is what cursors, acknowledgements and the durable mark are counted in. A segment's header
//! says at which position its first block stands, and where the valid part of its predecessor
//! ends; whatever lies beyond that in the predecessor was never acknowledged and is never read.
//!
//! Parsers here take bytes and return a view or a fault; they do not read files.

use agent_common::frame::{FRAME_HEADER_LEN, FrameHeader};
use penstock_proto::checksum::crc32c;

/// Blocks begin at multiples of this, in the file and as positions: what O_DIRECT asks for.
pub const BLOCK_ALIGN: usize = 4096;
/// The segment's header page.
pub const SEGMENT_HEADER_LEN: usize = BLOCK_ALIGN;
/// The block's header.
pub const BLOCK_HEADER_LEN: usize = 64;
/// The entry's header, the envelope.
pub const ENTRY_HEADER_LEN: usize = 48;
/// Entries begin at multiples of this within their block.
pub const ENTRY_ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"PNSJRNL2";
const BLOCK_MAGIC: [u8; 4] = *b"PNB2";

/// The name of a segment's file within its shard's folder.
pub fn segment_file_name(number: u64) -> String {
    format!("{number:016}.segment")
}

/// The number of a segment, from its file's name.
pub fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".segment")?;
    if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The name of a shard's folder within `DATA/journal/`.
pub fn shard_folder_name(shard: u16) -> String {
    format!("shard-{shard:02}")
}

/// What is wrong with bytes that should be a segment header, a block or an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatFault {
    #[error("too few bytes")]
    Short,
    #[error("wrong magic")]
    Magic,
    #[error("another version's segment")]
    Version,
    #[error("wrong checksum")]
    Checksum,
    #[error("a length that cannot be")]
    Length,
    #[error("another segment's or position's block")]
    Stale,
}

/// The first page of a segment.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `PNSJRNL2`; the last byte is the version |
/// | 8 | 2 | shard |
/// | 16 | 8 | segment number, from 1 |
/// | 24 | 8 | base: the position of the first block |
/// | 32 | 8 | records in the journal before this segment |
/// | 40 | 8 | created, nanoseconds since 1970 |
/// | 48 | 8 | the predecessor's number; 0 is none |
/// | 56 | 8 | salt: random, repeated by each block's header |
/// | 64 | 2 | listeners: how many names follow, each a length byte and UTF-8 |
/// | 4092 | 4 | CRC-32C of bytes 0..4092 |
///
/// The base is also where the predecessor's valid part ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub shard: u16,
    pub number: u64,
    pub base: u64,
    pub records_before: u64,
    pub created_unix_nano: u64,
    pub predecessor: u64,
    pub salt: u64,
    /// Names by the index that entries carry.
    pub listeners: Vec<String>,
}

impl SegmentHeader {
    /// Writes the page. Names longer than `limits::NAME_LEN_MAX` are the configuration's to refuse.
    pub fn write(&self, page: &mut [u8; SEGMENT_HEADER_LEN]) {
        page.fill(0);
        page[..8].copy_from_slice(&SEGMENT_MAGIC);
        page[8..10].copy_from_slice(&self.shard.to_le_bytes());
        put_u64(page, 16, self.number);
        put_u64(page, 24, self.base);
        put_u64(page, 32, self.records_before);
        put_u64(page, 40, self.created_unix_nano);
        put_u64(page, 48, self.predecessor);
        put_u64(page, 56, self.salt);
        page[64..66].copy_from_slice(&(self.listeners.len() as u16).to_le_bytes());
        let mut at = 66;
        for name in &self.listeners {
            page[at] = name.len() as u8;
            page[at + 1..][..name.len()].copy_from_slice(name.as_bytes());
            at += 1 + name.len();
        }
        let crc = crc32c(&page[..SEGMENT_HEADER_LEN - 4]);
        page[SEGMENT_HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    }

    pub fn read(page: &[u8]) -> Result<Self, FormatFault> {
        let page: &[u8; SEGMENT_HEADER_LEN] = page.first_chunk().ok_or(FormatFault::Short)?;
        if page[..7] != SEGMENT_MAGIC[..7] {
            return Err(FormatFault::Magic);
        }
        if page[7] != SEGMENT_MAGIC[7] {
            return Err(FormatFault::Version);
        }
        if crc32c(&page[..SEGMENT_HEADER_LEN - 4]) != get_u32(page, SEGMENT_HEADER_LEN - 4) {
            return Err(FormatFault::Checksum);
        }
        let count = u16::from_le_bytes([page[64], page[65]]);
        let mut listeners =
            Vec::with_capacity(usize::from(count).min(crate::limits::LISTENER_NAMES_MAX));
        let mut at = 66;
        for _ in 0..count {
            let len = usize::from(*page.get(at).ok_or(FormatFault::Length)?);
            let name = page.get(at + 1..at + 1 + len).ok_or(FormatFault::Length)?;
            listeners.push(String::from_utf8_lossy(name).into_owned());
            at += 1 + len;
        }
        Ok(Self {
            shard: u16::from_le_bytes([page[8], page[9]]),
            number: get_u64(page, 16),
            base: get_u64(page, 24),
            records_before: get_u64(page, 32),
            created_unix_nano: get_u64(page, 40),
            predecessor: get_u64(page, 48),
            salt: get_u64(page, 56),
            listeners,
        })
    }
}

/// What the blocks of a segment are known by. The salt is a secret of the journal: whoever sends
/// payloads can guess a segment's number and a position, and could otherwise put into a payload
/// what looks like a block, for a reader that looks for the next one after damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentKey {
    pub number: u64,
    pub salt: u64,
}

impl SegmentHeader {
    pub fn key(&self) -> SegmentKey {
        SegmentKey {
            number: self.number,
            salt: self.salt,
        }
    }
}

/// A block's header.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | magic `PNB2` |
/// | 4 | 4 | length in bytes with this header, without padding |
/// | 8 | 8 | the block's own position |
/// | 16 | 8 | the durable position known when the block was sealed |
/// | 24 | 8 | segment number: tells a stale block of a reused file |
/// | 32 | 8 | records in the journal before this block |
/// | 40 | 4 | entries |
/// | 44 | 4 | records |
/// | 48 | 8 | the segment's salt |
/// | 60 | 4 | CRC-32C of bytes 0..60 |
///
/// Entries carry their own checksums, so the header need not cover them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub len: u32,
    pub position: u64,
    pub durable: u64,
    pub segment: u64,
    pub records_before: u64,
    pub entries: u32,
    pub records: u32,
    pub salt: u64,
}

impl BlockHeader {
    pub fn write(&self, out: &mut [u8; BLOCK_HEADER_LEN]) {
        out.fill(0);
        out[..4].copy_from_slice(&BLOCK_MAGIC);
        put_u32(out, 4, self.len);
        put_u64(out, 8, self.position);
        put_u64(out, 16, self.durable);
        put_u64(out, 24, self.segment);
        put_u64(out, 32, self.records_before);
        put_u32(out, 40, self.entries);
        put_u32(out, 44, self.records);
        put_u64(out, 48, self.salt);
        let crc = crc32c(&out[..60]);
        put_u32(out, 60, crc);
    }

    /// Reads a header that should stand at `position` of a segment.
    pub fn read(bytes: &[u8], segment: SegmentKey, position: u64) -> Result<Self, FormatFault> {
        let header = Self::parse(bytes)?;
        if header.key() != segment || header.position != position {
            return Err(FormatFault::Stale);
        }
        let len = header.len as usize;
        if !(BLOCK_HEADER_LEN..=crate::limits::JOURNAL_BLOCK_LEN).contains(&len) {
            return Err(FormatFault::Length);
        }
        Ok(header)
    }

    /// Reads a header wherever it stands.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatFault> {
        let bytes: &[u8; BLOCK_HEADER_LEN] = bytes.first_chunk().ok_or(FormatFault::Short)?;
        if bytes[..4] != BLOCK_MAGIC {
            return Err(FormatFault::Magic);
        }
        if crc32c(&bytes[..60]) != get_u32(bytes, 60) {
            return Err(FormatFault::Checksum);
        }
        Ok(Self {
            len: get_u32(bytes, 4),
            position: get_u64(bytes, 8),
            durable: get_u64(bytes, 16),
            segment: get_u64(bytes, 24),
            records_before: get_u64(bytes, 32),
            entries: get_u32(bytes, 40),
            records: get_u32(bytes, 44),
            salt: get_u64(bytes, 48),
        })
    }

    /// The segment that it says it is of.
    pub fn key(&self) -> SegmentKey {
        SegmentKey {
            number: self.segment,
            salt: self.salt,
        }
    }

    /// Where the next block begins.
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.len).next_multiple_of(BLOCK_ALIGN as u64)
    }
}

/// What an entry is. More kinds may follow; a reader steps over those it does not know.
pub const ENTRY_KIND_FRAME: u8 = 1;
/// A part of a snapshot of the dedup windows (`dedup::snapshot`), alone in its block. A segment's
/// first blocks hold a whole one, unless nobody was remembered when the segment was begun.
pub const ENTRY_KIND_WINDOWS: u8 = 2;

/// The envelope: when, over which listener, from whom.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | length in bytes with this header, without padding (windows too) |
/// | 4 | 1 | kind: 1 frame · 2 windows, of which only what is marked is set |
/// | 5 | 1 | keep ratio in force, in sixteenths; 16 keeps all |
/// | 6 | 2 | listener index, into the segment header's names |
/// | 8 | 8 | observed, nanoseconds since 1970 (windows too) |
/// | 16 | 16 | peer address, IPv4 mapped into IPv6 |
/// | 32 | 2 | peer port |
/// | 34 | 1 | 1 where there is a peer address |
/// | 35 | 1 | 1 where the frame's sequence was taken into its producer's window |
/// | 40 | 4 | windows: CRC-32C of the body; frames carry their own |
/// | 44 | 4 | CRC-32C of bytes 0..44 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub observed_time_unix_nano: u64,
    pub listener: u16,
    pub keep_sixteenths: u8,
    pub peer: Option<std::net::SocketAddr>,
    /// The frame's sequence was taken into its producer's dedup window: a retry is a duplicate.
    pub deduplicated: bool,
}

/// Writes the header of an entry that holds a part of a snapshot, which is in `body`.
pub fn write_windows_header(
    observed_time_unix_nano: u64,
    body: &[u8],
    out: &mut [u8; ENTRY_HEADER_LEN],
) {
    out.fill(0);
    put_u32(out, 0, (ENTRY_HEADER_LEN + body.len()) as u32);
    out[4] = ENTRY_KIND_WINDOWS;
    put_u64(out, 8, observed_time_unix_nano);
    put_u32(out, 40, crc32c(body));
    let crc = crc32c(&out[..44]);
    put_u32(out, 44, crc);
}

impl Envelope {
    /// Writes the header of an entry that holds a frame of `frame_len` bytes.
    #[inline]
    pub fn write(&self, frame_len: usize, out: &mut [u8; ENTRY_HEADER_LEN]) {
        out.fill(0);
        put_u32(out, 0, (ENTRY_HEADER_LEN + frame_len) as u32);
        out[4] = ENTRY_KIND_FRAME;
        out[5] = self.keep_sixteenths;
        out[6..8].copy_from_slice(&self.listener.to_le_bytes());
        put_u64(out, 8, self.observed_time_unix_nano);
        if let Some(peer) = self.peer {
            let address = match peer.ip() {
                std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                std::net::IpAddr::V6(v6) => v6,
            };
            out[16..32].copy_from_slice(&address.octets());
            out[32..34].copy_from_slice(&peer.port().to_le_bytes());
            out[34] = 1;
        }
        out[35] = u8::from(self.deduplicated);
        let crc = crc32c(&out[..44]);
        put_u32(out, 44, crc);
    }
}

/// An entry of a block, borrowing it. The frame's header passed its CRC.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub envelope: Envelope,
    pub header: FrameHeader,
    pub payload: &'a [u8],
}

/// An entry of any kind that this version knows.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    Frame(Entry<'a>),
    /// The bytes of a part of a snapshot, for `dedup::snapshot::Part::read`.
    Windows(&'a [u8]),
}

/// Walks the entries of one block: `block` begins at the block's header and holds at least
/// `header.len` bytes.
pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
    /// Whether payload CRCs are checked: needed for what comes from disk, not for what the agent
    /// itself checked on receipt and still holds in memory.
    verify_payload: bool,
}

impl<'a> Entries<'a> {
    pub fn new(block: &'a [u8], header: &BlockHeader, verify_payload: bool) -> Self {
        let bytes = block.get(..header.len as usize).unwrap_or(block);
        Self {
            bytes,
            at: BLOCK_HEADER_LEN,
            left: header.entries,
            verify_payload,
        }
    }

    /// Payload checksums are not looked at: they have just been.
    pub fn trust(&mut self) {
        self.verify_payload = false;
    }

    /// The next entry's header and what follows it. A fault here loses the place: nothing tells
    /// where the entry after it begins.
    fn read_head(&self) -> Result<(&'a [u8; ENTRY_HEADER_LEN], &'a [u8]), FormatFault> {
        let rest = self.bytes.get(self.at..).ok_or(FormatFault::Short)?;
        let head: &[u8; ENTRY_HEADER_LEN] = rest.first_chunk().ok_or(FormatFault::Short)?;
        if crc32c(&head[..44]) != get_u32(head, 44) {
            return Err(FormatFault::Checksum);
        }
        let len = get_u32(head, 0) as usize;
        let entry = rest.get(..len).ok_or(FormatFault::Length)?;
        let body = entry.get(ENTRY_HEADER_LEN..).ok_or(FormatFault::Length)?;
        Ok((head, body))
    }

    /// The next entry of a known kind.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, FormatFault> {
        while self.left > 0 {
            let (head, body) = self.read_head().inspect_err(|_| self.left = 0)?;
            self.at += (ENTRY_HEADER_LEN + body.len()).next_multiple_of(ENTRY_ALIGN);
            self.left -= 1;
            match head[4] {
                ENTRY_KIND_FRAME => {}
                ENTRY_KIND_WINDOWS => {
                    if self.verify_payload && crc32c(body) != get_u32(head, 40) {
                        return Err(FormatFault::Checksum);
                    }
                    return Ok(Some(Item::Windows(body)));
                }
                _ => continue,
            }
            let frame: &[u8; FRAME_HEADER_LEN] = body.first_chunk().ok_or(FormatFault::Length)?;
            if !penstock_proto::wire::header_crc_matches(frame) {
                return Err(FormatFault::Checksum);
            }
            let header = FrameHeader::read(frame);
            let payload = &body[FRAME_HEADER_LEN..];
            if payload.len() != header.payload_len as usize {
                return Err(FormatFault::Length);
            }
            if self.verify_payload && crc32c(payload) != header.payload_crc {
                return Err(FormatFault::Checksum);
            }
            return Ok(Some(Item::Frame(Entry {
                envelope: read_envelope(head),
                header,
                payload,
            })));
        }
        Ok(None)
    }
}

/// The frames. A damaged entry is one `Err`; the good ones after it still come.
impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, FormatFault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_item() {
                Ok(Some(Item::Frame(entry))) => return Some(Ok(entry)),
                Ok(Some(Item::Windows(_))) => {}
                Ok(None) => return None,
                Err(fault) => return Some(Err(fault)),
            }
        }
    }
}

fn read_envelope(head: &[u8; ENTRY_HEADER_LEN]) -> Envelope {
    let peer = (head[34] == 1).then(|| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&head[16..32]);
        let ip = std::net::Ipv6Addr::from(octets).to_canonical();
        std::net::SocketAddr::new(ip, u16::from_le_bytes([head[32], head[33]]))
    });
    Envelope {
        observed_time_unix_nano: get_u64(head, 8),
        listener: u16::from_le_bytes([head[6], head[7]]),
        keep_sixteenths: head[5],
        peer,
        deduplicated: head[35] == 1,
    }
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
