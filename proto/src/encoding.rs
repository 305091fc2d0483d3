//! How a payload is encoded: byte 4 of the frame header.

/// The encodings that this version decodes. The protocol names 1 to 5; the others are refused as
/// `unsupported_encoding` until their decoder exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// Protobuf `penstock.v1.LogBatch`.
    Protobuf = 1,
    /// Avro, its writer's schema named by a fingerprint or a registry's id.
    Avro = 2,
    /// Newline-delimited JSON, one record a line.
    Json = 3,
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Protobuf, Self::Avro, Self::Json];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Protobuf),
            2 => Some(Self::Avro),
            3 => Some(Self::Json),
            _ => None,
        }
    }

    /// Dense index for per-encoding counters.
    pub const fn index(self) -> usize {
        match self {
            Self::Protobuf => 0,
            Self::Avro => 1,
            Self::Json => 2,
        }
    }

    /// The metric label and the word on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Avro => "avro",
            Self::Json => "json",
        }
    }
}
