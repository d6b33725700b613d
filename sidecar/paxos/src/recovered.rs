//! What a start finds on the disk, looked at before it counts.

use synod_mutant::{Mutant, planted};

use crate::base::Base;
use crate::membership::Membership;
use crate::record::Recovered;
use crate::types::{Ballot, Epoch, Incarnation, MemberId, Slot};

/// The number that this log has, or had, or will have in the group.
pub(crate) fn find_self(
    membership: &Membership,
    base: &Base,
    incarnation: Incarnation,
) -> Option<MemberId> {
    let current = membership.current(base).members.iter();
    let joining = membership.joining(base);
    let joining = joining.iter().flat_map(|it| &it.members);
    let former = membership.former_at(base, Slot(u64::MAX));
    let mut all = current.chain(joining).chain(&former);
    let is_own = |it: Incarnation| it == incarnation || planted(Mutant::StrangerTakesAPlace);
    all.find(|member| is_own(member.incarnation))
        .map(|member| member.id)
}

/// The configurations follow each other from the genesis on. Says which epoch was entered last.
fn check_changes(recovered: &Recovered, base: &Base) -> Result<Epoch, &'static str> {
    let genesis = recovered.genesis.as_ref().map(|it| &it.configuration);
    let first = &base.configuration;
    let known = genesis.is_none_or(|it| it.epoch < first.epoch || it == first);
    if !known || first.check().is_err() {
        return Err("its base has another configuration");
    }
    let (mut slot, mut epoch) = (base.slot, first.epoch);
    for (at, configuration) in &recovered.changes {
        let follows = *at > slot && configuration.epoch == epoch.next();
        if !follows || *at > recovered.commit || configuration.check().is_err() {
            return Err("its configurations do not follow each other");
        }
        (slot, epoch) = (*at, configuration.epoch);
    }
    Ok(epoch)
}

/// The disk may say anything; what contradicts itself is an error, not a panic later.
pub(crate) fn check_recovered(
    recovered: &Recovered,
    base: &Base,
    promised: Ballot,
    accepted: Ballot,
) -> Result<(), &'static str> {
    let Recovered { last, runs, .. } = recovered;
    let epoch = check_changes(recovered, base)?;
    let base = base.slot;
    let first = &base.next();
    let ensure = |ok: bool, otherwise| if ok { Ok(()) } else { Err(otherwise) };
    ensure(accepted <= promised, "accepted is above promised")?;
    ensure(
        promised.epoch == epoch && accepted.epoch == epoch,
        "a ballot is of an epoch that was not entered",
    )?;
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
    // (What is chosen may have been learnt, whatever was accepted here.)
    let behind = runs.partition_point(|(start, _)| *start <= recovered.commit.next());
    let behind = behind.saturating_sub(usize::from(recovered.commit < *last));
    ensure(
        runs[behind..].iter().all(|(_, ballot)| *ballot <= accepted),
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
    let end = recovered.ended_by.as_ref();
    ensure(
        end.is_none_or(|it| it.slot == *last && it.slot == recovered.commit),
        "what ended an epoch is not the last entry, or not chosen",
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
