//! What a kubelet makes of a pod with its sidecar in it: probes and hooks of the app go through us, one
//! container's end leaves the others alone, and an app whose state is not known is started anew. Then
//! the same service while the operator is paused.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use synod_system::report::Report;

use super::bad_input::apply_object;
use super::faults::container;
use super::trace::Picture;
use super::{Settings, finish};
use crate::Cluster;
use crate::images::TOOLS;
use crate::product::{Product, REGISTERS};
use crate::service::{MemberPod, Service, member_pods};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// How long the app works on a write.
const DELAY: Duration = Duration::from_millis(1_500);
/// How long nothing must happen to be sure that nothing does: several looks of the operator.
const QUIET: Duration = Duration::from_secs(25);
const NAME: &str = "hooks";

pub(super) async fn by_a_kubelet(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 1, Duration::ZERO).await?;
    let cluster = clusters.first();
    product.load(cluster, 4).await?;
    product.install(cluster, &[]).await?;
    apply_object(cluster, &manifest()).await?;
    let service = Service {
        hub: cluster,
        name: NAME,
    };
    service.wait("Ready", PATIENCE).await?;
    let pod = only(cluster).await?;
    probes(cluster, &pod, report).await?;
    starts(cluster, &pod, 1, report).await?;
    in_flight(&service, &pod, report).await?;
    helper(&service, &pod, report).await?;
    let pod = ends(&service, &pod, report).await?;
    paused(&service, &pod, report).await?;
    weak(cluster, report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

fn manifest() -> Value {
    let probe =
        |port: &str| json!({"httpGet": {"path": "/dump", "port": port}, "periodSeconds": 1});
    json!({
        "apiVersion": "synod.dev/v1alpha1",
        "kind": "ReplicatedService",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": 1,
            "acknowledgedRisks": ["NoSnapshot"],
            "app": {"container": "app"},
            "template": {"spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [
                    {
                        "name": "helper",
                        "image": TOOLS,
                        "args": ["serve", "0.0.0.0:9090", "hello"],
                        "ports": [{"name": "help", "containerPort": 9090}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "help"}},
                    },
                    {
                        "name": "app",
                        "image": REGISTERS,
                        "args": ["--delay-ms", DELAY.as_millis().to_string()],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "startupProbe": probe("http"),
                        "readinessProbe": probe("http"),
                        "livenessProbe": probe("http"),
                        "lifecycle": {
                            "postStart": {"httpGet": {"path": "/started", "port": 9090}},
                            "preStop": {"httpGet": {"path": "/stopping", "port": 9090}},
                        },
                    },
                ],
            }},
        },
    })
}

async fn only(cluster: &Cluster) -> Result<MemberPod> {
    let pods = member_pods(cluster, NAME).await?;
    let [pod] = pods.as_slice() else {
        bail!("its pods are {pods:?}");
    };
    Ok(pod.clone())
}

async fn object(cluster: &Cluster, pod: &MemberPod) -> Result<Value> {
    let get = ["get", "pod", &pod.name, "--output=json"];
    Ok(serde_json::from_str(&cluster.kubectl(get).await?)?)
}

/// The app's probes are asked of the sidecar, by number, with a token; the other container's are not.
async fn probes(cluster: &Cluster, pod: &MemberPod, report: &mut Report) -> Result<()> {
    let object = object(cluster, pod).await?;
    let containers = object["spec"]["containers"].as_array();
    let named = |name: &str| {
        let found = containers
            .into_iter()
            .flatten()
            .find(|it| it["name"] == name);
        found
            .cloned()
            .with_context(|| format!("no container {name}"))
    };
    let (app, helper) = (named("app")?, named("helper")?);
    for (probe, path) in [
        ("startupProbe", "startupz"),
        ("readinessProbe", "readyz"),
        ("livenessProbe", "livez"),
    ] {
        let get = &app[probe]["httpGet"];
        let header = &get["httpHeaders"][0]["name"];
        report.expect(
            get["port"] == 7420
                && get["path"] == format!("/app-health/app/{path}")
                && header == "Synod-App-Token"
                && get["host"].is_null(),
            format!("the app's {probe} became {get}"),
        );
    }
    let get = &helper["readinessProbe"]["httpGet"];
    report.expect(
        get["port"] == "help" && get["path"] == "/",
        format!("the helper's probe became {get}"),
    );
    Ok(())
}

