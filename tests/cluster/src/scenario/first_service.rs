//! What the guides promise to somebody who begins: from `helm install` to requests in one order, and
//! back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use synod_system::report::Report;

use super::trace::Picture;
use super::{Settings, finish};
use crate::Cluster;
use crate::images::TOOLS;
use crate::product::{NOTES, Product, image};
use crate::service::{MemberPod, Service, member_pods};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// The guide whose manifest is applied as it stands there.
const GUIDE: &str = "docs/kubernetes/first-service.md";

pub(super) async fn from_install_to_removal(
    settings: &Settings,
    report: &mut Report,
) -> Result<()> {
    let before = Picture::unless_given(settings)?;
    let images = settings.images();
    let product = match settings.kubeconfigs {
        None => Product::by_dockerfiles(&images)?,
        Some(_) => Product::assemble(&images)?,
    };
    let clusters = settings.clusters(1, 3, Duration::ZERO).await?;
    let cluster = clusters.first();
    product.load(cluster, 2).await?;
    let bare = bare(cluster).await?;

    let took = product.install(cluster, &[]).await?;
    report.say(format!("helm install took {:.1} s", took.as_secs_f64()));
    let began = Instant::now();
    let manifest = manifest()?;
    cluster
        .kubectl_with(["apply", "--filename=-"], &manifest)
        .await?;
    let notes = Service {
        hub: cluster,
        name: "notes",
    };
    notes.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "Ready {:.1} s after kubectl apply, {:.1} s after helm install began; \
         the bare StatefulSet takes {:.1} s",
        began.elapsed().as_secs_f64(),
        (began.elapsed() + took).as_secs_f64(),
        bare.as_secs_f64()
    ));
    reads_well(cluster, report).await?;
    one_order(cluster, report).await?;
    let said = product.test(cluster).await?;
    report.expect(said.contains("Succeeded"), format!("helm test says {said}"));
    put_right(cluster, report).await?;
    comes_and_goes(&product, &notes, report).await?;
    removal(&notes, report).await?;
    finish(clusters, report)?;
    Picture::unless_given(settings)?.compare(&before, report);
    Ok(())
}

/// The same on clusters that somebody else made, as far as the scenario knows.
pub(super) async fn on_given_clusters(settings: &Settings, report: &mut Report) -> Result<()> {
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(1, 3, Duration::ZERO).await?;
    product.load(clusters.first(), 2).await?;
    let kubeconfig = clusters.first().kubeconfig.display().to_string();
    let given = Settings {
        kubeconfigs: Some(kubeconfig),
        folder: settings.folder.join("given"),
    };
    from_install_to_removal(&given, report).await?;
    finish(clusters, report)
}

/// The first manifest in the guide.
fn manifest() -> Result<String> {
    let guide = std::fs::read_to_string(GUIDE).with_context(|| format!("reading {GUIDE}"))?;
    let (_, rest) = guide.split_once("```yaml\n").context("no manifest")?;
    let (manifest, _) = rest.split_once("```").context("it does not end")?;
    Ok(manifest.replace(NOTES, &image(NOTES)))
}

/// The same app without us, three times; how long until its pods are Ready.
async fn bare(cluster: &Cluster) -> Result<Duration> {
    let manifest = format!(
        r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: bare}}
spec:
  serviceName: bare
  replicas: 3
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: bare}}}}
  template:
    metadata: {{labels: {{app: bare}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: notes, image: {}}}
",
        image(NOTES)
    );
    let began = Instant::now();
    cluster
        .kubectl_with(["apply", "--filename=-"], &manifest)
        .await?;
    cluster
        .kubectl(["rollout", "status", "statefulset/bare", "--timeout=120s"])
        .await?;
    let took = began.elapsed();
    cluster
        .kubectl(["delete", "statefulset", "bare", "--wait"])
        .await?;
    Ok(took)
}

/// What `kubectl` shows of it.
async fn reads_well(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let line = cluster.kubectl(["get", "rsvc"]).await?;
    report.say(&line);
    for word in [
        "NAME",
        "READY",
        "MEMBERS",
        "LEADER",
        "TOLERATES",
        "3/3",
        "True",
        "notes-local-",
    ] {
        report.expect(
            line.contains(word),
            format!("`kubectl get rsvc` does not show {word}: {line}"),
        );
    }
    let words = cluster.kubectl(["describe", "rsvc", "notes"]).await?;
    for word in [
        "Available",
        "Ready",
        "Events",
        "Members",
        "Region",
        "Tolerates",
    ] {
        report.expect(
            words.contains(word),
            format!("`kubectl describe` does not show {word}: {words}"),
        );
    }
    let field = "rsvc.spec.ordering.maxBodySize";
    let words = cluster.kubectl(["explain", field]).await?;
    report.expect(
        words.contains("DESCRIPTION"),
        format!("`kubectl explain {field}`: {words}"),
    );
    Ok(())
}

