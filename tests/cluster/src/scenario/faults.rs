//! One cluster under constant traffic, with a fault at a time: nothing acknowledged is lost, no read is
//! stale, and each time without writes is told.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::json;
use synod_system::process::Process;
use synod_system::report::Report;
use synod_system::workload::{Recorded, Workload};

use super::registers::{self, NAME};
use super::trace::Picture;
use super::{Settings, finish};
use crate::product::{Product, end_operators};
use crate::service::{MemberPod, Service, member_pods, node_ports};
use crate::watch::{Moment, Said, Watch};
use crate::{Cluster, descendants};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// Between two faults: enough to see that traffic goes on.
const CALM: Duration = Duration::from_secs(2);

/// What happened when, by the history's clock, and what the conditions said meanwhile.
struct Step {
    what: &'static str,
    from_ns: u64,
    to_ns: u64,
    ready: Vec<Said>,
}

/// The beginning of a step.
#[derive(Clone, Copy)]
struct Begun {
    ns: u64,
    moment: Moment,
}

/// What a member that is away, or behind, is told as: which word comes depends on what is seen first.
/// A pod with another address also means other work for its cluster, which takes a moment.
const AWAY: &[&str] = &[
    "WaitingForCluster",
    "WaitingForMembers",
    "MemberUnreachable",
    "AppNotAnswering",
    "NoLeader",
];
/// As [`AWAY`], while members are replaced by intent.
const ROLLING: &[&str] = &[
    "RollingOut",
    "WaitingForCluster",
    "WaitingForMembers",
    "MemberUnreachable",
    "AppNotAnswering",
    "NoLeader",
];

struct Trial<'a> {
    product: &'a Product,
    service: Service<'a>,
    workload: Workload,
    watch: Watch,
    steps: Vec<Step>,
}

