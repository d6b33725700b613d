//! The operators are killed whenever what was asked for has come one half-step further: members that come
//! and go, a claim that is replaced, another image. The next operator finds what is there and goes on; the
//! service is under constant traffic all the time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use synod_system::report::Report;
use synod_system::workload::Workload;

use super::Settings;
use super::registers::{self, NAME};
use super::revisions::{
    CALM, Listeners, ROLLING, SAVED, SWITCH, able, barrier, check, check_along, image, running,
};
use super::state::{begin, end};
use super::trace::Picture;
use crate::Cluster;
use crate::product::{REGISTERS, REGISTERS_NEXT, end_operators};
use crate::service::{Service, node_ports};

/// How long a thing may take whose operators are killed again and again: each time the next one waits for
/// the lease of the last.
const PATIENCE: Duration = Duration::from_secs(420);
/// How often is looked whether a half-step was taken.
const GLANCE: Duration = Duration::from_millis(100);
/// A claim binds a volume once: there are some for those that come anew.
const VOLUMES: u8 = 4;

/// A service under traffic.
struct Trial<'a> {
    service: Service<'a>,
    workload: Workload,
}

pub(super) async fn scaled(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let trial = Trial::start(clusters.first()).await?;
    for members in [5, 3] {
        let (name, replicas) = (format!("rsvc/{NAME}"), format!("--replicas={members}"));
        let scale = ["scale", name.as_str(), replicas.as_str()];
        let cluster = trial.service.hub;
        let is = |it: &Seen| it.voters().len() == members && it.pods.len() == members;
        let what = format!("kubectl scale {replicas}");
        cluster.kubectl(scale).await?;
        trial.disturbed(&what, 4, is, report).await?;
    }
    end(trial.workload, clusters, before, report).await
}

pub(super) async fn claim_replaced(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let trial = Trial::start(clusters.first()).await?;
    let cluster = trial.service.hub;
    let old = trial.look().await?;
    let leader = trial.service.leader().await?;
    let voters = old.voters();
    let (name, life) = voters
        .iter()
        .find(|it| it.0 != leader)
        .context("a follower")?;
    for object in [format!("pvc/synod-log-{name}"), format!("pod/{name}")] {
        let delete = ["delete", &object, "--wait=false"];
        cluster.kubectl(delete).await?;
    }
    let is = |it: &Seen| {
        let voters = it.voters();
        let mut own = voters.iter().filter(|it| it.0 == *name);
        voters.len() == 3 && own.any(|it| it.1 != *life && !it.1.is_empty())
    };
    trial
        .disturbed("a claim and its pod deleted", 3, is, report)
        .await?;
    end(trial.workload, clusters, before, report).await
}

pub(super) async fn image_changed(settings: &Settings, report: &mut Report) -> Result<()> {
    images(Strategy::Switch, settings, report).await
}

pub(super) async fn image_rolled(settings: &Settings, report: &mut Report) -> Result<()> {
    images(Strategy::Rolling, settings, report).await
}

/// How a new version takes over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strategy {
    Switch,
    Rolling,
}

async fn images(how: Strategy, settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, 2).await?;
    // Told, by the hub: it is recorded, then it begins, and one that runs along has its pods one by one.
    let (members, least) = match how {
        Strategy::Switch => (SWITCH, 5),
        Strategy::Rolling => (ROLLING, 8),
    };
    let trial = Trial::start_with(clusters.first(), members).await?;
    let cluster = trial.service.hub;
    let mut barriers = Vec::new();
    for (revision, to, versions) in [(1, REGISTERS_NEXT, [0, 1]), (2, REGISTERS, [1, 0])] {
        let listeners = Listeners::start(cluster).await?;
        image(&trial.service, to).await?;
        let is = |it: &Seen| {
            let runs = it.running.iter().filter(|it| **it == Some(revision));
            runs.count() == 3
        };
        let what = format!("to revision {revision}");
        trial.disturbed(&what, least, is, report).await?;
        tokio::time::sleep(CALM).await;
        let runs = running(&trial.service).await?;
        report.expect(
            runs == [Some(revision); 3],
            format!("copies are of {runs:?}"),
        );
        let barrier = barrier(cluster, revision).await?;
        barriers.push(barrier);
        let heard = listeners.end().await?;
        match how {
            Strategy::Switch => check(&heard, versions, barrier, report),
            Strategy::Rolling => check_along(&heard, versions, barrier, report),
        }
    }
    report.say(format!("the revisions begin behind the slots {barriers:?}"));
    end(trial.workload, clusters, before, report).await
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    ready: bool,
    epoch: Option<u64>,
    /// Name, incarnation, role.
    members: Vec<[String; 3]>,
    running: Vec<Option<u64>>,
    /// Name and identity, whether it is leaving, and its configuration.
    pods: Vec<String>,
    /// What the operators have told each other.
    told: String,
}

