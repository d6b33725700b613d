//! What users and administrators do wrong: each mistake is said in words that name the thing and the
//! way out, does no harm, and ends when it is put right. Members are single ones: how many there are
//! changes nothing here.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use synod_system::report::Report;

use super::trace::Picture;
use super::{Settings, finish};
use crate::Cluster;
use crate::images::TOOLS;
use crate::product::{NAMESPACE, Product, REGISTERS, RELEASE};
use crate::service::{Service, member_pods};

mod rules;

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// The longest name of a service, beside which a cluster's may have 11 characters.
const LONG: &str = "a-name-with-forty-characters-and-no-more";
/// Name of the cluster.
const CLUSTER: &str = "eleven-long";

pub(super) async fn what_is_said(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::unless_given(settings)?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 1, Duration::ZERO).await?;
    let cluster = clusters.first();
    product.load(cluster, 14).await?;
    let name = format!("cluster.name={CLUSTER}");
    product.install(cluster, &[&name]).await?;

    let long = apply(cluster, LONG, REGISTERS).await?;
    long.wait("Ready", PATIENCE).await?;
    rules::each(cluster, LONG, report).await?;
    remove(&long).await?;

    names(cluster, report).await?;
    forming(cluster, report).await?;
    rights(cluster, report).await?;
    silent(cluster, report).await?;
    template_and_image(cluster, report).await?;
    finish(clusters, report)?;
    Picture::unless_given(settings)?.compare(&before, report);
    Ok(())
}

/// A service of one member.
pub(super) fn manifest(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "synod.dev/v1alpha1",
        "kind": "ReplicatedService",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "acknowledgedRisks": ["NoSnapshot"],
            "template": {"spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{
                    "name": "app",
                    "image": crate::product::image(image),
                    "ports": [{"name": "http", "containerPort": 8080}],
                }],
            }},
        },
    })
}

async fn apply<'a>(cluster: &'a Cluster, name: &'a str, image: &str) -> Result<Service<'a>> {
    apply_object(cluster, &manifest(name, image)).await?;
    let hub = cluster;
    Ok(Service { hub, name })
}

pub(super) async fn apply_object(cluster: &Cluster, object: &Value) -> Result<()> {
    let apply = ["apply", "--filename=-"];
    cluster.kubectl_with(apply, &object.to_string()).await?;
    Ok(())
}

async fn remove(service: &Service<'_>) -> Result<()> {
    let delete = ["delete", "rsvc", service.name, "--timeout=120s"];
    service.hub.kubectl(delete).await?;
    Ok(())
}

/// Waits until a condition says the first of these words; a problem unless it says the others too.
pub(super) async fn told(
    service: &Service<'_>,
    kind: &str,
    words: &[&str],
    report: &mut Report,
) -> Result<String> {
    let said = service.wait_until_said(kind, words[0], PATIENCE).await?;
    report.say(format!("{kind}: {said}"));
    for word in words {
        report.expect(
            said.contains(word),
            format!("{}: {kind} does not say {word:?}: {said}", service.name),
        );
    }
    Ok(said)
}

/// One service, on the way from a bad template through a bad image to a good one; and another over
/// what it leaves.
async fn template_and_image(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let name = "image";
    let service = Service { hub: cluster, name };
    let mut bad = manifest(name, REGISTERS);
    bad["spec"]["template"]["spec"]["initContainers"] = json!([{
        "name": "prepare",
        "image": REGISTERS,
        "volumeMounts": [{"name": "nowhere", "mountPath": "/data"}],
    }]);
    apply_object(cluster, &bad).await?;
    // The path is that of the user's template, where there is no sidecar.
    let path = "spec.template.spec.initContainers[0].volumeMounts[0].name";
    let words = ["InvalidTemplate", path, "nowhere"];
    told(&service, "Ready", &words, report).await?;

    let image = "registry.example/nowhere:1";
    apply(cluster, name, image).await?;
    let words = [image, "PodNotStarting"];
    told(&service, "Degraded", &words, report).await?;
    apply(cluster, name, REGISTERS).await?;
    let took = service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "Ready {:.1} s after the image was put right",
        took.as_secs_f64()
    ));

    remove(&service).await?;
    let claim = format!("synod-log-{name}-{CLUSTER}-0");
    apply(cluster, name, REGISTERS).await?;
    let words = ["ExistingData", &claim, "kubectl -n default delete pvc"];
    told(&service, "Stalled", &words, report).await?;
    // As the message says.
    let delete = ["-n", "default", "delete", "pvc", &claim];
    cluster.kubectl(delete).await?;
    service.wait("Ready", PATIENCE).await?;
    remove(&service).await
}

/// An app that runs and listens to nobody.
async fn silent(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let name = "silent";
    let mut object = manifest(name, TOOLS);
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["args"] = json!(["pause"]);
    apply_object(cluster, &object).await?;
    let service = Service { hub: cluster, name };
    let pod = format!("{name}-{CLUSTER}-0");
    let words = ["AppNotAnswering", &pod, "port 8080"];
    told(&service, "Ready", &words, report).await?;
    // Longer than a kubelet gives anything that it finds dead.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let form = "--output=jsonpath={.status.initContainerStatuses[0].restartCount} \
                {.status.containerStatuses[0].restartCount}";
    let counts = cluster.kubectl(["get", "pod", &pod, form]).await?;
    report.say(format!(
        "restarts of the sidecar and of a silent app: {counts}"
    ));
    report.expect(
        counts.starts_with("0 "),
        format!("the sidecar of a silent app was restarted: {counts}"),
    );
    apply(cluster, name, REGISTERS).await?;
    service.wait("Ready", PATIENCE).await?;
    remove(&service).await
}

