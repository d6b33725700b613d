//! I9: a read's index covers every write that was answered before the read began.
//!
//! Source: Ongaro, *Consensus: Bridging Theory and Practice* (2014), section 6.4; the bug classes
//! "stale read from a deposed leader" (etcd 741) and "a reused read index" (etcd 20418).

use synod_paxos::Slot;

use super::Violation;

/// A member was told `index` for a read that began when `floor` was the highest slot that any
/// client had seen.
pub(crate) fn given(member: usize, index: Slot, floor: Slot) -> Result<(), Violation> {
    if index < floor {
        return Err(Violation::new(
            "I9",
            format!(
                "member {} got read index {index}, and slot {floor} was answered before the read began",
                member + 1
            ),
        ));
    }
    Ok(())
}
