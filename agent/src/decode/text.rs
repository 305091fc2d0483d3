//! Bytes to text.

use penstock_proto::reason::Reason;

#[inline(always)]
pub fn text(bytes: &[u8]) -> Result<&str, Reason> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Reason::InvalidUtf8)
}
