//! The clusters themselves: that they work, that faults are faults, that nothing is left.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use synod_system::process::Process;
use synod_system::report::{Distribution, Report};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::trace::Picture;
use super::{Settings, finish};
use crate::images::{TOOLS, USER};
use crate::{Cluster, Clusters, descendants, memory};

/// This very program, in pods.
const PROGRAM: &str = "/usr/bin/synod-cluster";
/// Native sidecars are stable from 1.33 on.
const OLDEST_MINOR: u32 = 33;
/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// What every other scenario takes for granted, also of clusters that were given.
pub(super) async fn ready_for_tests(settings: &Settings, report: &mut Report) -> Result<()> {
    let clusters = up(settings, 1, 1, report).await?;
    for cluster in clusters.all() {
        cluster
            .kubectl([
                "wait",
                "--for=condition=Ready",
                "nodes",
                "--all",
                "--timeout=60s",
            ])
            .await?;
        let version = cluster.kubectl(["get", "--raw", "/version"]).await?;
        let version: serde_json::Value = serde_json::from_str(&version)?;
        // Some say "33+".
        let minor = version["minor"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('+');
        let minor: u32 = minor
            .parse()
            .with_context(|| format!("version {version}"))?;
        let (name, region) = (&cluster.name, &cluster.region);
        report.say(format!("{name} in {region}: 1.{minor}"));
        report.expect(
            minor >= OLDEST_MINOR,
            format!("1.{OLDEST_MINOR} or later is needed"),
        );
    }
    clusters.down()
}

pub(super) async fn one(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = up(settings, 1, 1, report).await?;
    let cluster = clusters.first();
    let version = cluster.kubectl(["version"]).await?;
    report.say(version.lines().last().unwrap_or_default());
    let began = Instant::now();
    run_pods(cluster, "web", 3).await?;
    report.say(format!(
        "3 pods with sidecars Ready after {:.1} s",
        began.elapsed().as_secs_f64()
    ));

    let pod = &addresses(cluster, "web").await?[0];
    // By name, by name with everything, the sidecar by its port, and the API server's own Service.
    for (whom, wanted) in [
        ("web:80", "app"),
        ("web.default.svc.cluster.local:80", "app"),
        ("web:81", "sidecar"),
        (&format!("{}:8080", pod.address), "app"),
    ] {
        let answer = ask(cluster, &pod.name, whom).await;
        let right = answer.as_ref().is_ok_and(|answer| answer.trim() == wanted);
        report.expect(right, format!("{whom} answers {answer:?}"));
    }
    let log = cluster
        .kubectl(["logs", &pod.name, "--container=app"])
        .await?;
    report.expect(log.is_empty(), format!("the app said {log}"));
    report.expect(!clusters.logs().is_empty(), "there are no logs");
    down(clusters, &settings.folder, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn three(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = up(settings, 3, 1, report).await?;
    let began = Instant::now();
    let runs = clusters
        .all()
        .iter()
        .map(|cluster| run_pods(cluster, "web", 1));
    futures::future::try_join_all(runs).await?;
    let seconds = began.elapsed().as_secs_f64();
    report.say(format!(
        "a pod with a sidecar Ready in each after {seconds:.1} s"
    ));
    let mut pods = Vec::new();
    for cluster in clusters.all() {
        pods.push(addresses(cluster, "web").await?.remove(0));
    }
    let regions: Vec<&str> = clusters.all().iter().map(|it| it.region.as_str()).collect();
    let all = reached(&clusters, &pods).await;
    report.expect(
        all == every_pair(3),
        format!("pods reach each other: {all:?}"),
    );

    clusters.cut(regions[1])?;
    let cut = reached(&clusters, &pods).await;
    let others: Vec<_> = every_pair(3)
        .into_iter()
        .filter(|&(a, b)| a != 1 && b != 1)
        .collect();
    report.expect(cut == others, format!("with {} cut: {cut:?}", regions[1]));
    let seen = clusters.all()[1].kubectl(["get", "nodes"]).await;
    report.expect(
        seen.is_ok(),
        format!("the cut cluster cannot be seen: {seen:?}"),
    );
    clusters.heal(regions[1])?;
    let healed = reached(&clusters, &pods).await;
    report.expect(healed == every_pair(3), format!("healed: {healed:?}"));

    // Answers to what the deaf side asks do not come back either: it is deaf, not mute.
    clusters.cut_one_way(regions[0], regions[2])?;
    let deaf = reached(&clusters, &pods).await;
    let rest: Vec<_> = every_pair(3)
        .into_iter()
        .filter(|pair| ![(0, 2), (2, 0)].contains(pair))
        .collect();
    report.expect(deaf == rest, format!("one way cut: {deaf:?}"));
    clusters.heal_one_way(regions[0], regions[2])?;
    let healed = reached(&clusters, &pods).await;
    report.expect(healed == every_pair(3), format!("healed again: {healed:?}"));
    down(clusters, &settings.folder, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn far(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let distance = Duration::from_millis(40);
    let clusters = up_apart(settings, 3, 1, distance, report).await?;
    let runs = clusters
        .all()
        .iter()
        .map(|cluster| run_pods(cluster, "web", 1));
    futures::future::try_join_all(runs).await?;
    let mut pods = Vec::new();
    for cluster in clusters.all() {
        pods.push(addresses(cluster, "web").await?.remove(0));
    }
    for (from, to) in every_pair(3) {
        let whom = format!("{}:8080", pods[to].address);
        let arguments = [
            "exec",
            &pods[from].name,
            "--container=app",
            "--",
            PROGRAM,
            "time",
            &whom,
        ];
        let said = clusters.all()[from].kubectl(arguments).await?;
        let times = said
            .lines()
            .map(|line| line.trim().parse().unwrap_or_default());
        let times = Distribution::new(times.collect());
        report.say(format!("{from} to {to}: a connection takes {times}"));
        // The shortest is the distance itself; all else is the machine's other work.
        let least = times.quantile(0.0);
        let right = (80.0..90.0).contains(&least);
        report.expect(
            right,
            format!("{from} to {to} takes {least} ms at the least"),
        );
    }
    let regions: Vec<&str> = clusters.all().iter().map(|it| it.region.as_str()).collect();
    clusters.cut(regions[0])?;
    let cut = reached(&clusters, &pods).await;
    report.expect(
        cut == [(1, 2), (2, 1)],
        format!("with {} cut: {cut:?}", regions[0]),
    );
    clusters.heal(regions[0])?;
    let healed = reached(&clusters, &pods).await;
    report.expect(healed == every_pair(3), format!("healed: {healed:?}"));
    down(clusters, &settings.folder, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn nodes(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = up(settings, 1, 3, report).await?;
    let cluster = clusters.first();
    run_pods(cluster, "web", 3).await?;
    cluster.make_volumes(1, "ReadWriteOnce").await?;
    cluster
        .kubectl_with(["apply", "--filename=-"], &stateful())
        .await?;
    cluster
        .kubectl(["rollout", "status", "statefulset/kept", "--timeout=120s"])
        .await?;
    let pods = addresses(cluster, "web").await?;
    let mut on: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    on.sort_unstable();
    on.dedup();
    report.expect(on.len() == 3, format!("three pods spread over {on:?}"));
    for pod in &pods {
        let answer = ask(cluster, &pods[0].name, &format!("{}:8080", pod.address)).await;
        report.expect(answer.is_ok(), format!("between nodes: {answer:?}"));
    }

    let began = Instant::now();
    cluster.restart_kubelet(1)?;
    let health = format!("/api/v1/nodes/{}/proxy/healthz", cluster.node_name(1));
    while cluster.kubectl(["get", "--raw", &health]).await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("a restarted kubelet does not answer");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    report.say(format!("kubelet restarted, answers after {seconds:.1} s"));

    let began = Instant::now();
    cluster.crash_node(2)?;
    ready(cluster, 2, false).await?;
    let seconds = began.elapsed().as_secs_f64();
    report.say(format!(
        "crashed node seen as not Ready after {seconds:.1} s"
    ));
    let began = Instant::now();
    cluster.boot_node(2)?;
    ready(cluster, 2, true).await?;
    cluster
        .kubectl([
            "wait",
            "--for=condition=Ready",
            "pods",
            "--all",
            "--timeout=120s",
        ])
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    report.say(format!("node booted, its pod Ready after {seconds:.1} s"));

    let drained = cluster.node_name(3);
    let began = Instant::now();
    cluster
        .kubectl([
            "drain",
            &drained,
            "--ignore-daemonsets",
            "--force",
            "--timeout=120s",
        ])
        .await?;
    cluster
        .kubectl(["rollout", "status", "deployment/web", "--timeout=120s"])
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    let left = addresses(cluster, "web")
        .await?
        .into_iter()
        .filter(|pod| pod.node == drained);
    report.expect(left.count() == 0, "a drained node has pods");
    report.say(format!(
        "node drained, its pod elsewhere after {seconds:.1} s"
    ));
    down(clusters, &settings.folder, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn killed(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let program = std::env::current_exe()?;
    let command = |verb: &str| {
        let mut command = tokio::process::Command::new(&program);
        command
            .arg(verb)
            .arg("--dir")
            .arg(&settings.folder)
            .kill_on_drop(true);
        command
    };
    let mut run = command("up").stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(run.stdout.take().context("no output")?).lines();
    let said = lines.next_line().await?.unwrap_or_default();
    if !said.starts_with("up after") {
        bail!("`up` said {said:?}");
    }
    let processes = descendants();
    let kubelet = processes
        .iter()
        .find(|it| it.command_line().contains("kubelet"));
    report.expect(kubelet.is_some(), "no kubelet runs");
    run.kill().await?;
    let began = Instant::now();
    while processes.iter().any(|process| process.lives()) {
        if began.elapsed() > PATIENCE {
            let alive = processes
                .iter()
                .filter(|it| it.lives())
                .map(|it| it.command_line());
            bail!("still alive: {:?}", alive.collect::<Vec<_>>());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    report.say(format!(
        "{} processes gone {:.1} s after their parent was killed",
        processes.len(),
        began.elapsed().as_secs_f64()
    ));
    let ended = command("down").status().await?;
    report.expect(ended.success(), "`down` after a killed run fails");
    report.expect(!settings.folder.exists(), "its folder is still there");
    Picture::take()?.compare(&before, report);
    Ok(())
}

async fn up(settings: &Settings, clusters: u8, nodes: u8, report: &mut Report) -> Result<Clusters> {
    up_apart(settings, clusters, nodes, Duration::ZERO, report).await
}

async fn up_apart(
    settings: &Settings,
    clusters: u8,
    nodes: u8,
    distance: Duration,
    report: &mut Report,
) -> Result<Clusters> {
    let clusters = settings.clusters(clusters, nodes, distance).await?;
    report.say(format!(
        "up after {:.1} s, {} MB",
        clusters.age().as_secs_f64(),
        memory(&descendants()) / 1_000_000
    ));
    Ok(clusters)
}

/// Ends the clusters: no process of theirs lives, and no file is left but logs of a failure.
fn down(clusters: Clusters, folder: &Path, report: &mut Report) -> Result<()> {
    let processes: Vec<Process> = descendants();
    let began = Instant::now();
    let good = report.problems().is_empty();
    finish(clusters, report)?;
    report.say(format!(
        "{} processes down after {:.1} s",
        processes.len(),
        began.elapsed().as_secs_f64()
    ));
    for process in processes.iter().filter(|process| process.lives()) {
        report.fail(format!("still alive: {}", process.command_line()));
    }
    report.expect(
        folder.exists() != good,
        "the folder is there after success, or logs are gone",
    );
    Ok(())
}

/// A Deployment as strict as clusters can be: a native sidecar, no root, nothing to write to.
async fn run_pods(cluster: &Cluster, name: &str, replicas: u8) -> Result<()> {
    let manifest = format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, runAsUser: {USER}, seccompProfile: {{type: RuntimeDefault}}}}
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway,
          labelSelector: {{matchLabels: {{app: {name}}}}}}}
      initContainers:
      - name: sidecar
        image: {TOOLS}
        imagePullPolicy: Never
        restartPolicy: Always
        args: [serve, "0.0.0.0:8081", sidecar]
        startupProbe: {{httpGet: {{port: 8081, path: /}}, periodSeconds: 1}}
        securityContext: &strict
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{drop: [ALL]}}
      containers:
      - name: app
        image: {TOOLS}
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:8080", app]
        readinessProbe: {{httpGet: {{port: 8080, path: /}}, periodSeconds: 1}}
        securityContext: *strict
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: side, port: 81, targetPort: 8081}}
"#
    );
    cluster
        .kubectl_with(["apply", "--filename=-"], &manifest)
        .await?;
    let deployment = format!("deployment/{name}");
    cluster
        .kubectl(["rollout", "status", &deployment, "--timeout=120s"])
        .await?;
    Ok(())
}

/// Pods with a volume each.
fn stateful() -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: kept}}
spec:
  serviceName: kept
  replicas: 3
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: kept}}}}
  template:
    metadata: {{labels: {{app: kept}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: {TOOLS}
        imagePullPolicy: Never
        args: [serve, "0.0.0.0:80", kept]
        readinessProbe: {{httpGet: {{port: 80, path: /}}, periodSeconds: 1}}
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"#
    )
}

struct Pod {
    name: String,
    node: String,
    address: String,
}

/// The pods of a Deployment that are not on their way out.
async fn addresses(cluster: &Cluster, app: &str) -> Result<Vec<Pod>> {
    let label = format!("--selector=app={app}");
    let form = "--output=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}\
         {{.metadata.name}} {{.spec.nodeName}} {{.status.podIP}}{{\"\\n\"}}{{end}}{{end}}";
    let text = cluster.kubectl(["get", "pods", &label, form]).await?;
    let pods: Vec<Pod> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(Pod {
                name: words.next()?,
                node: words.next()?,
                address: words.next()?,
            })
        })
        .collect();
    if pods.is_empty() {
        bail!("no pod of {app}");
    }
    Ok(pods)
}

