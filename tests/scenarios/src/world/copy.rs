//! A member's copy: the production apply machine over the model app. What a machine says is done at
//! once, unless a script has the app misbehave.

use prost::Message as _;
use synod_paxos::{CommandId, Slot};
use synod_proto::v1::Policy;
use synod_sidecar::apply::{
    Action, Execute, Fold, Found, Kept, Machine, Outcome, Record, Run, Setup,
};

use super::app::Fate;
use super::{Host, World};
use crate::words::Wrong;

/// What survives the death of the process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ledger {
    /// Never written, in the first life of a log.
    New,
    /// Lost.
    Missing,
    Written(Record),
    /// Written before the machine went down.
    OtherBoot(Kept),
}

// === impl Ledger ===

impl Ledger {
    /// The process dies.
    pub(super) fn outlive(&mut self) {
        if matches!(self, Self::New) {
            *self = Self::Missing;
        }
    }

    /// The machine goes down.
    pub(super) fn lose_power(&mut self) {
        if let Self::Written(record) = self {
            *self = Self::OtherBoot(record.kept());
        }
    }
}

impl World {
    /// The tables of the start of the log.
    fn first_fold(&self) -> Fold {
        let genesis = &self.genesis;
        let policy = Policy::decode(genesis.policy.clone()).expect("written here");
        Fold::new(genesis.configuration.clone(), genesis.protocol, policy)
    }

    /// A machine as a process begins with it.
    pub(super) fn machine(&self, host: &Host) -> Machine {
        let fold = host
            .newest()
            .map_or_else(|| self.first_fold(), super::snapshots::Snapshot::fold);
        Machine::new(Setup {
            incarnation: host.member.incarnation,
            fold,
            state: self.state,
            half_restored: host.half_restored,
            promises: host.promises.clone(),
            gated: true,
            changes_in_place: true,
            ledger: match &host.ledger {
                Ledger::New => Found::New,
                Ledger::Missing => Found::Missing,
                Ledger::OtherBoot(kept) => Found::OtherBoot(*kept),
                Ledger::Written(record) => Found::Record(*record),
            },
        })
    }

    /// Feeds the machine with what it can take and does what it says.
    pub(super) fn pump(&mut self, member: u32) {
        self.feed(member);
        while let Some(action) = self.poll_copy(member) {
            self.act(member, action);
            self.feed(member);
        }
        self.put_volume_back(member);
        self.serve_reads(member);
        self.tell_agreement(member);
        if let Some(host) = self.hosts.get_mut(&member)
            && let Some(process) = &host.process
        {
            host.promises = process.machine.promises().collect();
        }
    }

    fn poll_copy(&mut self, member: u32) -> Option<Action> {
        self.running(member).ok()?.machine.poll_action()
    }

    /// Reads from the log what the machine wants next.
    fn feed(&mut self, member: u32) {
        if self.hosts.get(&member).is_none_or(|it| it.apply_held) {
            return;
        }
        loop {
            let Some(process) = self.process(member) else {
                return;
            };
            let machine = &process.machine;
            let next = machine
                .next_to_execute()
                .or_else(|| machine.next_to_admit());
            let Some(slot) = next.filter(|slot| *slot <= process.through) else {
                return;
            };
            let Some(entry) = process.entry(slot) else {
                return;
            };
            self.checks.chosen(member, &entry);
            if let Ok(process) = self.running(member) {
                process.machine.handle_entry(&entry);
                process.time = process.time.max(entry.time);
            }
        }
    }

    fn act(&mut self, member: u32, action: Action) {
        match action {
            Action::Ledger(record) => {
                if let Ok(host) = self.host_mut(member) {
                    host.ledger = Ledger::Written(record);
                }
            }
            Action::Execute(execute) => self.execute(member, &execute),
            Action::Answer(answer) => self.answer(member, answer.id, answer.slot, answer.outcome),
            Action::StopApp(_) => {
                self.say(format!("{member} has its app stopped"));
                self.end_app(member);
            }
            Action::Pause { slot, pause_ms } => {
                self.say(format!("{member} waits {pause_ms} ms before slot {slot}"));
                let at_ns = self.now_ns + pause_ms * 1_000_000;
                if let Ok(process) = self.running(member) {
                    process.pauses.push((slot, at_ns));
                }
            }
            Action::Halt { slot, kind } => {
                self.tell(format!(
                    "{member} applies nothing from slot {slot} on: kind {} is unknown to it",
                    kind.0
                ));
            }
            Action::Skipped { slot, unsure } => {
                let unsure = if unsure {
                    ", which may have been answered"
                } else {
                    ""
                };
                self.say(format!("{member} skips slot {slot}{unsure}"));
            }
            Action::Jump { .. } => {}
            job => self.begin_job(member, job),
        }
    }

