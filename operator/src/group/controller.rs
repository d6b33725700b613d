//! When groups are looked at: on changes of them and of their children, again after a while, and
//! later and later when something fails. One group's failure never delays another's work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Resource as _, ResourceExt as _};
use synod_api::{Condition, ReplicaGroup};

use super::plan::Step;
use super::reconcile::{Done, ReconcileError, reconcile};
use super::{adopt, names};
use crate::conditions::{self, find, is_true, shorten};
use crate::inject::SidecarImage;
use crate::inject::names::{INJECT_LABEL, SERVICE_LABEL};
use crate::run::Context as Process;

/// First and last wait after a failure.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
/// Groups that are worked on at once.
const AT_ONCE: u16 = 16;
/// Longest text of an event, in bytes (the API's limit is 1024).
const NOTE: usize = 1_000;

/// How long the operator has just started.
const EARLY: Duration = Duration::from_secs(60);

/// Name of this controller in metrics.
const NAME: &str = "group";

struct Context {
    process: Arc<Process>,
    image: SidecarImage,
    started: Instant,
    /// Failures in a row, by group.
    failures: Mutex<HashMap<ObjectRef<ReplicaGroup>, u32>>,
}

/// Works on the groups of this cluster until told to stop.
pub async fn run(process: Arc<Process>) -> anyhow::Result<()> {
    let client = process.client.clone();
    let (key, value) = names::MANAGED_BY;
    let ours = watcher::Config::default().labels(&format!("{key}={value}"));
    // The labels of pods of a user's own StatefulSet are the user's, but for these.
    let members = watcher::Config::default().labels(SERVICE_LABEL);
    let asking = watcher::Config::default().labels(INJECT_LABEL);
    let groups: Api<ReplicaGroup> = Api::all(client.clone());
    let stop = process.stop.clone();
    // Whoever begins to lead looks at everything.
    let leads = stream::unfold(process.leadership.clone(), |mut leadership| async {
        leadership.gained().await;
        Some(((), leadership))
    });
    let flags = &process.flags;
    let policy = Some(flags.sidecar_pull_policy.clone()).filter(|it| !it.is_empty());
    let image = SidecarImage {
        image: flags.sidecar_image.clone(),
        pull_policy: policy,
    };
    let context = Arc::new(Context {
        process,
        image,
        started: Instant::now(),
        failures: Mutex::new(HashMap::new()),
    });
    let config = kube::runtime::controller::Config::default().concurrency(AT_ONCE);
    Controller::new(groups, watcher::Config::default())
        .with_config(config)
        .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
        .owns(Api::<Service>::all(client.clone()), ours.clone())
        .owns(Api::<ConfigMap>::all(client.clone()), ours.clone())
        .owns(Api::<Secret>::all(client.clone()), ours.clone())
        .owns(
            Api::<PodDisruptionBudget>::all(client.clone()),
            ours.clone(),
        )
        .owns(Api::<NetworkPolicy>::all(client.clone()), ours.clone())
        .watches(Api::<Pod>::all(client.clone()), members, group_of)
        .watches(Api::<Pod>::all(client.clone()), asking, asked_of)
        .watches(
            Api::<StatefulSet>::all(client),
            watcher::Config::default(),
            adopter,
        )
        .reconcile_all_on(leads)
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(look, again, context)
        .for_each(|_| std::future::ready(()))
        .await;
    Ok(())
}

/// A pod is owned by the StatefulSet; its label says whose member it is.
fn group_of(pod: Pod) -> Option<ObjectRef<ReplicaGroup>> {
    let service = pod.labels().get(SERVICE_LABEL)?;
    Some(ObjectRef::new(service).within(&pod.namespace()?))
}

/// One that was labelled after it was made has no other sign of it.
fn asked_of(pod: Pod) -> Option<ObjectRef<ReplicaGroup>> {
    let service = pod.labels().get(INJECT_LABEL)?;
    Some(ObjectRef::new(service).within(&pod.namespace()?))
}

/// A StatefulSet of a user's own.
fn adopter(set: StatefulSet) -> Option<ObjectRef<ReplicaGroup>> {
    let service = adopt::asked(&set)?;
    Some(ObjectRef::new(service).within(&set.namespace()?))
}

async fn look(group: Arc<ReplicaGroup>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    // Children go with the group by their owner references.
    if group.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let start = Instant::now();
    let work = Box::pin(step(&group, &context));
    let Some(result) = context.process.leadership.while_leading(work).await else {
        // Whoever begins to lead looks at everything, this instance too.
        return Ok(Action::await_change());
    };
    let word = result
        .as_ref()
        .map_or_else(ReconcileError::category, |_| "ok");
    context
        .process
        .metrics
        .reconciled(NAME, word, start.elapsed());
    result
}

async fn step(group: &ReplicaGroup, context: &Context) -> Result<Action, ReconcileError> {
    let early = context.started.elapsed() < EARLY;
    let done = match reconcile(&context.process, &context.image, group, early).await {
        // The change that was not known here yet brings the next look, at the latest this does.
        Err(ReconcileError::Overtaken) => return Ok(Action::requeue(FIRST)),
        done => done?,
    };
    tell(context, group, &done).await;
    if let Some(words) = done.failure {
        return Err(ReconcileError::Step(words));
    }
    context
        .failures
        .lock()
        .expect("no holder panics")
        .remove(&ObjectRef::from_obj(group));
    Ok(Action::requeue(done.again))
}