// === impl Seen ===

impl Seen {
    fn voters(&self) -> Vec<(String, String)> {
        let voters = self.members.iter().filter(|it| it[2] == "Voter");
        voters.map(|it| (it[0].clone(), it[1].clone())).collect()
    }

    /// Whether it is ready or not is no half-step.
    fn stage(&self) -> Self {
        Self {
            ready: false,
            ..self.clone()
        }
    }
}

// === impl Trial ===

impl<'a> Trial<'a> {
    async fn start(cluster: &'a Cluster) -> Result<Self> {
        Self::start_with(cluster, SWITCH).await
    }

    async fn start_with(cluster: &'a Cluster, members: &str) -> Result<Self> {
        let service = registers::apply_with(cluster, members, SAVED, "").await?;
        service.wait("Ready", PATIENCE).await?;
        able(&service).await?;
        let entrances = node_ports(cluster, NAME).await?;
        let workload = Workload::start(&entrances, registers::plan());
        Ok(Self { service, workload })
    }

    /// Kills the operators at each half-step until it is so, and all is as desired. At least so many
    /// half-steps are seen, or it shows little.
    async fn disturbed(
        &self,
        what: &str,
        least: usize,
        is: impl Fn(&Seen) -> bool,
        report: &mut Report,
    ) -> Result<()> {
        let began = Instant::now();
        let mut stages = BTreeSet::new();
        loop {
            let seen = self.look().await?;
            if seen.ready && is(&seen) {
                break;
            }
            if began.elapsed() > PATIENCE {
                let said = self.service.conditions().await?;
                bail!(
                    "{what}: not done after {} half-steps: {seen:#?} {said:#?}",
                    stages.len()
                );
            }
            if stages.insert(seen.stage()) {
                end_operators(self.service.hub).await?;
            }
            tokio::time::sleep(GLANCE).await;
        }
        report.say(format!(
            "{what}: all as desired after {:.1} s, the operators killed at {} half-steps",
            began.elapsed().as_secs_f64(),
            stages.len()
        ));
        report.expect(
            stages.len() >= least,
            format!("{what}: only {} half-steps were seen", stages.len()),
        );
        Ok(())
    }

    async fn look(&self) -> Result<Seen> {
        let cluster = self.service.hub;
        let object = self.service.object().await?;
        let status = &object["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let members = status["members"].as_array().into_iter().flatten();
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|it| it["type"] == "Ready");
        let observed = status["observedGeneration"] == object["metadata"]["generation"];
        let label = format!("--selector=synod.dev/service={NAME}");
        let form = "--output=jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} \
                    {.metadata.deletionTimestamp} {.spec.initContainers[0].command}\n{end}";
        let pods = cluster.kubectl(["get", "pods", &label, form]).await?;
        // That a pod is leaving counts, not since when.
        let pods = pods.lines().map(|line| {
            let words = line.split_whitespace().map(|it| {
                let is_time = it.ends_with('Z') && it.contains('T');
                if is_time { "leaving" } else { it }
            });
            words.collect::<Vec<_>>().join(" ")
        });
        let form = "--output=jsonpath={.spec.change} {.spec.revise} {.spec.along} {.spec.revision} \
                    {.spec.revisions[*].number} {.spec.members[*].name}";
        let told = ["get", "rgrp", NAME, form, "--ignore-not-found"];
        Ok(Seen {
            ready: observed && ready.any(|it| it["status"] == "True"),
            epoch: status["epoch"].as_u64(),
            running: members.clone().map(|it| it["revision"].as_u64()).collect(),
            members: members
                .map(|it| {
                    [
                        text(&it["name"]),
                        text(&it["incarnation"]),
                        text(&it["role"]),
                    ]
                })
                .collect(),
            pods: pods.collect(),
            told: cluster.kubectl(told).await?,
        })
    }
}
