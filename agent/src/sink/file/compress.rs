//! The compressors of the file formats: a context and a buffer, used again for each block.

use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

/// zstd's level 1, with two of its parameters fitted to blocks of 128 KiB of log records, so that the
/// match finder's table (16 KiB) stays in a core's first cache. On 20,000 real lines, stored records
/// of 233 bytes in blocks of 128 KiB, on one core, ratio and records/s of the compressor alone:
///
/// | parameters | ratio | records/s |
/// |---|---|---|
/// | level 1 as it is | 7.77 | 3.67 M |
/// | hash log 12, matches from 6 bytes | 7.81 | 3.76 M |
/// | hash log 12, matches from 7 bytes | 7.78 | 3.80 M |
/// | the same, every second position tried | 7.36 | 3.92 M |
/// | the same, literals not compressed (level -1) | 6.42 | 4.15 M |
/// | level -5 | 4.92 | 4.44 M |
///
/// What the faster ones save of a core they cost in disk from then on: a fifth of the files' size
/// for a tenth of the time is no trade that an owner of logs would make.
const LEVEL: i32 = 1;
const HASH_LOG: u32 = 12;
const MATCH_LEN_MIN: u32 = 7;

/// Makes one zstd frame of each block.
pub struct Zstd {
    context: Compressor<'static>,
}

impl Zstd {
    pub fn new() -> io::Result<Self> {
        let mut context = Compressor::new(LEVEL)?;
        context.set_parameter(CParameter::HashLog(HASH_LOG))?;
        context.set_parameter(CParameter::MinMatch(MATCH_LEN_MIN))?;
        // Four bytes a block, and readers notice damage.
        context.include_checksum(true)?;
        Ok(Self { context })
    }

    /// Compresses `plain` into `out` from `at` on; returns where it ends. `out` grows only for a
    /// block longer than all before it.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>, at: usize) -> io::Result<usize> {
        let room = at + compress_bound(plain.len());
        if out.len() < room {
            out.resize(room, 0);
        }
        let len = self.context.compress_to_buffer(plain, &mut out[at..])?;
        Ok(at + len)
    }
}

/// Snappy as Avro has it: the raw format, and behind it the CRC-32 (ISO-HDLC, as in gzip) of the
/// uncompressed block, big-endian.
pub struct Snappy {
    /// Its table of 2 KiB stands beside, not within.
    encoder: Box<snap::raw::Encoder>,
}

pub const SNAPPY_CRC_LEN: usize = 4;

impl Default for Snappy {
    fn default() -> Self {
        Self {
            encoder: Box::new(snap::raw::Encoder::new()),
        }
    }
}

impl Snappy {
    /// As `Zstd::compress`.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>, at: usize) -> io::Result<usize> {
        let room = at + snap::raw::max_compress_len(plain.len()) + SNAPPY_CRC_LEN;
        if out.len() < room {
            out.resize(room, 0);
        }
        let len = self
            .encoder
            .compress(plain, &mut out[at..])
            .map_err(io::Error::other)?;
        let end = at + len;
        out[end..][..SNAPPY_CRC_LEN].copy_from_slice(&snappy_crc(plain).to_be_bytes());
        Ok(end + SNAPPY_CRC_LEN)
    }
}

/// The checksum behind a snappy block of an Avro file.
pub fn snappy_crc(plain: &[u8]) -> u32 {
    crc_fast::crc32_iso_hdlc(plain)
}