    /// Sends a request to the app, if it is still the process that the machine means (rule A4).
    fn execute(&mut self, member: u32, execute: &Execute) {
        let request = String::from_utf8_lossy(&execute.request.body).into_owned();
        let (run, slot) = (execute.run, execute.slot);
        self.checks.sends(member, execute);
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        let fate = host.app.meets(&request);
        if fate == Some(Fate::DiesBefore) {
            host.app.die(false);
        }
        let found = host.app.listens();
        let Some(process) = &mut host.process else {
            return;
        };
        if found.is_none() || found != process.machine.instance() {
            process.machine.handle_not_sent(run);
            process.machine.handle_app(found);
            let why = if found.is_none() {
                "is gone"
            } else {
                "is another process"
            };
            self.say(format!(
                "{member} does not send {slot} {request}: its app {why}"
            ));
            return;
        }
        match fate {
            None | Some(Fate::DiesBefore) => self.work(member, run, slot, &request, false),
            Some(Fate::Differs) => self.work(member, run, slot, &request, true),
            Some(Fate::Hangs) => {
                self.say(format!("{member} sends {slot} {request}: no answer comes"));
                if let Ok(host) = self.host_mut(member) {
                    host.app.hangs_on = Some((slot, request));
                }
            }
            Some(Fate::DiesDuring) => {
                self.say(format!(
                    "{member} sends {slot} {request}: its app dies of it"
                ));
                self.break_off(member, run, true);
            }
            Some(Fate::LosesRequest) => {
                self.say(format!(
                    "{member} sends {slot} {request}: the connection breaks"
                ));
                self.break_off(member, run, false);
            }
            Some(fate @ (Fate::DiesAfter | Fate::LosesAnswer)) => {
                self.say(format!(
                    "{member} sends {slot} {request}: executed, but the answer is lost"
                ));
                self.note_execution(member, slot, &request, false);
                self.break_off(member, run, fate == Fate::DiesAfter);
            }
        }
    }

    /// The app does its work, and answers.
    fn work(&mut self, member: u32, run: Run, slot: Slot, request: &str, differs: bool) {
        let silent = self
            .process(member)
            .is_some_and(|it| it.machine.is_silent_at(slot));
        let silently = if silent { " silently" } else { "" };
        self.say(format!("{member} executes{silently} {slot} {request}"));
        let answer = self.note_execution(member, slot, request, differs);
        if let Ok(process) = self.running(member) {
            if !silent {
                process.responses.insert(slot, answer);
            }
            process.machine.handle_response(run);
        }
    }

    fn note_execution(&mut self, member: u32, slot: Slot, request: &str, differs: bool) -> String {
        let host = self.hosts.get_mut(&member).expect("it runs");
        let again = host.app.state().executed.iter().any(|(it, _)| *it == slot);
        let answer = host.app.execute(slot, request, differs);
        let state = host.app.state().show();
        if again && !self.repeats() {
            self.checks
                .found(format!("the app of {member} executes slot {slot} twice"));
        }
        if !differs && !self.repeats() {
            self.checks.executed(member, slot, state);
        }
        answer
    }

    /// The user says that each request may come twice.
    fn repeats(&self) -> bool {
        use synod_sidecar::apply::{StateType, UncleanCrash};
        self.state == StateType::Volume(UncleanCrash::AtLeastOnce)
    }

    /// The connection to the app breaks, with or without its process.
    fn break_off(&mut self, member: u32, run: Run, dies: bool) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        if dies {
            host.app.die(false);
        }
        let found = host.app.listens();
        if let Some(process) = &mut host.process {
            process.machine.handle_unknown(run);
            process.machine.handle_app(found);
        }
    }

    fn answer(&mut self, member: u32, id: CommandId, slot: Slot, outcome: Outcome) {
        // The second of two copies of a command: the first may still be with the app.
        if outcome == Outcome::Duplicate {
            return;
        }
        let Ok(process) = self.running(member) else {
            return;
        };
        let Some(name) = process.commands.remove(&id) else {
            return;
        };
        let mut kept = self.hosts.values().filter_map(|it| it.process.as_ref());
        let response = kept.find_map(|it| it.responses.get(&slot)).cloned();
        let response = response.unwrap_or_else(|| "the response is gone".to_owned());
        let told = match outcome {
            Outcome::Executed => format!("done at {slot}, {response}"),
            Outcome::Replayed => format!("done at {slot}, {response} (repeat)"),
            Outcome::Expired => "too late, not executed".to_owned(),
            Outcome::Reclassify => "not executed, classify it anew".to_owned(),
            Outcome::Skipped => format!("skipped at {slot}"),
            Outcome::Done => format!("done at {slot}"),
            other => format!("{other:?} at {slot}"),
        };
        self.tell_client(member, &name, told);
    }

    /// Tells the agreement how far the app is.
    fn tell_agreement(&mut self, member: u32) {
        let now = match self.hosts.get(&member) {
            Some(host) if host.process.is_some() => self.now_at(member),
            _ => return,
        };
        let Ok(process) = self.running(member) else {
            return;
        };
        let applied = process.machine.applied();
        if applied != process.told_applied {
            process.told_applied = applied;
            process.paxos.handle_applied(applied);
        }
        let stalled = process.machine.blocked().is_some() && applied < process.through;
        if stalled != process.told_stalled {
            process.told_stalled = stalled;
            process.paxos.handle_app(now, stalled);
        }
    }

    /// What the ledger says was applied was chosen (rule L4).
    pub(super) fn tell_applied_at_start(&mut self, member: u32) {
        if let Ok(process) = self.running(member) {
            let applied = process.machine.applied();
            process.told_applied = applied;
            process.paxos.handle_applied(applied);
        }
    }
}

