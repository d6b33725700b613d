//! The app's image is changed between two versions that answer one route differently, under constant
//! traffic: what each request was answered by follows from its place in the order, and nothing
//! acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use synod_system::client::{Client, request};
use synod_system::report::Report;
use synod_system::workload::Workload;
use tokio::task::JoinHandle;

use super::Settings;
use super::registers::{self, NAME};
use super::state::{begin, end, status};
use super::trace::Picture;
use crate::Cluster;
use crate::product::{REGISTERS_FAILS, REGISTERS_NEXT};
use crate::service::{MemberPod, Service, member_pods, node_ports};
use crate::watch::Watch;

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// Between two requests of one listener.
const GAP: Duration = Duration::from_millis(50);
/// One request: longer than the copies change over.
const MOMENT: Duration = Duration::from_secs(30);
/// Between two changes: enough to see that traffic goes on.
pub(super) const CALM: Duration = Duration::from_secs(2);
/// Saved by a request to the app.
pub(super) const SAVED: &str = "{snapshot: {type: HTTP, every: {slots: 500}, http: {save: {method: GET, path: /state}, \
    restore: {method: PUT, path: /state}}}}";
/// Three members, and how a new version takes over.
pub(super) const SWITCH: &str = "replicas: 3\n  update: {strategy: Switch}";
pub(super) const ROLLING: &str = "replicas: 3\n  update: {strategy: Rolling}";
/// Longest time without an answer when nobody waits for a pod: one is taken out of the Service, and the leader
/// hands over.
const GAPLESS: Duration = Duration::from_secs(5);
/// No registry has it.
const NOWHERE: &str = "registry.example/nowhere:1";

/// Who has answered at which slot, in the order in which one client saw it, and the longest time without
/// an answer.
#[derive(Default)]
pub(super) struct Heard {
    answers: Vec<(u64, u64)>,
    longest: Duration,
}

/// Clients that ask, in the agreed order, what the app answers that the versions answer differently.
pub(super) struct Listeners {
    ends: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<Heard>>>,
}

pub(super) async fn changed(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, 2).await?;
    let cluster = clusters.first();
    let service = registers::apply_with(cluster, SWITCH, SAVED, "").await?;
    service.wait("Ready", PATIENCE).await?;
    let watch = Watch::start(service)?;
    let entrances = node_ports(cluster, NAME).await?;
    let workload = Workload::start(&entrances, registers::plan());
    let listeners = Listeners::start(cluster).await?;
    able(&service).await?;

    let pods = member_pods(cluster, NAME).await?;
    let leader = service.leader().await?;
    let moment = watch.now();
    let first = change(&service, REGISTERS_NEXT, 1, report).await?;
    report.expect(
        first.order.last() == Some(&leader),
        format!("{leader} led and was not the last of {:?}", first.order),
    );
    let mut said = watch.since(moment);
    let ready = said.remove("Ready").unwrap_or_default();
    report.expect(
        ready.contains(&"False RevisionBegun".to_owned()),
        format!("Ready was never False RevisionBegun: {ready:?}"),
    );
    let now = member_pods(cluster, NAME).await?;
    let kept = now
        .iter()
        .filter(|it| pods.iter().any(|old| old.uid == it.uid));
    report.expect(kept.count() == 0, "pods of the old image are left");
    tokio::time::sleep(CALM).await;

    // What is no matter of revisions changes none.
    relabel(&service).await?;
    let third = tokio::time::timeout(PATIENCE, rolled(cluster, &now)).await??;
    service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "another annotation: replaced in the order {third:?}"
    ));
    let same = running(&service).await?.iter().all(|it| *it == Some(1));
    report.expect(same, "another annotation was taken for another revision");

    let last = broken(&service, report).await?;
    tokio::time::sleep(CALM).await;
    report.expect(
        first.barrier < last,
        format!("the barriers are {} and {last}", first.barrier),
    );
    check(&listeners.end().await?, [0, 1], first.barrier, report);
    end(workload, clusters, before, report).await
}

/// Two versions run side by side before the new one takes over, and one that fails where the last does not
/// never does.
pub(super) async fn runs_along(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, 2).await?;
    let cluster = clusters.first();
    let service = registers::apply_with(cluster, ROLLING, SAVED, "").await?;
    service.wait("Ready", PATIENCE).await?;
    let watch = Watch::start(service)?;
    let entrances = node_ports(cluster, NAME).await?;
    let workload = Workload::start(&entrances, registers::plan());
    let listeners = Listeners::start(cluster).await?;
    able(&service).await?;

    let leader = service.leader().await?;
    let moment = watch.now();
    let first = change(&service, REGISTERS_NEXT, 1, report).await?;
    report.expect(
        first.order.last() == Some(&leader),
        format!("{leader} led and was not the last of {:?}", first.order),
    );
    let ready = watch.since(moment).remove("Ready").unwrap_or_default();
    report.expect(
        ready.contains(&"False RevisionRunsAlong".to_owned()),
        format!("Ready was never False RevisionRunsAlong: {ready:?}"),
    );
    tokio::time::sleep(CALM).await;
    disagrees(&service, report).await?;
    tokio::time::sleep(CALM).await;
    check_along(&listeners.end().await?, [0, 1], first.barrier, report);
    end(workload, clusters, before, report).await
}

