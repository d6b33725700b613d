//! What takes the app a while besides requests: its state is put back, asked for, or saved. Each may fail,
//! and at each point the process, the app or the machine may die.

use synod_paxos::Slot;
use synod_sidecar::apply::{Action, Fold, Job};

use crate::calendar::{Event, Life};
use crate::copy::look;
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::invariants::applied::{Effect, has_none_of, is_right};
use crate::revisions::tell_revision;
use crate::snapshots::{Maker, Snapshot, Taking, Use};
use crate::world::World;

/// How long a snapshot may take, from when it was asked for; as the executor has it.
pub(crate) const SNAPSHOT_LIMIT_NS: u64 = 60_000_000_000;

/// How a job goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    NotBegun,
    Half,
    /// The sidecar dies meanwhile.
    Dies,
    /// It never ends.
    Never,
}

impl World {
    fn draw_end(&mut self) -> (End, u64) {
        let takes = self.dice.log_range(100_000, self.swarm.service.job_ns);
        let fails = !self.calm && self.dice.chance(self.swarm.service.job_fails);
        let dies = !self.calm && self.dice.chance(self.swarm.service.dies_in_job);
        let ends = [End::NotBegun, End::Half, End::Half, End::Never];
        let end = if fails {
            ends[self.dice.pick(ends.len())]
        } else if dies && !self.is_looked_for() {
            End::Dies
        } else {
            End::Done
        };
        (end, takes)
    }

    /// The sidecar dies now, if that is how the job ends.
    fn dies_in_job(&mut self, member: usize, life: Life, end: End) {
        let process = self.hosts[member].process.as_ref();
        if end == End::Dies && process.is_some_and(|it| it.life == life) && !self.calm {
            let machine = self.dice.chance(self.swarm.faults.machine);
            let length = self.dice.gap(self.swarm.faults.length_ns);
            self.kill(member, machine, length);
        }
    }

    /// Begins what the machine says.
    pub(crate) fn begin_job(&mut self, member: usize, action: Action) {
        let (end, takes) = self.draw_end();
        let host = &mut self.hosts[member];
        let life = host.life;
        let process = host.process.as_mut().expect("it was polled");
        match action {
            Action::Restore {
                job,
                slot,
                instance,
            } => {
                let has = host.snapshots.iter().any(|it| it.base.slot == slot);
                let there = look(host) == Some(instance);
                let end = if has && there && end != End::Never {
                    end
                } else {
                    End::NotBegun
                };
                if end != End::NotBegun {
                    host.app.spoil(&mut self.dice);
                    self.coverage.saw(Sight::RestoresBegun);
                }
                self.plan(
                    takes,
                    Event::Restored {
                        member,
                        life,
                        job,
                        slot,
                        process: instance.0.get(),
                        end,
                    },
                );
            }
            Action::ReplaceApp { job, slot } => process.keeper.volume = Some((job, slot)),
            Action::AskApplied { job, instance } => {
                let process = instance.0.get();
                self.plan(
                    takes,
                    Event::Claimed {
                        member,
                        life,
                        job,
                        process,
                        says: end == End::Done,
                    },
                );
            }
            Action::TakeSnapshot {
                job, slot, tables, ..
            } => {
                let Some(taking) = process.keeper.taking.as_mut().filter(|it| it.job == job) else {
                    return;
                };
                taking.tables = Some(tables);
                if end != End::Never {
                    self.plan(
                        takes,
                        Event::Taken {
                            member,
                            life,
                            job,
                            slot,
                            end,
                        },
                    );
                }
            }
            Action::DropSnapshot { job } => {
                if process.keeper.taking.take_if(|it| it.job == job).is_some() {
                    self.coverage.saw(Sight::SnapshotsGivenUp);
                }
            }
            Action::VoidSnapshot { slot } => {
                self.coverage.saw(Sight::SnapshotsVoid);
                host.snapshots.retain(|it| it.base.slot != slot);
            }
            Action::VoidSince { slot } => {
                if host.void_since(slot) {
                    self.coverage.saw(Sight::SnapshotsAstray);
                }
            }
            other => unreachable!("this is no job: {other:?}"),
        }
    }

