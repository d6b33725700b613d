//! The leader's side: asks every copy what it knows, has that judged, and does what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{Ballot, CommandKind, Configuration, Entry, GroupId, MemberId, Role, Slot};
use synod_proto::v1::poison_client::PoisonClient;
use synod_proto::v1::{PoisonDoubtsRequest, PoisonRestoreRequest, Request};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::transport::Channel;

use super::board::{Board, SkippedRequest, UndecidedRequest, Word, tellable};
use super::judge::{Judge, Step, Undecided, Wait};
use super::{rules, wire};
use crate::apply::{ApplyHandle, EntrySource, Skipped};
use crate::ingress::PeerChannels as _;
use crate::keeper;
use crate::node::{self, Channels, NodeHandle, NodeStatus};

/// Protocol version from which on requests are skipped.
const PROTOCOL: u32 = 2;
/// How often the leader judges, and each copy is asked.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for a member's answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A member that is to get another's state is told so again after so long.
const RESTORE_AGAIN: Duration = Duration::from_secs(2);

/// What the task is made of.
pub struct Parts {
    /// The agreement.
    pub node: NodeHandle,
    /// The copy.
    pub apply: ApplyHandle,
    /// To the other members.
    pub channels: Arc<Channels>,
    /// This member's log.
    pub log: Arc<dyn EntrySource>,
    /// This member's snapshots.
    pub snapshots: keeper::Handle,
    /// Copies can be given another copy's state.
    pub has_snapshots: bool,
}

/// Judges while this member leads, and tells what was skipped.
pub struct Watch {
    parts: Arc<Parts>,
    board: Board,
    words: mpsc::Receiver<Word>,
    /// What this slot holds, for people.
    described: Option<(Slot, String, String)>,
    complaint: String,
}

/// One leadership.
struct Term {
    ballot: Ballot,
    desk: Arc<Desk>,
    /// Who is being asked.
    attended: Vec<AbortOnDropHandle<()>>,
}

/// What its tasks share.
struct Desk {
    group: GroupId,
    ballot: Ballot,
    member: MemberId,
    parts: Arc<Parts>,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    judge: Judge,
    /// What is to be done with each member.
    steps: BTreeMap<MemberId, Vec<Step>>,
    /// Most copies stand there.
    stuck: Option<Slot>,
}

// === impl Watch ===

impl Watch {
    /// Of one member; and what the rest of the sidecar may ask.
    pub fn new(parts: Parts) -> (Self, Board) {
        let (board, words) = Board::new();
        let watch = Self {
            parts: Arc::new(parts),
            board: board.clone(),
            words,
            described: None,
            complaint: String::new(),
        };
        (watch, board)
    }

    /// Judges whenever this member leads. Runs until it is dropped.
    pub async fn run(mut self) {
        let status = self.parts.node.status();
        let mut skipped = self.parts.apply.skipped();
        let mut told = 0;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut term: Option<Term> = None;
        loop {
            let word = tokio::select! {
                _ = look.tick() => None,
                Some(word) = self.words.recv() => Some(word),
            };
            let news: Vec<Skipped> = {
                let all = skipped.borrow_and_update();
                let from = usize::try_from(all.total - told).unwrap_or(usize::MAX);
                told = all.total;
                let from = all.last.len().saturating_sub(from);
                all.last[from..].to_vec()
            };
            for it in news {
                self.tell_skipped(it).await;
            }
            let status = status.borrow().clone();
            let Some((group, ballot, configuration)) = leads(&status) else {
                if term.take().is_some() {
                    self.board.publish(None);
                    self.board.note_stuck(None);
                }
                continue;
            };
            if term.as_ref().is_none_or(|it| it.ballot != ballot) {
                term = Some(self.begin(group, ballot, status.member, &configuration));
            }
            if let Some(term) = &term {
                self.look(term, &status, word).await;
            }
        }
    }

