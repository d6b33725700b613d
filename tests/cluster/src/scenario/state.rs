//! Apps whose state is saved, in one cluster under constant traffic: logs are cut, copies begin from
//! snapshots, and nothing acknowledged is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use synod_system::client::{Client, request};
use synod_system::report::Report;
use synod_system::workload::Workload;

use super::faults::container;
use super::registers::{self, NAME};
use super::trace::Picture;
use super::{Settings, finish};
use crate::product::Product;
use crate::service::{MemberPod, Service, member_pods, node_ports};
use crate::{Cluster, Clusters};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// One request.
const MOMENT: Duration = Duration::from_secs(5);
/// Where a sidecar tells its status.
const ADMIN_PORT: u16 = 7420;
/// Saved by a request to the app.
const BY_HTTP: &str = "{snapshot: {type: HTTP, every: {slots: 200}, http: {save: {method: GET, path: \
    /state}, restore: {method: PUT, path: /state}}}}";
/// Files, put back after a crash.
const BY_VOLUME: &str =
    "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume, every: {slots: 200}}}";
/// Of the app's container: it keeps its state, and is likely to be at it when it is killed.
const KEEPS: &str =
    "args: [--keep, /data, --lag-ms, '2']\n        securityContext: {runAsUser: 65532}";

/// A service under traffic.
struct Trial<'a> {
    service: Service<'a>,
    workload: Workload,
}

pub(super) async fn in_memory(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, 2).await?;
    let trial = Trial::start(clusters.first(), BY_HTTP, "").await?;
    trial.cut(report).await?;

    let pod = trial.pod(false).await?;
    let cluster = trial.service.hub;
    cluster
        .kubectl(["delete", "pod", &pod.name, "--wait=false"])
        .await?;
    let new = trial.replaced(&pod).await?;
    trial.service.wait("Ready", PATIENCE).await?;
    let counts = new.ask("GET", "/counts", "").await?;
    let by = counts.header("synod-member").unwrap_or_default().to_owned();
    report.expect(
        by.contains(&new.name),
        format!("{} let {by} answer", new.name),
    );
    let counts: Value = serde_json::from_slice(&counts.body)?;
    report.say(format!("the app in the new pod counts {counts}"));
    report.expect(
        counts["restored"] == 1,
        format!("the copy in the new pod was given no state: {counts}"),
    );
    trial.on_request(report).await?;
    let said = trial.service.conditions().await?;
    let unbounded = said.get("LogUnbounded").cloned().unwrap_or_default();
    report.expect(
        unbounded.starts_with("False"),
        format!("LogUnbounded is {unbounded}"),
    );
    end(trial.workload, clusters, before, report).await
}

pub(super) async fn on_a_volume(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, 3).await?;
    let trial = Trial::start(clusters.first(), BY_VOLUME, KEEPS).await?;
    trial.cut(report).await?;
    for (leads, what) in [
        (false, "a follower's app killed"),
        (true, "the leader's app killed"),
    ] {
        let pod = trial.pod(leads).await?;
        let began = Instant::now();
        container(&pod, "synod-test-app")?.signal(Signal::KILL)?;
        trial.replaced(&pod).await?;
        let replaced = began.elapsed();
        let waited = trial.service.wait("Ready", PATIENCE).await;
        waited.with_context(|| format!("after: {what}"))?;
        report.say(format!(
            "{what}: another pod after {:.1} s, all as desired after {:.1} s",
            replaced.as_secs_f64(),
            began.elapsed().as_secs_f64()
        ));
    }
    let cluster = trial.service.hub;
    let form = "--output=jsonpath={.items[*].note}{.items[*].message}";
    let select = "--field-selector=reason=PodReplaced";
    let told = cluster.kubectl(["get", "events", select, form]).await?;
    report.expect(
        told.contains("put back to a snapshot"),
        format!("no event says why a pod was replaced: {told}"),
    );
    end(trial.workload, clusters, before, report).await
}

pub(super) async fn begin(settings: &Settings, volumes: u8) -> Result<Clusters> {
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 3, Duration::ZERO).await?;
    product.load(clusters.first(), volumes).await?;
    product.install(clusters.first(), &[]).await?;
    Ok(clusters)
}

