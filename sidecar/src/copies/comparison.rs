//! The leader's side: asks every copy for its digests, has them judged, and tells what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use synod_paxos::{Ballot, GroupId, MemberId, Role};
use synod_proto::v1::CompareRequest;
use synod_proto::v1::copies_client::CopiesClient;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::found::Found;
use super::service::DIGESTS;
use super::{rules, wire};
use crate::apply::digests::Batch;
use crate::apply::divergence::{Comparers, OnDivergence, Verdict};
use crate::apply::{ApplyHandle, Word};
use crate::ingress::PeerChannels;
use crate::node::{self, NodeHandle, NodeStatus};

/// How often a copy that has told all is asked again: a copy that differs is found within two of these.
const PERIOD: Duration = Duration::from_millis(200);
/// How often the leader looks at its group. What is published changes with every slot: waiting for
/// changes would cost more.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait for a copy's answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A copy that has not told all, and has told nothing new for so long, is away (rule N2).
const AWAY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// Compares while this member leads.
pub struct Comparison {
    node: NodeHandle,
    apply: ApplyHandle,
    peers: Arc<dyn PeerChannels>,
}

/// One leadership.
struct Term {
    ballot: Ballot,
    desk: Arc<Desk>,
    /// Who is being asked.
    asking: BTreeMap<MemberId, AbortOnDropHandle<()>>,
}

/// What its tasks share.
struct Desk {
    group: GroupId,
    ballot: Ballot,
    member: MemberId,
    apply: ApplyHandle,
    peers: Arc<dyn PeerChannels>,
    comparers: Mutex<Comparers>,
    /// When it began, and when each copy has told something new since, or had told all.
    begun: Instant,
    news: Mutex<BTreeMap<MemberId, Instant>>,
}

// === impl Comparison ===

impl Comparison {
    /// Of one member.
    pub fn new(node: NodeHandle, apply: ApplyHandle, peers: Arc<dyn PeerChannels>) -> Self {
        Self { node, apply, peers }
    }

    /// Compares whenever this member leads. Runs until it is dropped.
    pub async fn run(self) {
        let status = self.node.status();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut term: Option<Term> = None;
        loop {
            look.tick().await;
            let status = status.borrow().clone();
            let leads = node::leader(&status).filter(|(leader, _)| *leader == status.member);
            let Some((ballot, group)) = leads.map(|(_, ballot)| ballot).zip(status.group) else {
                if term.take().is_some() {
                    self.apply.publish_found(Found::default());
                }
                continue;
            };
            if term.as_ref().is_none_or(|it| it.ballot != ballot) {
                term = Some(self.begin(group, ballot, status.member));
            }
            if let Some(term) = &mut term {
                self.look(term, &status);
            }
        }
    }

    fn begin(&self, group: GroupId, ballot: Ballot, member: MemberId) -> Term {
        let comparers = Comparers::new(rules(&self.apply.policy().borrow()));
        let desk = Desk {
            group,
            ballot,
            member,
            apply: self.apply.clone(),
            peers: self.peers.clone(),
            comparers: Mutex::new(comparers),
            begun: Instant::now(),
            news: Mutex::default(),
        };
        Term {
            ballot,
            desk: Arc::new(desk),
            asking: BTreeMap::new(),
        }
    }

    fn look(&self, term: &mut Term, status: &NodeStatus) {
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: BTreeSet<MemberId> = copies.map(|it| it.id).collect();
        let mut serving: BTreeSet<MemberId> = status.serving.iter().copied().collect();
        if self.apply.status().borrow().serving {
            serving.insert(status.member);
        }
        term.asking.retain(|member, _| copies.contains(member));
        for member in &copies {
            let desk = &term.desk;
            term.asking.entry(*member).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(desk.clone().ask_on(*member)))
            });
        }
        let name = |member| node::name(status, member);
        let away = term.desk.away(&copies);
        let mut comparers = term.desk.comparers();
        comparers.handle_rules(rules(&self.apply.policy().borrow()));
        let revision = self.apply.status().borrow().revision;
        comparers.handle_revision(revision.in_force, revision.barrier, revision.silent);
        comparers.handle_copies(copies, serving);
        comparers.handle_away(away);
        while let Some(verdict) = comparers.poll_verdict() {
            tell(&verdict, name);
        }
        self.apply.publish_found(Found::of(&comparers, name));
    }
}

impl std::fmt::Debug for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison").finish_non_exhaustive()
    }
}

// === impl Desk ===

impl Desk {
    /// Asks one copy, again and again.
    async fn ask_on(self: Arc<Self>, member: MemberId) {
        let mut its_noise = 0;
        loop {
            let (word, finished) = self.comparers().word(member, its_noise);
            let more = match timeout(PATIENCE, self.ask(member, &word)).await {
                Ok(Ok(batch)) => {
                    let more = batch.more;
                    its_noise = batch.noise_known;
                    if self.comparers().handle_answer(member, finished, batch) {
                        let mut news = self.news.lock().expect("no holder panics");
                        news.insert(member, Instant::now());
                    }
                    more
                }
                Ok(Err(error)) => {
                    tracing::debug!(peer = %member, %error, "a copy cannot be asked for digests");
                    false
                }
                Err(_) => false,
            };
            if !more {
                sleep(PERIOD).await;
            }
        }
    }

    /// The copies of which nothing new has come for long.
    fn away(&self, copies: &BTreeSet<MemberId>) -> BTreeSet<MemberId> {
        let news = self.news.lock().expect("no holder panics");
        let heard = |member: &MemberId| news.get(member).copied().unwrap_or(self.begun);
        let away = copies.iter().filter(|it| heard(it).elapsed() >= AWAY);
        away.copied().collect()
    }

    async fn ask(&self, member: MemberId, word: &Word) -> Result<Batch, Status> {
        if member == self.member {
            let batch = self.apply.compare(word, DIGESTS).await;
            return batch.ok_or_else(|| Status::unavailable("this member is ending"));
        }
        let no_channel = || Status::unavailable("there is no connection to that member");
        let channel = self.peers.channel(member).ok_or_else(no_channel)?;
        let request = CompareRequest {
            group: Bytes::copy_from_slice(&self.group.0),
            term: Some(node::wire::term(self.ballot)),
            ..wire::request(word)
        };
        let answer = CopiesClient::new(channel).compare(request).await?;
        wire::read_response(answer.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn comparers(&self) -> MutexGuard<'_, Comparers> {
        self.comparers.lock().expect("no holder panics")
    }
}

/// Says it to people.
fn tell(verdict: &Verdict, name: impl Fn(MemberId) -> String) {
    match verdict {
        Verdict::OddOneOut {
            slot,
            route,
            member,
            part,
            measure,
        } => {
            let then = match measure {
                OnDivergence::Observe => "it is only observed",
                OnDivergence::Alert => "it goes on serving: look after it",
                OnDivergence::Quarantine => "it is taken out and made anew",
                OnDivergence::Halt => "it stands still: look after it",
            };
            let member = name(*member);
            tracing::error!(%slot, route, %member, %part, "a copy answered differently; {then}");
        }
        Verdict::NoMajority {
            members,
            slot,
            route,
            part,
            all_differ,
        } => {
            let members: Vec<_> = members.iter().map(|it| name(*it)).collect();
            tracing::error!(
                %slot, route, ?members, %part, all_differ,
                "copies answered differently and no majority agrees: restart the app of those that \
                 are wrong"
            );
        }
        Verdict::NotDeterministic { slot, route, part } => tracing::warn!(
            %slot, route, %part,
            "not deterministic: this differs on all copies, and is not compared any more"
        ),
    }
}