    fn begin(
        &self,
        group: GroupId,
        ballot: Ballot,
        member: MemberId,
        configuration: &Configuration,
    ) -> Term {
        let members = configuration.members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: BTreeSet<MemberId> = copies.map(|it| it.id).collect();
        let judge = Judge::new(ballot, copies.clone(), self.rules());
        let desk = Arc::new(Desk {
            group,
            ballot,
            member,
            parts: self.parts.clone(),
            begun: Instant::now(),
            state: Mutex::new(State {
                judge,
                steps: BTreeMap::new(),
                stuck: None,
            }),
        });
        let mut attended: Vec<_> = copies
            .into_iter()
            .map(|copy| AbortOnDropHandle::new(tokio::spawn(desk.clone().attend(copy))))
            .collect();
        attended.push(AbortOnDropHandle::new(tokio::spawn(desk.clone().settle())));
        Term {
            ballot,
            desk,
            attended,
        }
    }

    fn rules(&self) -> super::judge::Rules {
        rules(
            &self.parts.apply.policy().borrow(),
            self.parts.has_snapshots,
        )
    }

    async fn look(&mut self, term: &Term, status: &NodeStatus, word: Option<Word>) {
        let desk = &term.desk;
        assert!(!term.attended.is_empty(), "somebody runs the app");
        let (skips, undecided) = {
            let mut state = desk.state();
            let now_ms = desk.now_ms();
            state.judge.handle_rules(self.rules());
            if let Some(word) = word {
                let taken = state.judge.handle_word(now_ms, word.slot);
                // Who has left does not want to know.
                let _ = word.taken.send(taken);
            }
            let steps = state.judge.poll(now_ms);
            let skips = give_out(&mut state.steps, steps);
            let undecided = state.judge.undecided();
            let stuck = undecided.as_ref().filter(|it| it.most);
            state.stuck = stuck.map(|it| it.slot);
            self.board.note_stuck(state.stuck);
            (skips, undecided)
        };
        for (slot, unsure) in skips {
            match self.skip(desk, slot, unsure).await {
                Ok(()) => {
                    desk.state().judge.handle_proposed(slot);
                    self.complaint.clear();
                }
                Err(error) => self.complain(slot, error),
            }
        }
        let undecided = match undecided {
            Some(undecided) => Some(self.describe(undecided, status).await),
            None => None,
        };
        self.tell_undecided(undecided);
    }

