//! Snapshots: taken, given to others, and put back into apps.

use bytes::Bytes;
use synod_paxos::{Base, Slot};
use synod_sidecar::apply::{Action, Fold};

use super::app::State;
use super::{Host, World};
use crate::words::Wrong;

/// A snapshot in a member's store.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) base: Base,
    /// As the production fold saves them.
    tables: Bytes,
    state: State,
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn fold(&self) -> Fold {
        Fold::load(&self.tables).expect("what was saved can be loaded")
    }
}

impl Host {
    pub(super) fn newest(&self) -> Option<&Snapshot> {
        self.snapshots.iter().max_by_key(|it| it.base.slot)
    }
}

impl World {
    /// Begins what a machine says, and ends it at once.
    pub(super) fn begin_job(&mut self, member: u32, action: Action) {
        match action {
            Action::Restore { job, slot, .. } => {
                let host = self.hosts.get_mut(&member).expect("it runs");
                let snapshot = host.snapshots.iter().find(|it| it.base.slot == slot);
                let state = snapshot.map(|it| it.state.clone());
                let Some(process) = &mut host.process else {
                    return;
                };
                let Some(state) = state else {
                    process.machine.handle_restore_failed(job, false);
                    return;
                };
                host.app.put(state);
                process.machine.handle_restored(job);
                self.say(format!(
                    "{member} puts the state of slot {slot} into its app"
                ));
            }
            Action::ReplaceApp { job, slot } => {
                if let Ok(process) = self.running(member) {
                    process.volume = Some((job, slot));
                }
            }
            Action::AskApplied { job, .. } => {
                let host = self.hosts.get_mut(&member).expect("it runs");
                let slot = host.app.state().reflects();
                if let Some(process) = &mut host.process {
                    process.machine.handle_app_applied(job, Some(slot));
                }
                self.say(format!(
                    "the app of {member} says that its state is that of slot {slot}"
                ));
            }
            Action::TakeSnapshot {
                job, slot, tables, ..
            } => {
                let host = self.hosts.get_mut(&member).expect("it runs");
                let state = host.app.state().clone();
                let Some(process) = &mut host.process else {
                    return;
                };
                let good = process.machine.handle_snapshot_taken(job);
                let base = process.paxos.base_at(slot, tables.time());
                let Some(base) = base.filter(|_| good) else {
                    return;
                };
                let tables = tables.save();
                host.snapshots.push(Snapshot {
                    base,
                    tables,
                    state,
                });
                self.say(format!("{member} has a snapshot of slot {slot}"));
            }
            Action::VoidSnapshot { slot } => {
                self.say(format!("the snapshot of slot {slot} on {member} is void"));
                let host = self.hosts.get_mut(&member).expect("it runs");
                host.snapshots.retain(|it| it.base.slot != slot);
            }
            Action::VoidSince { slot } => {
                let host = self.hosts.get_mut(&member).expect("it runs");
                host.snapshots.retain(|it| it.base.slot < slot);
            }
            _ => {}
        }
    }

    /// Once no app runs, its volume is put back.
    pub(super) fn put_volume_back(&mut self, member: u32) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        let Some(process) = &mut host.process else {
            return;
        };
        let machine = &mut process.machine;
        process.volume.take_if(|(job, _)| !machine.wants(*job));
        if !machine.is_absent() {
            return;
        }
        let Some((job, slot)) = process.volume.take() else {
            return;
        };
        let snapshot = host.snapshots.iter().find(|it| it.base.slot == slot);
        let state = match snapshot {
            Some(snapshot) => snapshot.state.clone(),
            None if slot == Slot::ZERO => State::default(),
            None => {
                machine.handle_volume_not_restored(job);
                return;
            }
        };
        host.app.put(state);
        machine.handle_app(None);
        machine.handle_volume_restored(job);
        self.say(format!(
            "{member} puts its app's volume back to slot {slot}"
        ));
    }

    /// A member takes one, and may begin behind it.
    pub(crate) fn take_snapshot(&mut self, member: u32) -> Result<(), Wrong> {
        let process = self.running(member)?;
        if process.machine.handle_take_snapshot().is_none() {
            return Err(format!("{member} takes no snapshot now"));
        }
        self.settle(member);
        self.use_newest(member);
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// Apply hears of the newest.
    fn use_newest(&mut self, member: u32) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        let Some(fold) = host.newest().map(Snapshot::fold) else {
            return;
        };
        let slot = fold.admitted();
        let Some(process) = &mut host.process else {
            return;
        };
        let void = !process.machine.has_skipped(&fold);
        let newer = slot > process.machine.base();
        if process.machine.handle_snapshot_available(fold) || !newer {
            return;
        }
        if void {
            host.snapshots.retain(|it| it.base.slot != slot);
            self.say(format!(
                "the snapshot of slot {slot} is of no use to {member}"
            ));
        }
    }

    /// The log begins behind the newest snapshot.
    pub(crate) fn compact(&mut self, member: u32) -> Result<(), Wrong> {
        let now = self.hosts.get(&member).map(|_| self.now_at(member));
        let newest = self.host(member)?.newest().map(|it| it.base.clone());
        let base = newest.ok_or_else(|| format!("{member} has no snapshot"))?;
        let process = self.running(member)?;
        process
            .paxos
            .handle_snapshot(now.unwrap_or_default(), base)
            .map_err(|error| error.to_string())?;
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// A member gets the newest snapshot of another.
    pub(crate) fn fetch(&mut self, member: u32, from: u32) -> Result<(), Wrong> {
        let newest = self.host(from)?.newest().cloned();
        let snapshot = newest.ok_or_else(|| format!("{from} has no snapshot"))?;
        let base = snapshot.base.clone();
        let host = self.host_mut(member)?;
        host.snapshots.retain(|it| it.base.slot != base.slot);
        host.snapshots.push(snapshot);
        let needs = self.running(member)?.needs_snapshot;
        if needs.is_some_and(|it| it <= base.slot) {
            let now = self.now_at(member);
            let process = self.running(member)?;
            process.needs_snapshot = None;
            process
                .paxos
                .handle_installed(now, base)
                .map_err(|error| error.to_string())?;
        }
        self.use_newest(member);
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// At a start the agreement hears of a snapshot that the log does not reach.
    pub(super) fn offer_own_snapshot(&mut self, member: u32) {
        let now = self.now_at(member);
        let newest = self.hosts[&member].newest().map(|it| it.base.clone());
        if let Ok(process) = self.running(member)
            && let Some(base) = newest.filter(|it| it.slot > process.paxos.last())
            && let Err(error) = process.paxos.handle_installed(now, base)
        {
            self.checks
                .found(format!("{member} refuses its own snapshot: {error}"));
        }
    }

    /// The log begins behind a snapshot now: apply goes on from there.
    pub(super) fn installed(&mut self, member: u32, slot: Slot) {
        self.say(format!("{member} goes on behind a snapshot of slot {slot}"));
        if let Ok(process) = self.running(member) {
            process.through = process.through.max(slot);
            process.machine.handle_commit(slot);
        }
        self.use_newest(member);
    }

    /// The snapshots of a member are lost.
    pub(crate) fn lose_snapshots(&mut self, member: u32) -> Result<(), Wrong> {
        self.host_mut(member)?.snapshots.clear();
        Ok(())
    }
}
