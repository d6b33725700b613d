//! The next step of a rolling restart. Comes in: which pods should be other ones, and what pods and
//! members are seen to do. Goes out: one step. Pure: the same picture gives the same step, so that an
//! operator which ends between two steps is followed by one that goes on.
//!
//! What holds at every step: a majority of the group's voters goes on voting without the pod that is
//! deleted (unless it did not vote anyway, or the group is too small to have one to spare); one pod
//! at a time; the leader last, and after it has handed over. With members elsewhere, what counts there
//! must be known, as it is while nobody else takes members away: see [`Step::needs_token`].

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{MemberRole, is_witness};

/// Kubelet's restart makes all its pods NotReady for a second or two: nothing is concluded from that.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
/// Kubelet waits for less after a container's first ends.
const BACK_OFF: SignedDuration = SignedDuration::from_secs(20);
/// A pod that is stuck is replaced once it is so old: what is broken for good is not made anew all the
/// time.
const STUCK_AGE: SignedDuration = SignedDuration::from_secs(300);

/// What should be.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The group was formed: there is something to keep a majority of.
    pub(crate) formed: bool,
    /// The hub lets this cluster replace pods now.
    pub(crate) rollout: bool,
    /// The revision of the app that pods are made of now.
    pub(crate) revision: u64,
    /// Another revision than the one in force runs along silently, so not every copy that is well answers.
    pub(crate) rolls: bool,
    /// Pods are made of that one now, for this member.
    pub(crate) along: Option<String>,
    /// Members in other clusters.
    pub(crate) elsewhere: Elsewhere,
}

/// Members in other clusters, as they said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) voters: usize,
    /// How many of these take part in decisions.
    pub(crate) voting: usize,
    /// How many copies there answer clients.
    pub(crate) answering: usize,
    /// Names of those, voters or not, that are not well.
    pub(crate) unwell: Vec<String>,
}

/// One member with its pod, as seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) role: MemberRole,
    pub(crate) pod: Option<SeenPod>,
    /// It answered: what it said.
    pub(crate) heard: Option<Heard>,
}

/// A pod as seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenPod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) leaving: bool,
    /// It runs what users ask for now.
    pub(crate) updated: bool,
    /// It runs the template as it is now to the letter, with the sidecar of this operator.
    pub(crate) newest: bool,
    /// The revision that its app is of.
    pub(crate) revision: u64,
    /// One of its containers ran at some time.
    pub(crate) ran: bool,
    pub(crate) ready: bool,
    /// When `ready` last changed.
    pub(crate) since: Option<Timestamp>,
    pub(crate) made: Option<Timestamp>,
    /// Since when kubelet waits before it starts a container again that ended time after time.
    pub(crate) backing_off: Option<Timestamp>,
}

/// What a member said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    /// Its log counts.
    pub(crate) ready: bool,
    /// Its own copy answers clients.
    pub(crate) serving: bool,
    /// Whom it follows; empty: nobody.
    pub(crate) leader: String,
    /// Nothing has answered on the app's port for longer than a restart takes.
    pub(crate) app_silent: bool,
    /// The app's volume is to be put back, which can be done in a new pod only.
    pub(crate) replace_pod: bool,
    /// The revision of the app that is to be started there.
    pub(crate) due: u64,
    /// The newest that has ever begun, as far as it knows.
    pub(crate) newest: u64,
    /// Its copy is of a revision that runs along silently, and has caught up.
    pub(crate) along: bool,
    /// That revision, if what it begins with is there.
    pub(crate) may: Option<u64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Every pod is as it should be.
    Done,
    /// Not now.
    Wait(String),
    /// The leader is to hand over to another voter; empty: to the best one.
    Transfer {
        /// Who leads.
        from: String,
        /// Who should.
        to: String,
    },
    /// This very pod is to be deleted.
    Delete {
        /// Its name.
        pod: String,
        /// Its UID, so that its successor is never meant.
        uid: String,
        /// Why now.
        why: &'static str,
        /// How.
        care: Care,
    },
}

