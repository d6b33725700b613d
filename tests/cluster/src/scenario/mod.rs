//! What is tested, by name.

mod bring_up;
mod trace;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use anyhow::Result;
use synod_system::report::Report;

use crate::{Clusters, Options};

/// Where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clusters that are there already.
    pub kubeconfigs: Option<String>,
    /// State and logs of those that we make.
    pub folder: PathBuf,
}

// === impl Settings ===

impl Settings {
    /// The clusters that were given, else new ones.
    pub async fn clusters(&self, clusters: u8, nodes: u8) -> Result<Clusters> {
        match &self.kubeconfigs {
            Some(given) => Clusters::given(given).await,
            None => Clusters::up(&self.options(clusters, nodes)).await,
        }
    }

    fn options(&self, clusters: u8, nodes: u8) -> Options {
        Options {
            clusters,
            nodes,
            folder: self.folder.clone(),
        }
    }
}

/// A scenario running.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One promise, held against reality.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// To choose it by, as `group/promise`.
    pub name: &'static str,
    /// It needs clusters that we made: it cuts, crashes, or loads images.
    pub own_clusters: bool,
    /// Runs it; what it finds is in the report, even when it fails.
    pub run: for<'a> fn(&'a Settings, &'a mut Report) -> Running<'a>,
}

macro_rules! scenarios {
    ($($name:literal, $own:literal => $function:path,)*) => {
        &[$(Scenario {
            name: $name,
            own_clusters: $own,
            run: |settings, report| Box::pin($function(settings, report)),
        },)*]
    };
}

/// All of them, in the order in which they run; after each name, whether it needs clusters of ours.
pub const ALL: &[Scenario] = scenarios! {
    "bring-up/one cluster runs pods, names resolve, and nothing is left of it", true => bring_up::one,
    "bring-up/three clusters reach each other's pods until cut", true => bring_up::three,
    "bring-up/a node crashes, boots and is drained", true => bring_up::nodes,
    "bring-up/a run that is killed leaves nothing that runs", true => bring_up::killed,
};