/// The user's own hook was called so many times since the helper runs.
async fn starts(
    cluster: &Cluster,
    pod: &MemberPod,
    times: usize,
    report: &mut Report,
) -> Result<()> {
    let log = ["logs", &pod.name, "--container=helper"];
    let began = Instant::now();
    loop {
        let called = cluster.kubectl(log).await?.matches("GET /started").count();
        if called == times {
            return Ok(());
        }
        if called > times || began.elapsed() > PATIENCE {
            report.fail(format!(
                "the app's own postStart was called {called} times, not {times}"
            ));
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// How often a container was started again.
async fn restarts(cluster: &Cluster, pod: &MemberPod, container: &str) -> Result<u64> {
    let object = object(cluster, pod).await?;
    let own = object["status"]["initContainerStatuses"].as_array();
    let others = object["status"]["containerStatuses"].as_array();
    let mut all = own.into_iter().chain(others).flatten();
    let found = all.find(|it| it["name"] == container);
    found
        .and_then(|it| it["restartCount"].as_u64())
        .with_context(|| format!("no status of {container}"))
}

/// The sidecar ends while the app works on a write: nobody knows what became of it, so kubelet starts
/// the app anew, and the write is there once.
async fn in_flight(service: &Service<'_>, pod: &MemberPod, report: &mut Report) -> Result<()> {
    let cluster = service.hub;
    let sidecar = container(pod, "synod-sidecar")?;
    let began = Instant::now();
    let write = pod.ask("POST", "/c/key", "5");
    let kill = async {
        tokio::time::sleep(DELAY / 2).await;
        sidecar.signal(Signal::KILL)
    };
    let (_, killed) = tokio::join!(write, kill);
    killed?;
    while restarts(cluster, pod, "app").await? == 0 {
        if began.elapsed() > PATIENCE {
            bail!("the app is not started anew, though nobody knows its state");
        }
        tokio::time::sleep(GLANCE).await;
    }
    service.wait("Ready", PATIENCE).await?;
    // Readiness is the entrance's; the copy may still be on its way.
    let answer = loop {
        let answer = pod.ask("GET", "/c/key", "").await;
        match answer {
            Ok(answer) if answer.status.is_success() => break answer.text(),
            other if began.elapsed() > PATIENCE => bail!("the copy does not come back: {other:?}"),
            _ => tokio::time::sleep(GLANCE).await,
        }
    };
    report.say(format!(
        "a sidecar killed while the app worked: the app was started anew, and answers after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    report.expect(
        answer.contains("\"version\":1") && answer.contains("\"value\":5"),
        format!("one write, while the sidecar was killed, left {answer}"),
    );
    report.expect(
        restarts(cluster, pod, "helper").await? == 0,
        "the other container was restarted with the app",
    );
    starts(cluster, pod, 2, report).await
}

/// The other container ends, and nothing else.
async fn helper(service: &Service<'_>, pod: &MemberPod, report: &mut Report) -> Result<()> {
    let cluster = service.hub;
    let before = restarts(cluster, pod, "app").await?;
    container(pod, "serve 0.0.0.0:9090")?.signal(Signal::KILL)?;
    let began = Instant::now();
    while restarts(cluster, pod, "helper").await? == 0 {
        if began.elapsed() > PATIENCE {
            bail!("the helper is not started again");
        }
        tokio::time::sleep(GLANCE).await;
    }
    service.wait("Ready", PATIENCE).await?;
    report.expect(
        restarts(cluster, pod, "app").await? == before,
        "the end of another container restarted the app",
    );
    Ok(())
}

/// The pod is deleted: the app's own preStop is called, and its successor is Ready.
async fn ends(service: &Service<'_>, pod: &MemberPod, report: &mut Report) -> Result<MemberPod> {
    let cluster = service.hub;
    let log = ["logs", "--follow", &pod.name, "--container=helper"];
    let delete = ["delete", "pod", &pod.name, "--wait=false"];
    let (log, deleted) = tokio::join!(cluster.kubectl(log), cluster.kubectl(delete));
    deleted?;
    let log = log?;
    report.expect(
        log.matches("GET /stopping").count() == 1,
        format!("the app's own preStop: {log}"),
    );
    let began = Instant::now();
    loop {
        let pods = member_pods(cluster, NAME).await?;
        let next = pods.into_iter().find(|it| it.uid != pod.uid);
        if let Some(next) = next.filter(|it| !it.address.is_empty()) {
            service.wait("Ready", PATIENCE).await?;
            return Ok(next);
        }
        if began.elapsed() > PATIENCE {
            bail!("{} is not made again", pod.name);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// A pause holds the operator, not the service; its end does what was asked for meanwhile.
async fn paused(service: &Service<'_>, pod: &MemberPod, report: &mut Report) -> Result<()> {
    let cluster = service.hub;
    let name = format!("rsvc/{NAME}");
    let patch = async |patch: Value| {
        let patch = patch.to_string();
        let arguments = ["patch", &name, "--type=json", "--patch", &patch];
        cluster.kubectl(arguments).await
    };
    patch(json!([{"op": "add", "path": "/spec/paused", "value": true}])).await?;
    service
        .wait_until_said("Progressing", "Paused", PATIENCE)
        .await?;
    let metadata = json!({"annotations": {"example.com/turn": "next"}});
    let path = "/spec/template/metadata";
    patch(json!([{"op": "add", "path": path, "value": metadata}])).await?;
    tokio::time::sleep(QUIET).await;
    report.expect(
        only(cluster).await?.uid == pod.uid,
        "a paused operator replaced a pod",
    );
    let answer = pod.ask("POST", "/c/paused", "1").await?;
    report.expect(
        answer.status.is_success(),
        format!("while the operator is paused: {answer:?}"),
    );
    patch(json!([{"op": "replace", "path": "/spec/paused", "value": false}])).await?;
    let began = Instant::now();
    while member_pods(cluster, NAME)
        .await?
        .iter()
        .all(|it| it.uid == pod.uid)
    {
        if began.elapsed() > PATIENCE {
            bail!("what was asked for during a pause is not done after it");
        }
        tokio::time::sleep(GLANCE).await;
    }
    service.wait("Ready", PATIENCE).await?;
    Ok(())
}

/// An app with a start hook of its own that cannot go through us: that is said, and it works.
async fn weak(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let name = "weak";
    let mut object = super::bad_input::manifest(name, REGISTERS);
    object["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["/usr/bin/synod-test-app", "--help"]}},
    });
    apply_object(cluster, &object).await?;
    let service = Service { hub: cluster, name };
    service
        .wait_until_said("Degraded", "StartSignalWeak", PATIENCE)
        .await?;
    service.wait("Ready", PATIENCE).await?;
    let pods = member_pods(cluster, name).await?;
    let pod = pods.first().context("it has no pod")?;
    let answer = pod.ask("POST", "/c/key", "1").await?;
    report.expect(
        answer.status.is_success(),
        format!("an app with a start hook of its own: {answer:?}"),
    );
    // Noticed by its socket alone.
    container(pod, "synod-test-app")?.signal(Signal::KILL)?;
    let began = Instant::now();
    loop {
        let answer = pod.ask("GET", "/c/key", "").await;
        if answer.is_ok_and(|it| it.text().contains("\"value\":1")) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            report.fail("an app whose start signal is weak does not come back after a kill");
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
}
