//! The liveness phase: everything is healed, and the group must converge within a time limit.

use synod_paxos::Slot;

use crate::calendar::Event;
use crate::invariants::Violation;
use crate::network::index_of;
use crate::world::World;

/// How often convergence is looked for.
const EVERY_NS: u64 = 100_000_000;
/// How much longer it may take for each request that was poison.
const POISON_NS: u64 = 60_000_000_000;
/// And for what people have begun with the app.
const REVISE_NS: u64 = 300_000_000_000;
/// How far a member's time may lag: some round trips of a slow network.
const LAG_NS: u64 = 2_000_000_000;

impl World {
    /// The safety phase ends: no more faults, all run, all paths are free.
    pub(crate) fn become_calm(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.trace.line(self.now_ns, || "*** everything is healed");
        self.stop_operating();
        for from in 0..self.hosts.len() {
            for to in self.network.others(from) {
                self.heal_path(from, to);
            }
        }
        self.network.calm();
        for member in self.choose_absent() {
            self.crash(member, true);
            self.hosts[member].absent_since_ns = Some(self.now_ns);
            self.tally.absent += 1;
        }
        for member in self.seated.clone() {
            if let Some(process) = &self.hosts[member].process {
                let life = process.life;
                self.resume(member, life)?;
            } else {
                self.start(member)?;
            }
            self.heal(crate::faults::Fault::DiskFullOf { member })?;
        }
        self.plan(EVERY_NS, Event::Converged);
        Ok(())
    }

    /// Has the group converged, and leadership come to rest? If so, the run is over.
    pub(crate) fn check_converged(&mut self) -> Result<(), Violation> {
        self.learn_revisions();
        self.operate_calmly()?;
        let unfinished = self.unfinished();
        if unfinished.is_none() || self.resting.is_some() {
            if self.rests(unfinished)? {
                self.finished = true;
                return self.check_end();
            }
            self.plan(EVERY_NS, Event::Converged);
            return Ok(());
        }
        let reason = unfinished.unwrap_or_default();
        // Who comes last executes all that was chosen.
        let rebuild_ns = match self.swarm.membership {
            Some(_) => self.checks.chosen.through().0 * 2 * self.swarm.app_ns,
            None => 0,
        };
        // Each waits for starts, answers and pauses of its own.
        let poison_ns = u64::from(self.poisons) * POISON_NS;
        let revising = self
            .swarm
            .compared
            .as_ref()
            .and_then(|it| it.revising.as_ref());
        let revise_ns = if revising.is_some() { REVISE_NS } else { 0 };
        let limit_ns = self.swarm.liveness_ns + rebuild_ns + poison_ns + revise_ns;
        if self.now_ns > self.swarm.safety_ns + limit_ns {
            return Err(Violation::new(
                "liveness",
                format!(
                    "after everything was healed, {reason}; {}",
                    self.where_all_are()
                ),
            ));
        }
        self.plan(EVERY_NS, Event::Converged);
        Ok(())
    }

    /// Each member in a few words.
    fn where_all_are(&self) -> String {
        let all = self.seated.iter().map(|member| {
            let host = &self.hosts[*member];
            let Some(process) = &host.process else {
                return format!("{} is down", member + 1);
            };
            let machine = &process.copy.machine;
            format!(
                "{} has commit {} base {} applied {} admitted {} serving {} blocked {:?} witness {} promises {:?} \
                 revisions {:?} astray {:?} snapshots {:?}",
                member + 1,
                process.paxos.commit(),
                process.paxos.base().slot,
                machine.applied(),
                machine.fold().admitted(),
                machine.serving(),
                machine.blocked(),
                host.witness,
                machine.promises().map(|it| it.slot).collect::<Vec<_>>(),
                machine.revision_status(),
                machine.astray(),
                host.snapshots
                    .iter()
                    .map(|it| (it.base.slot.0, it.standing))
                    .collect::<Vec<_>>()
            )
        });
        all.collect::<Vec<_>>().join("; ")
    }