fn again(group: Arc<ReplicaGroup>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let mut failures = context.failures.lock().expect("no holder panics");
    let count = failures.entry(ObjectRef::from_obj(&*group)).or_insert(0);
    let wait = backoff(*count);
    *count = count.saturating_add(1);
    tracing::warn!(service = group.name_any(), %error, wait_s = wait.as_secs(), "tried again later");
    Action::requeue(wait)
}

fn backoff(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(10)).min(LAST)
}

/// Events for what changed and what was done.
async fn tell(context: &Context, before: &ReplicaGroup, done: &Done) {
    let mut events = Vec::new();
    let old = before.status.as_ref().map_or(&[][..], |it| &it.conditions);
    let new = done
        .group
        .status
        .as_ref()
        .map_or(&[][..], |it| &it.conditions);
    events.extend(transitions(old, new));
    match &done.step {
        Some(Step::Delete { pod, why, .. }) => events.push((
            EventType::Normal,
            "PodReplaced".to_owned(),
            format!("pod {pod} is replaced: {why}"),
        )),
        Some(Step::Transfer { from, .. }) => events.push((
            EventType::Normal,
            "LeadershipTransferred".to_owned(),
            format!("{from} hands leadership over before its pod is replaced"),
        )),
        _ => {}
    }
    events.extend(done.raised.map(|version| {
        (
            EventType::Normal,
            "ProtocolRaised".to_owned(),
            format!("members use version {version} of their protocol from now on"),
        )
    }));
    events.extend(done.changed.map(|epoch| {
        (
            EventType::Normal,
            "MembersChanged".to_owned(),
            format!("the group has other members from now on (epoch {epoch})"),
        )
    }));
    let revised = done.revised.iter();
    events.extend(
        revised.map(|(reason, words)| (EventType::Normal, (*reason).to_owned(), words.clone())),
    );
    let reference = before.object_ref(&());
    for (type_, reason, note) in events {
        let note = shorten(note, NOTE);
        let event = Event {
            type_,
            reason,
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = context.process.events.publish(&event, &reference).await {
            tracing::debug!(service = before.name_any(), %error, "cannot publish an event");
        }
    }
}

/// What is news among the conditions: another status, or the same for another reason. That nothing
/// is wrong from the beginning is none, and what keeps a group from being ready is told once.
fn transitions(old: &[Condition], new: &[Condition]) -> Vec<(EventType, String, String)> {
    let mut events: Vec<(EventType, String, String)> = Vec::new();
    for kind in [
        &conditions::STALLED,
        &conditions::DEGRADED,
        &conditions::CERTIFICATES_VALID,
        &conditions::TRAFFIC_INTERCEPTED,
        &conditions::READY,
    ] {
        let Some(now) = find(new, kind) else { continue };
        let good = now.status == kind.good.as_str();
        let news = match find(old, kind) {
            Some(then) => then.status != now.status || then.reason != now.reason,
            None => !good,
        };
        let told = events.iter().any(|(_, reason, _)| *reason == now.reason);
        // That all is well again is told by Ready alone.
        let follows =
            good && kind.name != conditions::READY.name && is_true(new, &conditions::READY);
        if !news || told || follows {
            continue;
        }
        // The way to readiness is nothing to worry about.
        let on_the_way = now.reason == conditions::WAITING_FOR_CERTIFICATES.name;
        let type_ = if good || on_the_way || kind.name == conditions::READY.name {
            EventType::Normal
        } else {
            EventType::Warning
        };
        let note = format!("{} is {}: {}", kind.name, now.status, now.message);
        let note = note.trim_end_matches(": ").to_owned();
        events.push((type_, now.reason.clone(), note));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: None,
            observed_generation: None,
        }
    }

    #[test]
    fn each_piece_of_news_is_one_event() {
        let told = |old: &[Condition], new: &[Condition]| {
            let events = transitions(old, new).into_iter();
            events
                .map(|(type_, reason, note)| format!("{type_:?} {reason} {note}"))
                .collect::<Vec<_>>()
        };
        let well = [
            condition("Degraded", "False", "AsDesired"),
            condition("Ready", "True", "AsDesired"),
        ];
        let ill = [
            condition("Degraded", "True", "PodNotStarting"),
            condition("Ready", "False", "PodNotStarting"),
        ];
        assert_eq!(told(&[], &well), Vec::<String>::new());
        assert_eq!(told(&well, &well), Vec::<String>::new());
        assert_eq!(
            told(&well, &ill),
            ["Warning PodNotStarting Degraded is True"]
        );
        assert_eq!(told(&ill, &well), ["Normal AsDesired Ready is True"]);
    }

    #[test]
    fn after_failures_the_wait_doubles_up_to_a_minute() {
        let waits: Vec<_> = (0..9).map(|it| backoff(it).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u32::MAX).as_secs(), 60);
    }
}
