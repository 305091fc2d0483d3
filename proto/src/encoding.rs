//! How a payload is encoded: byte 4 of the frame header.

/// The encodings that this version decodes. The protocol names 1 to 5; the others are refused as
/// `unsupported_encoding` until their decoder exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Protobuf `penstock.v1.LogBatch`.
    Protobuf = 1,
    /// Newline-delimited JSON, one record a line.
    Json = 3,
}

impl Encoding {
    pub const ALL: [Self; 2] = [Self::Protobuf, Self::Json];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Protobuf),
            3 => Some(Self::Json),
            _ => None,
        }
    }

    /// Dense index for per-encoding counters.
    pub const fn index(self) -> usize {
        match self {
            Self::Protobuf => 0,
            Self::Json => 1,
        }
    }

    /// The metric label and the word on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        }
    }
}
