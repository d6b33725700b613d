//! What is tested, by name.

mod adopting;
mod bad_input;
mod between;
mod bootstrap;
mod bring_up;
mod faults;
mod first_service;
mod half_steps;
mod injected;
mod members;
mod regions;
mod registers;
mod revisions;
mod state;
mod steps;
mod trace;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

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
    /// Where images of the product are made. Not in the folder of a scenario's clusters, which must
    /// be theirs alone.
    pub(crate) fn images(&self) -> PathBuf {
        self.folder.with_extension("images")
    }

    /// The clusters that were given, else new ones.
    pub async fn clusters(&self, clusters: u8, nodes: u8, distance: Duration) -> Result<Clusters> {
        if let Some(given) = &self.kubeconfigs {
            return Clusters::given(given).await;
        }
        let options = Options {
            clusters,
            nodes,
            distance,
            folder: self.folder.clone(),
        };
        Clusters::up(&options).await
    }
}

/// The end of a scenario: of its clusters nothing is left, but logs when it has found problems.
pub fn finish(clusters: Clusters, report: &Report) -> Result<()> {
    if report.problems().is_empty() {
        return clusters.down();
    }
    drop(clusters);
    Ok(())
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
    "bring-up/nodes are Ready and new enough", false => bring_up::ready_for_tests,
    "bring-up/one cluster runs pods, names resolve, and nothing is left of it", true => bring_up::one,
    "bring-up/three clusters reach each other's pods until cut", true => bring_up::three,
    "bring-up/three clusters 40 ms apart take 80 ms for a round trip", true => bring_up::far,
    "bring-up/a node crashes, boots and is drained", true => bring_up::nodes,
    "bring-up/a run that is killed leaves nothing that runs", true => bring_up::killed,
    "first-service/from helm install to removal, as the guides say", false => first_service::from_install_to_removal,
    "first-service/the same where somebody else has made the cluster", true => first_service::on_given_clusters,
    "faults/nothing is lost in one cluster, whatever goes and comes back", true => faults::under_traffic,
    "regions/three clusters 40 ms apart: any one region cut off, the others go on", true => regions::cut_off,
    "adopting/nginx as a Deployment and as a StatefulSet, and what leads past the sidecar", true => adopting::what_is_there,
    "injected/what a kubelet makes of pods with their sidecar, and of a paused operator", true => injected::by_a_kubelet,
    "operator/killed in the middle of everything, and two at once", true => half_steps::killed,
    "clusters/what goes wrong between them is said in words, and does no harm", true => between::what_goes_wrong,
    "state/in memory: the log is cut behind snapshots, and a new pod begins from one", true => state::in_memory,
    "state/on a volume: an app that is killed goes back to its last snapshot in a new pod", true => state::on_a_volume,
    "bootstrap/a single instance's claim becomes the state of three members, and what is wrong with it is said", true => bootstrap::from_a_claim,
    "bootstrap/a service that was deleted goes on with the claims that it left", true => bootstrap::from_what_was_left,
    "bootstrap/a service in which all was overwritten is restored to just before that, as another group", true => bootstrap::from_a_backup,
    "members/scaled to five and back to three: they come and go one vote at a time", true => members::scaled,
    "members/a region is left for another and taken again", true => members::region_left,
    "members/a claim is lost: its member is replaced, the leader's too", true => members::claim_lost,
    "members/two copies and a witness: its claim is lost, and a copy is killed and stays away", true => members::witnessed,
    "revisions/the image is changed between two versions with different behaviour on one route", true => revisions::changed,
    "revisions/a new version runs along first, and one that fails where the last does not never takes over", true => revisions::runs_along,
    "half-steps/the operators are killed at each of scaling to five members and back", true => steps::scaled,
    "half-steps/the operators are killed at each of replacing a claim", true => steps::claim_replaced,
    "half-steps/the operators are killed at each of two changes of the image", true => steps::image_changed,
    "half-steps/the operators are killed at each of two changes of the image that run along first", true => steps::image_rolled,
    "bad-input/what is wrong is said in words, and ends when it is put right", false => bad_input::what_is_said,
};
