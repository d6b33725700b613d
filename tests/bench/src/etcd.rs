//! Three etcd members on the loopback, spoken to in JSON over HTTP as any HTTP client would.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;

use crate::load::{Load, MakeRequest};
use crate::process::{Process, free_addresses};

/// A running cluster.
pub(crate) struct Etcd {
    _members: Vec<Process>,
    clients: Vec<SocketAddr>,
}

// === impl Etcd ===

impl Etcd {
    /// Starts three members with their data below `folder` and waits until they take requests.
    pub(crate) async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        let addresses = free_addresses(6)?;
        let (clients, peers) = addresses.split_at(3);
        let cluster: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(i, peer)| format!("m{i}=http://{peer}"))
            .collect();
        let mut members = Vec::new();
        for (i, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let name = format!("m{i}");
            let mut command = Command::new(binary);
            command
                .args(["--name", &name, "--log-level", "error"])
                .arg("--data-dir")
                .arg(folder.join(format!("etcd-{i}")))
                .args(["--listen-client-urls", &format!("http://{client}")])
                .args(["--advertise-client-urls", &format!("http://{client}")])
                .args(["--listen-peer-urls", &format!("http://{peer}")])
                .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--initial-cluster-state", "new"]);
            members.push(Process::start(&format!("etcd-{i}"), folder, &mut command)?);
        }
        for (member, client) in members.iter_mut().zip(clients) {
            member.wait_listening(*client)?;
        }
        let etcd = Self {
            _members: members,
            clients: clients.to_vec(),
        };
        etcd.wait_ready().await?;
        Ok(etcd)
    }

    /// Puts of 255 bytes through all members.
    pub(crate) fn load(&self, connections: usize, duration: Duration) -> Load {
        Load {
            targets: self.clients.clone(),
            connections,
            duration,
            make: put(),
        }
    }

    async fn wait_ready(&self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..100 {
            match self.load(3, Duration::from_millis(50)).run().await {
                Ok(_) => return Ok(()),
                Err(error) => last = Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        last
    }
}

fn put() -> Arc<MakeRequest> {
    Arc::new(|n| {
        // Keys of 4,096 names; base64 of a fixed-width decimal needs no encoder: any 8 characters
        // of the alphabet are 6 bytes.
        let key = format!("key{:05}", n % 4096);
        let value = "A".repeat(340); // 255 bytes
        let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        http::Request::post("/v3/kv/put")
            .header("host", "etcd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a constant request is valid")
    })
}