async fn ask(cluster: &Cluster, pod: &str, whom: &str) -> Result<String> {
    cluster
        .kubectl(["exec", pod, "--container=app", "--", PROGRAM, "ask", whom])
        .await
}

/// Which pods reach which, by place.
async fn reached(clusters: &Clusters, pods: &[Pod]) -> Vec<(usize, usize)> {
    let asks = every_pair(pods.len())
        .into_iter()
        .map(|(from, to)| async move {
            let whom = format!("{}:8080", pods[to].address);
            let answer = ask(&clusters.all()[from], &pods[from].name, &whom).await;
            answer
                .is_ok_and(|answer| answer.trim() == "app")
                .then_some((from, to))
        });
    futures::future::join_all(asks)
        .await
        .into_iter()
        .flatten()
        .collect()
}

fn every_pair(count: usize) -> Vec<(usize, usize)> {
    let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
    all.filter(|(from, to)| from != to).collect()
}

/// Waits until a node is Ready, or until nothing is known of it.
async fn ready(cluster: &Cluster, node: u8, wanted: bool) -> Result<()> {
    let name = format!("node/{}", cluster.node_name(node));
    let condition = if wanted {
        "Ready=True"
    } else {
        "Ready=Unknown"
    };
    let condition = format!("--for=condition={condition}");
    cluster
        .kubectl(["wait", &name, &condition, "--timeout=120s"])
        .await?;
    Ok(())
}
