//! Clusters as tests see them. Comes in: how many. Goes out: kubeconfigs, and faults on demand. It
//! calls every other part.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use tokio::io::AsyncWriteExt as _;

use crate::certificates::Authority;
use crate::folder::{self, Folder};
use crate::groups;
use crate::machine::Machine;
use crate::network::{self, MOST_NODES, MOST_REGIONS, Plan};
use crate::node::{self, KUBELET, Place};
use crate::{control_plane, images};

/// How long a cluster may take to be up. Seconds are usual; the machine may have other work.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(25);
/// Names of clusters, and of their regions, in the order in which they are given.
const NAMES: [&str; MOST_REGIONS as usize] = [
    "eu", "us", "ap", "sa", "af", "me", "oc", "in", "cn", "jp", "ca", "uk", "mx", "kr", "za",
];
/// What must be there, and which package has it where one does.
const PROGRAMS: [(&str, &str); 20] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("tar", "tar"),
    ("ldd", "libc-bin"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("etcd", ""),
    ("kube-apiserver", ""),
    ("kube-controller-manager", ""),
    ("kube-scheduler", ""),
    ("kubelet", ""),
    ("kube-proxy", ""),
    ("coredns", ""),
    ("kubectl", ""),
];

/// How many of what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clusters, each in a region of its own.
    pub clusters: u8,
    /// Nodes of each cluster.
    pub nodes: u8,
    /// How long a packet takes from one region to another, one way; zero is as fast as it can be.
    pub distance: Duration,
    /// Where state and logs are; made, and removed at the end.
    pub folder: PathBuf,
}

/// All clusters of a test, on one flat network. They end when this value goes: by [`Clusters::down`]
/// without a trace, otherwise (a test has failed) their logs stay in the folder.
#[derive(Debug)]
pub struct Clusters {
    clusters: Vec<Cluster>,
    /// Nothing for clusters that were given to us.
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    core: Machine,
    plan: Plan,
    folder: Folder,
    began: Instant,
    /// The relay is between regions.
    delayed: bool,
}

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

/// The machines of a cluster that we made.
#[derive(Debug)]
struct Made {
    plan: Plan,
    region: u8,
    control: Mutex<Machine>,
    nodes: Vec<Mutex<Machine>>,
}

// === impl Clusters ===

impl Clusters {
    /// Brings clusters up: returns when all nodes are Ready, and pods can be made.
    pub async fn up(options: &Options) -> Result<Self> {
        let (clusters, nodes) = (options.clusters, options.nodes);
        if !(1..=MOST_REGIONS).contains(&clusters) || !(1..=MOST_NODES).contains(&nodes) {
            bail!("1 to {MOST_REGIONS} clusters of 1 to {MOST_NODES} nodes can be had");
        }
        check_machine()?;
        let began = Instant::now();
        let folder = Folder::take(&options.folder)?;
        let core = Machine::boot("core", &folder.path().join("core"))?;
        let plan = network::claim(&core)?;
        let mut all = Self {
            clusters: Vec::new(),
            run: Some(Run {
                core,
                plan,
                folder,
                began,
                delayed: false,
            }),
        };
        all.make(options).await?;
        Ok(all)
    }

    async fn make(&mut self, options: &Options) -> Result<()> {
        let Some(run) = &mut self.run else {
            return Ok(());
        };
        let (clusters, nodes) = (options.clusters, options.nodes);
        run.delayed = !options.distance.is_zero();
        if run.delayed {
            // A packet crosses two links, from its region and to the other.
            let delay = (options.distance / 2).as_micros().to_string();
            let program = std::env::current_exe()?.display().to_string();
            let mut relay = vec![program, "relay".to_owned(), delay];
            relay.extend((1..=clusters).map(|region| region.to_string()));
            run.core.spawn("relay", &relay)?;
        }
        let path = run.folder.path();
        for region in 1..=clusters {
            let name = NAMES[usize::from(region - 1)];
            let cluster = Cluster::boot(run, &path.join(name), name, region, (clusters, nodes))?;
            self.clusters.push(cluster);
        }
        let archives = path.join("images");
        let archives = tokio::task::spawn_blocking(move || images::own(&archives)).await??;
        let starts = self.clusters.iter().map(|cluster| cluster.start(&archives));
        try_join_all(starts).await?;
        Ok(())
    }

    /// Clusters that somebody else runs: kubeconfigs separated by `:`, as in `E2E_KUBECONFIGS`.
    pub async fn given(kubeconfigs: &str) -> Result<Self> {
        let files = kubeconfigs.split(':').filter(|file| !file.is_empty());
        let clusters = try_join_all(files.map(Cluster::given)).await?;
        if clusters.is_empty() {
            bail!("no kubeconfig is given");
        }
        Ok(Self {
            clusters,
            run: None,
        })
    }