    /// Drops what is of no use any more, and begins what had to wait for the end of the app.
    pub(crate) fn tidy_jobs(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let life = host.life;
        let Some(process) = &mut host.process else {
            return;
        };
        let machine = &process.copy.machine;
        let keeper = &mut process.keeper;
        keeper.volume.take_if(|(job, _)| !machine.wants(*job));
        if !machine.is_absent() {
            return;
        }
        let Some((job, slot)) = keeper.volume.take() else {
            return;
        };
        host.half_restored = true;
        host.app.spoil(&mut self.dice);
        let (end, takes) = self.draw_end();
        self.plan(
            takes,
            Event::VolumeBack {
                member,
                life,
                job,
                slot,
                end,
            },
        );
    }

    /// A state was put into the app, or was not.
    pub(crate) fn restored(
        &mut self,
        member: usize,
        life: Life,
        job: Job,
        (slot, instance, end): (Slot, u64, End),
    ) -> Result<(), Violation> {
        self.dies_in_job(member, life, end);
        let host = &mut self.hosts[member];
        let found = look(host);
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            if end != End::NotBegun {
                self.coverage.saw(Sight::RestoresHalf);
            }
            return Ok(());
        };
        tell_revision(&mut process.copy.machine, &host.app, host.offered);
        let machine = &mut process.copy.machine;
        machine.handle_app(found);
        if !machine.wants(job) {
            return self.settle(member);
        }
        let same = host.app.up && host.app.process == instance;
        let snapshot = host.snapshots.iter().find(|it| it.base.slot == slot);
        if let Some(snapshot) = snapshot.filter(|_| end == End::Done && same) {
            is_right(member, snapshot)?;
            host.app.put(Some(&snapshot.state));
            self.coverage.saw(Sight::Restored);
            machine.handle_restored(job);
        } else {
            let begun = end != End::NotBegun;
            self.coverage.saw(Sight::RestoresFailed);
            machine.handle_restore_failed(job, begun);
        }
        self.settle(member)
    }

    /// The app's volume was put back, or was not.
    pub(crate) fn volume_back(
        &mut self,
        member: usize,
        life: Life,
        job: Job,
        (slot, end): (Slot, End),
    ) -> Result<(), Violation> {
        self.dies_in_job(member, life, end);
        let host = &mut self.hosts[member];
        let found = look(host);
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            self.coverage.saw(Sight::VolumesHalf);
            return Ok(());
        };
        tell_revision(&mut process.copy.machine, &host.app, host.offered);
        let machine = &mut process.copy.machine;
        if !machine.wants(job) {
            return self.settle(member);
        }
        let snapshot = host.snapshots.iter().find(|it| it.base.slot == slot);
        let has = snapshot.is_some() || slot == Slot::ZERO;
        if end == End::Done && has && found.is_none() {
            if let Some(snapshot) = snapshot {
                is_right(member, snapshot)?;
            }
            host.app.put(snapshot.map(|it| &it.state));
            host.half_restored = false;
            self.coverage.saw(Sight::VolumesBack);
            machine.handle_app(found);
            machine.handle_volume_restored(job);
        } else {
            machine.handle_volume_not_restored(job);
            machine.handle_app(found);
        }
        self.settle(member)
    }

    /// The app says which slot its state contains, or nothing that makes sense.
    pub(crate) fn claimed(
        &mut self,
        member: usize,
        life: Life,
        job: Job,
        (instance, says): (u64, bool),
    ) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let found = look(host);
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            return Ok(());
        };
        let copy = &mut process.copy;
        tell_revision(&mut copy.machine, &host.app, host.offered);
        copy.machine.handle_app(found);
        let same = found.filter(|it| it.0.get() == instance);
        if copy.machine.wants(job) {
            let state = host.app.state();
            let slot = same.filter(|_| says).map(|_| state.reflects());
            copy.claim = same.and_then(|it| Some((it, state.last()?, state.digest())));
            if slot.is_some_and(|it| it > copy.through()) {
                self.coverage.saw(Sight::ClaimsAhead);
            }
            copy.machine.handle_app_applied(job, slot);
        }
        self.settle(member)
    }

    /// A claim that the machine goes on from stands for what was executed up to there.
    pub(crate) fn note_claim(&mut self, member: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let copy = &mut process.copy;
        let Some((instance, done, digest)) = copy.claim else {
            return Ok(());
        };
        if copy.machine.instance() != Some(instance) {
            return Ok(());
        }
        copy.claim = None;
        let state = host.app.state();
        if host.app.process != instance.0.get() || state.digest() != digest {
            return Ok(());
        }
        self.coverage.saw(Sight::Claimed);
        let is_odd = state.is_odd();
        let skipped = copy.machine.fold().skipped();
        has_none_of(member, skipped, state)?;
        let effect = Effect {
            work: done.work,
            result: done.result,
            digest,
        };
        if is_odd {
            return self
                .checks
                .executed_astray(member, skipped, done.slot, effect);
        }
        self.checks.executed(member, skipped, done.slot, effect)
    }

    // === snapshots ===

    /// The app has given its state, or has not.
    pub(crate) fn taken(
        &mut self,
        member: usize,
        life: Life,
        job: Job,
        (slot, end): (Slot, End),
    ) -> Result<(), Violation> {
        self.dies_in_job(member, life, end);
        let host = &mut self.hosts[member];
        let found = look(host);
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            self.coverage.saw(Sight::DiedTaking);
            return Ok(());
        };
        let state = host.app.state().clone();
        tell_revision(&mut process.copy.machine, &host.app, host.offered);
        let machine = &mut process.copy.machine;
        machine.handle_app(found);
        let maker = process.copy.maker(life);
        let good = process.copy.machine.handle_snapshot_taken(job);
        let taking = process.keeper.taking.take_if(|it| it.job == job);
        let tables = taking.and_then(|it| it.tables);
        if let Some(tables) = tables.filter(|_| good && end == End::Done) {
            self.coverage.saw(Sight::SnapshotsTaken);
            self.checks
                .applied
                .is_state_of(member, &tables, slot, &state)?;
            self.make(member, maker, &tables, state)?;
        } else {
            self.coverage.saw(Sight::SnapshotsGivenUp);
        }
        self.settle(member)
    }

    /// What was taken is on its way to the store.
    fn make(
        &mut self,
        member: usize,
        maker: Maker,
        tables: &Fold,
        state: crate::app::State,
    ) -> Result<(), Violation> {
        let host = &mut self.hosts[member];
        let (life, slot) = (host.life, tables.admitted());
        let process = host.process.as_mut().expect("the caller has looked");
        let Some(base) = process.paxos.base_at(slot, tables.time()) else {
            return Ok(());
        };
        if base.configuration != *tables.configuration() || base.protocol != tables.protocol() {
            let text = format!(
                "member {}: the tables of slot {slot} say {:?}, the log {base:?}",
                member + 1,
                tables.configuration()
            );
            return Err(Violation::new("X1", text));
        }
        process.keeper.made = Some(Snapshot {
            base,
            tables: tables.save(),
            state,
            standing: Use::Uncompared,
            maker: Some(maker),
        });
        let delay = self.dice.log_range(100_000, self.swarm.service.job_ns);
        self.plan(delay, Event::Stored { member, life, slot });
        Ok(())
    }

    /// It is in the store, on disk.
    pub(crate) fn stored(&mut self, member: usize, life: Life, slot: Slot) {
        if !self.is_looked_for() && self.dice.chance(self.swarm.service.dies_in_job) {
            self.dies_in_job(member, life, End::Dies);
        }
        let host = &mut self.hosts[member];
        let Some(process) = host.process.as_mut().filter(|p| p.life == life) else {
            self.coverage.saw(Sight::DiedStoring);
            return;
        };
        if let Some(made) = process.keeper.made.take_if(|it| it.base.slot == slot) {
            host.put_snapshot(made);
        }
    }

    /// Asks the machine for a snapshot.
    pub(crate) fn take(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        let life = host.life;
        let Some(process) = &mut host.process else {
            return;
        };
        if process.keeper.is_busy() {
            return;
        }
        if let Some(job) = process.copy.machine.handle_take_snapshot() {
            process.keeper.taking = Some(Taking { job, tables: None });
            self.plan(SNAPSHOT_LIMIT_NS, Event::Overdue { member, life, job });
        } else {
            self.coverage.saw(Sight::SnapshotsNotNow);
        }
    }

    /// A snapshot has taken too long, if it is still this one.
    pub(crate) fn overdue(&mut self, member: usize, life: Life, job: Job) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_mut();
        let Some(process) = process.filter(|p| p.life == life) else {
            return Ok(());
        };
        if process.keeper.taking.take_if(|it| it.job == job).is_none() {
            return Ok(());
        }
        self.coverage.saw(Sight::SnapshotsOverdue);
        process.copy.machine.handle_snapshot_taken(job);
        self.settle(member)
    }
}
