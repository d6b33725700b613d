//! Workloads that were there before: nginx, which nobody here wrote, as a Deployment whose template is
//! taken and as a StatefulSet whose pods become the members; and what leads past the sidecar.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::json;
use synod_system::report::Report;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::trace::Picture;
use super::{Settings, finish};
use crate::Cluster;
use crate::cluster::output;
use crate::images::{Image, USER, archive};
use crate::product::{NAMESPACE, Product, RELEASE};
use crate::service::{Service, member_pods};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until a StatefulSet whose pods are refused tries again only after more than a minute.
const LONG_WITHOUT: Duration = Duration::from_secs(125);
/// Much less than that.
const AT_ONCE: Duration = Duration::from_secs(15);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
const NGINX: &str = "registry.example/webdav:1";
/// An ordinary WebDAV server.
const CONFIGURATION: &str = "
daemon off;
worker_processes 1;
error_log stderr;
pid /tmp/nginx.pid;
load_module MODULES/ngx_http_dav_ext_module.so;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 8080;
    root /tmp/files;
    location / {
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
      create_full_put_path on;
    }
  }
}
";

pub(super) async fn what_is_there(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let images = settings.images();
    let product = Product::assemble(&images)?;
    let nginx = nginx(&images)?;
    let clusters = settings.clusters(1, 1, Duration::ZERO).await?;
    let cluster = clusters.first();
    product.load(cluster, 8).await?;
    cluster.load_image(&nginx).await?;
    product.install(cluster, &[]).await?;
    deployment(cluster, report).await?;
    stateful_set(&images, cluster, report).await?;
    without_webhook(&product, cluster, report).await?;
    ending_certificate(cluster, report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

fn nginx(folder: &Path) -> Result<PathBuf> {
    let module = "ngx_http_dav_ext_module.so";
    let modules = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from("/usr/share/nginx/modules")])
        .find(|it| it.join(module).is_file())
        .context("nginx with the module dav-ext is not installed")?;
    let configuration = folder.join("dav.conf");
    let text = CONFIGURATION.replace("MODULES", &modules.display().to_string());
    fs::write(&configuration, text)?;
    let module = modules.join(module);
    let image = Image {
        name: NGINX,
        files: &[
            (Path::new("/usr/sbin/nginx"), "/usr/sbin/nginx"),
            (&module, &module.display().to_string()),
            (&configuration, "/etc/nginx/dav.conf"),
        ],
        entrypoint: &[
            "/usr/sbin/nginx",
            "-e",
            "stderr",
            "-c",
            "/etc/nginx/dav.conf",
        ],
        environment: &[],
        user: USER,
    };
    archive(&image, folder)
}

/// A Deployment with a Service by number in front, as there are many.
async fn deployment(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let manifest = format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: nginx, image: {NGINX}, ports: [{{containerPort: 8080}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    );
    apply(cluster, &manifest).await?;
    let rollout = ["rollout", "status", "deployment/web", "--timeout=60s"];
    cluster.kubectl(rollout).await?;
    let board = adopt(cluster, "board", "Deployment", "web").await?;
    // It would lead clients past the agreed order.
    board
        .wait_until_said("Ready", "BypassPossible", PATIENCE)
        .await?;
    let said = board
        .conditions()
        .await?
        .remove("Ready")
        .unwrap_or_default();
    report.say(format!("Ready: {said}"));
    report.expect(
        said.contains("web") && said.contains("8080"),
        format!("the Service that leads past us is not named: {said}"),
    );
    cluster.kubectl(["delete", "service", "web"]).await?;
    let took = board.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "a Deployment's template: Ready {:.1} s after the Service was gone",
        took.as_secs_f64()
    ));
    let form = "--for=jsonpath={.spec.replicas}=0";
    let scaled = ["wait", "deployment/web", form, "--timeout=60s"];
    cluster.kubectl(scaled).await?;
    files(cluster, "board", report).await?;
    around(&board, report).await
}

/// Somebody speaks to the app itself, and is reported.
async fn around(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let pods = member_pods(service.hub, service.name).await?;
    let pod = pods.first().context("there is no pod")?;
    let mut connection = TcpStream::connect((pod.address.as_str(), 8080)).await?;
    connection
        .write_all(b"GET /a.txt HTTP/1.1\r\nHost: web\r\n\r\n")
        .await?;
    let own = connection.local_addr()?.ip().to_string();
    service
        .wait_until_said("TrafficIntercepted", "BypassSeen", PATIENCE)
        .await?;
    let said = service.conditions().await?.remove("TrafficIntercepted");
    let said = said.unwrap_or_default();
    report.say(format!("TrafficIntercepted: {said}"));
    report.expect(
        said.contains(&own),
        format!("a connection from {own} is reported as {said}"),
    );
    Ok(())
}

