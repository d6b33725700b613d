//! Services that do not begin with nothing: a single instance with its files becomes three members, and
//! a service that was deleted goes on with what it left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use synod_system::group::binary;
use synod_system::report::Report;

use super::registers::{self, NAME};
use super::state::begin;
use super::trace::Picture;
use super::{Settings, finish};
use crate::Cluster;
use crate::cluster::output;
use crate::product::REGISTERS;
use crate::service::{MemberPod, Service, member_pods};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(200);
/// Files beside the app's own.
const FILES: u32 = 300;
/// Whom they belong to, and as whom the app runs.
const USER: u32 = 65_532;
/// The claim of the single instance.
const CLAIM: &str = "registers-data";
/// Of the app's container: it keeps its state.
const KEEPS: &str = "args: [--keep, /data]\n        securityContext: {runAsUser: 65532}";
const STATE: &str =
    "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume, every: {slots: 200}}}";
/// A claim binds a volume once.
const VOLUMES: u8 = 6;

/// Files by their path, with what is in them.
type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(super) async fn from_a_claim(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let cluster = clusters.first();
    let form = "--output=jsonpath={.items[0].spec.template.spec.containers[0].args}";
    let select = ["get", "deployments", "--namespace=synod-system", form];
    let arguments = cluster.kubectl(select).await?;
    let name = cluster_name(&arguments);

    // What is wrong with the claim is said one after another, and put right.
    let members = format!(
        "replicas: 3\n  bootstrap: {{type: Claim, claim: {{cluster: {name}, name: {CLAIM}}}}}"
    );
    let service = registers::apply_with(cluster, &members, STATE, KEEPS).await?;
    said(&service, "there is no claim", report).await?;
    claim(cluster).await?;
    said(&service, "not bound", report).await?;
    single(cluster).await?;
    said(&service, "is in use by", report).await?;

    let source = files_of_claim(cluster, CLAIM).await?;
    for number in 0..FILES {
        let path = source.join(format!("folder-{}/file-{number}", number % 7));
        let folder = path.parent().context("it has one")?;
        fs::create_dir_all(folder)?;
        fs::write(&path, vec![number as u8; 37 * number as usize])?;
        for it in [folder, &path] {
            chown(it, Some(USER), Some(USER))?;
        }
    }
    let scale = ["scale", "deployment/single", "--replicas=0"];
    cluster.kubectl(scale).await?;
    let began = Instant::now();
    service.wait("Ready", PATIENCE).await?;
    let members = copies(&service, 3).await?;
    report.say(format!(
        "three members with the files of the claim {:.1} s after the single instance was stopped",
        began.elapsed().as_secs_f64()
    ));
    let wanted = read(&source)?;
    let count = wanted.keys().filter(|it| is_one_of_ours(it)).count();
    ensure!(
        count == FILES as usize,
        "the source has {count} of {FILES} files"
    );
    for (member, path) in members {
        compare(&member, &wanted, &read(&path)?, report);
    }
    // What was given stays as it was, and nobody uses it any more.
    let users = ["get", "pods", "--output=json"];
    let pods: Value = serde_json::from_str(&cluster.kubectl(users).await?)?;
    let uses = uses_claim(&pods);
    report.expect(uses.is_empty(), format!("{uses:?} still use the claim"));
    report.expect(
        read(&source)? == wanted,
        "the claim that the service began with has changed".to_owned(),
    );
    let object = service.object().await?;
    let voters = object["status"]["replicas"].as_u64();
    report.expect(voters == Some(3), format!("{voters:?} voters"));
    refused_afterwards(&service, report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn from_what_was_left(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let cluster = clusters.first();
    let service = registers::apply_with(cluster, "replicas: 3", STATE, KEEPS).await?;
    service.wait("Ready", PATIENCE).await?;
    let pod = pod(cluster).await?;
    let put = pod.ask("PUT", "/r/kept", "7").await?;
    ensure!(put.status.is_success(), "{put:?}");
    let group = put.header("synod-slot").unwrap_or_default().to_owned();
    let name = format!("rsvc/{NAME}");
    cluster.kubectl(["delete", &name, "--wait=true"]).await?;

    let service = registers::apply_with(cluster, "replicas: 3", STATE, KEEPS).await?;
    service
        .wait_until_said("Stalled", "type: Existing", PATIENCE)
        .await?;
    let members = "replicas: 3\n  bootstrap: {type: Existing}";
    let service = registers::apply_with(service.hub, members, STATE, KEEPS).await?;
    service.wait("Ready", PATIENCE).await?;
    let pod = self::pod(cluster).await?;
    let got = pod.ask("GET", "/r/kept", "").await?;
    let text = String::from_utf8_lossy(&got.body).into_owned();
    report.expect(
        text.contains('7'),
        format!("what was written is now {text:?}"),
    );
    let of = |slot: &str| slot.split(';').nth(1).unwrap_or_default().to_owned();
    let now = got.header("synod-slot").unwrap_or_default().to_owned();
    report.say(format!("before: {group}, after: {now}"));
    report.expect(
        !of(&group).is_empty() && of(&group) == of(&now),
        format!("the group was {group}, and is {now}"),
    );
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

pub(super) async fn from_a_backup(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let clusters = begin(settings, VOLUMES).await?;
    let cluster = clusters.first();
    let service = registers::apply_with(cluster, "replicas: 3", STATE, KEEPS).await?;
    service.wait("Ready", PATIENCE).await?;
    let pod = pod(cluster).await?;
    for key in 0..50 {
        ensure!(
            pod.ask("PUT", &format!("/r/{key}"), "7")
                .await?
                .status
                .is_success()
        );
    }
    let saver = saved(&service).await?;
    let pods = member_pods(cluster, NAME).await?;
    let saver = pods.into_iter().find(|it| it.name == saver);
    let saver = saver.context("it has a pod")?;
    let first = pod.ask("PUT", "/r/0", "0").await?;
    let old = first.header("synod-slot").unwrap_or_default().to_owned();
    let (slot, group) = old.split_once(';').context("a slot with its group")?;
    let (slot, group) = (slot.parse::<u64>()?, group.to_owned());
    for key in 1..50 {
        pod.ask("PUT", &format!("/r/{key}"), "0").await?;
    }
    claim(cluster).await?;
    single(cluster).await?;
    let place = files_of_claim(cluster, CLAIM).await?;
    let path = backup(
        cluster,
        &saver,
        &settings.images().with_extension("tls"),
        &place,
    )
    .await?;
    cluster
        .kubectl(["scale", "deployment/single", "--replicas=0"])
        .await?;
    let kept = read(&place.join(&path))?;
    let name = format!("rsvc/{NAME}");
    cluster.kubectl(["delete", &name, "--wait=true"]).await?;
    for member in 0..3 {
        for volume in ["synod-log", "synod-state"] {
            let claim = format!("{volume}-{NAME}-local-{member}");
            cluster.kubectl(["delete", "pvc", &claim]).await?;
        }
    }

    let snapshot = format!("{{cluster: local, claim: {CLAIM}, path: {path}, before: {slot}}}");
    let members = format!("replicas: 3\n  bootstrap: {{type: Snapshot, snapshot: {snapshot}}}");
    let service = registers::apply_with(cluster, &members, STATE, KEEPS).await?;
    service.wait("Ready", PATIENCE).await?;
    copies(&service, 3).await?;
    for pod in member_pods(cluster, NAME).await? {
        for key in [0, 1, 49] {
            let got = pod.ask("GET", &format!("/r/{key}"), "").await?;
            let text = String::from_utf8_lossy(&got.body).into_owned();
            report.expect(
                text.contains('7'),
                format!("{}: {key} is {text:?} again", pod.name),
            );
            let now = got.header("synod-slot").unwrap_or_default();
            report.expect(!now.ends_with(&group), format!("{now} is of the old group"));
        }
    }
    report.say(format!("restored to before slot {slot} of {group}"));
    report.expect(
        read(&place.join(&path))? == kept,
        "the backup has changed".to_owned(),
    );
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

/// Waits for a snapshot that may be used; goes out: the member that has it.
async fn saved(service: &Service<'_>) -> Result<String> {
    let name = format!("rsvc/{NAME}");
    let annotate = ["annotate", &name, "synod.dev/snapshot=now"];
    service.hub.kubectl(annotate).await?;
    let began = Instant::now();
    loop {
        let object = service.object().await?;
        let members = object["status"]["members"].as_array();
        let has = |it: &&Value| it["snapshot"]["standing"] == "Verified";
        if let Some(member) = members.into_iter().flatten().find(has) {
            return Ok(member["name"].as_str().unwrap_or_default().to_owned());
        }
        if began.elapsed() > PATIENCE {
            bail!("there is no snapshot: {object:#}");
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// As the guide says it is made from a computer of one's own; goes out: its folder in `to`.
async fn backup(cluster: &Cluster, pod: &MemberPod, tls: &Path, to: &Path) -> Result<String> {
    fs::create_dir_all(tls)?;
    for (secret, key) in [
        ("operator-tls", "tls.crt"),
        ("operator-tls", "tls.key"),
        ("members-tls", "ca.crt"),
    ] {
        let name = format!("{NAME}-{secret}");
        let form = format!("--output=jsonpath={{.data.{}}}", key.replace('.', "\\."));
        let text = cluster.kubectl(["get", "secret", &name, &form]).await?;
        fs::write(tls.join(key), STANDARD.decode(text.trim())?)?;
    }
    let mut command = Command::new(binary("synod", "SYNOD_BIN")?);
    command.args(["backup", "create", "--service", NAME, "--name", &pod.name]);
    command.args(["--at", &format!("{}:7443", pod.address)]);
    command.arg("--tls").arg(tls).arg("--to").arg(to);
    output(command, "").await?;
    fs::remove_dir_all(tls)?;
    let made = fs::read_dir(to)?.filter_map(Result::ok);
    let mut made = made.filter(|it| it.path().join("backup.json").exists());
    let folder = made.next().context("no backup was made")?;
    give(&folder.path())?;
    Ok(folder.file_name().to_string_lossy().into_owned())
}

/// All of it belongs to the app's user.
fn give(path: &Path) -> Result<()> {
    chown(path, Some(USER), Some(USER))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}

/// As the chart has told the operator, and as it is called otherwise.
fn cluster_name(arguments: &str) -> String {
    let list: Vec<String> = serde_json::from_str(arguments).unwrap_or_default();
    let mut names = list.iter().filter_map(|it| it.strip_prefix("--cluster="));
    names.next().unwrap_or("local").to_owned()
}

async fn said(service: &Service<'_>, words: &str, report: &mut Report) -> Result<()> {
    service.wait_until_said("Stalled", words, PATIENCE).await?;
    let said = service.conditions().await?.remove("Stalled");
    let said = said.unwrap_or_default();
    report.say(format!("Stalled: {said}"));
    report.expect(
        said.contains("BootstrapImpossible") && said.contains("spec.bootstrap.claim.name"),
        format!("it does not name the field: {said}"),
    );
    let pods = member_pods(service.hub, NAME).await?;
    report.expect(pods.is_empty(), format!("pods were made: {pods:?}"));
    Ok(())
}

async fn claim(cluster: &Cluster) -> Result<()> {
    let manifest = format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {CLAIM}}}, spec: {{accessModes: \
         [ReadWriteOncePod], resources: {{requests: {{storage: 5Gi}}}}}}}}"
    );
    let apply = ["apply", "--filename=-"];
    cluster.kubectl_with(apply, &manifest).await?;
    Ok(())
}

/// The program as it ran before there were members.
async fn single(cluster: &Cluster) -> Result<()> {
    let manifest = format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: single}}
spec:
  selector: {{matchLabels: {{app: single}}}}
  template:
    metadata: {{labels: {{app: single}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{fsGroup: {USER}}}
      containers:
      - name: registers
        image: {REGISTERS}
        args: [--keep, /data]
        securityContext: {{runAsUser: {USER}}}
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: {CLAIM}}}}}]
"
    );
    let apply = ["apply", "--filename=-"];
    cluster.kubectl_with(apply, &manifest).await?;
    let rollout = ["rollout", "status", "deployment/single", "--timeout=120s"];
    cluster.kubectl(rollout).await?;
    Ok(())
}

