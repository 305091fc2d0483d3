//! Why a frame was refused: a metric label and a number on the wire, in one place.

use agent_common::classify::HeaderFault;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// Why a frame was refused. The number stands in byte 5 of an acknowledgement, the label in
        /// `penstock_refused_frames_total{reason}`; PROTOCOL.md lists both. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name = $code,)* }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            pub const COUNT: usize = Self::ALL.len();

            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            pub const fn from_wire(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Fewer bytes than a header, or than the header announces, before the end.
    Truncated = 1, "truncated";
    BadMagic = 2, "bad_magic";
    UnknownVersion = 3, "unknown_version";
    UnknownEncoding = 4, "unknown_encoding";
    UnknownFlag = 5, "unknown_flag";
    BadPriority = 6, "bad_priority";
    BadReserved = 7, "bad_reserved";
    NoRecords = 8, "no_records";
    /// The payload is longer than the listener takes.
    TooLong = 9, "too_long";
    /// The payload length does not fill the datagram exactly.
    LengthMismatch = 10, "length_mismatch";
    HeaderChecksum = 11, "header_checksum";
    PayloadChecksum = 12, "payload_checksum";
    /// Named by the protocol, but this agent has no decoder for it.
    UnsupportedEncoding = 13, "unsupported_encoding";
    /// Compressed in a way this agent cannot undo.
    UnsupportedCompression = 14, "unsupported_compression";
    /// The payload does not parse.
    MalformedPayload = 15, "malformed_payload";
    /// The payload ends in the middle of a value.
    TruncatedPayload = 16, "truncated_payload";
    /// The payload nests deeper than the limit.
    TooDeep = 17, "too_deep";
    InvalidUtf8 = 18, "invalid_utf8";
    /// The payload holds another number of records than the header says.
    RecordCount = 19, "record_count";
    /// A second producer's frame on one connection.
    ForeignProducer = 20, "foreign_producer";
    /// A sequence of 0: they count from 1.
    BadSequence = 21, "bad_sequence";
    /// Taken before and durable; nothing is stored a second time.
    Duplicate = 22, "duplicate";
    SequenceConflict = 23, "sequence_conflict";
    SequenceTooOld = 24, "sequence_too_old";
    /// The journal is at its limit, or the disk at its own.
    Backpressure = 25, "backpressure";
    /// The write or the sync of the frame's segment failed.
    JournalFailed = 26, "journal_failed";
    /// The agent is stopping and takes nothing new.
    Stopping = 27, "stopping";
    /// The payload names a writer schema that this agent does not know.
    UnknownSchema = 28, "unknown_schema";
    /// The payload's writer schema is known and cannot be mapped to records.
    UnusableSchema = 29, "unusable_schema";
    /// The compressed payload is damaged, or is followed by something else.
    MalformedCompression = 30, "malformed_compression";
    /// Decompressed, the payload is longer than the limit, or than the allowed ratio.
    DecompressedTooLong = 31, "decompressed_too_long";
    /// The compressed payload names a dictionary that is not there.
    UnknownDictionary = 32, "unknown_dictionary";
    /// As many producers as the agent remembers are remembered already.
    TooManyProducers = 33, "too_many_producers";
    /// Left out by its priority, to keep room for others (UDP).
    Shed = 34, "shed";
    /// More frames a second than its producer, or its tenant, may send (TCP).
    RateLimited = 35, "rate_limited";
    /// Its producer, or its tenant, has what it may have: in flight, or of the journal (TCP).
    TenantShare = 36, "tenant_share";
}

impl Reason {
    /// Dense index for per-reason counters.
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

impl From<HeaderFault> for Reason {
    fn from(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::Truncated => Self::Truncated,
            HeaderFault::Magic => Self::BadMagic,
            HeaderFault::Version => Self::UnknownVersion,
            HeaderFault::Encoding => Self::UnknownEncoding,
            HeaderFault::Flags => Self::UnknownFlag,
            HeaderFault::Priority => Self::BadPriority,
            HeaderFault::Reserved => Self::BadReserved,
            HeaderFault::NoRecords => Self::NoRecords,
            HeaderFault::TooLong => Self::TooLong,
            HeaderFault::Length => Self::LengthMismatch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_dense_and_numbers_come_back() {
        for (index, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(Reason::from_wire(reason as u8), Some(reason));
        }
    }
}