    /// Has it agreed on that nobody executes the slot.
    async fn skip(&self, desk: &Desk, slot: Slot, unsure: bool) -> Result<(), String> {
        let entry = self.entry(slot).await?;
        if entry.command.kind != CommandKind::REQUEST {
            return Err("it holds no request: nothing waits for it".to_owned());
        }
        let held = (entry.command.id, entry.ballot);
        let skip = desk.state().judge.skip(slot, held, unsure);
        let unsure = skip.unsure;
        let payload = Bytes::from(skip.encode_to_vec());
        match self.parts.node.skip(desk.ballot, payload).await {
            Some(Ok(())) => {
                tracing::warn!(%slot, unsure, "it is proposed to skip a request that fails");
                Ok(())
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("this member is ending".to_owned()),
        }
    }

    fn complain(&mut self, slot: Slot, error: String) {
        if self.complaint != error {
            tracing::warn!(%slot, error, "a request that fails is not skipped");
            self.complaint = error;
        }
    }

    async fn entry(&self, slot: Slot) -> Result<Entry, String> {
        let log = self.parts.log.clone();
        let read = spawn_blocking(move || log.read(slot, slot, 1)).await;
        let read = read.map_err(|error| error.to_string())?;
        let entries =
            read.map_err(|error| format!("the log does not say what it holds: {error}"))?;
        let none = || "the log does not say what it holds".to_owned();
        entries.into_iter().next().ok_or_else(none)
    }

    /// Method and path of the request at a slot, as far as the log has it.
    async fn request(&mut self, slot: Slot) -> (String, String) {
        if let Some((known, method, path)) = &self.described
            && *known == slot
        {
            return (method.clone(), path.clone());
        }
        let Ok(entry) = self.entry(slot).await else {
            return (String::new(), String::new());
        };
        let Ok(request) = Request::decode(entry.command.payload) else {
            return (String::new(), String::new());
        };
        let (method, path) = tellable(&request);
        self.described = Some((slot, method.clone(), path.clone()));
        (method, path)
    }

    async fn tell_skipped(&mut self, skipped: Skipped) {
        let Skipped { slot, unsure } = skipped;
        let (method, path) = self.request(slot).await;
        if unsure {
            tracing::error!(
                %slot, method, path,
                "a request was skipped that failed on the copies that could be asked; it may have been \
                 acknowledged"
            );
        } else {
            tracing::error!(%slot, method, path, "a request was skipped that failed on every copy");
        }
        self.board.note_skipped(SkippedRequest {
            slot: slot.0,
            method,
            path,
            may_have_been_acknowledged: unsure,
        });
    }

    async fn describe(&mut self, undecided: Undecided, status: &NodeStatus) -> UndecidedRequest {
        let (method, path) = self.request(undecided.slot).await;
        let waits = undecided.waits.iter();
        let slot = undecided.slot.0;
        UndecidedRequest {
            slot,
            method,
            path,
            waits_for: waits.map(|it| words(*it, slot, status)).collect(),
        }
    }

    fn tell_undecided(&self, undecided: Option<UndecidedRequest>) {
        if self.board.found().borrow().undecided == undecided {
            return;
        }
        if let Some(it) = &undecided {
            tracing::error!(
                slot = it.slot, method = it.method, path = it.path, waits_for = ?it.waits_for,
                "no copy gets past a request"
            );
        }
        self.board.publish(undecided);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// If this member leads: its group, ballot and the configuration of that ballot's epoch.
fn leads(status: &NodeStatus) -> Option<(GroupId, Ballot, Arc<Configuration>)> {
    let (leader, ballot) = node::leader(status)?;
    let configuration = status.configuration.clone()?;
    let leads = leader == status.member
        && ballot.node == status.member
        && configuration.epoch == ballot.epoch
        && status.protocol >= PROTOCOL;
    leads.then_some((status.group?, ballot, configuration))
}

/// Gives each member its steps; what is to be skipped is left.
fn give_out(to_do: &mut BTreeMap<MemberId, Vec<Step>>, steps: Vec<Step>) -> Vec<(Slot, bool)> {
    to_do.clear();
    let mut skips = Vec::new();
    for step in steps {
        match step {
            Step::Skip { slot, unsure } => skips.push((slot, unsure)),
            Step::Ask { to, .. } | Step::Free { to, .. } => {
                to_do.entry(to).or_default().push(step);
            }
            Step::Restore { slot, from, to } => {
                // Who has the state is to let others have it.
                let own = Step::Restore {
                    slot,
                    from,
                    to: from,
                };
                let giver = to_do.entry(from).or_default();
                if !giver.contains(&own) {
                    giver.push(own);
                }
                to_do.entry(to).or_default().push(step);
            }
        }
    }
    skips
}

/// What a slot waits for, with the way out.
fn words(wait: Wait, slot: u64, status: &NodeStatus) -> String {
    let name = |member| node::name(status, member);
    match wait {
        Wait::Answers => "the answers of all members".to_owned(),
        Wait::Person => format!(
            "a person, since poison.skip is Never: repair the app, or give up the request with `synod \
             skip --slot {slot}`"
        ),
        Wait::Unreachable(member) => format!(
            "{0}, which cannot be asked whether it has executed the request: start it, or give up the \
             request with `synod skip --slot {slot}`",
            name(member)
        ),
        Wait::Forgotten(member) => format!(
            "{0}, whose machine was started anew, so that it does not know whether it has executed the \
             request: give up the request with `synod skip --slot {slot}`",
            name(member)
        ),
        Wait::StateOf(member) => format!(
            "{0}, which has executed the request and cannot give its state: see what its app lacks, or \
             give up the request with `synod skip --slot {slot}`",
            name(member)
        ),
    }
}

// === impl Desk ===

impl Desk {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Notes when an entry of this ballot is committed and the log up to there is known here.
    async fn settle(self: Arc<Self>) {
        let index = self.parts.node.read_index().await;
        loop {
            let Some(doubts) = self.parts.apply.doubts().await else {
                return;
            };
            if doubts.admitted >= index {
                let mut state = self.state();
                let now_ms = self.now_ms();
                state.judge.handle_doubts(now_ms, self.member, doubts);
                state.judge.handle_settled();
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Asks one copy, again and again, and does with it what is to be done.
    async fn attend(self: Arc<Self>, member: MemberId) {
        let mut complaint = String::new();
        let mut restored: Option<Instant> = None;
        loop {
            match timeout(PATIENCE, self.ask_doubts(member)).await {
                Ok(Ok(())) => complaint.clear(),
                Ok(Err(error)) if complaint != error.message() => {
                    error.message().clone_into(&mut complaint);
                    tracing::debug!(peer = %member, %error, "a copy cannot be asked about requests");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            let steps = self.state().steps.remove(&member).unwrap_or_default();
            for step in steps {
                if matches!(step, Step::Restore { .. }) {
                    if restored.is_some_and(|at| at.elapsed() < RESTORE_AGAIN) {
                        continue;
                    }
                    restored = Some(Instant::now());
                }
                let taken = timeout(PATIENCE, self.take(member, &step)).await;
                if let Ok(Err(error)) = taken {
                    tracing::warn!(peer = %member, ?step, error = error.message(), "not done");
                }
            }
            sleep(LOOK).await;
        }
    }

    fn client(&self, member: MemberId) -> Result<PoisonClient<Channel>, Status> {
        let no_channel = || Status::unavailable("there is no connection to that member");
        let channel = self.parts.channels.channel(member);
        Ok(PoisonClient::new(channel.ok_or_else(no_channel)?))
    }

    async fn ask_doubts(&self, member: MemberId) -> Result<(), Status> {
        let doubts = if member == self.member {
            self.parts.apply.doubts().await.ok_or_else(ending)?
        } else {
            let stuck = self.state().stuck;
            let request = PoisonDoubtsRequest {
                term: Some(wire::term_of(self.group, self.ballot)),
                stuck: stuck.unwrap_or_default().0,
            };
            let answer = self.client(member)?.doubts(request).await?;
            wire::read_doubts(answer.into_inner()).map_err(invalid)?
        };
        let mut state = self.state();
        state.judge.handle_doubts(self.now_ms(), member, doubts);
        Ok(())
    }

    /// Does one thing with a member.
    async fn take(&self, member: MemberId, step: &Step) -> Result<(), Status> {
        let is_own = member == self.member;
        let apply = &self.parts.apply;
        match *step {
            Step::Ask { ask, .. } => {
                let standing = if is_own {
                    let standing = apply.ask(ask).await.ok_or_else(ending)?;
                    standing.map_err(|error| Status::internal(error.to_string()))?
                } else {
                    let request = wire::ask_request(self.group, ask);
                    let answer = self.client(member)?.ask(request).await?;
                    wire::read_standing(answer.into_inner())
                };
                let mut state = self.state();
                state.judge.handle_standing(member, ask, standing);
            }
            Step::Free { ask, .. } if is_own => apply.free(ask).await.ok_or_else(ending)?,
            Step::Free { ask, .. } => {
                let request = wire::free_request(self.group, ask);
                self.client(member)?.free(request).await?;
            }
            Step::Restore { slot, from, .. } if is_own => {
                let snapshots = self.parts.snapshots.clone();
                snapshots.help_past(self.parts.channels.clone(), slot, from);
            }
            Step::Restore { slot, from, .. } => {
                let request = PoisonRestoreRequest {
                    term: Some(wire::term_of(self.group, self.ballot)),
                    slot: slot.0,
                    from: from.0,
                };
                self.client(member)?.restore(request).await?;
            }
            Step::Skip { .. } => unreachable!("no member does that"),
        }
        Ok(())
    }
}

fn invalid(error: wire::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn ending() -> Status {
    Status::unavailable("this member is ending")
}