/// How much care it takes to take a pod away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// No decision depends on it.
    None,
    /// It votes. No budget would let it go: it is broken, or the group has none to spare.
    Votes,
    /// It is well: it is evicted, so that the budget decides between this and other evictions.
    Budget,
}

/// The next step.
pub(crate) fn next(desired: &Desired, seen: &[Seen], now: Timestamp) -> Step {
    // Whoever else went now would come back with an app of a revision that is not its turn.
    if let Some(name) = &desired.along {
        return run_along(desired, seen, name);
    }
    let outdated: Vec<_> = seen
        .iter()
        .filter(|it| it.is_outdated(desired, now))
        .collect();
    if outdated.is_empty() {
        let step = renew(desired, seen).or_else(|| replace_stuck(desired, seen, now));
        return step.unwrap_or(Step::Done);
    }
    // Nobody has heard of these.
    if let Some(step) = first(&outdated, Seen::never_ran, "it never ran") {
        return step;
    }
    if !desired.formed {
        return first(&outdated, |_| true, "the group is not formed yet").expect("one is outdated");
    }
    if let Some(away) = seen.iter().find(|it| it.is_away()) {
        return Step::Wait(format!("{} is being replaced", away.name));
    }
    if let Some(step @ (Step::Delete { .. } | Step::Transfer { .. })) = renew(desired, seen) {
        return step;
    }
    if !desired.rollout {
        return Step::Wait("another cluster is first".to_owned());
    }
    let group = Votes::count(desired, seen);
    if let Some(step) = replace_broken(&outdated, &group, now) {
        return step;
    }
    if let Some(late) = seen.iter().find(|it| !it.is_well()) {
        return Step::Wait(late.complaint());
    }
    if !desired.elsewhere.unwell.is_empty() {
        let late = desired.elsewhere.unwell.join(", ");
        return Step::Wait(format!("not well in other clusters: {late}"));
    }
    if !group.can_spare_a_voter() {
        return Step::Wait("a majority would not go on without another voter".to_owned());
    }
    replace_well(&outdated, seen, desired, now)
}

/// Those that do not work are replaced first: that may be what helps them.
fn replace_broken(outdated: &[&Seen], group: &Votes, now: Timestamp) -> Option<Step> {
    outdated
        .iter()
        .filter(|it| it.is_broken(now))
        .find(|it| !it.votes() || group.can_spare_a_voter())
        .map(|it| it.delete("it does not work", it.care()))
}

/// Kubelet waits longer and longer, up to five minutes, before it starts again what ended; a new pod
/// begins from the start. The others are well: what is wrong may be this one's own.
fn replace_stuck(desired: &Desired, seen: &[Seen], now: Timestamp) -> Option<Step> {
    let stuck = seen.iter().find(|it| it.is_stuck(now))?;
    let mut others = seen.iter().filter(|it| it.name != stuck.name);
    let alone = others.all(Seen::is_well) && desired.elsewhere.unwell.is_empty();
    let spared = !stuck.votes() || Votes::count(desired, seen).can_spare_a_voter();
    (desired.formed && alone && spared)
        .then(|| stuck.delete("kubelet waits long before it starts it again", stuck.care()))
}

/// Copies that can come to nothing more where they are. Kubelet starts an app again at once, upon
/// whatever its volume holds: in a new pod the sidecar is first, puts the volume back, and only then lets
/// the app start. And a copy that has come to the end of its revision of the app is followed by one of
/// the next, which another pod is made of. Such a copy serves nobody, so all that a new pod takes away is
/// a vote: the copies of others need not be well, and may need the same.
fn renew(desired: &Desired, seen: &[Seen]) -> Option<Step> {
    if !desired.formed {
        return None;
    }
    let late = seen.iter().filter(|it| it.needs_pod_for_rollback());
    roll_back(desired, seen, late).or_else(|| revise(desired, seen))
}

