//! The keeper of each member looks round: it does what the production plan says, with what is in the store
//! of its member, what the machine of its copy says and what came of the comparison.

use synod_paxos::{Base, Role, Slot, SnapshotRefused, Standing};
use synod_sidecar::apply::Fold;
use synod_sidecar::keeper::sim::{Begin, Compared, Fate, Kept, Scene, fate};
use synod_sidecar::snapshot::SnapshotId;
use synod_sidecar::snapshot::policy::{self, Due, Report, Turn, next_turn};

use crate::calendar::{Event, Life};
use crate::copy::first_fold;
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::invariants::applied::is_right;
use crate::network::{id_of, index_of};
use crate::snapshots::{Snapshot, Use};
use crate::swarm::Plant;
use crate::world::World;

/// Chance, each look, that what cannot be compared is used all the same: the log is half full.
const FILLS: f64 = 0.005;
/// Chance that one usable snapshot must do to cut the log: it is nearly full.
const NEARLY_FULL: f64 = 0.02;
/// A copy that could execute something and has nothing to wait for has done so before that.
const STANDS_NS: u64 = 20_000_000_000;

/// There is one at each slot.
fn id(slot: Slot) -> SnapshotId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&slot.0.to_le_bytes());
    SnapshotId(id)
}

impl World {
    pub(crate) fn look_round(&mut self, member: usize, life: Life) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_ref();
        if process.is_none_or(|it| it.life != life) {
            return Ok(());
        }
        self.plan(self.swarm.service.look_ns, Event::Keep { member, life });
        self.check_kept()?;
        self.prove(member);
        if self.hosts[member].witness {
            self.forget_as_witness(member)?;
            self.fetch(member);
            return self.settle(member);
        }
        self.check_standing(member)?;
        self.rot(member);
        self.mark(member)?;
        self.tell_apply(member)?;
        self.save_at_barrier(member);
        self.check_tables(member)?;
        self.compact(member)?;
        self.fetch(member);
        self.give_turn(member);
        if self.swarm.snapshot_slots > 0 && !self.calm {
            let wanted = self.dice.chance(self.swarm.service.wanted_now);
            if wanted {
                self.take(member);
            }
        }
        self.settle(member)
    }

    /// Asks the agreement what was chosen when this life began (rule R1), until it says so.
    fn prove(&mut self, member: usize) {
        let now = self.clock(member);
        let Some(process) = &mut self.hosts[member].process else {
            return;
        };
        if !process.copy.proven && process.proof_read.is_none() {
            let id = process.next_read();
            process.proof_read = Some(id);
            process.paxos.read(now, id);
        }
    }

    /// A copy that nothing holds up goes on.
    fn check_standing(&mut self, member: usize) -> Result<(), Violation> {
        let now_ns = self.now_ns;
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let copy = &process.copy;
        let machine = &copy.machine;
        let (applied, admitted) = (machine.applied(), machine.fold().admitted());
        let next = machine.next_to_execute().unwrap_or(admitted.next());
        let readable = next > host.disk.base_slot() && host.disk.read(next).is_some();
        let unproven = matches!(
            machine.blocked(),
            Some(synod_sidecar::apply::Blocked::Unproven(_))
        );
        let latest = self.checks.chosen.epochs.latest();
        // One that was removed is sent nothing any more, whether it knows that or not.
        let waits = latest.member(id_of(member)).is_none()
            || machine.run().is_some()
            || machine.taking_snapshot().is_some()
            || applied >= copy.through()
            || (admitted < copy.through() && !readable)
            || if unproven {
                // Or it has not got, or cannot read, what was chosen by then.
                !copy.proven || admitted >= copy.through()
            } else {
                machine.blocked().is_some()
            };
        let stood = process
            .keeper
            .stood
            .filter(|(a, b, _)| (*a, *b) == (applied, admitted));
        if waits {
            process.keeper.stood = None;
            return Ok(());
        }
        let (_, _, since) = *process
            .keeper
            .stood
            .insert(stood.unwrap_or((applied, admitted, now_ns)));
        if now_ns < since + STANDS_NS {
            return Ok(());
        }
        let text = format!(
            "member {} stands at slot {applied}, has admitted {admitted} of {} and waits for nothing: {:?}",
            member + 1,
            copy.through(),
            machine.blocked()
        );
        Err(Violation::new("standstill", text))
    }

    /// The newest snapshot turns out to be damaged, where it is not needed by all.
    fn rot(&mut self, member: usize) {
        if self.calm || !self.dice.chance(self.swarm.service.snapshots_rot) {
            return;
        }
        let newest = |it: usize| self.hosts[it].newest_usable().map(|it| it.base.slot);
        let Some(slot) = newest(member) else {
            return;
        };
        let others = self.seated.iter().filter(|it| **it != member);
        let as_good = others.filter(|it| {
            let host = &self.hosts[**it];
            host.process.is_some() && host.absent_since_ns.is_none() && newest(**it) >= Some(slot)
        });
        if as_good.count() > 1 {
            self.coverage.saw(Sight::SnapshotsRotten);
            let host = &mut self.hosts[member];
            host.rotten = host.rotten.max(slot);
            host.snapshots.retain(|it| it.base.slot != slot);
        }
    }

    /// What is in the store of this member, oldest first.
    fn kept(&self, member: usize) -> Vec<Kept> {
        let host = &self.hosts[member];
        let Some(process) = &host.process else {
            return Vec::new();
        };
        let copy = &process.copy;
        let now = copy.maker(process.life);
        let verified = copy.compared.as_ref().map(|it| it.side.verified());
        let trusts = self.swarm.plant == Plant::Unverified;
        let compared = |it: &Snapshot| match verified {
            Some(_) if trusts => Compared::Agrees,
            Some(verified) => {
                let maker = it.maker.filter(|it| it.life == now.life);
                let maker = maker.and_then(|it| it.instance);
                Compared::of(maker, it.base.slot, verified)
            }
            None if !it.maker.is_some_and(|it| it.is(now)) => Compared::Never,
            None if self.executed_by_most(member) >= it.base.slot => Compared::Agrees,
            None => Compared::OthersAway,
        };
        let kept = host.snapshots.iter().map(|it| Kept {
            id: id(it.base.slot),
            slot: it.base.slot,
            standing: it.standing,
            compared: if it.standing == Use::Uncompared {
                compared(it)
            } else {
                Compared::Never
            },
        });
        kept.collect()
    }

    /// What there is to decide about.
    fn scene<'a>(&self, member: usize, kept: &'a [Kept], nearly_full: bool) -> Scene<'a> {
        let host = &self.hosts[member];
        let Some(process) = &host.process else {
            return Scene::default();
        };
        let needs = process.keeper.needs;
        if host.witness {
            return Scene {
                needs,
                ..Scene::default()
            };
        }
        let machine = &process.copy.machine;
        Scene {
            kept,
            base: machine.base(),
            void: machine.void(),
            told: process.keeper.told,
            reached: process.paxos.commit().max(process.copy.through()),
            log_base: process.paxos.base().slot,
            not_needed: machine.not_needed(),
            nearly_full,
            needs,
            held: None,
        }
    }

    /// What a majority vouches for may be used; what is of another state can be compared no more.
    fn mark(&mut self, member: usize) -> Result<(), Violation> {
        let fills = self.dice.chance(FILLS);
        // Where the others are away nobody can know that it is astray (rule N2).
        let fills = fills && self.odd.is_none_or(|it| it.member != member);
        let alone = self.got_past_alone(member);
        let fills = fills || alone && self.dice.chance(0.3);
        let kept = self.kept(member);
        let host = &mut self.hosts[member];
        let before = host.newest_usable().map(|it| it.base.slot);
        let before = before.unwrap_or_default();
        let Some(process) = &host.process else {
            return Ok(());
        };
        let astray = process.copy.machine.astray();
        let is_compared = process.copy.compared.is_some();
        for kept in kept {
            let at = host
                .snapshots
                .iter()
                .position(|it| it.base.slot == kept.slot);
            let at = at.expect("it was listed");
            match fate(&kept, fills, astray) {
                Some(Fate::Discarded) => {
                    let is_odd = astray.is_some_and(|it| it <= kept.slot);
                    self.coverage.saw(if is_odd {
                        Sight::SnapshotsAstray
                    } else {
                        Sight::SnapshotsUncomparable
                    });
                    host.snapshots.remove(at);
                }
                Some(Fate::Verified) => {
                    is_right(member, &host.snapshots[at])?;
                    self.coverage.saw(if is_compared {
                        Sight::SnapshotsVerified
                    } else {
                        Sight::SnapshotsCompared
                    });
                    host.snapshots[at].standing = Use::Verified;
                }
                Some(Fate::Unverified) => {
                    self.coverage.saw(if is_compared {
                        Sight::SnapshotsUndisputed
                    } else {
                        Sight::SnapshotsUnverified
                    });
                    host.snapshots[at].standing = Use::Unverified;
                }
                None => {}
            }
        }
        host.retain();
        let is_usable = host.newest_usable().is_some_and(|it| {
            let poison = it.state.poisonous().last();
            poison.is_some_and(|it| alone && *it > before)
        });
        if is_usable && !self.calm {
            // Who goes on without it may skip what it has executed.
            let length = self.dice.range(5_000_000_000, 30_000_000_000);
            self.kill(member, true, length);
        }
        Ok(())
    }

    /// This copy has executed poison that most others have not, and has saved that.
    fn got_past_alone(&self, member: usize) -> bool {
        let host = &self.hosts[member];
        let is_compared = self.swarm.compared.is_some();
        let newest = host.snapshots.last().filter(|_| !is_compared && !self.calm);
        let poison = newest.and_then(|it| it.state.poisonous().last());
        poison.is_some_and(|it| *it > self.executed_by_most(member))
    }

    /// Up to where a majority of the copies has executed, where they are not compared.
    fn executed_by_most(&self, member: usize) -> Slot {
        let Some(process) = &self.hosts[member].process else {
            return Slot::ZERO;
        };
        let members = process.paxos.configuration().members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let mut executed: Vec<Slot> = copies
            .map(|it| {
                let process = self.hosts[index_of(it.id)].process.as_ref();
                let machine = process.map(|it| &it.copy.machine);
                // Where nothing was to be answered it only got past.
                machine.map_or(Slot::ZERO, |it| it.executed().max(it.applied()))
            })
            .collect();
        executed.sort_unstable_by(|a, b| b.cmp(a));
        let by_most = executed.get(executed.len() / 2).copied();
        by_most.unwrap_or_default()
    }

    /// A copy that must be made anew begins with the newest, or, if that is lost or void, with another.
    fn tell_apply(&mut self, member: usize) -> Result<(), Violation> {
        let kept = self.kept(member);
        let scene = self.scene(member, &kept, false);
        let (lost, begin) = (scene.base_is_lost(), scene.begin());
        let base = scene.base;
        let genesis = &self.genesis;
        let host = &mut self.hosts[member];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let machine = &mut process.copy.machine;
        if lost {
            self.coverage.saw(Sight::BasesLost);
            machine.handle_base_lost(base);
            return self.settle(member);
        }
        let fold = match begin {
            None => return Ok(()),
            Some(Begin::WithNothing) => first_fold(genesis),
            Some(Begin::With(found)) => {
                let mut all = host.snapshots.iter();
                let found = all.find(|it| id(it.base.slot) == found);
                let found = found.expect("it was listed");
                Fold::load(&found.tables).expect("what was saved can be loaded")
            }
        };
        let slot = fold.admitted();
        let is_void = !machine.has_skipped(&fold);
        let (ahead, again) = (slot > machine.fold().admitted(), machine.void().is_some());
        process.keeper.told = slot;
        if machine.handle_snapshot_available(fold) {
            self.coverage.saw(match (ahead, again) {
                (true, _) => Sight::SnapshotsJumped,
                (false, true) => Sight::BasesReplaced,
                (false, false) => Sight::SnapshotsUsed,
            });
        } else if is_void {
            self.coverage.saw(Sight::SnapshotsVoid);
            host.snapshots.retain(|it| it.base.slot != slot);
        }
        self.settle(member)
    }

    /// The log begins behind one of them, as far as apply does not need it.
    fn compact(&mut self, member: usize) -> Result<(), Violation> {
        let full = self.dice.chance(NEARLY_FULL);
        let kept = self.kept(member);
        let Some(cut) = self.scene(member, &kept, full).cut() else {
            return Ok(());
        };
        let mut all = self.hosts[member].snapshots.iter();
        let found = all.find(|it| id(it.base.slot) == cut);
        let base = found.expect("it was listed").base.clone();
        self.forget(member, base)
    }

    /// Gets one from another member, if one is needed or wanted.
    fn fetch(&mut self, member: usize) {
        let kept = self.kept(member);
        let lacked = self.scene(member, &kept, false).lacked();
        let host = &mut self.hosts[member];
        let newest = host.newest_usable().map(|it| it.base.slot);
        let newest = newest.unwrap_or_default();
        let witness = host.witness;
        let Some(process) = &mut host.process else {
            return;
        };
        let begins = process.copy.machine.revision_status().wants_state;
        let begins = begins.filter(|it| newest < *it && !witness);
        let base = process.paxos.base().slot;
        process.keeper.needs.take_if(|it| *it <= base);
        let Some(at_least) = lacked.max(begins) else {
            return;
        };
        if !process.keeper.is_busy() {
            process.keeper.fetching = true;
            self.plan_fetch(member, None, at_least);
        }
    }

    /// If this member leads, whoever's turn it is makes one, or gets another's.
    fn give_turn(&mut self, member: usize) {
        let every = self.swarm.snapshot_slots;
        let Some(process) = self.hosts[member].process.as_ref() else {
            return;
        };
        // Until another revision of the app has taken over, nothing that it has made is saved.
        let unfinished = process.copy.machine.revision_status().is_unfinished;
        if process.paxos.standing() != Standing::Leader || every == 0 || unfinished {
            return;
        }
        let members = process.paxos.configuration().members.iter();
        let all = members.map(|it| index_of(it.id));
        let heard = all.filter(|it| *it == member || !self.network.is_cut(member, *it));
        let reports: Vec<Report> = heard.filter_map(|it| self.report_of(it, member)).collect();
        let newest = reports.iter().map(|it| it.newest.0).max();
        let due = Due {
            // Tables grow with the log, and so does what saving them costs the simulator.
            slots: every.max(newest.unwrap_or_default() / 12),
            log_bytes: u64::MAX,
        };
        match next_turn(&reports, due) {
            Some(Turn::Make(to)) => {
                let delay = self.dice.range(10_000, 5_000_000);
                let member = index_of(to);
                self.plan(delay, Event::Turn { member });
            }
            Some(Turn::Copy { to, from }) => {
                assert_eq!(index_of(to), member, "followers make theirs");
                let mut own = reports.iter().filter(|it| it.member == to);
                let at_least = own.next().expect("it leads").newest.next();
                let process = self.hosts[member].process.as_mut().expect("it leads");
                process.keeper.fetching = true;
                self.coverage.saw(Sight::SnapshotsCopied);
                self.plan_fetch(member, Some(index_of(from)), at_least);
            }
            None => {}
        }
    }

    /// What a member says of itself when turns are given.
    fn report_of(&self, member: usize, leader: usize) -> Option<Report> {
        let host = &self.hosts[member];
        let process = host.process.as_ref().filter(|it| !it.paused)?;
        let newest = host.snapshots.last().map(|it| it.base.slot);
        let usable = host.newest_usable().map(|it| it.base.slot);
        let kept = self.kept(member);
        let lacks = self.scene(member, &kept, false).lacked();
        Some(Report {
            member: id_of(member),
            witness: host.witness,
            leads: member == leader,
            healthy: !host.witness && process.copy.machine.serving(),
            applied: process.copy.machine.applied(),
            newest: newest.unwrap_or_default(),
            newest_usable: usable.unwrap_or_default(),
            log_bytes: 0,
            busy: process.keeper.is_busy(),
            lacks: lacks.unwrap_or_default(),
        })
    }

    /// A copy that stands at a barrier has its state saved.
    fn save_at_barrier(&mut self, member: usize) {
        let host = &self.hosts[member];
        let process = host.process.as_ref();
        let ends_at = process.and_then(|it| it.copy.machine.revision_status().ends_at);
        let Some(slot) = ends_at.filter(|_| self.swarm.snapshot_slots > 0) else {
            return;
        };
        if !host.snapshots.iter().any(|it| it.base.slot == slot) {
            self.coverage.saw(Sight::BarriersSaved);
            self.take(member);
        }
    }

    /// What a copy holds of revisions is what was chosen.
    fn check_tables(&mut self, member: usize) -> Result<(), Violation> {
        self.learn_revisions();
        let process = self.hosts[member].process.as_ref();
        match process.filter(|it| it.copy.compared.is_some()) {
            Some(it) => self.checks.revisions.agree(member, it.copy.machine.fold()),
            None => Ok(()),
        }
    }

    /// It is this member's turn.
    pub(crate) fn turn(&mut self, member: usize) -> Result<(), Violation> {
        self.take(member);
        self.settle(member)
    }

    /// A witness makes none: it forgets what enough of those that run the app have in theirs.
    fn forget_as_witness(&mut self, member: usize) -> Result<(), Violation> {
        let Some(process) = &self.hosts[member].process else {
            return Ok(());
        };
        let paxos = &process.paxos;
        let slot = self.held_by_copies(member);
        let every = self.swarm.snapshot_slots;
        if every == 0 || slot.0 < paxos.base().slot.0 + every {
            return Ok(());
        }
        let time = self.checks.chosen.value(slot).map(|entry| entry.time);
        match time.and_then(|time| paxos.base_at(slot, time)) {
            Some(base) => self.forget(member, base),
            None => Ok(()),
        }
    }

    /// As a leader says that this witness reaches: one that has no log yet knows of old members only.
    pub(crate) fn held_as_led(&self, member: usize) -> Slot {
        let leads = |it: &&usize| {
            let process = self.hosts[**it].process.as_ref();
            let leads = process.is_some_and(|it| it.paxos.standing() == Standing::Leader);
            leads && !self.network.is_cut(**it, member)
        };
        let epoch = |it: &&usize| {
            let process = self.hosts[**it].process.as_ref();
            process.map(|it| it.paxos.epoch())
        };
        let leader = self.seated.iter().filter(leads).max_by_key(epoch);
        leader.map_or(Slot::ZERO, |it| self.held_by_copies(*it))
    }

    /// As the copies say that this member reaches.
    fn held_by_copies(&self, member: usize) -> Slot {
        let Some(process) = &self.hosts[member].process else {
            return Slot::ZERO;
        };
        policy::held(process.paxos.roster(), |copy| {
            let copy = index_of(copy);
            let host = &self.hosts[copy];
            let reached = host.process.is_some() && !self.network.is_cut(copy, member);
            let newest = host.newest_usable().filter(|_| reached);
            newest.map_or(Slot::ZERO, |it| it.base.slot)
        })
    }

    fn forget(&mut self, member: usize, older: Base) -> Result<(), Violation> {
        let now = self.clock(member);
        let process = self.hosts[member].process.as_mut().expect("it runs");
        self.trace.line(self.now_ns, || {
            format!("{} forgets all up to {}", member + 1, older.slot)
        });
        match process.paxos.handle_snapshot(now, older) {
            Ok(()) => {
                self.tally.compactions += 1;
                Ok(())
            }
            // An entry that cannot be read holds up what comes behind it.
            Err(SnapshotRefused::Beyond { .. }) => Ok(()),
            Err(error) => {
                let text = format!("member {} may not forget: {error}", member + 1);
                Err(Violation::new("W5", text))
            }
        }
    }
}
