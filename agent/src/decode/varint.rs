//! The number that Protobuf and Avro both write in as few bytes as it needs.

use penstock_proto::reason::Reason;

/// The varint that `bytes` begin with, however long it is, and what follows it. Ten bytes of seven
/// bits hold 64 bits where the tenth is 0 or 1. Callers take the lengths they mostly meet themselves.
#[inline(always)]
pub(super) fn of_any_length(bytes: &[u8]) -> Result<(u64, &[u8]), Reason> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if index == 9 && byte > 1 {
            return Err(Reason::MalformedPayload);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(Reason::TruncatedPayload)
}
