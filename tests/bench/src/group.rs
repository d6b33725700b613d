//! Groups of three members for measuring: as `synod local` runs them with a real app, or with the
//! app within the members' own processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;

use crate::load::{Load, MakeRequest};
use crate::process::{Process, free_addresses};

/// Members of a group.
const MEMBERS: u16 = 3;

/// A running group.
pub(crate) struct Group {
    processes: Vec<Process>,
    /// Where its members serve clients.
    pub(crate) clients: Vec<SocketAddr>,
}

// === impl Group ===

impl Group {
    /// `synod local` with three members and the app that `command` starts.
    pub(crate) async fn local(
        synod: &Path,
        data: &Path,
        manifest: Option<&Path>,
        command: &[&str],
    ) -> Result<Self> {
        let first = synod_system::group::free_ports(MEMBERS)?;
        let clients: Vec<SocketAddr> = (first..first + MEMBERS)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect();
        let mut local = Command::new(synod);
        local
            .args(["local", "--replicas", &MEMBERS.to_string()])
            .args(["--listen", &clients[0].to_string()])
            .arg("--data")
            .arg(data);
        if let Some(manifest) = manifest {
            local.arg("-f").arg(manifest);
        }
        local.arg("--").args(command);
        let folder = data.parent().context("data has a parent")?;
        let process = Process::start("synod-local", folder, &mut local)?;
        let group = Self {
            processes: vec![process],
            clients,
        };
        group.wait_ready().await?;
        Ok(group)
    }

    /// Three members with the app inside. A group is formed by `synod local` first, so that
    /// certificates, genesis and configurations are those of every group.
    pub(crate) async fn with_stub(synod: &Path, data: &Path, command: &[&str]) -> Result<Self> {
        let formed = Self::local(synod, data, None, command).await?;
        let clients = formed.clients.clone();
        formed.stop()?;
        let own = std::env::current_exe()?;
        let folder = data.parent().context("data has a parent")?;
        let mut processes = Vec::new();
        for member in 1..=MEMBERS {
            let config: PathBuf = data.join(format!("member-{member}")).join("sidecar.yaml");
            ensure!(config.exists(), "{} is missing", config.display());
            let mut command = Command::new(&own);
            command.arg("member").arg("--config").arg(&config);
            processes.push(Process::start(
                &format!("stub-{member}"),
                folder,
                &mut command,
            )?);
        }
        let group = Self { processes, clients };
        group.wait_ready().await?;
        Ok(group)
    }

    /// Ordered writes of 255 bytes through all members.
    pub(crate) fn writes(&self, connections: usize, duration: Duration) -> Load {
        self.load(connections, duration, put())
    }

    /// Any load, through all members.
    pub(crate) fn load(
        &self,
        connections: usize,
        duration: Duration,
        make: Arc<MakeRequest>,
    ) -> Load {
        Load {
            targets: self.clients.clone(),
            connections,
            duration,
            make,
        }
    }

    /// Ends it in order.
    fn stop(self) -> Result<()> {
        for process in self.processes {
            process.stop()?;
        }
        Ok(())
    }

    async fn wait_ready(&self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..200 {
            match self.writes(3, Duration::from_millis(50)).run().await {
                Ok(_) => return Ok(()),
                Err(error) => last = Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        last.context("the group does not take writes after 20 s")
    }
}

/// The same writes to one program without a group.
pub(crate) fn direct(target: SocketAddr, connections: usize, duration: Duration) -> Load {
    Load {
        targets: vec![target],
        connections,
        duration,
        make: put(),
    }
}

/// A write of the sample app: a register gets a number; the rest of the 255 bytes is a header.
fn put() -> Arc<MakeRequest> {
    let filling = "x".repeat(240);
    Arc::new(move |n| {
        http::Request::put(format!("/r/key{:05}", n % 4096))
            .header("host", "synod")
            .header("x-filling", &filling)
            .body(Full::new(Bytes::from(n.to_string())))
            .expect("a constant request is valid")
    })
}

/// A read that a route lets pass around the log.
pub(crate) fn bypass() -> Arc<MakeRequest> {
    Arc::new(|_| {
        http::Request::get("/r/key00001")
            .header("host", "synod")
            .body(Full::new(Bytes::new()))
            .expect("a constant request is valid")
    })
}

/// The sample app by itself.
pub(crate) fn sample_app(command: &[&str], folder: &Path) -> Result<(Process, SocketAddr)> {
    let address = free_addresses(1)?[0];
    let [binary, arguments @ ..] = command else {
        bail!("no command");
    };
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .env("PORT", address.port().to_string())
        .env("DATA_DIR", folder);
    let mut process = Process::start("app", folder, &mut command)?;
    process.wait_listening(address)?;
    Ok((process, address))
}