/// Requests through the Service, and at each member what came of them.
async fn one_order(cluster: &Cluster, report: &mut Report) -> Result<()> {
    for number in 1..=10 {
        let pods = member_pods(cluster, "notes").await?;
        let pod = &pods[number % pods.len()];
        let body = format!("{{\"text\":\"note {number}\"}}");
        let answer = pod.ask("POST", "/notes", &body).await?;
        report.expect(
            answer.status.is_success() && answer.slot().is_some(),
            format!("{} answers {answer:?}", pod.name),
        );
    }
    // By the name that clients use, from another pod.
    let page = cluster
        .kubectl([
            "run",
            "visitor",
            "--rm",
            "--stdin",
            "--restart=Never",
            "--quiet",
            "--image-pull-policy=IfNotPresent",
            &format!("--image={}", image(TOOLS)),
            "--",
            "ask",
            "notes:80",
        ])
        .await?;
    report.expect(
        page.contains("<html"),
        format!("the Service answers {page:?}"),
    );
    equal(cluster, "/notes", report).await
}

/// A read through each member gives the same.
async fn equal(cluster: &Cluster, target: &str, report: &mut Report) -> Result<()> {
    let pods = member_pods(cluster, "notes").await?;
    let mut seen = Vec::new();
    for pod in &pods {
        let answer = pod.ask("GET", target, "").await?;
        let by = answer.header("synod-member").unwrap_or_default().to_owned();
        report.expect(
            by.contains(&pod.name),
            format!("{} let {by} answer", pod.name),
        );
        seen.push(answer.text());
    }
    report.expect(
        seen.len() == 3 && seen.iter().all(|it| *it == seen[0]) && seen[0].contains("note 10"),
        format!("the copies differ: {seen:?}"),
    );
    Ok(())
}

/// Somebody edits the Service: its port, and then one more.
async fn put_right(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let form = "--output=jsonpath={.spec.ports[*].port}";
    let get = ["get", "service", "notes", form];
    for patch in [
        r#"[{"op":"replace","path":"/spec/ports/0/port","value":99}]"#,
        r#"[{"op":"add","path":"/spec/ports/-","value":{"name":"more","port":9000}}]"#,
    ] {
        let arguments = ["patch", "service", "notes", "--type=json", "--patch", patch];
        cluster.kubectl(arguments).await?;
        let began = Instant::now();
        while cluster.kubectl(get).await? != "80" {
            if began.elapsed() > PATIENCE {
                let ports = cluster.kubectl(get).await?;
                report.fail(format!("after {patch} the ports stay {ports}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

/// Without its operator the service goes on; a second one takes it over as it is.
async fn comes_and_goes(
    product: &Product,
    service: &Service<'_>,
    report: &mut Report,
) -> Result<()> {
    let cluster = service.hub;
    let uids = |pods: Vec<MemberPod>| pods.into_iter().map(|it| it.uid).collect::<Vec<_>>();
    let before = uids(member_pods(cluster, "notes").await?);
    product.uninstall(cluster).await?;
    let kept = cluster.kubectl(["get", "crds,rsvc"]).await?;
    for word in ["replicatedservices", "replicagroups", "notes"] {
        report.expect(
            kept.contains(word),
            format!("helm uninstall took {word} along: {kept}"),
        );
    }
    equal(cluster, "/notes", report).await?;
    product.install(cluster, &[]).await?;
    let took = service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "taken over by a second install, Ready {:.1} s later",
        took.as_secs_f64()
    ));
    let after = uids(member_pods(cluster, "notes").await?);
    report.expect(before == after, "the second install replaced pods");
    equal(cluster, "/notes", report).await
}

/// `kubectl delete` takes everything but the claims.
async fn removal(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let cluster = service.hub;
    cluster
        .kubectl(["delete", "rsvc", service.name, "--timeout=120s"])
        .await?;
    let label = format!("--selector=synod.dev/service={}", service.name);
    let kinds = "replicagroups,statefulsets,pods,services,configmaps,secrets,poddisruptionbudgets,\
                 networkpolicies";
    let began = Instant::now();
    loop {
        let left = cluster
            .kubectl(["get", kinds, &label, "--output=name"])
            .await?;
        if left.is_empty() {
            report.say(format!(
                "deleted, nothing left after {:.1} s",
                began.elapsed().as_secs_f64()
            ));
            break;
        }
        if began.elapsed() > PATIENCE {
            report.fail(format!("left after deletion: {left}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let claims = cluster.kubectl(["get", "pvc", "--output=name"]).await?;
    report.expect(
        claims.lines().count() == 3,
        format!("claims are kept unless asked otherwise, but there are {claims:?}"),
    );
    Ok(())
}
