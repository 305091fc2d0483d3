//! The versions of our own Avro schema, as producers and command lines name them.

/// A version of `penstock.LogRecord` (`schemas/log_record_v*.avsc`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SchemaVersion {
    /// Time, severity, service and body.
    V1,
    /// Also host and attributes.
    V2,
    /// Also trace id and span id.
    #[default]
    V3,
}

impl SchemaVersion {
    pub const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    /// The word on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }

    /// The CRC-64-AVRO fingerprint of the schema of an array of such records.
    pub const fn array_fingerprint(self) -> u64 {
        match self {
            Self::V1 => 0x8a97_e74f_e859_6edc,
            Self::V2 => 0x5ad1_c08c_cde6_7ab4,
            Self::V3 => 0xe108_4538_e04a_e6cb,
        }
    }
}
