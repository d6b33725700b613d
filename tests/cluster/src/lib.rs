//! Real Kubernetes on one Linux machine, for tests: one to several clusters of one to several nodes,
//! each node with a kubelet and a containerd of its own, up in seconds, gone without a trace.
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use synod_cluster::{Clusters, Options};
//!
//! let clusters = Clusters::up(&Options { clusters: 3, nodes: 1, distance: Duration::from_millis(40), folder: "target/cluster".into() }).await?;
//! let hub = clusters.first();
//! hub.kubectl_with(["apply", "-f", "-"], "kind: Namespace ..").await?;
//! clusters.cut("us")?; // no packet between `us` and the others; this machine still reaches it
//! clusters.in_region("us")?.kubectl(["get", "pods"]).await?;
//! clusters.heal("us")?;
//! clusters.down()
//! # }
//! ```
//!
//! - [`Clusters::up`] makes them, [`Clusters::given`] takes those of `E2E_KUBECONFIGS`, where
//!   nothing can be cut and no archive can be loaded: that is an error, and says so.
//! - [`Cluster::kubectl`] is the real kubectl, and [`Cluster::kubeconfig`] works for helm and any
//!   other client, on this machine and in pods of every cluster.
//! - The network is flat: pods and nodes of all clusters have addresses of their own and reach each
//!   other. This machine reaches pods and nodes too (Services only through their node ports), and
//!   pods reach it at [`Clusters::here`]. Nothing reaches the internet.
//! - [`Cluster::load_image`] takes archives of [`images::archive`], made from programs of this
//!   machine, or of any tool that writes what `docker save` writes. Pods use such images with
//!   `imagePullPolicy: Never`. [`images::TOOLS`] is there from the start: `serve`, `ask`, `pause`.
//! - Regions are as far from each other as [`Options::distance`] says.
//! - Faults: [`Clusters::cut`] a region, [`Clusters::cut_one_way`], [`Cluster::crash_node`] (its
//!   power goes; the disk stays) and [`Cluster::boot_node`], [`Cluster::stop_kubelet`] and
//!   [`Cluster::restart_kubelet`]; all else by kubectl.
//! - A [`Clusters`] that is dropped ends them all, and keeps the [`Clusters::logs`] of programs and
//!   containers, as a test that failed wants; [`Clusters::down`] keeps nothing. When the process is
//!   killed, the kernel ends all of it, and the next run clears what is left of its folder.
//! - [`Cluster::make_volumes`] makes volumes for claims; nothing provisions more of them.
//!
//! The program that uses this library must be `synod-cluster` itself, which is also what runs in
//! the images of every cluster; scenarios are in [`scenario`].

mod certificates;
mod cluster;
mod clusters;
mod control_plane;
pub mod dockerfile;
mod folder;
mod groups;
pub mod images;
mod machine;
mod network;
mod node;
pub mod pod;
pub mod product;
pub mod relay;
mod requirements;
pub mod scenario;
pub mod service;
mod usage;
mod volumes;
pub mod watch;

pub use cluster::Cluster;
pub use clusters::{Clusters, Options};
pub use folder::{clear_ended as clear, end};
pub use usage::{descendants, memory};
