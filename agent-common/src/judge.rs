//! The verdict of a bundle, and of a new connection: the order of the law, in one place.
//!
//! ```text
//!  whole bundle     closing?  denied?                                     ─▶ each datagram closing, denied
//!  each datagram    malformed?                                            ─▶ well formed: how many, how long
//!  whole bundle     rate_limited? (charged for the well-formed ones)
//!  each datagram    shed? (its number against the ratio of its priority)  ─▶ if one is left: all passed
//! ```
//!
//! A filter cannot cut a datagram out of the middle of a bundle. So if one passes, all do and are
//! counted `passed`: the parser refuses the malformed ones by name, and the shard sheds the others
//! by the same ratios. That keeps the conservation law exact: what passed is what user space
//! receives or the kernel drops. If none passes, each is counted under its own verdict.

use crate::bucket::Taken;
use crate::bundle::{BUNDLE_DATAGRAMS_MAX, BundleShape, Packet, Scan};
use crate::keep::Keep;
use crate::layout::{
    ListEntry, POLICY_ALLOW, POLICY_LIMITS, POLICY_LISTS, Policy, PrefixKey, SOCKET_CLOSING,
    SocketSlot,
};
use crate::limit::{Limit, Sources, Worth, charge};
use crate::source::Source;
use crate::verdict::Verdict;

/// Access to what the gate was told.
pub trait Rules: Sources {
    /// The policy in force; of one call of `judge` it is asked for once. `None` only where the map is
    /// missing: then there is none.
    fn policy(&self) -> Option<&Policy>;
    /// The entry of the longest prefix that holds this address.
    fn list(&self, key: &PrefixKey) -> Option<ListEntry>;
    fn limit(&self, key: &PrefixKey) -> Option<&Limit>;
    /// The ratios in force.
    fn keep(&self) -> Keep;
}

/// What becomes of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of all its datagrams but the `malformed` ones.
    pub verdict: Verdict,
    /// How many those are.
    pub datagrams: u32,
    /// Datagrams that are counted as malformed beside them, as they share no other verdict.
    pub malformed: u32,
    /// Its charge met others' (`bucket::Taken::Contended`).
    pub contended: bool,
}

impl Outcome {
    #[inline(always)]
    const fn all(verdict: Verdict, datagrams: u32) -> Self {
        Self {
            verdict,
            datagrams,
            malformed: 0,
            contended: false,
        }
    }

    /// Whether the bundle goes on to be received.
    #[inline(always)]
    pub const fn passes(&self) -> bool {
        matches!(self.verdict, Verdict::Passed)
    }
}

/// Judges a bundle, and charges its source.
#[inline(always)]
pub fn judge<R: Rules, P: Packet + ?Sized>(
    rules: &R,
    slot: &SocketSlot,
    source: &Source,
    shape: BundleShape,
    packet: &P,
) -> Outcome {
    let datagrams = shape.datagrams();
    if slot.flags & SOCKET_CLOSING != 0 {
        return Outcome::all(Verdict::Closing, datagrams);
    }
    let Some(policy) = rules.policy() else {
        return Outcome::all(Verdict::Passed, datagrams);
    };
    if denied(rules, policy, source) {
        return Outcome::all(Verdict::Denied, datagrams);
    }
    let limit = match limit_of(rules, policy, source) {
        Some(limit) if limit.concerns_datagrams() => Some(limit),
        _ => None,
    };
    let mut scan = Scan::new(packet, shape, slot, rules.keep(), limit.is_some());
    if datagrams > BUNDLE_DATAGRAMS_MAX {
        // More than the kernel makes today: too many to look at each, so they count as well formed
        // and kept. The parser sees them anyway.
        scan.well_formed = datagrams;
        scan.well_formed_bytes = shape.payload_len;
        scan.kept = true;
    } else {
        P::run(&mut scan);
    }
    if scan.well_formed == 0 {
        return Outcome::all(Verdict::Malformed, datagrams);
    }
    let taken = if let Some(limit) = limit {
        let worth = Worth::Datagrams {
            datagrams: scan.well_formed,
            bytes: scan.well_formed_bytes,
        };
        charge(rules, policy, limit, source, worth)
    } else {
        Taken::Yes
    };
    let contended = matches!(taken, Taken::Contended);
    let verdict = if matches!(taken, Taken::Empty) {
        Verdict::RateLimited
    } else if scan.kept {
        return Outcome {
            contended,
            ..Outcome::all(Verdict::Passed, datagrams)
        };
    } else {
        Verdict::Shed
    };
    Outcome {
        verdict,
        datagrams: scan.well_formed,
        malformed: datagrams - scan.well_formed,
        contended,
    }
}

/// Judges a new connection: `Denied`, `RateLimited` or `Passed`.
#[inline(always)]
pub fn judge_connection<R: Rules>(rules: &R, source: &Source) -> Verdict {
    let Some(policy) = rules.policy() else {
        return Verdict::Passed;
    };
    if denied(rules, policy, source) {
        return Verdict::Denied;
    }
    if let Some(limit) = limit_of(rules, policy, source)
        && limit.connections.is_limit()
        && charge(rules, policy, limit, source, Worth::Connection) == Taken::Empty
    {
        return Verdict::RateLimited;
    }
    Verdict::Passed
}

/// Whether the lists deny this address.
#[inline(always)]
pub fn is_denied<R: Rules>(rules: &R, source: &Source) -> bool {
    match rules.policy() {
        Some(policy) => denied(rules, policy, source),
        None => false,
    }
}

/// Longest prefix wins; where any prefix is allowed, what no list names is denied.
#[inline(always)]
fn denied<R: Rules>(rules: &R, policy: &Policy, source: &Source) -> bool {
    if policy.flags & POLICY_LISTS == 0 {
        return false;
    }
    match rules.list(&policy.key(source)) {
        Some(entry) => matches!(entry, ListEntry::Deny),
        None => policy.flags & POLICY_ALLOW != 0,
    }
}

#[inline(always)]
fn limit_of<'a, R: Rules>(rules: &'a R, policy: &Policy, source: &Source) -> Option<&'a Limit> {
    if policy.flags & POLICY_LIMITS == 0 {
        return None;
    }
    rules.limit(&policy.key(source))
}

#[cfg(test)]
mod tests;
