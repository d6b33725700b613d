//! A replicated service on a cluster, as its users see it. Comes in: its name. Goes out: conditions,
//! members, and what their copies hold. It calls kubectl, and members from this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use synod_system::client::{Answer, Client, request};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::Cluster;

/// Where a sidecar takes clients' requests.
const CLIENT_PORT: u16 = 7480;
/// One request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(100);

/// A `ReplicatedService` in the default namespace.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// Where it was applied.
    pub hub: &'a Cluster,
    /// Its name.
    pub name: &'a str,
}

/// A pod with a member in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPod {
    /// Of pod and member.
    pub name: String,
    /// Of this very pod.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Its address.
    pub address: String,
    /// Where its cluster is asked to lead there, if nothing else does.
    kubeconfig: Option<PathBuf>,
}

// === impl Service ===

impl Service<'_> {
    /// The object as the API server has it.
    pub async fn object(&self) -> Result<Value> {
        let name = format!("rsvc/{}", self.name);
        let text = self.hub.kubectl(["get", &name, "--output=json"]).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// `kubectl wait --for=condition=..`, and how long it took.
    pub async fn wait(&self, condition: &str, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let name = format!("rsvc/{}", self.name);
        let condition = format!("--for=condition={condition}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        let waited = self
            .hub
            .kubectl(["wait", &name, &condition, &timeout])
            .await;
        match waited {
            Ok(_) => Ok(began.elapsed()),
            Err(error) => {
                let said = self.conditions().await.unwrap_or_default();
                Err(error.context(format!("conditions: {said:#?}")))
            }
        }
    }

    /// Each condition by its type: `Status Reason: message`.
    pub async fn conditions(&self) -> Result<BTreeMap<String, String>> {
        let object = self.object().await?;
        let conditions = object["status"]["conditions"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = conditions.into_iter().flatten().map(|it| {
            let words = [&it["status"], &it["reason"], &it["message"]].map(text);
            let said = format!("{} {}: {}", words[0], words[1], words[2]);
            (text(&it["type"]), said)
        });
        Ok(all.collect())
    }

    /// Waits until a condition says something that contains `words`.
    pub async fn wait_until_said(
        &self,
        kind: &str,
        words: &str,
        limit: Duration,
    ) -> Result<String> {
        let began = Instant::now();
        loop {
            let mut said = self.conditions().await?;
            if let Some(it) = said.remove(kind).filter(|it| it.contains(words)) {
                return Ok(it);
            }
            if began.elapsed() > limit {
                bail!("{kind} never said {words:?}: {said:#?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Who leads, as the status says; empty when nobody is known to.
    pub async fn leader(&self) -> Result<String> {
        let object = self.object().await?;
        let leader = object["status"]["leader"]["member"].as_str();
        Ok(leader.unwrap_or_default().to_owned())
    }
}

/// Where clients outside a cluster reach the Service of this name: a port of each node.
pub async fn node_ports(cluster: &Cluster, name: &str) -> Result<Vec<SocketAddr>> {
    let form = "--output=jsonpath={.spec.ports[0].nodePort}";
    let port = cluster.kubectl(["get", "service", name, form]).await?;
    let port: u16 = port.parse().with_context(|| format!("port {port:?}"))?;
    let form = "--output=jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    let nodes = cluster.kubectl(["get", "nodes", form]).await?;
    let address = |it: &str| Ok(SocketAddr::new(it.parse()?, port));
    nodes.split_whitespace().map(address).collect()
}

/// The pods of a service's members in one cluster that are not on their way out, by name.
pub async fn member_pods(cluster: &Cluster, service: &str) -> Result<Vec<MemberPod>> {
    let label = format!("--selector=synod.dev/service={service}");
    let text = cluster
        .kubectl(["get", "pods", &label, "--output=json"])
        .await?;
    let list: Value = serde_json::from_str(&text)?;
    let pods = list["items"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = pods
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| MemberPod {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            address: text(&pod["status"]["podIP"]),
            kubeconfig: cluster.is_given().then(|| cluster.kubeconfig.clone()),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

// === impl MemberPod ===

impl MemberPod {
    /// Where its sidecar takes clients' requests.
    pub fn entrance(&self) -> Result<SocketAddr> {
        let address = self.address.parse();
        let address = address.with_context(|| format!("{} has no address yet", self.name))?;
        Ok(SocketAddr::new(address, CLIENT_PORT))
    }

    /// One request to its sidecar, from this machine.
    pub async fn ask(&self, method: &str, target: &str, body: &str) -> Result<Answer> {
        let (place, _forward) = match &self.kubeconfig {
            None => (self.entrance()?, None),
            Some(kubeconfig) => {
                let forward = Forward::start(kubeconfig, &self.name).await?;
                (forward.here, Some(forward))
            }
        };
        let client = Client::new(place);
        let answer = client
            .send(request(method, target, body.to_owned()), PATIENCE)
            .await;
        answer.with_context(|| format!("{method} {target} at {}", self.name))
    }
}

/// `kubectl port-forward` to the entrance of a member, for as long as this lives.
struct Forward {
    here: SocketAddr,
    _program: Child,
    /// It ends when nobody listens to it.
    _said: Lines<BufReader<ChildStdout>>,
}

// === impl Forward ===

impl Forward {
    async fn start(kubeconfig: &Path, pod: &str) -> Result<Self> {
        let mut program = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["port-forward", "--address=127.0.0.1"])
            .args([&format!("pod/{pod}"), &format!(":{CLIENT_PORT}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl")?;
        let output = program.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(PATIENCE, lines.next_line()).await??;
        let line = line.with_context(|| format!("no way to {pod}"))?;
        let here = line.split_whitespace().find_map(|it| it.parse().ok());
        Ok(Self {
            here: here.with_context(|| format!("kubectl port-forward says {line}"))?,
            _program: program,
            _said: lines,
        })
    }
}
