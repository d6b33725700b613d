//! The configuration of one sidecar: one validated struct, from a file and the environment. It
//! holds local matters only; whatever members must agree on is in the replicated policy (rule P7).

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file given by `--config`, YAML or JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Name of the service.
    pub service: String,
    /// This member's stable name.
    pub member: String,
    /// Where it is; empty when there is only one place.
    #[serde(default)]
    pub region: String,
    /// Trust domain and namespace of the members' names in certificates:
    /// `spiffe://<trust_domain>/ns/<namespace>/rsvc/<service>/member/<member>`.
    pub trust_domain: String,
    /// See `trust_domain`.
    pub namespace: String,
    /// Folder for log, ledger and spooled bodies; made with mode 0700 when missing.
    pub data: PathBuf,
    /// File of the first configuration (rule M5); it may come to exist only later.
    pub genesis: PathBuf,
    /// File with the addresses of the members, read again when it changes.
    pub peers: PathBuf,
    /// Certificates.
    pub tls: Tls,
    /// Where to listen.
    pub listen: Listen,
    /// Where the app listens.
    pub app: App,
    /// The log on disk.
    #[serde(default)]
    pub log: Log,
}

/// PEM files, read again when their content changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: PathBuf,
    /// This member's chain.
    pub cert: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

/// Addresses this sidecar listens on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    /// Clients' HTTP/1.1 and h2c.
    pub http: SocketAddr,
    /// Other members' gRPC with mTLS.
    pub peer: SocketAddr,
    /// Admin HTTP.
    pub admin: SocketAddr,
}

/// The app beside this sidecar.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct App {
    /// Its address, on the loopback.
    pub address: SocketAddr,
    /// `HTTP1` or `H2C`.
    #[serde(default)]
    pub protocol: Protocol,
}

/// How the app is spoken to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "H2C")]
    H2c,
}

/// Limits of the log on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// Proposals are refused when the log is larger, in bytes.
    pub max_bytes: u64,
    /// Size of one segment, in bytes.
    pub segment_bytes: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 30,
            segment_bytes: 64 << 20,
        }
    }
}