/// The leader last: each change of leader is one more wait for those who wait already. With several
/// clusters its turn comes when the hub says so: the next leader lets nobody go for a while.
fn revise(desired: &Desired, seen: &[Seen]) -> Option<Step> {
    let needs = |it: &&Seen| it.needs_pod_of(desired.revision);
    let mut late: Vec<_> = seen.iter().filter(needs).collect();
    late.sort_by_key(|it| (it.leads(seen), it.votes()));
    let next = *late.first()?;
    if let Some(away) = seen.iter().find(|it| it.is_away()) {
        return Some(Step::Wait(format!("{} is being replaced", away.name)));
    }
    let votes = Votes::count(desired, seen);
    if next.votes() && !votes.can_spare_a_voter() {
        let words =
            "another revision of the app is to start, and a majority would not go on without";
        return Some(Step::Wait(format!("{words} {} now", next.name)));
    }
    if next.leads(seen) {
        if !desired.rollout {
            return Some(Step::Wait("other clusters are first".to_owned()));
        }
        let others = seen.iter().filter(|it| it.name != next.name);
        let best = others
            .filter(|it| it.role == MemberRole::Voter && it.votes())
            .max_by_key(|it| it.is_well());
        if let Some(successor) = best {
            return Some(Step::Transfer {
                from: next.name.clone(),
                to: successor.name.clone(),
            });
        }
        if desired.elsewhere.voters > 0 {
            return Some(Step::Transfer {
                from: next.name.clone(),
                to: String::new(),
            });
        }
    }
    Some(next.delete("it is to run another revision of the app", next.care()))
}

/// One copy gives way to one that runs along silently: only where what that begins with is there, while
/// all others are well and one of them answers. The leader hands over first.
fn run_along(desired: &Desired, seen: &[Seen], name: &str) -> Step {
    let Some(next) = seen.iter().find(|it| it.name == name) else {
        return Step::Done;
    };
    if let Some(away) = seen.iter().find(|it| it.is_away()) {
        return Step::Wait(format!("{} is being replaced", away.name));
    }
    let made = |it: &SeenPod| it.revision == desired.revision;
    if next.pod.as_ref().is_some_and(made) {
        return Step::Done;
    }
    if let Some(late) = seen.iter().find(|it| !it.is_well()) {
        return Step::Wait(late.complaint());
    }
    if next.heard.as_ref().and_then(|it| it.may) != Some(desired.revision) {
        return Step::Wait(format!(
            "{name} has not got the state that revision {} of the app begins with",
            desired.revision
        ));
    }
    if !desired.elsewhere.unwell.is_empty() {
        let late = desired.elsewhere.unwell.join(", ");
        return Step::Wait(format!("not well in other clusters: {late}"));
    }
    let votes = Votes::count(desired, seen);
    if next.votes() && !votes.can_spare_a_voter() {
        return Step::Wait(format!("a majority would not go on without {name} now"));
    }
    if next.is_last_to_answer(desired, seen) {
        return Step::Wait(format!("no other copy than that of {name} answers"));
    }
    if next.leads(seen) {
        let others = seen.iter().filter(|it| it.name != next.name);
        let mut others = others.filter(|it| it.role == MemberRole::Voter && it.votes());
        let best = others.next().map(|it| it.name.clone());
        if best.is_some() || desired.elsewhere.voters > 0 {
            return Step::Transfer {
                from: next.name.clone(),
                to: best.unwrap_or_default(),
            };
        }
    }
    // It answers, whether or not it votes: nobody else may be taken away meanwhile.
    let care = if votes.is_small() {
        Care::Votes
    } else {
        Care::Budget
    };
    next.delete("it is to run along with another revision of the app", care)
}

fn roll_back<'a>(
    desired: &Desired,
    seen: &[Seen],
    mut late: impl Iterator<Item = &'a Seen>,
) -> Option<Step> {
    let next = late.next()?;
    if let Some(away) = seen.iter().find(|it| it.is_away()) {
        return Some(Step::Wait(format!("{} is being replaced", away.name)));
    }
    let votes = Votes::count(desired, seen);
    // One without a vote takes nothing away.
    let mut all = std::iter::once(next).chain(late);
    let spared = all.find(|it| !it.votes() || votes.can_spare_a_voter());
    let Some(spared) = spared else {
        return Some(Step::Wait(format!(
            "the volume of {} is to be put back, and a majority would not go on without it now",
            next.name
        )));
    };
    Some(spared.delete("its volume is put back to a snapshot", spared.care()))
}

