//! Measurements next to known programs, in one run: figures of one machine and one day mean little
//! by themselves, their ratios more. Every load goes to the loopback, lasts a few seconds and ends
//! by itself.

mod etcd;
mod group;
mod load;
mod nginx;
mod process;
mod report;
mod stub;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::etcd::Etcd;
use crate::group::Group;
use crate::load::Load;
use crate::nginx::Nginx;
use crate::report::Report;

/// Connections of a load.
const CONNECTIONS: [usize; 3] = [1, 64, 256];

/// Measures Synod next to etcd and nginx.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures everything and prints the tables
    Run(Run),
    /// One member with an app within its own process
    #[command(hide = true)]
    Member {
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Folder with the built programs synod and synod-test-app
    #[arg(long)]
    programs: PathBuf,
    /// The etcd program
    #[arg(long)]
    etcd: PathBuf,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Rounds; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=20))]
    rounds: u64,
    /// Also write the tables to this file
    #[arg(long)]
    output: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run(run) => run.measure().await,
        Command::Member { config } => stub::run(&config).await,
    }
}

// === impl Run ===

impl Run {
    async fn measure(&self) -> Result<()> {
        let mut report = Report::default();
        let folder = tempfile::Builder::new().prefix("synod-bench-").tempdir()?;
        self.ordered(&subfolder(folder.path(), "ordered")?, &mut report)
            .await
            .context("measuring ordered writes with a stub app")?;
        self.real_app(&subfolder(folder.path(), "app")?, &mut report)
            .await
            .context("measuring ordered writes with a real app")?;
        self.proxying(&subfolder(folder.path(), "proxy")?, &mut report)
            .await
            .context("measuring reads that go around the log")?;
        let text = report.markdown();
        println!("{text}");
        if let Some(path) = &self.output {
            std::fs::write(path, &text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The whole data path but for the app, next to etcd, which applies in its own process, too.
    async fn ordered(&self, folder: &Path, report: &mut Report) -> Result<()> {
        let title = "Ordered writes of 255 bytes, three members, app in process";
        let synod = Group::with_stub(
            &self.programs.join("synod"),
            &folder.join("group"),
            &[self.app()?.as_str()],
        )
        .await?;
        let etcd = Etcd::start(&self.etcd, folder).await?;
        for _ in 0..self.rounds {
            for connections in CONNECTIONS {
                let load = etcd.load(connections, self.duration());
                self.one(report, title, "etcd", "etcd", load).await?;
                let load = synod.writes(connections, self.duration());
                self.one(report, title, "etcd", "synod", load).await?;
            }
        }
        Ok(())
    }

    /// A real app behind three members, next to the same app by itself over one connection: the
    /// rate at which requests can be executed one at a time.
    async fn real_app(&self, folder: &Path, report: &mut Report) -> Result<()> {
        for (title, delay_ms) in [
            ("Ordered writes, three members, real app", 0),
            ("Ordered writes, three members, real app that takes 2 ms", 2),
        ] {
            let folder = subfolder(folder, &delay_ms.to_string())?;
            let (app, delay) = (self.app()?, delay_ms.to_string());
            let command = [app.as_str(), "--delay-ms", delay.as_str()];
            let synod = Group::local(
                &self.programs.join("synod"),
                &folder.join("group"),
                None,
                &command,
            )
            .await?;
            let (_process, address) = group::sample_app(&command, &folder)?;
            let bare = "the app alone, one connection";
            for _ in 0..self.rounds {
                for connections in CONNECTIONS {
                    let load = group::direct(address, 1, self.duration());
                    let figures = load.run().await.context(bare)?;
                    report.add(title, bare, bare, connections, figures);
                    let load = synod.writes(connections, self.duration());
                    self.one(report, title, bare, "synod", load).await?;
                }
            }
        }
        Ok(())
    }

    /// What a hop costs.
    async fn proxying(&self, folder: &Path, report: &mut Report) -> Result<()> {
        let title = "Reads past the log, one member, real app";
        let manifest = folder.join("service.yaml");
        std::fs::write(&manifest, MANIFEST)?;
        let app = self.app()?;
        let synod = Group::local(
            &self.programs.join("synod"),
            &folder.join("group"),
            Some(&manifest),
            &[app.as_str()],
        )
        .await?;
        let (_process, address) = group::sample_app(&[app.as_str()], folder)?;
        group::direct(address, 1, Duration::from_millis(500))
            .run()
            .await?;
        let nginx = Nginx::start(folder, address)?;
        for _ in 0..self.rounds {
            for connections in CONNECTIONS {
                for (name, target) in [
                    ("direct", address),
                    ("nginx", nginx.address),
                    ("synod", synod.clients[0]),
                ] {
                    let load = Load {
                        targets: vec![target],
                        connections,
                        duration: self.duration(),
                        make: group::bypass(),
                    };
                    self.one(report, title, "nginx", name, load).await?;
                }
            }
        }
        Ok(())
    }

    async fn one(
        &self,
        report: &mut Report,
        title: &str,
        anchor: &str,
        candidate: &str,
        load: Load,
    ) -> Result<()> {
        let figures = load
            .run()
            .await
            .with_context(|| format!("{candidate} at {} connections", load.connections))?;
        eprintln!(
            "{title}: {candidate} at {}: {:.0}/s p50 {} us p99 {} us",
            load.connections, figures.rate, figures.p50_us, figures.p99_us
        );
        report.add(title, anchor, candidate, load.connections, figures);
        Ok(())
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn app(&self) -> Result<String> {
        let path = self.programs.join("synod-test-app");
        ensure!(
            path.exists(),
            "{} is missing: build it first",
            path.display()
        );
        let path = path.canonicalize()?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    }
}

/// A service whose reads of registers go straight to the member's own copy.
const MANIFEST: &str = "\
apiVersion: synod.dev/v1alpha1
kind: ReplicatedService
metadata:
  name: bench
spec:
  replicas: 3
  template:
    spec:
      containers:
      - name: app
        image: local
        ports: [{name: http, containerPort: 8080}]
  routes:
  - name: registers
    matches: [{path: {type: PathPrefix, value: /r}, method: GET}]
    consistency: Bypass
";

fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}