// === the app's life ===

impl World {
    /// The app's process is gone, and the sidecar sees it.
    pub(super) fn end_app(&mut self, member: u32) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        host.app.die(false);
        if let Some(process) = &mut host.process {
            process.machine.handle_app(None);
        }
    }

    /// A new process of the app listens, and its start signal comes.
    pub(crate) fn start_app(&mut self, member: u32) -> Result<(), Wrong> {
        let host = self.host_mut(member)?;
        if host.app.up {
            return Err(format!("the app of {member} runs"));
        }
        if host
            .process
            .as_ref()
            .is_some_and(|it| !it.machine.may_start())
        {
            return Err(format!("the app of {member} may not start yet"));
        }
        host.app.start();
        let (found, revision) = (host.app.listens(), host.app.revision());
        if let Some(process) = &mut host.process {
            process.machine.handle_offered(revision);
            process.machine.handle_app_started(found);
        }
        self.settle(member);
        self.beat();
        Ok(())
    }

    pub(crate) fn stop_app(&mut self, member: u32) -> Result<(), Wrong> {
        self.host_mut(member)?.app.stays_down = true;
        self.end_app(member);
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// It dies and is there again before anybody looks, and no signal comes.
    pub(crate) fn restart_app_unseen(&mut self, member: u32) -> Result<(), Wrong> {
        let host = self.host_mut(member)?;
        host.app.die(false);
        host.app.start();
        Ok(())
    }

    /// What it hangs on is done after all, and answered.
    pub(crate) fn app_answers(&mut self, member: u32) -> Result<(), Wrong> {
        let host = self.host_mut(member)?;
        let Some((slot, request)) = host.app.hangs_on.take() else {
            return Err(format!("the app of {member} hangs on nothing"));
        };
        let run = host.process.as_ref().and_then(|it| it.machine.run());
        match run {
            Some(run) => self.work(member, run, slot, &request, false),
            None => {
                self.note_execution(member, slot, &request, false);
            }
        }
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// The policy's limit is over while the app works.
    pub(crate) fn slow(&mut self, member: u32) -> Result<(), Wrong> {
        let elsewhere = self.paxos(member)?.status();
        let elsewhere = elsewhere.peers.iter().map(|peer| peer.applied).max();
        let process = self.running(member)?;
        let Some(run) = process.machine.run() else {
            return Err(format!("the app of {member} works on nothing"));
        };
        process.machine.handle_slow(run);
        if process.machine.run() == Some(run) {
            process
                .machine
                .handle_applied_elsewhere(elsewhere.unwrap_or_default());
        }
        self.settle(member);
        self.beat();
        Ok(())
    }

    pub(crate) fn app_will(
        &mut self,
        member: u32,
        words: &[&str],
        always: Option<&str>,
    ) -> Result<(), Wrong> {
        let fate = Fate::parse(words);
        let fate = fate.ok_or_else(|| format!("no app does `{}`", words.join(" ")))?;
        self.host_mut(member)?.app.will(fate, always);
        Ok(())
    }

    pub(crate) fn mend_app(&mut self, member: u32) -> Result<(), Wrong> {
        self.host_mut(member)?.app.mend();
        Ok(())
    }

    /// Apply of this member gets nothing, or goes on.
    pub(crate) fn hold_apply(&mut self, member: u32, held: bool) -> Result<(), Wrong> {
        self.host_mut(member)?.apply_held = held;
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// The ledger is damaged.
    pub(crate) fn lose_ledger(&mut self, member: u32) -> Result<(), Wrong> {
        self.host_mut(member)?.ledger = Ledger::Missing;
        Ok(())
    }
}
