//! One cluster as tests see it. Comes in: its machines, or its kubeconfig. Goes out: kubectl, images
//! on its nodes, and faults of nodes. It calls the parts that start programs, and kubectl.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use tokio::io::AsyncWriteExt as _;

use crate::certificates::Authority;
use crate::control_plane;
use crate::groups;
use crate::machine::Machine;
use crate::network::{self, Plan};
use crate::node::{self, KUBELET, Place};

/// How long a cluster may take to be up. Seconds are usual; the machine may have other work.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(25);
/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name, unique.
    pub name: String,
    /// For one who may do everything, from this machine and from pods of all clusters.
    pub kubeconfig: PathBuf,
    /// Where its nodes are, as their label `topology.kubernetes.io/region` says.
    pub region: String,
    made: Option<Made>,
}

/// What clusters stand on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) plan: Plan,
    /// Where the links between regions meet.
    pub(crate) core: &'a Machine,
    pub(crate) regions: u8,
    pub(crate) nodes: u8,
    /// The relay is between regions.
    pub(crate) delayed: bool,
}

/// The machines of a cluster that we made.
#[derive(Debug)]
pub(crate) struct Made {
    plan: Plan,
    region: u8,
    control: Mutex<Machine>,
    pub(crate) nodes: Vec<Mutex<Machine>>,
}

// === impl Cluster ===

impl Cluster {
    /// Its machines and their network, without programs.
    pub(crate) fn boot(ground: &Ground<'_>, folder: &Path, name: &str, region: u8) -> Result<Self> {
        let (plan, nodes) = (ground.plan, ground.nodes);
        let control = Machine::boot(&format!("{name}-control"), &folder.join("control"))?;
        network::link_region(
            plan,
            ground.core,
            &control,
            region,
            ground.regions,
            ground.delayed,
        )?;
        let mut machines = Vec::new();
        for node in 1..=nodes {
            let disk = folder.join(format!("node-{node}"));
            let machine = Machine::boot(&format!("{name}-{node}"), &disk)?;
            network::link_node(plan, &control, &machine, region, node, nodes)?;
            machines.push(Mutex::new(machine));
        }
        Ok(Self {
            name: name.to_owned(),
            kubeconfig: folder.join("kubeconfig"),
            region: name.to_owned(),
            made: Some(Made {
                plan,
                region,
                control: Mutex::new(control),
                nodes: machines,
            }),
        })
    }

    pub(crate) async fn given(kubeconfig: &str) -> Result<Self> {
        let mut cluster = Self {
            name: String::new(),
            kubeconfig: std::path::absolute(kubeconfig)?,
            region: String::new(),
            made: None,
        };
        let name = cluster.kubectl(["config", "current-context"]).await?;
        name.trim().clone_into(&mut cluster.name);
        let label = r"jsonpath={.items[0].metadata.labels.topology\.kubernetes\.io/region}";
        let region = cluster.kubectl(["get", "nodes", "--output", label]).await?;
        // Clusters on somebody's desk have no region: then each is one.
        let region = if region.is_empty() {
            &cluster.name
        } else {
            &region
        };
        cluster.region = region.clone();
        Ok(cluster)
    }

    /// Somebody else runs it.
    pub fn is_given(&self) -> bool {
        self.made.is_none()
    }

    /// Starts all programs, and waits until pods can be made.
    pub(crate) async fn start(&self, archives: &[PathBuf]) -> Result<()> {
        let made = self.made()?;
        let folder = self.kubeconfig.with_file_name("certificates");
        let authority = Authority::new(&self.name, &folder)?;
        control_plane::start_api(
            &mut made.control(),
            &authority,
            made.plan,
            made.region,
            &self.name,
            &self.kubeconfig,
        )?;
        let places: Vec<Place<'_>> = (1..)
            .take(made.nodes.len())
            .map(|node| self.place(made, node))
            .collect();
        for place in &places {
            let mut machine = made.node(place.node)?;
            node::start_containerd(&mut machine, *place)?;
        }
        let import = try_join_all(archives.iter().map(|archive| self.load_image(archive)));
        tokio::try_join!(self.wait_for_api(), import)?;
        control_plane::start_rest(
            &mut made.control(),
            &authority,
            made.plan,
            made.region,
            &self.name,
        )?;
        for place in &places {
            let mut machine = made.node(place.node)?;
            node::start_kubelet(&mut machine, &authority, *place)?;
        }
        let account = self.wait(["serviceaccount/default", "--for=create"]);
        let nodes = try_join_all(places.iter().map(|place| self.wait_for_node(place.node)));
        tokio::try_join!(account, nodes)?;
        Ok(())
    }