    /// All of them; the first is the one to start with, and the hub where there are several.
    pub fn all(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The first.
    pub fn first(&self) -> &Cluster {
        &self.clusters[0]
    }

    /// The one in that region.
    pub fn in_region(&self, region: &str) -> Result<&Cluster> {
        let found = self
            .clusters
            .iter()
            .find(|cluster| cluster.region == region);
        found.with_context(|| format!("no cluster is in region {region}"))
    }

    /// Brings an archive of [`crate::images::archive`] to every node.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        try_join_all(
            self.clusters
                .iter()
                .map(|cluster| cluster.load_image(archive)),
        )
        .await?;
        Ok(())
    }

    /// No packet passes between that region and the others, in silence, until [`Clusters::heal`].
    /// This machine still reaches all of them.
    pub fn cut(&self, region: &str) -> Result<()> {
        network::set_wan(
            &self.run()?.core,
            self.in_region(region)?.made()?.region,
            false,
        )
    }

    /// Ends [`Clusters::cut`].
    pub fn heal(&self, region: &str) -> Result<()> {
        network::set_wan(
            &self.run()?.core,
            self.in_region(region)?.made()?.region,
            true,
        )
    }

    /// What one region sends no longer reaches the other; the other way works.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.in_region(from)?.made()?, self.in_region(to)?.made()?);
        network::drop_from(from.plan, &to.control(), from.region)
    }

    /// Ends [`Clusters::cut_one_way`].
    pub fn heal_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.in_region(from)?.made()?, self.in_region(to)?.made()?);
        network::accept_from(&to.control(), from.region)
    }

    /// Files with what programs and containers said.
    pub fn logs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open: Vec<PathBuf> = self
            .run
            .iter()
            .map(|run| run.folder.path().into())
            .collect();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && !path.is_symlink() && !path.ends_with("lib") {
                    open.push(path);
                } else if path.extension().is_some_and(|it| it == "log") && !path.is_symlink() {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// Since the beginning of [`Clusters::up`].
    pub fn age(&self) -> Duration {
        self.run
            .as_ref()
            .map_or(Duration::ZERO, |run| run.began.elapsed())
    }

    /// This machine's address for pods.
    pub fn here(&self) -> Result<std::net::Ipv4Addr> {
        Ok(self.run()?.plan.here())
    }

    /// Ends them; nothing is left on this machine. Clusters that were given stay as they are.
    pub fn down(mut self) -> Result<()> {
        match self.end() {
            Some(ended) => ended?.folder.remove(),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Option<Result<Run>> {
        let mut run = self.run.take()?;
        let machines = self
            .clusters
            .iter_mut()
            .filter_map(|cluster| cluster.made.as_mut());
        // All at once, then each is waited for as it goes.
        for made in machines {
            for machine in made.nodes.iter_mut().chain([&mut made.control]) {
                machine
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner)
                    .power_off();
            }
        }
        self.clusters.clear();
        run.core.crash();
        Some(folder::wait_gone(run.plan).map(|()| run))
    }

    fn run(&self) -> Result<&Run> {
        let run = self.run.as_ref();
        run.context("clusters that were given cannot be cut or changed from outside")
    }
}

impl Drop for Clusters {
    fn drop(&mut self) {
        for cluster in &self.clusters {
            cluster.note_objects();
        }
        let Some(ended) = self.end() else { return };
        match ended.and_then(|run| run.folder.keep_logs().map(|()| run)) {
            Ok(run) => eprintln!("logs of the clusters: {}", run.folder.path().display()),
            Err(error) => eprintln!("ending the clusters: {error:#}"),
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Its machines and their network, without programs.
    fn boot(
        run: &Run,
        folder: &Path,
        name: &str,
        region: u8,
        (regions, nodes): (u8, u8),
    ) -> Result<Self> {
        let plan = run.plan;
        let control = Machine::boot(&format!("{name}-control"), &folder.join("control"))?;
        network::link_region(plan, &run.core, &control, region, regions, run.delayed)?;
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

    async fn given(kubeconfig: &str) -> Result<Self> {
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

    /// Starts all programs, and waits until pods can be made.
    async fn start(&self, archives: &[PathBuf]) -> Result<()> {
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
    fn note_objects(&self) {
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

    fn made(&self) -> Result<&Made> {
        let made = self.made.as_ref();
        made.context("clusters that were given cannot be cut or changed from outside")
    }
}

// === impl Made ===

impl Made {
    fn control(&self) -> MutexGuard<'_, Machine> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, node: u8) -> Result<MutexGuard<'_, Machine>> {
        let machine = usize::from(node)
            .checked_sub(1)
            .and_then(|it| self.nodes.get(it));
        let machine = machine.with_context(|| format!("there is no node {node}"))?;
        Ok(machine.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a command to its end, which comes early when the caller loses interest.
async fn output(command: Command, input: &str) -> Result<String> {
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

/// An error that says what is missing here.
fn check_machine() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("clusters need root: namespaces, mounts, control groups");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut missing = Vec::new();
    for (program, package) in PROGRAMS {
        let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
        match places.find(|place| place.is_file()) {
            Some(place) => folder::visible(&place)?,
            None if package.is_empty() => {
                missing.push(format!("{program} (built by `tests/run kubernetes`)"));
            }
            None => missing.push(format!("{program} (package {package})")),
        }
    }
    if !missing.is_empty() {
        bail!("missing: {}", missing.join(", "));
    }
    Ok(())
}