/// A StatefulSet of one copy that runs becomes three agreeing ones, by its label and what the operator
/// says on the way: it wants its pods in order, and one of them came before the label.
async fn stateful_set(folder: &Path, cluster: &Cluster, report: &mut Report) -> Result<()> {
    apply(cluster, PLAIN).await?;
    let rollout = ["rollout", "status", "statefulset/kept", "--timeout=60s"];
    cluster.kubectl(rollout).await?;
    let label =
        r#"{"spec":{"replicas":3,"template":{"metadata":{"labels":{"synod.dev/inject":"kept"}}}}}"#;
    cluster
        .kubectl(["patch", "statefulset", "kept", "--patch", label])
        .await?;
    let kept = adopt(cluster, "kept", "StatefulSet", "kept").await?;
    let said = says(&kept, "Stalled", "WorkloadNotAdoptable", report).await?;
    as_told(folder, cluster, &said).await?;
    let said = says(&kept, "Ready", "InjectionMissing", report).await?;
    as_told(folder, cluster, &said).await?;
    let took = kept.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "a StatefulSet that ran: Ready {:.1} s after the last of the commands",
        took.as_secs_f64()
    ));
    files(cluster, "kept", report).await
}

/// What a condition says, once it has this reason.
async fn says(
    service: &Service<'_>,
    kind: &str,
    reason: &str,
    report: &mut Report,
) -> Result<String> {
    service.wait_until_said(kind, reason, PATIENCE).await?;
    let said = service.conditions().await?.remove(kind);
    let said = said.with_context(|| format!("{kind} is not there any more"))?;
    report.say(format!("{kind}: {said}"));
    Ok(said)
}

/// Runs the commands of a message, as somebody does who copies them.
async fn as_told(folder: &Path, cluster: &Cluster, said: &str) -> Result<()> {
    let commands = said.split('`').nth(1);
    let commands = commands.with_context(|| format!("no command is told: {said}"))?;
    let mut command = Command::new("sh");
    command
        .args(["-e", "-c", commands])
        .current_dir(folder)
        .env("KUBECONFIG", &cluster.kubeconfig);
    output(command, "").await?;
    Ok(())
}

/// While nobody can add the sidecar, no labelled pod is made: the webhook that is away refuses it, and
/// where there is no webhook, a policy does. When it is back, the StatefulSet is whole at once, though
/// it would by itself try again much later by then.
async fn without_webhook(product: &Product, cluster: &Cluster, report: &mut Report) -> Result<()> {
    let operator = format!("deployment/{RELEASE}");
    let scale = ["scale", &operator, "--namespace", NAMESPACE, "--replicas=0"];
    cluster.kubectl(scale).await?;
    let gone = [
        "wait",
        "pods",
        "--namespace",
        NAMESPACE,
        "--all",
        "--for=delete",
        "--timeout=60s",
    ];
    cluster.kubectl(gone).await?;
    let pod = member_pods(cluster, "kept").await?.remove(0);
    cluster
        .kubectl(["delete", "pod", &pod.name, "--wait"])
        .await?;
    tokio::time::sleep(LONG_WITHOUT).await;
    let left = member_pods(cluster, "kept").await?;
    report.expect(
        left.len() == 2 && left.iter().all(|it| it.name != pod.name),
        format!("a labelled pod was made without the webhook: {left:?}"),
    );
    refused_by_policy(cluster, report).await?;
    // What was deleted and scaled down is put back by the next upgrade.
    product.install(cluster, &[]).await?;
    let began = Instant::now();
    while member_pods(cluster, "kept").await?.len() < 3 {
        if began.elapsed() > AT_ONCE {
            report.fail(format!(
                "the StatefulSet is not whole {} s after the webhook is back",
                AT_ONCE.as_secs()
            ));
            break;
        }
        tokio::time::sleep(GLANCE).await;
    }
    report.say(format!(
        "refused for {} s without the webhook; made again {:.1} s after it came back",
        LONG_WITHOUT.as_secs(),
        began.elapsed().as_secs_f64()
    ));
    let kept = Service {
        hub: cluster,
        name: "kept",
    };
    kept.wait("Ready", PATIENCE).await?;
    Ok(())
}

