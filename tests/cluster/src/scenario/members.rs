//! Members come and go under constant traffic: by `kubectl scale`, because a claim is lost, and because a
//! region is left; and witnesses. Nothing acknowledged is lost with them, and a majority is there all the time.

mod witness;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use synod_system::report::Report;
use synod_system::workload::Workload;

use super::Settings;
use super::regions::install;
use super::registers::{self, NAME};
use super::state::{begin, end};
use super::trace::Picture;
use crate::product::{Product, end_operators};
use crate::service::{MemberPod, Service, member_pods, node_ports};
use crate::watch::{Moment, Watch};
use crate::{Cluster, Clusters};

pub(super) use witness::witnessed;

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// When operators are killed: in the middle of what they were asked for.
const MIDDLE: Duration = Duration::from_secs(3);
/// Between two changes: enough to see that traffic goes on.
const CALM: Duration = Duration::from_secs(2);

/// A claim binds a volume once: there are some for those that come anew.
const VOLUMES: u8 = 4;

/// A service under traffic.
struct Trial<'a> {
    service: Service<'a>,
    workload: Workload,
    watch: Watch,
}

pub(super) async fn scaled(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let trial = Trial::start(&clusters, "replicas: 3").await?;
    for members in [5, 3] {
        trial.scale(members, report).await?;
    }
    let claims = trial.claims().await?;
    let left = claims
        .iter()
        .any(|it| it.ends_with("-3") || it.ends_with("-4"));
    report.expect(!left, format!("claims of members that left: {claims:?}"));
    end(trial.workload, clusters, before, report).await
}

pub(super) async fn claim_lost(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let trial = Trial::start(&clusters, "replicas: 3").await?;
    for (leads, what) in [
        (false, "a follower's claim and pod deleted"),
        (true, "the leader's claim and pod deleted"),
    ] {
        trial.lose(leads, what, report).await?;
    }
    end(trial.workload, clusters, before, report).await
}

/// A region is left for a second member in another, and taken again: what it kept of its first member's
/// log is thrown away then.
pub(super) async fn region_left(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(3, 1, Duration::ZERO).await?;
    install(&product, &clusters, 6).await?;
    let place =
        |at: usize, voters: u8| json!({"cluster": clusters.all()[at].name, "voters": voters});
    let all = json!([place(0, 1), place(1, 1), place(2, 1)]);
    let left = json!([place(0, 2), place(1, 1)]);
    // Clients are where members are all the time.
    let trial = Trial::start(&clusters, &format!("placement: {all}")).await?;
    let far = &clusters.all()[2];
    let life = trial.lives(far).await?;
    trial.place(&left, "a region left", report).await?;
    trial.gone_from(far).await?;
    trial.place(&all, "the region taken again", report).await?;
    let again = trial.lives(far).await?;
    report.expect(
        again.len() == 1 && again != life,
        format!("after the logs {life:?} the region has {again:?}"),
    );
    end(trial.workload, clusters, before, report).await
}

/// Names and incarnations.
fn voters(object: &Value) -> Vec<(String, String)> {
    let members = object["status"]["members"].as_array();
    let voters = members
        .into_iter()
        .flatten()
        .filter(|it| it["role"] == "Voter");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    voters
        .map(|it| (text(&it["name"]), text(&it["incarnation"])))
        .collect()
}

// === impl Trial ===

impl<'a> Trial<'a> {
    /// Clients come by the first two clusters, if there are so many.
    async fn start(clusters: &'a Clusters, members: &str) -> Result<Self> {
        let service = registers::apply(clusters.first(), members).await?;
        service.wait("Ready", PATIENCE).await?;
        let mut entrances = Vec::new();
        for cluster in clusters.all().iter().take(2) {
            entrances.extend(node_ports(cluster, NAME).await?);
        }
        let trial = Self {
            service,
            workload: Workload::start(&entrances, registers::plan()),
            watch: Watch::start(service)?,
        };
        trial.able().await?;
        Ok(trial)
    }

    /// Members change from the second version of their protocol on, which is agreed on once all are there.
    async fn able(&self) -> Result<()> {
        self.until("members may change", |it| {
            it["status"]["protocol"]["current"].as_u64() >= Some(2)
        })
        .await
        .map(drop)
    }

