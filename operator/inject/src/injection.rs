//! What the sidecar of one pod is made from.

use std::collections::BTreeMap;

use synod_api::{AppProtocol, RawObject, ReplicaGroupSpec, SidecarPorts, StateType};

use super::names;

/// Everything that [`super::render`] needs to know besides the pod's template.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Name of the service; the objects of its sidecars are named after it.
    pub service: String,
    /// Name of the cluster that the pod runs in.
    pub cluster: String,
    /// Region of that cluster; empty when there is only one place.
    pub region: String,
    /// Image of the sidecar.
    pub image: String,
    /// Its `imagePullPolicy`; `None`: Kubernetes' default.
    pub pull_policy: Option<String>,
    /// How the pod comes to its sidecar.
    pub way: Way,
    /// Which member the pod is.
    pub member: Member,
    /// The app's container, its port and how it is spoken to.
    pub app: InjectedApp,
    /// The revision that the app of this pod is of.
    pub revision: u64,
    /// Ports that the sidecar listens on.
    pub ports: SidecarPorts,
    /// Compute resources of the sidecar's container; `None`: 100m CPU and 64Mi memory requested.
    pub resources: Option<RawObject>,
    /// What hooks and probes of the app's container show to the sidecar (`Synod-App-Token`).
    pub token: String,
    /// Where the log's volume comes from.
    pub log: LogVolume,
    /// Where the app keeps its state.
    pub state: AppState,
    /// The claim from which the group begins, if this pod's member makes its first state: the sidecar
    /// reads it.
    pub source: Option<String>,
    /// Further labels of the pod.
    pub labels: BTreeMap<String, String>,
}

/// How a pod comes to its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the template of our own StatefulSet: the sidecar's port for clients is named
    /// [`names::CLIENT_PORT`], and a name of the app's port leads nowhere any more.
    Rendered,
    /// By admission, from a user's own StatefulSet: the sidecar's port takes the name of the app's,
    /// so that Services which target it by name follow by themselves.
    Labelled,
}

/// Which member a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// The one named like the pod.
    PodName,
    /// This one.
    Named(String),
    /// The one of this workload that has the pod's number, in a StatefulSet of another name.
    Numbered(String),
}

/// The app's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedApp {
    /// Its name.
    pub container: String,
    /// Number of the port on which it takes requests.
    pub port: u16,
    /// How it is spoken to. The pod does not depend on it; the sidecar's configuration does.
    pub protocol: AppProtocol,
}

/// Where the volume named [`names::LOG_VOLUME`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogVolume {
    /// A claim template of the StatefulSet, of that name.
    ClaimTemplate,
    /// This claim.
    Claim(String),
}

/// Where the app keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppState {
    /// Gone with its process: it is given one second to end when it must be started anew.
    Ephemeral,
    /// On the volume mounted there. It comes from a claim template named [`names::STATE_VOLUME`],
    /// or named as the template mounts it already: see [`super::state_volume`].
    Volume {
        /// Where the app's container finds it.
        mount_path: String,
    },
}

/// The image of the sidecar, and how it is pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarImage {
    /// The image.
    pub image: String,
    /// Its `imagePullPolicy`; `None`: Kubernetes' default.
    pub pull_policy: Option<String>,
}

// === impl Injection ===

impl Injection {
    /// For the pods of our own StatefulSet of this group. `service` is the group's name.
    pub fn rendered(
        service: &str,
        group: &ReplicaGroupSpec,
        image: &SidecarImage,
        token: &str,
    ) -> Self {
        let state = match (group.state.kind, &group.state.volume) {
            (StateType::Volume, Some(volume)) => AppState::Volume {
                mount_path: volume.mount_path.clone(),
            },
            _ => AppState::Ephemeral,
        };
        Self {
            service: service.to_owned(),
            cluster: group.cluster.clone(),
            region: group.region.clone(),
            image: image.image.clone(),
            pull_policy: image.pull_policy.clone(),
            way: Way::Rendered,
            member: Member::PodName,
            app: InjectedApp {
                container: group.app.container.clone(),
                port: group.app.port,
                protocol: group.app.protocol,
            },
            revision: group.revision,
            ports: group.sidecar.ports,
            resources: group.sidecar.resources.clone(),
            token: token.to_owned(),
            log: LogVolume::ClaimTemplate,
            state,
            source: (group.founding.as_ref())
                .filter(|it| !it.claim.is_empty())
                .map(|it| it.claim.clone()),
            labels: BTreeMap::new(),
        }
    }

    /// For one pod of a user's own StatefulSet, which is the member of this name.
    pub fn labelled(
        service: &str,
        group: &ReplicaGroupSpec,
        image: &SidecarImage,
        token: &str,
        member: &str,
    ) -> Self {
        Self {
            way: Way::Labelled,
            member: Member::Named(member.to_owned()),
            log: LogVolume::Claim(names::log_claim(member)),
            // Whoever changes such a pod's template changes the app of the one revision that it has.
            revision: 0,
            ..Self::rendered(service, group, image, token)
        }
    }
}