    /// What is still missing.
    fn unfinished(&self) -> Option<String> {
        for (client, state) in self.clients.iter().enumerate() {
            if let Some(operation) = state.operation.filter(|o| !o.done) {
                return Some(format!(
                    "client {client} waits for operation {} ({:?}, attempt {}) since {:.3} s",
                    operation.work.op,
                    operation.kind,
                    operation.attempts,
                    operation.begun_ns as f64 / 1e9
                ));
            }
        }
        if let Some(reason) = self.members_unfinished() {
            return Some(reason);
        }
        if let Some(odd) = self.odd {
            return Some(format!("the copy of member {} is astray", odd.member + 1));
        }
        if let Some(reason) = self.checks.revisions.unfinished() {
            return Some(reason);
        }
        let epoch = self.checks.chosen.epochs.latest().epoch;
        let mut agreed = None;
        for index in self.configured() {
            let host = &self.hosts[index];
            if host.absent_since_ns.is_some() {
                continue;
            }
            let name = index + 1;
            let Some(process) = &host.process else {
                return Some(format!("member {name} is down"));
            };
            let (commit, applied) = (process.paxos.commit(), process.copy.machine.applied());
            let leader = process.paxos.leader();
            if leader.is_none() || *agreed.get_or_insert(leader) != leader {
                return Some(format!("member {name} follows {leader:?}"));
            }
            if process.paxos.epoch() != epoch {
                return Some(format!(
                    "member {name} is in epoch {} of {epoch}",
                    process.paxos.epoch()
                ));
            }
            if commit != self.checks.chosen.through() {
                return Some(format!(
                    "member {name} has commit {commit} of {}, waiting on {:?}",
                    self.checks.chosen.through(),
                    process.paxos.status().waiting_on
                ));
            }
            let running = process.copy.machine.revision_status().running;
            let in_force = self.checks.revisions.in_force();
            if !host.witness && running != Some(in_force) {
                return Some(format!(
                    "member {name} runs revision {running:?} of the app, and not {in_force}"
                ));
            }
            if !host.witness && (applied != commit || !process.copy.machine.serving()) {
                return Some(format!(
                    "member {name} has applied {applied} of {commit}: {:?}",
                    process.copy.machine.blocked()
                ));
            }
            if host.disk.faulty_count() > 0 {
                return Some(format!(
                    "member {name} has {} faulty slots",
                    host.disk.faulty_count()
                ));
            }
        }
        self.clock_that_lags()
    }

    /// Once all run and hear each other, a member knows a time that is no earlier than what a majority of
    /// the clocks reads; round trips aside.
    fn clock_that_lags(&self) -> Option<String> {
        let members = self.configured();
        if members.iter().any(|it| self.hosts[*it].process.is_none()) {
            return None;
        }
        let voters = self.checks.chosen.epochs.latest().voters();
        let mut clocks: Vec<_> = voters.map(|it| self.clock(index_of(it)).wall_ns).collect();
        clocks.sort_unstable();
        let majority_ns = clocks[clocks.len() - (clocks.len() / 2 + 1)];
        for index in members {
            let process = self.hosts[index].process.as_ref()?;
            let now_ns = self.clock(index).mono_ns;
            let known = process.paxos.agreed_clock().map(|it| it.at(now_ns).0);
            if known.is_none_or(|known| known + LAG_NS < majority_ns) {
                return Some(format!(
                    "member {} takes the time for {known:?}, a majority's clocks say {majority_ns}",
                    index + 1
                ));
            }
        }
        None
    }

    /// All copies are equal, and something was done at all.
    fn check_end(&self) -> Result<(), Violation> {
        let members = self.configured().into_iter();
        let mut copies = members
            .map(|member| (member, &self.hosts[member]))
            .filter(|(_, host)| host.absent_since_ns.is_none() && !host.witness)
            .map(|(member, host)| (member + 1, host.app.state().digest()));
        let (one, digest) = copies.next().expect("somebody runs");
        if let Some((odd, _)) = copies.find(|(_, other)| *other != digest) {
            let text = format!("the copies of members {one} and {odd} differ at the end");
            return Err(Violation::new("I6", text));
        }
        if self.checks.chosen.through() == Slot::ZERO {
            return Err(Violation::new(
                "traffic",
                "nothing was chosen in the whole run".to_owned(),
            ));
        }
        Ok(())
    }
}
