//! Clusters as tests see them. Comes in: how many. Goes out: kubeconfigs, and faults on demand. It
//! calls every other part.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;

use crate::cluster::{Cluster, Ground};
use crate::folder::{self, Folder};
use crate::machine::Machine;
use crate::network::{self, MOST_NODES, MOST_REGIONS, Plan};
use crate::{images, requirements};

/// Names of clusters, and of their regions, in the order in which they are given.
const NAMES: [&str; MOST_REGIONS as usize] = [
    "eu", "us", "ap", "sa", "af", "me", "oc", "in", "cn", "jp", "ca", "uk", "mx", "kr", "za",
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
}

// === impl Clusters ===

impl Clusters {
    /// Brings clusters up: returns when all nodes are Ready, and pods can be made.
    pub async fn up(options: &Options) -> Result<Self> {
        let (clusters, nodes) = (options.clusters, options.nodes);
        if !(1..=MOST_REGIONS).contains(&clusters) || !(1..=MOST_NODES).contains(&nodes) {
            bail!("1 to {MOST_REGIONS} clusters of 1 to {MOST_NODES} nodes can be had");
        }
        requirements::check()?;
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
        if !options.distance.is_zero() {
            // A packet crosses two links, from its region and to the other.
            let delay = (options.distance / 2).as_micros().to_string();
            let program = std::env::current_exe()?.display().to_string();
            let mut relay = vec![program, "relay".to_owned(), delay];
            relay.extend((1..=clusters).map(|region| region.to_string()));
            run.core.spawn("relay", &relay)?;
        }
        let path = run.folder.path();
        let ground = Ground {
            plan: run.plan,
            core: &run.core,
            regions: clusters,
            nodes,
            delayed: !options.distance.is_zero(),
        };
        for region in 1..=clusters {
            let name = NAMES[usize::from(region - 1)];
            let cluster = Cluster::boot(&ground, &path.join(name), name, region)?;
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
        let region = self.in_region(region)?.number()?;
        network::set_wan(&self.run()?.core, region, false)
    }

    /// Ends [`Clusters::cut`].
    pub fn heal(&self, region: &str) -> Result<()> {
        let region = self.in_region(region)?.number()?;
        network::set_wan(&self.run()?.core, region, true)
    }

    /// What one region sends no longer reaches the other; the other way works.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        let (plan, from) = (self.run()?.plan, self.in_region(from)?.number()?);
        network::drop_from(plan, &*self.in_region(to)?.control()?, from)
    }

    /// Ends [`Clusters::cut_one_way`].
    pub fn heal_one_way(&self, from: &str, to: &str) -> Result<()> {
        let from = self.in_region(from)?.number()?;
        network::accept_from(&*self.in_region(to)?.control()?, from)
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
        // All at once, then each is waited for as it goes.
        for cluster in &mut self.clusters {
            cluster.power_off();
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