pub(super) async fn under_traffic(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 3, Duration::ZERO).await?;
    let cluster = clusters.first();
    product.load(cluster, 2).await?;
    product.install(cluster, &[]).await?;
    let service = registers::apply(cluster, "replicas: 3").await?;
    service.wait("Ready", PATIENCE).await?;
    let entrances = node_ports(cluster, NAME).await?;
    let mut trial = Trial {
        product: &product,
        service,
        watch: Watch::start(service)?,
        workload: Workload::start(&entrances, registers::plan()),
        steps: Vec::new(),
    };
    trial.pods(report).await?;
    trial.processes(report).await?;
    trial.nodes(report).await?;
    trial.updates(report).await?;
    trial.operator(report).await?;
    trial.certificates(report).await?;

    let steps = trial.steps;
    let recorded = trial.workload.finish().await?;
    for step in &steps {
        report.say(step.words(&recorded));
    }
    registers::check(&recorded, clusters.all(), report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

// === impl Step ===

impl Step {
    /// The longest time in it in which no write was served.
    fn words(&self, recorded: &Recorded) -> String {
        let mut served: Vec<u64> = recorded
            .tries
            .iter()
            .filter(|it| it.write && it.served)
            .map(|it| it.ended_ns)
            .filter(|at| (self.from_ns..self.to_ns).contains(at))
            .collect();
        served.push(self.from_ns);
        served.push(self.to_ns);
        served.sort_unstable();
        let gap = served.windows(2).map(|it| it[1] - it[0]).max();
        format!(
            "{}: all as desired after {:.1} s, at most {:.2} s without a write; Ready was {}",
            self.what,
            (self.to_ns - self.from_ns) as f64 / 1e9,
            gap.unwrap_or_default() as f64 / 1e9,
            self.ready.join(", "),
        )
    }
}

// === impl Trial ===

impl Trial<'_> {
    fn cluster(&self) -> &Cluster {
        self.service.hub
    }

    /// From here to [`Trial::end`] is one step.
    fn begin(&self) -> Begun {
        Begun {
            ns: self.workload.now_ns(),
            moment: self.watch.now(),
        }
    }

    /// Waits until all is as desired again. Meanwhile `Ready` may be false for these reasons.
    async fn end(
        &mut self,
        what: &'static str,
        began: Begun,
        reasons: &[&str],
        report: &mut Report,
    ) -> Result<()> {
        self.service
            .wait("Ready", PATIENCE)
            .await
            .with_context(|| format!("after: {what}"))?;
        let to_ns = self.workload.now_ns();
        let mut said = self.watch.since(began.moment);
        let ready = said.remove("Ready").unwrap_or_default();
        for it in &ready {
            let fits = it == "True AsDesired"
                || reasons
                    .iter()
                    .any(|reason| *it == format!("False {reason}"));
            report.expect(fits, format!("{what}: Ready was {it}"));
        }
        // A majority was there all the time; for a moment perhaps nobody led.
        for it in said.remove("Available").unwrap_or_default() {
            report.expect(
                it == "True QuorumCommits" || it == "False NoLeader",
                format!("{what}: Available was {it}"),
            );
        }
        self.steps.push(Step {
            what,
            from_ns: began.ns,
            to_ns,
            ready,
        });
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    async fn pods_now(&self) -> Result<Vec<MemberPod>> {
        member_pods(self.cluster(), NAME).await
    }

    /// The pod of the leader, or of another member.
    async fn pod(&self, leads: bool) -> Result<MemberPod> {
        let began = Instant::now();
        loop {
            let leader = self.service.leader().await?;
            let pods = self.pods_now().await?;
            let found = pods.into_iter().find(|it| (it.name == leader) == leads);
            match found {
                Some(pod) if !leader.is_empty() => return Ok(pod),
                _ if began.elapsed() > PATIENCE => bail!("nobody leads"),
                _ => tokio::time::sleep(GLANCE).await,
            }
        }
    }

    /// Waits until a pod is another one.
    async fn replaced(&self, old: &MemberPod) -> Result<()> {
        let began = Instant::now();
        loop {
            let pods = self.pods_now().await?;
            if pods
                .iter()
                .any(|it| it.name == old.name && it.uid != old.uid)
            {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("{} is not replaced", old.name);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until the status says that something is not as desired.
    async fn noticed(&self) -> Result<()> {
        // It may be over before anybody has looked.
        let _ = self
            .service
            .wait("Ready=False", Duration::from_secs(8))
            .await;
        Ok(())
    }

    async fn pods(&mut self, report: &mut Report) -> Result<()> {
        for (leads, what) in [
            (false, "a follower's pod deleted"),
            (true, "the leader's pod deleted"),
        ] {
            let pod = self.pod(leads).await?;
            let from = self.begin();
            self.cluster()
                .kubectl(["delete", "pod", &pod.name, "--wait=false"])
                .await?;
            self.replaced(&pod).await?;
            self.noticed().await?;
            self.end(what, from, AWAY, report).await?;
        }
        Ok(())
    }

    async fn processes(&mut self, report: &mut Report) -> Result<()> {
        for (leads, program, what) in [
            (false, "synod-test-app", "a follower's app killed"),
            (true, "synod-test-app", "the leader's app killed"),
            (false, "synod-sidecar", "a follower's sidecar killed"),
            (true, "synod-sidecar", "the leader's sidecar killed"),
        ] {
            let pod = self.pod(leads).await?;
            let process = container(&pod, program)?;
            let from = self.begin();
            process.signal(Signal::KILL)?;
            self.noticed().await?;
            self.end(what, from, AWAY, report).await?;
            let same = self.pods_now().await?.iter().any(|it| it.uid == pod.uid);
            report.expect(same, format!("{what}: the pod was replaced"));
        }
        Ok(())
    }

    async fn nodes(&mut self, report: &mut Report) -> Result<()> {
        let pod = self.pod(true).await?;
        let from = self.begin();
        self.cluster()
            .kubectl([
                "drain",
                &pod.node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--timeout=120s",
            ])
            .await?;
        let other = self.pod(false).await?;
        let second = self
            .cluster()
            .kubectl([
                "drain",
                &other.node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--timeout=5s",
            ])
            .await;
        let refused = second
            .as_ref()
            .is_err_and(|it| format!("{it:#}").contains("disruption budget"));
        report.expect(
            refused,
            format!("a second node was drained with the first: {second:?}"),
        );
        for node in [&pod.node, &other.node] {
            self.cluster().kubectl(["uncordon", node]).await?;
        }
        self.end(
            "the leader's node drained, and another refused",
            from,
            // Its volume may be on the very node.
            &[AWAY, &["PodNotStarting"]].concat(),
            report,
        )
        .await?;

        let from = self.begin();
        for node in 1..=3 {
            self.cluster().restart_kubelet(node)?;
        }
        self.noticed().await?;
        self.end("all kubelets restarted", from, AWAY, report).await
    }

    async fn updates(&mut self, report: &mut Report) -> Result<()> {
        let leader = self.pod(true).await?;
        let before = self.pods_now().await?;
        let from = self.begin();
        self.annotate("second").await?;
        let order = self.rolled(&before).await?;
        report.say(format!("replaced in the order {order:?}"));
        report.expect(
            order.last() == Some(&leader.name),
            format!("{} led and was not last in {order:?}", leader.name),
        );
        self.end("the template's annotations updated", from, ROLLING, report)
            .await
    }

    async fn operator(&mut self, report: &mut Report) -> Result<()> {
        let before = self.pods_now().await?;
        let from = self.begin();
        self.annotate("third").await?;
        let mut seen = before.clone();
        for _ in &before {
            seen = self.changed(&seen).await?;
            end_operators(self.cluster()).await?;
        }
        self.rolled(&before).await?;
        self.end(
            "operators killed after each pod of an update",
            from,
            ROLLING,
            report,
        )
        .await?;

        let before = self.pods_now().await?;
        let from = self.begin();
        let product = self.product;
        product
            .install(self.cluster(), &["log.level=debug"])
            .await?;
        self.end("the operator upgraded", from, AWAY, report)
            .await?;
        let same = before == self.pods_now().await?;
        report.expect(same, "an upgrade of the operator replaced members");
        Ok(())
    }

    /// The cluster's issuer and the members' certificates below it are made anew, and are in use.
    async fn certificates(&mut self, report: &mut Report) -> Result<()> {
        let secrets = ["issuer", "members-tls"].map(|it| format!("secret/{NAME}-{it}"));
        let uids = async |cluster: &Cluster| {
            let form = "--output=jsonpath={.items[*].metadata.uid}{.metadata.uid}";
            let get = ["get", &secrets[0], &secrets[1], form, "--ignore-not-found"];
            cluster.kubectl(get).await
        };
        let before = self.pods_now().await?;
        let first = uids(self.cluster()).await?;
        let from = self.begin();
        self.cluster()
            .kubectl(["delete", &secrets[0], &secrets[1]])
            .await?;
        let began = Instant::now();
        for pod in &before {
            let log = ["logs", &pod.name, "--container=synod", "--tail=-1"];
            while !self
                .cluster()
                .kubectl(log)
                .await?
                .contains("new certificates in use")
            {
                if began.elapsed() > PATIENCE {
                    bail!("{} does not use new certificates", pod.name);
                }
                tokio::time::sleep(GLANCE).await;
            }
        }
        report.say(format!(
            "all members use new certificates {:.1} s after the old ones were deleted",
            began.elapsed().as_secs_f64()
        ));
        let second = uids(self.cluster()).await?;
        report.expect(
            second.split(' ').all(|it| !first.contains(it)),
            format!("of the Secrets {first} some are still there: {second}"),
        );
        // It connects anew to all others, and they to it.
        container(&before[0], "synod-sidecar")?.signal(Signal::KILL)?;
        self.noticed().await?;
        self.end("all certificates made anew, and in use", from, AWAY, report)
            .await?;
        let after = self.pods_now().await?;
        let same = before
            .iter()
            .zip(&after)
            .all(|(then, now)| then.uid == now.uid);
        report.expect(same, "new certificates replaced members");
        Ok(())
    }

    /// A change of the template that is none of the app.
    async fn annotate(&self, word: &str) -> Result<()> {
        let annotations = json!({"example.com/turn": word});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let (name, patch) = (format!("rsvc/{NAME}"), patch.to_string());
        self.cluster()
            .kubectl(["patch", &name, "--type=merge", "--patch", &patch])
            .await?;
        Ok(())
    }

    /// Waits until there are as many pods as these, but not the same.
    async fn changed(&self, pods: &[MemberPod]) -> Result<Vec<MemberPod>> {
        let began = Instant::now();
        loop {
            let now = self.pods_now().await?;
            let uids =
                |pods: &[MemberPod]| pods.iter().map(|it| it.uid.clone()).collect::<Vec<_>>();
            // Whole again, as another.
            if now.len() == pods.len() && uids(&now) != uids(pods) {
                return Ok(now);
            }
            if began.elapsed() > PATIENCE {
                let said = self.service.conditions().await?;
                bail!("an update does not go on: {said:#?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until every pod is another one; their names in the order in which that happened.
    async fn rolled(&self, before: &[MemberPod]) -> Result<Vec<String>> {
        let began = Instant::now();
        let mut order: Vec<String> = Vec::new();
        while order.len() < before.len() {
            for pod in self.pods_now().await? {
                let new = before.iter().all(|it| it.uid != pod.uid);
                if new && !order.contains(&pod.name) {
                    order.push(pod.name);
                }
            }
            if began.elapsed() > PATIENCE {
                let said = self.service.conditions().await?;
                bail!("only {order:?} were replaced: {said:#?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(order)
    }
}

/// The process of a container, on this machine.
pub(super) fn container(pod: &MemberPod, program: &str) -> Result<Process> {
    let found = descendants().into_iter().find(|process| {
        process.variable("HOSTNAME").as_deref() == Some(&pod.name)
            && process.command_line().contains(program)
    });
    found.with_context(|| format!("{program} does not run in {}", pod.name))
}