/// Objects that have the names of ours and are not ours.
async fn names(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let name = "taken";
    let map = format!("configmap/{name}-sidecar");
    let own = format!("--from-literal=own={name}");
    let create = ["create", "configmap", &format!("{name}-sidecar"), &own];
    cluster.kubectl(create).await?;
    let create = ["create", "service", "clusterip", name, "--tcp=80"];
    cluster.kubectl(create).await?;
    let kept = format!("service/{name}");
    let form = "--output=jsonpath={.items[*].metadata.resourceVersion}";
    let get = ["get", map.as_str(), kept.as_str(), form];
    let before = cluster.kubectl(get).await?;
    let service = apply(cluster, name, REGISTERS).await?;
    let (first, second) = (
        format!("ConfigMap {name}-sidecar"),
        format!("Service {name}"),
    );
    let words = ["NameConflict", &first, &second];
    told(&service, "Stalled", &words, report).await?;
    let after = cluster.kubectl(get).await?;
    report.expect(
        before == after,
        format!("{map} or {kept} was changed: {before} became {after}"),
    );
    cluster.kubectl(["delete", &map, &kept]).await?;
    service.wait("Ready", PATIENCE).await?;
    remove(&service).await
}

/// Deletion at several moments before a service is formed.
async fn forming(cluster: &Cluster, report: &mut Report) -> Result<()> {
    for (number, sign) in ["rsvc", "rgrp", "statefulset", "configmap"]
        .iter()
        .enumerate()
    {
        let name = format!("brief-{number}");
        let mut object = manifest(&name, REGISTERS);
        object["spec"]["volumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete"});
        apply_object(cluster, &object).await?;
        let sign = match *sign {
            "statefulset" => format!("{sign}/{name}-{CLUSTER}"),
            "configmap" => format!("{sign}/{name}-genesis-record"),
            _ => format!("{sign}/{name}"),
        };
        cluster
            .kubectl(["wait", &sign, "--for=create", "--timeout=60s"])
            .await?;
        let service = Service {
            hub: cluster,
            name: &name,
        };
        remove(&service).await?;
        nothing_left(cluster, &name)
            .await
            .with_context(|| format!("deleted when there was {sign}"))?;
    }
    report.say("deleted at four moments before it was formed, nothing is left");
    Ok(())
}

pub(super) async fn nothing_left(cluster: &Cluster, name: &str) -> Result<()> {
    let kinds = "rsvc,rgrp,statefulsets,pods,services,configmaps,secrets,pvc,\
                 poddisruptionbudgets,networkpolicies";
    let began = Instant::now();
    loop {
        let all = cluster.kubectl(["get", kinds, "--output=name"]).await?;
        let left: Vec<_> = all.lines().filter(|it| it.contains(name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("left after deletion: {left:?}");
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The operator without its rights: all of them, and then one.
async fn rights(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let binding = taken(cluster, "clusterrolebinding").await?;
    let object = format!("clusterrolebinding/{RELEASE}");
    cluster.kubectl(["delete", &object]).await?;
    let service = apply(cluster, "rights", REGISTERS).await?;
    let words = "cannot patch resource \"replicatedservices\"";
    logged(cluster, words, report).await?;

    let mut role = taken(cluster, "clusterrole").await?;
    let whole = role.clone();
    for rule in role["rules"].as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|it| it != "services");
        }
    }
    if let Some(rules) = role["rules"].as_array_mut() {
        // A rule about nothing is none.
        rules.retain(|it| it["resources"] != json!([]));
    }
    replace(cluster, &role).await?;
    apply_object(cluster, &binding).await?;
    let words = ["OperatorError", "services", "forbidden"];
    told(&service, "Degraded", &words, report).await?;
    replace(cluster, &whole).await?;
    let took = service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "Ready {:.1} s after the rights were given back",
        took.as_secs_f64()
    ));
    let pods = member_pods(cluster, service.name).await?;
    report.expect(pods.len() == 1, format!("its pods are {pods:?}"));
    remove(&service).await
}

/// An object of the chart, as it can be put back.
async fn taken(cluster: &Cluster, kind: &str) -> Result<Value> {
    let text = cluster
        .kubectl(["get", kind, RELEASE, "--output=json"])
        .await?;
    let mut object: Value = serde_json::from_str(&text)?;
    let metadata = object["metadata"].as_object_mut();
    let metadata = metadata.context("it has no metadata")?;
    metadata.retain(|key, _| matches!(key.as_str(), "name" | "labels" | "annotations"));
    Ok(object)
}

async fn replace(cluster: &Cluster, object: &Value) -> Result<()> {
    let replace = ["replace", "--filename=-"];
    cluster.kubectl_with(replace, &object.to_string()).await?;
    Ok(())
}

/// Waits until the operator's log has these words.
async fn logged(cluster: &Cluster, words: &str, report: &mut Report) -> Result<()> {
    let label = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let logs = ["logs", "--namespace", NAMESPACE, &label, "--tail=-1"];
    let began = Instant::now();
    loop {
        let text = cluster.kubectl(logs).await?;
        // It is JSON.
        let text = text.replace('\\', "");
        if let Some(line) = text.lines().find(|it| it.contains(words)) {
            report.say(format!("the operator's log: {line}"));
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            report.fail(format!("the operator's log never says {words:?}"));
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
}
