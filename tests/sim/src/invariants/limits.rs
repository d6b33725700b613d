//! I12: every queue stays within its limit.
//!
//! Source: *TigerStyle* (TigerBeetle, 2023): all loops and all queues must have a fixed upper
//! bound.

use synod_paxos::{Settings, Status};

use super::Violation;

/// A promise or an adoption does not queue behind the limit of writes; each needs a higher ballot.
const WRITES_OF_ELECTIONS: u64 = 16;

/// What a member puts on one connection in one go: its queue must hold it, or each new connection
/// would break as the one before.
pub(crate) fn check_burst(member: usize, bytes: u64, limit: u64) -> Result<(), Violation> {
    if bytes <= limit {
        return Ok(());
    }
    let text = format!(
        "member {} sends {bytes} bytes in one go, a queue holds {limit}",
        member + 1
    );
    Err(Violation::new("I12", text))
}

/// What a member says about its queues, against what it was told.
pub(crate) fn check(
    member: usize,
    status: &Status,
    settings: &Settings,
    writes: usize,
) -> Result<(), Violation> {
    // A batch takes at least one entry, so each bound in bytes may be passed by one.
    let one = settings.max_payload_bytes() + synod_paxos::Entry::OVERHEAD_BYTES;
    // What is committed and not synced here yet is in memory too: a window's worth at most.
    let queues = [
        (
            "pending commands",
            status.pending_commands,
            u64::from(settings.max_pending_commands),
        ),
        (
            "pending bytes",
            status.pending_bytes,
            settings.max_pending_bytes + one,
        ),
        (
            "bytes given to another leader",
            match status.leader {
                Some(leader) if leader != status.member => status.given_bytes,
                _ => 0,
            },
            settings.most_forwarded_bytes(),
        ),
        (
            "pending reads",
            status.pending_reads,
            u64::from(settings.max_pending_reads),
        ),
        (
            "cached bytes",
            status.cached_bytes,
            status.uncommitted_bytes
                + settings.cache_bytes
                + settings.total_window_bytes
                + settings.window_bytes
                + one,
        ),
        (
            "writes under way",
            writes as u64,
            u64::from(settings.max_persists) + WRITES_OF_ELECTIONS,
        ),
    ];
    let windows = status.peers.iter().map(|peer| {
        (
            "bytes in flight",
            peer.in_flight_bytes,
            settings.window_bytes + settings.max_message_bytes.max(one),
        )
    });
    for (what, is, limit) in queues.into_iter().chain(windows) {
        if is > limit {
            return Err(Violation::new(
                "I12",
                format!(
                    "member {} has {is} {what}, its limit is {limit}",
                    member + 1
                ),
            ));
        }
    }
    Ok(())
}
