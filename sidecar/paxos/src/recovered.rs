//! What a start finds on the disk, looked at before it counts.

use crate::record::Recovered;
use crate::types::{Ballot, Slot};

/// The disk may say anything; what contradicts itself is an error, not a panic later.
pub(crate) fn check_recovered(
    recovered: &Recovered,
    base: Slot,
    promised: Ballot,
    accepted: Ballot,
) -> Result<(), &'static str> {
    let Recovered { last, runs, .. } = recovered;
    let first = &base.next();
    let ensure = |ok: bool, otherwise| if ok { Ok(()) } else { Err(otherwise) };
    ensure(accepted <= promised, "accepted is above promised")?;
    ensure(*last >= base, "last is before first")?;
    ensure(recovered.commit <= *last, "commit is above last")?;
    ensure(recovered.commit >= base, "commit is before first")?;
    ensure(
        runs.first().map(|(start, _)| *start) == (last >= first).then_some(*first),
        "runs do not begin at the first slot",
    )?;
    ensure(
        runs.is_sorted_by(|a, b| a.0 < b.0) && runs.iter().all(|(start, _)| start <= last),
        "runs are not in order",
    )?;
    ensure(
        runs.iter().all(|(_, ballot)| *ballot <= accepted),
        "an entry has a ballot above accepted",
    )?;
    let ballot_at = |slot: Slot| {
        let at = runs.partition_point(|(start, _)| *start <= slot);
        at.checked_sub(1).map(|at| runs[at].1)
    };
    let within = |slot: Slot| slot >= *first && slot <= *last;
    ensure(
        recovered
            .faulty
            .iter()
            .all(|header| within(header.slot) && ballot_at(header.slot) == Some(header.ballot)),
        "a faulty slot is not in the log",
    )?;
    ensure(
        recovered.tail.iter().all(|entry| {
            within(entry.slot)
                && entry.slot > recovered.commit
                && ballot_at(entry.slot) == Some(entry.ballot)
        }),
        "an entry of the tail is not in the log",
    )?;
    let missing = |slot: Slot| {
        recovered.tail.iter().all(|entry| entry.slot != slot)
            && recovered.faulty.iter().all(|header| header.slot != slot)
    };
    let uncommitted = last.0 - recovered.commit.0;
    let faulty = recovered
        .faulty
        .iter()
        .filter(|header| header.slot > recovered.commit)
        .count();
    ensure(
        recovered.tail.is_sorted_by(|a, b| a.slot < b.slot)
            && (recovered.tail.len() + faulty) as u64 == uncommitted
            && !missing_any(recovered, missing),
        "an uncommitted entry is missing",
    )
}

/// Whether any uncommitted slot is neither there nor known to be faulty; cheap when none is faulty.
fn missing_any(recovered: &Recovered, missing: impl Fn(Slot) -> bool) -> bool {
    !recovered.faulty.is_empty()
        && (recovered.commit.0 + 1..=recovered.last.0).any(|slot| missing(Slot(slot)))
}