pub(super) async fn end(
    workload: Workload,
    clusters: Clusters,
    before: Picture,
    report: &mut Report,
) -> Result<()> {
    let recorded = workload.finish().await?;
    registers::check(&recorded, clusters.all(), report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

/// What a member says of itself.
pub(super) async fn status(pod: &MemberPod) -> Result<Value> {
    let address = SocketAddr::new(pod.address.parse()?, ADMIN_PORT);
    let client = Client::new(address);
    let answer = client.send(request("GET", "/status", ""), MOMENT).await?;
    Ok(serde_json::from_slice(&answer.body)?)
}

// === impl Trial ===

impl<'a> Trial<'a> {
    async fn start(cluster: &'a Cluster, state: &str, container: &str) -> Result<Self> {
        let service = registers::apply_with(cluster, "replicas: 3", state, container).await?;
        service.wait("Ready", PATIENCE).await?;
        let entrances = node_ports(cluster, NAME).await?;
        Ok(Self {
            service,
            workload: Workload::start(&entrances, registers::plan()),
        })
    }

    /// Waits until the log of every member begins behind a snapshot.
    async fn cut(&self, report: &mut Report) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut told = Vec::new();
            for pod in member_pods(self.service.hub, NAME).await? {
                told.push(status(&pod).await.unwrap_or_default());
            }
            let bases: Vec<_> = told.iter().filter_map(|it| it["base"].as_u64()).collect();
            if bases.len() == 3 && bases.iter().all(|it| *it > 0) {
                report.say(format!("logs begin behind the slots {bases:?}"));
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("not every log is cut: {told:#?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The pod of the leader, or of another member.
    async fn pod(&self, leads: bool) -> Result<MemberPod> {
        let leader = self.service.leader().await?;
        let pods = member_pods(self.service.hub, NAME).await?;
        let found = pods.into_iter().find(|it| (it.name == leader) == leads);
        found.context("no such member")
    }

    /// Waits until a pod is another one, with an address.
    async fn replaced(&self, old: &MemberPod) -> Result<MemberPod> {
        let began = Instant::now();
        loop {
            let pods = member_pods(self.service.hub, NAME).await?;
            let new = |it: &MemberPod| it.name == old.name && it.uid != old.uid;
            if let Some(new) = pods
                .into_iter()
                .find(|it| new(it) && !it.address.is_empty())
            {
                return Ok(new);
            }
            if began.elapsed() > PATIENCE {
                let said = self.service.conditions().await?;
                bail!("{} is not replaced: {said:#?}", old.name);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// `kubectl annotate`: a follower makes a snapshot, once.
    async fn on_request(&self, report: &mut Report) -> Result<()> {
        let cluster = self.service.hub;
        let name = format!("rsvc/{NAME}");
        cluster
            .kubectl(["annotate", &name, "synod.dev/snapshot=now"])
            .await?;
        let began = Instant::now();
        let answer = loop {
            let object = self.service.object().await?;
            let answer = &object["status"]["snapshotRequest"];
            if answer["word"] == "now" {
                break answer.clone();
            }
            if began.elapsed() > PATIENCE {
                bail!("the annotation is not answered: {object:#}");
            }
            tokio::time::sleep(GLANCE).await;
        };
        report.say(format!("asked for a snapshot: {answer}"));
        // Its turn may just have come: then it says that.
        let made = answer["slot"].is_u64();
        let busy = answer["problem"]
            .as_str()
            .is_some_and(|it| it.contains("already"));
        report.expect(made || busy, format!("no snapshot was made: {answer}"));
        let select = "--field-selector=involvedObject.kind=ReplicatedService";
        let form = "--output=jsonpath={.items[*].reason}";
        let told = cluster.kubectl(["get", "events", select, form]).await?;
        let reason = if made {
            "SnapshotTaken"
        } else {
            "SnapshotNotTaken"
        };
        report.expect(
            told.contains(reason),
            format!("no event tells what came of it: {told}"),
        );
        Ok(())
    }
}