    /// Waits until the object is as asked for, and all is as desired at the same time.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let object = self.service.object().await?;
            let conditions = object["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            let ready = conditions.any(|it| it["type"] == "Ready" && it["status"] == "True");
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if ready && seen && is(&object) {
                return Ok(object);
            }
            if began.elapsed() > PATIENCE {
                bail!("it was never so that {what}: {:#}", object["status"]);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn scale(&self, members: usize, report: &mut Report) -> Result<()> {
        let cluster = self.service.hub;
        let moment = self.watch.now();
        let began = Instant::now();
        let (name, replicas) = (format!("rsvc/{NAME}"), format!("--replicas={members}"));
        cluster.kubectl(["scale", &name, &replicas]).await?;
        tokio::time::sleep(MIDDLE).await;
        end_operators(cluster).await?;
        let what = format!("there are {members} voters");
        let object = self.until(&what, |it| voters(it).len() == members).await?;
        report.say(format!(
            "kubectl scale {replicas}: all as desired after {:.1} s, in epoch {}",
            began.elapsed().as_secs_f64(),
            object["status"]["epoch"]
        ));
        self.gone(members).await?;
        let reason = if members > 3 {
            "MemberJoining"
        } else {
            "MemberLeaving"
        };
        self.told(moment, reason, report);
        self.changed(report).await?;
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// Asks for members in other places, and waits until they are there.
    async fn place(&self, placement: &Value, what: &str, report: &mut Report) -> Result<()> {
        let moment = self.watch.now();
        let began = Instant::now();
        let risks = ["NoSnapshot", "RegionMajority"];
        let patch = json!({"spec": {"placement": placement, "acknowledgedRisks": risks}});
        let (name, patch) = (format!("rsvc/{NAME}"), patch.to_string());
        self.service
            .hub
            .kubectl(["patch", &name, "--type=merge", "--patch", &patch])
            .await?;
        let wanted = |it: &Value| {
            let voters = voters(it);
            let mut places = placement.as_array().into_iter().flatten();
            let fits = |place: &Value| {
                let prefix = format!("{NAME}-{}-", place["cluster"].as_str().unwrap_or("?"));
                let here = voters.iter().filter(|it| it.0.starts_with(&prefix));
                Some(here.count() as u64) == place["voters"].as_u64()
            };
            voters.len() == 3 && places.all(fits)
        };
        let object = self.until(what, wanted).await?;
        report.say(format!(
            "{what}: all as desired after {:.1} s, in epoch {}",
            began.elapsed().as_secs_f64(),
            object["status"]["epoch"]
        ));
        self.told(moment, "MemberJoining", report);
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// Incarnations of the voters in a cluster.
    async fn lives(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let prefix = format!("{NAME}-{}-", cluster.name);
        let voters = voters(&self.service.object().await?).into_iter();
        let here = voters.filter(|it| it.0.starts_with(&prefix));
        Ok(here.map(|it| it.1).collect())
    }

    /// Waits until nothing of the service is left in a cluster.
    async fn gone_from(&self, cluster: &Cluster) -> Result<()> {
        let began = Instant::now();
        loop {
            let name = format!("rgrp/{NAME}");
            let get = ["get", &name, "--output=name", "--ignore-not-found"];
            let group = cluster.kubectl(get).await?;
            if group.is_empty() && member_pods(cluster, NAME).await?.is_empty() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("{} still has {group}", cluster.name);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until no pod is left of those that are not wanted.
    async fn gone(&self, members: usize) -> Result<()> {
        let began = Instant::now();
        loop {
            let pods = member_pods(self.service.hub, NAME).await?;
            if pods.len() == members {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("not {members} pods, but {pods:?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// A majority was there all the time, and the status said what was going on.
    fn told(&self, moment: Moment, reason: &str, report: &mut Report) {
        let mut said = self.watch.since(moment);
        for it in said.remove("Available").unwrap_or_default() {
            report.expect(
                it == "True QuorumCommits" || it == "False NoLeader",
                format!("Available was {it}"),
            );
        }
        let ready = said.remove("Ready").unwrap_or_default();
        let words = format!("False {reason}");
        report.expect(
            ready.contains(&words),
            format!("Ready was never {words}: {ready:?}"),
        );
    }

    async fn changed(&self, report: &mut Report) -> Result<()> {
        let select = "--field-selector=reason=MembersChanged";
        let form = "--output=jsonpath={.items[*].note}{.items[*].message}";
        let told = self
            .service
            .hub
            .kubectl(["get", "events", select, form])
            .await?;
        report.expect(
            told.contains("other members"),
            format!("no event tells that the members are others: {told}"),
        );
        Ok(())
    }

    async fn claims(&self) -> Result<Vec<String>> {
        let form = "--output=jsonpath={.items[*].metadata.name}";
        let all = self.service.hub.kubectl(["get", "pvc", form]).await?;
        Ok(all.split_whitespace().map(str::to_owned).collect())
    }

    /// The pod of the leader, or of another member.
    async fn pod(&self, leads: bool) -> Result<MemberPod> {
        let leader = self.service.leader().await?;
        let pods = member_pods(self.service.hub, NAME).await?;
        let found = pods.into_iter().find(|it| (it.name == leader) == leads);
        found.context("no such member")
    }

    async fn lose(&self, leads: bool, what: &str, report: &mut Report) -> Result<()> {
        let cluster = self.service.hub;
        let pod = self.pod(leads).await?;
        let moment = self.watch.now();
        let began = Instant::now();
        let before = voters(&self.service.object().await?);
        let old = before.into_iter().find(|it| it.0 == pod.name);
        let (name, life) = old.with_context(|| format!("{} is no voter", pod.name))?;
        let claim = format!("pvc/synod-log-{name}");
        for object in [claim.as_str(), &format!("pod/{name}")] {
            cluster.kubectl(["delete", object, "--wait=false"]).await?;
        }
        let again = format!("{name} is a voter with another log");
        let object = self
            .until(&again, |it| {
                let voters = voters(it);
                let mut own = voters.iter().filter(|it| it.0 == name);
                voters.len() == 3 && own.any(|it| it.1 != life && !it.1.is_empty())
            })
            .await?;
        report.say(format!(
            "{what}: all as desired after {:.1} s, in epoch {}",
            began.elapsed().as_secs_f64(),
            object["status"]["epoch"]
        ));
        self.told(moment, "MemberLost", report);
        tokio::time::sleep(CALM).await;
        Ok(())
    }
}