/// A labelled pod without its sidecar, where no webhook is asked.
async fn refused_by_policy(cluster: &Cluster, report: &mut Report) -> Result<()> {
    cluster
        .kubectl(["delete", "mutatingwebhookconfiguration", RELEASE])
        .await?;
    let bare = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "labels": {"synod.dev/inject": "kept"}},
        "spec": {"containers": [{"name": "nginx", "image": NGINX}]},
    });
    let began = Instant::now();
    loop {
        let create = ["create", "--filename=-"];
        let made = cluster.kubectl_with(create, &bare.to_string()).await;
        let words = made.as_ref().err().map(|it| format!("{it:#}"));
        match words {
            Some(words) if words.contains("must carry the synod sidecar") => return Ok(()),
            // The API server still asks the webhook that it has just forgotten.
            Some(words) if words.contains("failed calling webhook") => {}
            other => {
                report.fail(format!("a labelled pod without a sidecar: {other:?}"));
                return Ok(());
            }
        }
        if began.elapsed() > PATIENCE {
            report.fail("the API server goes on asking a webhook that is gone");
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The webhook's authority is near its end: the next one is trusted beside it, and pods go on being
/// made.
async fn ending_certificate(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let secret = format!("{RELEASE}-webhook-ca");
    let namespace = format!("--namespace={NAMESPACE}");
    let (certificate, key) = short_lived_authority()?;
    let patch = json!({"stringData": {"ca.crt": certificate, "ca.key": key}}).to_string();
    let arguments = ["patch", "secret", &secret, &namespace, "--patch", &patch];
    cluster.kubectl(arguments).await?;
    let form = r"--output=jsonpath={.data.next\.crt}";
    let began = Instant::now();
    loop {
        let next = ["get", "secret", &secret, &namespace, form];
        let configuration = ["get", "mutatingwebhookconfigurations", RELEASE];
        let bundle = "--output=jsonpath={.webhooks[0].clientConfig.caBundle}";
        let trusted = cluster
            .kubectl([&configuration[..], &[bundle]].concat())
            .await?;
        let trusted = String::from_utf8(STANDARD.decode(trusted.trim())?)?;
        let both = trusted.matches("BEGIN CERTIFICATE").count() == 2;
        if both && trusted.contains(certificate.trim()) && !cluster.kubectl(next).await?.is_empty()
        {
            break;
        }
        if began.elapsed() > PATIENCE {
            report.fail("the webhook's authority is near its end, and no other is trusted");
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
    report.say(format!(
        "the webhook's authority near its end: another is trusted after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    let pod = member_pods(cluster, "kept").await?.remove(0);
    cluster
        .kubectl(["delete", "pod", &pod.name, "--wait"])
        .await?;
    let kept = Service {
        hub: cluster,
        name: "kept",
    };
    kept.wait("Ready", PATIENCE).await?;
    let pods = member_pods(cluster, "kept").await?;
    report.expect(
        pods.len() == 3 && pods.iter().all(|it| it.uid != pod.uid),
        format!("with a new certificate the webhook made no pod: {pods:?}"),
    );
    Ok(())
}

/// As an operator made it almost ten years ago.
fn short_lived_authority() -> Result<(String, String)> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "an old root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3_600 * 24 * 3_640)).into();
    params.not_after = (now + Duration::from_secs(3_600)).into();
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// What is written through one member is at each of them.
async fn files(cluster: &Cluster, service: &str, report: &mut Report) -> Result<()> {
    let pods = member_pods(cluster, service).await?;
    report.expect(
        pods.len() == 3,
        format!("{service} has {} pods", pods.len()),
    );
    for (number, pod) in pods.iter().enumerate() {
        let file = format!("/file-{number}.txt");
        let answer = pod.ask("PUT", &file, &format!("by {}", pod.name)).await?;
        report.expect(
            answer.status.is_success() && answer.slot().is_some(),
            format!("{} answers {answer:?}", pod.name),
        );
    }
    for (number, writer) in pods.iter().enumerate() {
        for pod in &pods {
            let answer = pod.ask("GET", &format!("/file-{number}.txt"), "").await?;
            report.expect(
                answer.text() == format!("by {}", writer.name),
                format!("{} holds {:?}", pod.name, answer.text()),
            );
        }
    }
    Ok(())
}

/// One copy, in a StatefulSet as most are.
const PLAIN: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kept}
spec:
  serviceName: kept
  replicas: 1
  selector: {matchLabels: {app: kept}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: registry.example/webdav:1
        ports: [{name: http, containerPort: 8080}]
";

async fn adopt<'a>(
    cluster: &'a Cluster,
    name: &'a str,
    kind: &str,
    workload: &str,
) -> Result<Service<'a>> {
    let manifest = format!(
        r"
apiVersion: synod.dev/v1alpha1
kind: ReplicatedService
metadata: {{name: {name}}}
spec:
  replicas: 3
  acknowledgedRisks: [NoSnapshot]
  workloadRef: {{apiVersion: apps/v1, kind: {kind}, name: {workload}}}
"
    );
    apply(cluster, &manifest).await?;
    Ok(Service { hub: cluster, name })
}

async fn apply(cluster: &Cluster, manifest: &str) -> Result<()> {
    cluster
        .kubectl_with(["apply", "--filename=-"], manifest)
        .await?;
    Ok(())
}