/// Observers first, the leader last.
fn replace_well(outdated: &[&Seen], seen: &[Seen], desired: &Desired, now: Timestamp) -> Step {
    let mut order: Vec<_> = outdated.iter().collect();
    order.sort_by_key(|it| (it.leads(seen), it.role == MemberRole::Voter));
    // The highest number first, as StatefulSets do it.
    let best = order[0];
    let alike = |it: &&&&Seen| {
        it.leads(seen) == best.leads(seen)
            && (it.role == MemberRole::Voter) == (best.role == MemberRole::Voter)
    };
    let next = order
        .iter()
        .filter(alike)
        .max_by_key(|it| ordinal(&it.name))
        .expect("the best is alike");
    if desired.rolls && next.is_last_to_answer(desired, seen) {
        let name = &next.name;
        return Step::Wait(format!("no other copy than that of {name} answers"));
    }
    if next.leads(seen) {
        let successor = seen
            .iter()
            .filter(|it| it.name != next.name && it.role == MemberRole::Voter && it.is_well())
            .max_by_key(|it| !it.is_outdated(desired, now));
        if let Some(successor) = successor {
            return Step::Transfer {
                from: next.name.clone(),
                to: successor.name.clone(),
            };
        }
        if desired.elsewhere.voters > 0 {
            return Step::Transfer {
                from: next.name.clone(),
                to: String::new(),
            };
        }
    }
    let care = if Votes::count(desired, seen).is_small() {
        next.care()
    } else {
        Care::Budget
    };
    next.delete("it is to run another template", care)
}

fn first(outdated: &[&Seen], is: impl Fn(&Seen) -> bool, why: &'static str) -> Option<Step> {
    let found = outdated.iter().find(|it| is(it));
    found.map(|it| it.delete(why, Care::None))
}

fn ordinal(name: &str) -> u32 {
    name.rsplit('-')
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(0)
}

/// Voters of the whole group.
struct Votes {
    all: usize,
    voting: usize,
}

// === impl Votes ===

impl Votes {
    fn count(desired: &Desired, seen: &[Seen]) -> Self {
        let here = || seen.iter().filter(|it| it.role != MemberRole::Observer);
        Self {
            all: here().count() + desired.elsewhere.voters,
            voting: here().filter(|it| it.votes()).count() + desired.elsewhere.voting,
        }
    }

    fn majority(&self) -> usize {
        self.all / 2 + 1
    }

    /// A group of one or two has none to spare, ever: it stops for a moment.
    fn can_spare_a_voter(&self) -> bool {
        self.voting > self.majority() || (self.is_small() && self.voting == self.all)
    }

    fn is_small(&self) -> bool {
        self.all <= 2
    }
}

// === impl Elsewhere ===

impl Elsewhere {
    /// All are well.
    pub(super) fn hoped(voters: usize) -> Self {
        Self {
            voters,
            voting: voters,
            answering: voters,
            unwell: Vec::new(),
        }
    }
}

// === impl Step ===

impl Step {
    /// Whether it may be taken only while nobody in another cluster takes a member away.
    pub(super) fn needs_token(&self) -> bool {
        match self {
            Self::Done | Self::Wait(_) => false,
            Self::Transfer { .. } => true,
            Self::Delete { care, .. } => *care != Care::None,
        }
    }
}

// === impl Seen ===

impl Seen {
    /// A pod that works is left alone while it runs what users ask for. One that does not work, or of
    /// which nothing depends yet, gets the newest of everything: that may be what helps it.
    fn is_outdated(&self, desired: &Desired, now: Timestamp) -> bool {
        let fresh = !desired.formed || self.never_ran() || self.is_broken(now);
        self.pod
            .as_ref()
            .is_some_and(|it| !it.leaving && if fresh { !it.newest } else { !it.updated })
    }

    fn is_away(&self) -> bool {
        self.pod.as_ref().is_none_or(|it| it.leaving)
    }

    fn never_ran(&self) -> bool {
        self.pod.as_ref().is_some_and(|it| !it.ran) && self.heard.is_none()
    }