/// Where the node has the files of a claim.
async fn files_of_claim(cluster: &Cluster, claim: &str) -> Result<PathBuf> {
    let form = "--output=jsonpath={.spec.volumeName}";
    let volume = cluster.kubectl(["get", "pvc", claim, form]).await?;
    let (node, number) = volume.rsplit_once('-').context("a volume of a node")?;
    let made = cluster.made()?;
    let at = (1..=made.nodes.len() as u8).find(|it| cluster.node_name(*it) == node);
    let at = at.with_context(|| format!("no node is called {node}"))?;
    let folder = made.node(at)?.folder().join("lib/volumes").join(number);
    Ok(folder)
}

/// The app's files of each member, by its name, once there are so many.
async fn copies(service: &Service<'_>, count: usize) -> Result<Vec<(String, PathBuf)>> {
    let began = Instant::now();
    loop {
        let object = service.object().await?;
        let members = object["status"]["members"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_well = |it: &Value| it["state"] == "CaughtUp" && it["role"] == "Voter";
        if members.len() == count && members.iter().all(is_well) {
            let mut all = Vec::new();
            for it in &members {
                let name = it["name"].as_str().unwrap_or_default().to_owned();
                let claim = format!("synod-state-{name}");
                let path = files_of_claim(service.hub, &claim).await?.join("data");
                all.push((name, path));
            }
            return Ok(all);
        }
        if began.elapsed() > PATIENCE {
            bail!("there are not {count} voters that have caught up: {object:#}");
        }
        tokio::time::sleep(GLANCE).await;
    }
}

fn read(folder: &Path) -> Result<Files> {
    fn walk(top: &Path, folder: &Path, files: &mut Files) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(top, &path, files)?;
            } else {
                files.insert(path.strip_prefix(top)?.to_owned(), fs::read(&path)?);
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    walk(folder, folder, &mut files).with_context(|| folder.display().to_string())?;
    Ok(files)
}

fn is_one_of_ours(path: &Path) -> bool {
    path.to_string_lossy().starts_with("folder-")
}

/// The app may have written to its own files since.
fn compare(member: &str, wanted: &Files, found: &Files, report: &mut Report) {
    let ours = |files: &Files| -> Files {
        let kept = files.iter().filter(|(path, _)| is_one_of_ours(path));
        kept.map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect()
    };
    let same = ours(wanted) == ours(found);
    report.expect(
        same,
        format!(
            "{member} has {} files, and not those of the claim",
            found.len()
        ),
    );
    let lost = wanted.keys().filter(|it| !found.contains_key(*it)).count();
    report.expect(
        lost == 0,
        format!("{member} lacks {lost} files of the claim"),
    );
}

fn uses_claim(pods: &Value) -> Vec<String> {
    let list = pods["items"].as_array().into_iter().flatten();
    let uses = |pod: &&Value| {
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let mut claims = volumes.map(|it| &it["persistentVolumeClaim"]["claimName"]);
        claims.any(|it| it == CLAIM)
    };
    let names = list
        .filter(uses)
        .map(|it| it["metadata"]["name"].to_string());
    names.collect()
}

/// What a service began with cannot be changed any more.
async fn refused_afterwards(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let name = format!("rsvc/{NAME}");
    let patch = r#"--patch={"spec": {"bootstrap": {"type": "Empty", "claim": null}}}"#;
    let change = ["patch", &name, "--type=merge", patch];
    match service.hub.kubectl(change).await {
        Ok(_) => report.fail("spec.bootstrap was changed after the service was formed".to_owned()),
        Err(error) => {
            let words = format!("{error:#}");
            report.expect(words.contains("the service was formed from it"), words);
        }
    }
    Ok(())
}

async fn pod(cluster: &Cluster) -> Result<MemberPod> {
    let pods = member_pods(cluster, NAME).await?;
    pods.into_iter().next().context("no member has a pod")
}
