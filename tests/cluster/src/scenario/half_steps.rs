//! Operators that end in the middle of everything, and more of them than there should be: what was
//! begun is finished by the next one, and nobody undoes what another does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use rustix::process::Signal;
use serde_json::json;
use synod_system::report::Report;

use super::bad_input::{apply_object, manifest, nothing_left};
use super::trace::Picture;
use super::{Settings, finish};
use crate::product::{NAMESPACE, Product, REGISTERS, RELEASE, Release, end_operators};
use crate::service::{Service, member_pods};
use crate::{Cluster, descendants};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// Services that are under way when the operators are killed, each a little further than the next.
const SERVICES: u32 = 8;
/// How often that is done.
const ROUNDS: u32 = 3;
/// In so many stages at least, or the test shows little.
const STAGES: usize = 3;
/// Much less than a lease lasts.
const AT_ONCE: Duration = Duration::from_secs(8);
/// How long two operators are watched.
const WATCHED: Duration = Duration::from_secs(20);

pub(super) async fn killed(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 1, Duration::ZERO).await?;
    let cluster = clusters.first();
    // Each service needs one, and none is used twice.
    product.load(cluster, (SERVICES * ROUNDS + 2) as u8).await?;
    product.install(cluster, &[]).await?;

    let first = begin(cluster, "undisturbed").await?;
    let creation = first.wait("Ready", PATIENCE).await?;
    let began = Instant::now();
    end(&first).await?;
    nothing_left(cluster, first.name).await?;
    let deletion = began.elapsed();
    let mut stages = BTreeSet::new();
    for round in 1..=ROUNDS {
        let names: Vec<_> = (1..=SERVICES).map(|it| format!("r{round}-s{it}")).collect();
        let mut services = Vec::new();
        for name in &names {
            services.push(begin(cluster, name).await?);
            tokio::time::sleep(creation / SERVICES).await;
        }
        kill(cluster).await?;
        stages.extend(stages_of(cluster).await?);
        for service in &services {
            let formed = service.wait("Ready", PATIENCE).await;
            formed.with_context(|| format!("{} was under way", service.name))?;
            let pods = member_pods(cluster, service.name).await?;
            report.expect(
                pods.len() == 1,
                format!("{} has the pods {pods:?}", service.name),
            );
            let answer = pods[0].ask("POST", "/echo", service.name).await?;
            report.expect(
                answer.status.is_success() && answer.slot().is_some(),
                format!("{} answers {answer:?}", service.name),
            );
        }
        for service in &services {
            end(service).await?;
            tokio::time::sleep(deletion / SERVICES).await;
        }
        kill(cluster).await?;
        let gone = names.iter().map(|it| nothing_left(cluster, it));
        try_join_all(gone).await?;
    }
    report.say(format!(
        "{} services finished what was begun when all operators were killed in the middle, and as \
         many were removed (undisturbed: {:.1} s and {:.1} s)",
        SERVICES * ROUNDS,
        creation.as_secs_f64(),
        deletion.as_secs_f64(),
    ));
    report.say(format!(
        "stages in which the operators were killed: {stages:?}"
    ));
    report.expect(
        stages.len() >= STAGES,
        format!("the operators were killed in few stages only: {stages:?}"),
    );
    successor(cluster, report).await?;
    two(&product, cluster, report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

/// What services consist of, each way once: how far the operators have come.
async fn stages_of(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = "replicagroups,secrets,configmaps,services,statefulsets,pods";
    let form =
        r"--output=jsonpath={range .items[*]}{.metadata.labels.synod\.dev/service} {.kind} {end}";
    let label = "--selector=synod.dev/service";
    let all = cluster.kubectl(["get", kinds, label, form]).await?;
    let mut counts: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
    let words: Vec<_> = all.split_whitespace().collect();
    for pair in words.chunks_exact(2) {
        *counts
            .entry(pair[0])
            .or_default()
            .entry(pair[1])
            .or_default() += 1;
    }
    Ok(counts.values().map(|it| format!("{it:?}")).collect())
}

/// Applies a service of one member, whose volumes go with it.
async fn begin<'a>(cluster: &'a Cluster, name: &'a str) -> Result<Service<'a>> {
    let mut object = manifest(name, REGISTERS);
    object["spec"]["volumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete"});
    apply_object(cluster, &object).await?;
    Ok(Service { hub: cluster, name })
}

async fn end(service: &Service<'_>) -> Result<()> {
    let delete = ["delete", "rsvc", service.name, "--wait=false"];
    service.hub.kubectl(delete).await?;
    Ok(())
}

/// All operators at once, without a word; others are made for them.
async fn kill(cluster: &Cluster) -> Result<()> {
    let mut killed = 0;
    for process in descendants() {
        if process.command_line().contains("synod-operator") {
            process.signal(Signal::KILL)?;
            killed += 1;
        }
    }
    anyhow::ensure!(killed > 0, "no operator runs");
    end_operators(cluster).await
}

/// Who works is told to end: another takes over at once, not after a lease has run out.
async fn successor(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let holder = async || {
        let form = "--output=jsonpath={.spec.holderIdentity}";
        let get = ["get", "lease", RELEASE, "--namespace", NAMESPACE, form];
        cluster.kubectl(get).await
    };
    let began = Instant::now();
    let mut first = holder().await?;
    while first.is_empty() {
        anyhow::ensure!(began.elapsed() < PATIENCE, "nobody holds the lease");
        first = holder().await?;
    }
    let pods = ["get", "pods", "--namespace", NAMESPACE, "--output=name"];
    let pods = cluster.kubectl(pods).await?;
    let pod = pods.lines().find(|it| {
        let name = it.trim_start_matches("pod/");
        first.contains(name)
    });
    let pod = pod.with_context(|| format!("no pod is {first}: {pods}"))?;
    let began = Instant::now();
    cluster
        .kubectl(["delete", pod, "--namespace", NAMESPACE, "--wait=false"])
        .await?;
    loop {
        let now = holder().await?;
        if !now.is_empty() && now != first {
            break;
        }
        if began.elapsed() > AT_ONCE {
            report.fail(format!(
                "{first} was told to end, and nobody took over within {} s",
                AT_ONCE.as_secs()
            ));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report.say(format!(
        "the operator that worked was told to end: another took over after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// A second installation beside the first: neither knows of the other, and both work on everything.
async fn two(product: &Product, cluster: &Cluster, report: &mut Report) -> Result<()> {
    let second = Release {
        name: "second",
        namespace: "synod-second",
    };
    product
        .install_as(&second, cluster, &["crds.install=false"])
        .await?;
    let service = begin(cluster, "two").await?;
    service.wait("Ready", PATIENCE).await?;
    let before = versions(cluster, service.name).await?;
    tokio::time::sleep(WATCHED).await;
    let after = versions(cluster, service.name).await?;
    report.expect(
        before == after,
        format!("two operators change each other's work: {before} became {after}"),
    );
    product.uninstall_as(&second, cluster).await?;
    service.wait("Ready", PATIENCE).await?;
    end(&service).await?;
    nothing_left(cluster, service.name).await
}

/// Changes with each change of what a service consists of.
async fn versions(cluster: &Cluster, name: &str) -> Result<String> {
    let label = format!("--selector=synod.dev/service={name}");
    let kinds = "replicagroups,statefulsets,services,configmaps,secrets,poddisruptionbudgets,\
                 networkpolicies";
    let form = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} \
                {.metadata.generation} {.metadata.uid}\n{end}";
    cluster.kubectl(["get", kinds, &label, form]).await
}