/// A version that fails at one route: clients never see that, and putting the template back ends it.
async fn disagrees(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    image(service, REGISTERS_FAILS).await?;
    let said = service
        .wait_until_said("Progressing", "RevisionsDisagree", PATIENCE)
        .await?;
    let found = began.elapsed();
    for word in ["POST /which", "status 200", "500", "put the template back"] {
        report.expect(said.contains(word), format!("no {word:?} in {said}"));
    }
    tokio::time::sleep(CALM).await;
    let runs = running(service).await?;
    report.expect(
        runs.contains(&Some(1)),
        format!("nobody answers any more, but copies are of {runs:?}"),
    );
    let began = Instant::now();
    image(service, REGISTERS_NEXT).await?;
    until_all_run(service, 1).await?;
    service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "a version that fails at one route was told of after {:.1} s ({said}); taken back, all as desired \
         after {:.1} s",
        found.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    // In force is still the one before.
    barrier(service.hub, 1).await?;
    Ok(())
}

/// The old version answers on behind the barrier, while the new one runs along; then that one does, and nobody
/// else ever.
pub(super) fn check_along(heard: &[Heard], versions: [u64; 2], barrier: u64, report: &mut Report) {
    let all = || heard.iter().flat_map(|it| &it.answers);
    let of = |wanted: u64| all().filter(move |it| it.1 == wanted).map(|it| it.0);
    let [old, new] = versions;
    let (last_old, first_new) = (of(old).max(), of(new).min());
    let along = of(old).filter(|it| *it > barrier).count();
    let longest = heard.iter().map(|it| it.longest).max().unwrap_or_default();
    report.say(format!(
        "barrier {barrier}; the last answer of the old version at {last_old:?}, the first of the new one at \
         {first_new:?}; {along} answers while both ran, {} behind; at most {:.2} s without an answer",
        of(new).count(),
        longest.as_secs_f64()
    ));
    report.expect(
        last_old < first_new,
        "the new version answered before it had taken over, or the old one after",
    );
    report.expect(
        along > 20 && of(new).count() > 20,
        "too few answers to show anything",
    );
    report.expect(
        all().all(|it| versions.contains(&it.1)),
        "a client was answered by a version that never took over",
    );
    report.expect(
        longest < GAPLESS,
        format!("{:.2} s without an answer", longest.as_secs_f64()),
    );
}

/// What became of a change.
struct Changed {
    barrier: u64,
    order: Vec<String>,
}