    fn place<'a>(&'a self, made: &Made, node: u8) -> Place<'a> {
        Place {
            plan: made.plan,
            cluster: &self.name,
            region: made.region,
            node,
        }
    }

    /// Runs kubectl; what it printed, or an error with what it complained about.
    pub async fn kubectl<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// The same with standard input, as in `["apply", "-f", "-"]`.
    pub async fn kubectl_with<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
        input: &str,
    ) -> Result<String> {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments);
        output(command, input)
            .await
            .with_context(|| format!("in cluster {}", self.name))
    }

    /// `kubectl wait` for as long as bringing a cluster up may take.
    async fn wait<const N: usize>(&self, arguments: [&str; N]) -> Result<String> {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        let arguments = [["wait", &patience].as_slice(), &arguments].concat();
        let waiting = self.kubectl(arguments);
        // A program that has ended is told at once, not after the whole wait.
        tokio::select! {
            done = waiting => done,
            broken = self.broken() => Err(broken),
        }
    }

    /// Returns when a program has ended that should not.
    async fn broken(&self) -> anyhow::Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// An error when a program of it has ended by itself.
    pub fn check(&self) -> Result<()> {
        let Some(made) = &self.made else {
            return Ok(());
        };
        made.control().check()?;
        for node in 1..=made.nodes.len() {
            made.node(node as u8)?.check()?;
        }
        Ok(())
    }

    async fn wait_for_api(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            self.check()?;
            let Err(error) = self.kubectl(["get", "--raw", "/readyz"]).await else {
                return Ok(());
            };
            if began.elapsed() > PATIENCE {
                return Err(error).context("the API server is not ready");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn wait_for_node(&self, node: u8) -> Result<()> {
        let name = format!("node/{}", self.node_name(node));
        self.wait([&name, "--for=create"]).await?;
        self.wait([&name, "--for=condition=Ready"]).await?;
        Ok(())
    }

    /// Brings an archive of [`crate::images::archive`] to every node.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let Some(made) = &self.made else {
            bail!("clusters that were given take images from a registry");
        };
        let began = Instant::now();
        let mut imports = Vec::new();
        for node in 1..=made.nodes.len() {
            let socket = {
                let machine = made.node(node as u8)?;
                let root = PathBuf::from(format!("/proc/{}/root", machine.pid()?));
                root.join("run/containerd/containerd.sock")
            };
            while UnixStream::connect(&socket).is_err() {
                self.check()?;
                if began.elapsed() > PATIENCE {
                    bail!("containerd of {} does not listen", self.name);
                }
                tokio::time::sleep(GLANCE).await;
            }
            imports.push(output(node::import(&*made.node(node as u8)?, archive)?, ""));
        }
        try_join_all(imports).await?;
        Ok(())
    }

    /// The name of a node of a cluster that we made; they count from one.
    pub fn node_name(&self, node: u8) -> String {
        format!("{}-{node}", self.name)
    }

    /// Stops a node's kubelet; pods go on.
    pub fn stop_kubelet(&self, node: u8) -> Result<()> {
        self.made()?.node(node)?.stop(KUBELET)
    }

    /// Starts a node's kubelet, after ending it where it runs.
    pub fn restart_kubelet(&self, node: u8) -> Result<()> {
        self.made()?.node(node)?.restart(KUBELET)
    }

    /// A node loses its power, with all that is on it; its disk stays.
    pub fn crash_node(&self, node: u8) -> Result<()> {
        let made = self.made()?;
        made.node(node)?.crash();
        groups::remove_node(made.plan, &self.node_name(node))
    }

    /// A node that has crashed starts again.
    pub fn boot_node(&self, node: u8) -> Result<()> {
        let made = self.made()?;
        let mut machine = made.node(node)?;
        machine.reboot()?;
        let nodes = made.nodes.len() as u8;
        network::link_node(
            made.plan,
            &made.control(),
            &machine,
            made.region,
            node,
            nodes,
        )?;
        groups::make(made.plan, &self.node_name(node))?;
        machine.resume()
    }

    /// Writes to the logs how the objects are that tell most. It waits: there is no later.
    pub(crate) fn note_objects(&self) {
        let Some(made) = &self.made else {
            return;
        };
        let Ok(log) = File::create(made.control().log("objects")) else {
            return;
        };
        for what in ["nodes,pods --output=wide", "pods --output=yaml", "events"] {
            let Ok(log) = log.try_clone() else {
                return;
            };
            let mut command = Command::new("kubectl");
            command.arg("--kubeconfig").arg(&self.kubeconfig);
            command.args(["get", "--all-namespaces", "--request-timeout=3s"]);
            // It may not even have been up.
            let _ = command
                .args(what.split(' '))
                .stdout(log)
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Its machines begin to end.
    pub(crate) fn power_off(&mut self) {
        let Some(made) = &mut self.made else {
            return;
        };
        for machine in made.nodes.iter_mut().chain([&mut made.control]) {
            machine
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .power_off();
        }
    }

    /// The number of its region.
    pub(crate) fn number(&self) -> Result<u8> {
        Ok(self.made()?.region)
    }

    /// The machine that all packets from and to other regions pass.
    pub(crate) fn control(&self) -> Result<MutexGuard<'_, Machine>> {
        Ok(self.made()?.control())
    }

    pub(crate) fn made(&self) -> Result<&Made> {
        let made = self.made.as_ref();
        made.context("clusters that were given cannot be cut or changed from outside")
    }
}

// === impl Made ===

impl Made {
    fn control(&self) -> MutexGuard<'_, Machine> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self, node: u8) -> Result<MutexGuard<'_, Machine>> {
        let machine = usize::from(node)
            .checked_sub(1)
            .and_then(|it| self.nodes.get(it));
        let machine = machine.with_context(|| format!("there is no node {node}"))?;
        Ok(machine.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a command to its end, which comes early when the caller loses interest.
pub(crate) async fn output(command: Command, input: &str) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    let name = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}: {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