    /// It takes part in decisions.
    fn votes(&self) -> bool {
        self.role != MemberRole::Observer
            && self
                .heard
                .as_ref()
                .is_some_and(|it| it.ready && !it.leader.is_empty())
    }

    /// Ready, and its copy is caught up, whether it answers or runs along. A witness has none.
    pub(super) fn is_well(&self) -> bool {
        let heard = self.heard.as_ref();
        self.pod.as_ref().is_some_and(|it| it.ready && !it.leaving)
            && heard.is_some_and(|it| {
                it.ready
                    && !it.leader.is_empty()
                    && (it.serving || it.along || self.role == MemberRole::Witness)
            })
    }

    /// Its copy answers clients, and that of nobody else does.
    fn is_last_to_answer(&self, desired: &Desired, seen: &[Self]) -> bool {
        let answers = |it: &Self| it.heard.as_ref().is_some_and(|it| it.serving);
        let mut others = seen.iter().filter(|it| it.name != self.name);
        answers(self) && !others.any(answers) && desired.elsewhere.answering == 0
    }

    /// Not ready, or without an app, for longer than anything passing takes.
    fn is_broken(&self, now: Timestamp) -> bool {
        let silent = self.heard.as_ref().is_some_and(|it| it.app_silent);
        silent
            || self.pod.as_ref().is_some_and(|it| {
                !it.ready
                    && it
                        .since
                        .is_some_and(|at| now.duration_since(at) >= PATIENCE)
            })
    }

    /// Kubelet is long in its back-off with it, and it was not replaced for that lately.
    fn is_stuck(&self, now: Timestamp) -> bool {
        let past =
            |at: Option<Timestamp>, limit| at.is_some_and(|at| now.duration_since(at) >= limit);
        self.pod.as_ref().is_some_and(|it| {
            !it.leaving && past(it.backing_off, BACK_OFF) && past(it.made, STUCK_AGE)
        })
    }

    /// Its copy has come to the end of its revision of the app, and another pod is to follow.
    pub(super) fn is_to_be_revised(&self, revision: u64) -> bool {
        self.needs_pod_of(revision) && self.votes()
    }

    /// What its volume holds is nobody's state, and the app may be started upon it at any time.
    fn needs_pod_for_rollback(&self) -> bool {
        self.heard.as_ref().is_some_and(|it| it.replace_pod)
            && self.pod.as_ref().is_some_and(|it| !it.leaving)
    }

    /// Its app is of another revision than the one that is to be started there, and of that one pods are
    /// made now. One that knows nothing yet of what its pod is made of has only just started, and the pod of
    /// a witness is of none.
    fn needs_pod_of(&self, revision: u64) -> bool {
        if is_witness(&self.name) {
            return false;
        }
        let pod = self.pod.as_ref().filter(|it| !it.leaving);
        let (Some(pod), Some(heard)) = (pod, self.heard.as_ref()) else {
            return false;
        };
        pod.revision != revision && heard.due == revision && heard.newest >= pod.revision
    }

    fn care(&self) -> Care {
        if self.votes() {
            Care::Votes
        } else {
            Care::None
        }
    }

    fn leads(&self, seen: &[Seen]) -> bool {
        let own = self.heard.as_ref().map(|it| it.leader.as_str());
        match own {
            Some(leader) => leader == self.name,
            // Its own word is missing: the others' counts.
            None => seen
                .iter()
                .filter_map(|it| it.heard.as_ref())
                .any(|it| it.leader == self.name),
        }
    }

    fn complaint(&self) -> String {
        let name = &self.name;
        match (&self.pod, &self.heard) {
            (None, _) => format!("{name} has no pod"),
            (Some(pod), _) if !pod.ready => format!("{name} is not ready"),
            (_, None) => format!("{name} does not answer"),
            (_, Some(heard)) if heard.leader.is_empty() => format!("{name} follows no leader"),
            _ => format!("{name} is not caught up"),
        }
    }

    fn delete(&self, why: &'static str, care: Care) -> Step {
        let pod = self.pod.as_ref().expect("outdated ones have a pod");
        Step::Delete {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            why,
            care,
        }
    }
}

#[cfg(test)]
mod tests;