/// Gives the app another image, and waits until all copies are of that revision.
async fn change(
    service: &Service<'_>,
    to: &str,
    revision: u64,
    report: &mut Report,
) -> Result<Changed> {
    let cluster = service.hub;
    let before = member_pods(cluster, NAME).await?;
    let began = Instant::now();
    image(service, to).await?;
    let order = tokio::time::timeout(PATIENCE, rolled(cluster, &before))
        .await
        .context("pods are not replaced")??;
    let replaced = began.elapsed();
    until_all_run(service, revision).await?;
    service.wait("Ready", PATIENCE).await?;
    let barrier = barrier(cluster, revision).await?;
    report.say(format!(
        "to revision {revision}: pods replaced in the order {order:?} after {:.1} s, all as desired after \
         {:.1} s, behind slot {barrier}",
        replaced.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    Ok(Changed { barrier, order })
}

/// An image that nobody has: the service stands still at the barrier until it is taken back.
async fn broken(service: &Service<'_>, report: &mut Report) -> Result<u64> {
    image(service, NOWHERE).await?;
    let began = Instant::now();
    service
        .wait_until_said("Progressing", "RevisionBegun", PATIENCE)
        .await?;
    service
        .wait_until_said("Degraded", "PodNotStarting", PATIENCE)
        .await?;
    let stood = began.elapsed();
    let began = Instant::now();
    image(service, REGISTERS_NEXT).await?;
    until_all_run(service, 3).await?;
    service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "an image that nobody has was seen after {:.1} s; taken back, all as desired after {:.1} s",
        stood.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    barrier(service.hub, 3).await
}

/// Such that run along come with the third version of the members' protocol, which is agreed on once all are
/// there.
pub(super) async fn able(service: &Service<'_>) -> Result<()> {
    let began = Instant::now();
    while service.object().await?["status"]["protocol"]["current"].as_u64() < Some(3) {
        if began.elapsed() > PATIENCE {
            bail!("the protocol is not raised");
        }
        tokio::time::sleep(GLANCE).await;
    }
    service.wait("Ready", PATIENCE).await?;
    Ok(())
}

pub(super) async fn image(service: &Service<'_>, image: &str) -> Result<()> {
    let path = "/spec/template/spec/containers/0/image";
    let patch = format!(r#"[{{"op":"replace","path":"{path}","value":"{image}"}}]"#);
    let name = format!("rsvc/{NAME}");
    let patch = ["patch", &name, "--type=json", "--patch", &patch];
    service.hub.kubectl(patch).await?;
    Ok(())
}

/// A change of the template that is none of the app.
pub(super) async fn relabel(service: &Service<'_>) -> Result<()> {
    let patch = r#"{"spec":{"template":{"metadata":{"annotations":{"example.com/turn":"next"}}}}}"#;
    let name = format!("rsvc/{NAME}");
    let patch = ["patch", &name, "--type=merge", "--patch", patch];
    service.hub.kubectl(patch).await?;
    Ok(())
}

/// Waits until every pod is another one; their names in the order in which that happened.
async fn rolled(cluster: &Cluster, before: &[MemberPod]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    while order.len() < before.len() {
        for pod in member_pods(cluster, NAME).await? {
            let new = before.iter().all(|it| it.uid != pod.uid);
            if new && !order.contains(&pod.name) {
                order.push(pod.name);
            }
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(order)
}

/// The revision of each copy, as the status says.
pub(super) async fn running(service: &Service<'_>) -> Result<Vec<Option<u64>>> {
    let object = service.object().await?;
    let members = object["status"]["members"].as_array().into_iter().flatten();
    Ok(members.map(|it| it["revision"].as_u64()).collect())
}

pub(super) async fn until_all_run(service: &Service<'_>, revision: u64) -> Result<()> {
    let began = Instant::now();
    loop {
        let running = running(service).await?;
        if running.len() == 3 && running.iter().all(|it| *it == Some(revision)) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            let said = service.conditions().await?;
            bail!("not all run revision {revision}, but {running:?}: {said:#?}");
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The slot behind which a revision executes, as all members say.
pub(super) async fn barrier(cluster: &Cluster, revision: u64) -> Result<u64> {
    let mut found = Vec::new();
    for pod in member_pods(cluster, NAME).await? {
        let said: Value = status(&pod).await?["revision"].clone();
        anyhow::ensure!(said["in_force"] == revision, "{} says {said}", pod.name);
        found.push(said["barrier"].as_u64().context("no barrier")?);
    }
    found.dedup();
    match found[..] {
        [barrier] => Ok(barrier),
        _ => bail!("members name the barriers {found:?}"),
    }
}

/// Which version answers follows from the slot: the first is never answered by again.
pub(super) fn check(heard: &[Heard], versions: [u64; 2], switched: u64, report: &mut Report) {
    let mut counts = [0_usize; 2];
    for (slot, revision) in heard.iter().flat_map(|it| &it.answers) {
        let behind = usize::from(*slot > switched);
        counts[behind] += 1;
        report.expect(
            *revision == versions[behind],
            format!(
                "slot {slot} was answered by version {revision}, and the barrier is {switched}"
            ),
        );
    }
    let longest = heard.iter().map(|it| it.longest).max().unwrap_or_default();
    report.say(format!(
        "which version answers was told {} times before the barrier and {} times behind it, with at most \
         {:.2} s without an answer",
        counts[0],
        counts[1],
        longest.as_secs_f64()
    ));
    report.expect(
        counts.iter().all(|it| *it > 20),
        format!("too few answers to show anything: {counts:?}"),
    );
}

// === impl Listeners ===

impl Listeners {
    /// One by each node.
    pub(super) async fn start(cluster: &Cluster) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let entrances = node_ports(cluster, NAME).await?;
        let tasks = entrances.into_iter().map(|place| {
            let (client, ends) = (Client::new(place), ends.clone());
            tokio::spawn(listen(client, ends))
        });
        let tasks = tasks.collect();
        Ok(Self { ends, tasks })
    }

    pub(super) async fn end(self) -> Result<Vec<Heard>> {
        self.ends.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.push(task.await??);
        }
        Ok(all)
    }
}

async fn listen(client: Client, ends: Arc<AtomicBool>) -> Result<Heard> {
    let (mut heard, mut last) = (Heard::default(), Instant::now());
    while !ends.load(Ordering::SeqCst) {
        let asked = client.send(request("POST", "/which", "{}"), MOMENT).await;
        // A version says which one it is also when it fails.
        if let Ok(answer) = asked
            && let Some(revision) = revision_of(&answer.body)
        {
            let slot = answer.slot().context("no Synod-Slot")?;
            heard.answers.push((slot, revision));
            heard.longest = heard.longest.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(GAP).await;
    }
    heard.longest = heard.longest.max(last.elapsed());
    Ok(heard)
}

/// Of an app's answer; those of members alone name none.
fn revision_of(body: &[u8]) -> Option<u64> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["revision"].as_u64()
}
