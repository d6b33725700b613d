//! Two copies and a witness: what is made of the witness, its claim is lost, and a copy is killed and stays
//! away while the other goes on with the witness's vote.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use synod_system::report::Report;

use super::super::Settings;
use super::super::regions::install;
use super::super::registers::NAME;
use super::super::state::end;
use super::super::trace::Picture;
use super::{CALM, GLANCE, PATIENCE, Trial, VOLUMES};
use crate::product::Product;
use crate::service::{MemberPod, member_pods};

/// How long a copy is away: the others are to answer for longer than anybody's patience lasts.
const AWAY: Duration = Duration::from_secs(20);
/// So many requests must be answered meanwhile: a tenth of those that are sent.
const ANSWERED: usize = 120;

pub(in super::super) async fn witnessed(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 3, Duration::ZERO).await?;
    install(&product, &clusters, VOLUMES).await?;
    let place = json!([{"cluster": clusters.first().name, "voters": 2, "witnesses": 1}]);
    let trial = Trial::start(&clusters, &format!("placement: {place}")).await?;
    trial.is_as_told(report).await?;
    trial.loses_its_claim(report).await?;
    trial.goes_on_without_a_copy(report).await?;
    end(trial.workload, clusters, before, report).await
}

/// The witness in a status: its name and the life of its log.
fn witness(object: &Value) -> Option<(String, String)> {
    let mut members = object["status"]["members"].as_array()?.iter();
    let found = members.find(|it| it["role"] == "Witness")?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some((text("name"), text("incarnation")))
}

// === impl Trial ===

impl Trial<'_> {
    /// Name of the witness's pod.
    fn pod_of_witness(&self) -> String {
        format!("{NAME}-{}-witness-100", self.service.hub.name)
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "--output=json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.service.hub.kubectl(all).await?)?)
    }

    /// It has a sidecar, a claim for its log, and no clients; and it does not lead.
    async fn is_as_told(&self, report: &mut Report) -> Result<()> {
        let object = self.service.object().await?;
        let status = &object["status"];
        let (name, _) = witness(&object).context("no witness in the status")?;
        report.expect(
            name == format!("{NAME}-{}-100", self.service.hub.name),
            format!("the witness is called {name}"),
        );
        let said = (&status["replicas"], &status["tolerates"]["members"]);
        report.expect(
            said == (&json!(2), &json!(1)),
            format!("replicas and tolerates: {said:?}"),
        );
        let leader = self.service.leader().await?;
        report.expect(leader != name, format!("{leader} leads, the witness"));
        let pod = self.pod_of_witness();
        let spec = &self.json(&["pod", &pod]).await?["spec"];
        let containers = spec["containers"].as_array().map_or(0, Vec::len);
        let alone = containers == 1 && spec["containers"][0]["name"] == "synod";
        report.expect(
            alone && spec["initContainers"].is_null(),
            format!("more than the sidecar: {spec:#}"),
        );
        let claims = self.claims().await?;
        let own: Vec<_> = claims.iter().filter(|it| it.ends_with(&pod)).collect();
        report.expect(
            own == [&format!("synod-log-{pod}")],
            format!("claims of the witness: {own:?}"),
        );
        let address = self.member(&pod).await?.address;
        let label = format!("--selector=kubernetes.io/service-name={NAME}");
        let slices = self.json(&["endpointslices", &label]).await?;
        let slices = slices["items"].as_array().into_iter().flatten();
        let mut served =
            slices.filter(|it| it["ports"].as_array().is_some_and(|it| !it.is_empty()));
        report.expect(
            !served.any(|it| it["endpoints"].to_string().contains(&address)),
            "the Service for clients leads to the witness",
        );
        Ok(())
    }

    async fn member(&self, pod: &str) -> Result<MemberPod> {
        let pods = member_pods(self.service.hub, NAME).await?;
        let found = pods.into_iter().find(|it| it.name == pod);
        found.with_context(|| format!("there is no pod {pod}"))
    }

    async fn loses_its_claim(&self, report: &mut Report) -> Result<()> {
        let cluster = self.service.hub;
        let moment = self.watch.now();
        let began = Instant::now();
        let (_, life) = witness(&self.service.object().await?).context("no witness")?;
        let pod = self.pod_of_witness();
        for object in [format!("pvc/synod-log-{pod}"), format!("pod/{pod}")] {
            cluster
                .kubectl(["delete", object.as_str(), "--wait=false"])
                .await?;
        }
        let again = |it: &Value| witness(it).is_some_and(|it| !it.1.is_empty() && it.1 != life);
        let object = self.until("the witness has another log", again).await?;
        report.say(format!(
            "the witness's claim and pod deleted: all as desired after {:.1} s, in epoch {}",
            began.elapsed().as_secs_f64(),
            object["status"]["epoch"]
        ));
        self.told(moment, "MemberLost", report);
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// The leader's pod is gone without a word, and its node takes it back only later.
    async fn goes_on_without_a_copy(&self, report: &mut Report) -> Result<()> {
        let cluster = self.service.hub;
        let leader = self.service.leader().await?;
        let pod = self.member(&leader).await?;
        let moment = self.watch.now();
        cluster.kubectl(["cordon", &pod.node]).await?;
        let name = format!("pod/{leader}");
        cluster
            .kubectl([
                "delete",
                &name,
                "--force",
                "--grace-period=0",
                "--wait=false",
            ])
            .await?;
        let next = self.leader_after(&leader).await?;
        report.expect(
            next != format!("{NAME}-{}-100", cluster.name),
            "the witness leads, and a copy is there",
        );
        let before = self.workload.completed();
        tokio::time::sleep(AWAY).await;
        let answered = self.workload.completed() - before;
        report.say(format!(
            "{leader} was away for {} s: {next} led, {answered} requests were answered",
            AWAY.as_secs()
        ));
        report.expect(
            answered >= ANSWERED,
            format!("only {answered} requests were answered by a copy and a witness"),
        );
        let object = self.service.object().await?;
        let left = &object["status"]["tolerates"]["members"];
        report.expect(
            *left == 0,
            format!("with one away, {left} more may be lost"),
        );
        cluster.kubectl(["uncordon", &pod.node]).await?;
        self.until("all are back", |it| it["status"]["readyReplicas"] == 2)
            .await?;
        for it in self
            .watch
            .since(moment)
            .remove("Available")
            .unwrap_or_default()
        {
            report.expect(
                it == "True QuorumCommits" || it == "False NoLeader" || it == "False NoCopy",
                format!("Available was {it}"),
            );
        }
        Ok(())
    }

    async fn leader_after(&self, before: &str) -> Result<String> {
        let began = Instant::now();
        loop {
            let leader = self.service.leader().await?;
            if !leader.is_empty() && leader != before {
                return Ok(leader);
            }
            if began.elapsed() > PATIENCE {
                bail!("nobody leads after {before}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}
