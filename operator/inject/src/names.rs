//! Names of what a sidecar needs in its pod.

/// Name of the sidecar's container.
pub const CONTAINER: &str = "synod";
/// Name of the sidecar's port for clients.
pub const CLIENT_PORT: &str = "http";
/// The same in the pod of a witness, where clients have better ones to go to: no Service finds it by the
/// name of the others'.
pub const WITNESS_PORT: &str = "synod-http";
/// Name of the sidecar's port for other members.
pub const PEER_PORT: &str = "synod-peer";
/// Name of the sidecar's port for probes, metrics and status.
pub const ADMIN_PORT: &str = "synod-admin";
/// Name of the volume with the log, and of its claim template.
pub const LOG_VOLUME: &str = "synod-log";
/// Name of the app's own volume, and of its claim template, where its template names none.
pub const STATE_VOLUME: &str = "synod-state";
/// Name of the volume with the sidecar's configuration.
pub const CONFIG_VOLUME: &str = "synod-config";
/// Name of the volume with the genesis.
pub const GENESIS_VOLUME: &str = "synod-genesis";
/// Name of the volume with the certificates.
pub const TLS_VOLUME: &str = "synod-tls";
/// Name of the empty volume that stands where a service account's token would.
pub const NO_ACCOUNT_VOLUME: &str = "synod-no-account";
/// Name of the empty volume in which the sidecar of an app with a volume notes what holds for this pod.
pub const POD_VOLUME: &str = "synod-pod";
/// Name of the volume from which a group begins, in the pod of the member that makes its first state.
pub const SOURCE_VOLUME: &str = "synod-source";
/// All volumes of the sidecar's own.
pub(super) const VOLUMES: [&str; 7] = [
    LOG_VOLUME,
    CONFIG_VOLUME,
    GENESIS_VOLUME,
    TLS_VOLUME,
    NO_ACCOUNT_VOLUME,
    POD_VOLUME,
    SOURCE_VOLUME,
];
/// Where the sidecar finds what a group begins from.
pub const SOURCE_PATH: &str = "/var/lib/synod-source";
/// Where the sidecar finds what holds for this pod.
pub const POD_PATH: &str = "/var/lib/synod-pod";
/// Where the sidecar finds its log.
pub const LOG_PATH: &str = "/var/lib/synod";
/// Where the sidecar finds the app's whole volume.
pub const STATE_PATH: &str = "/var/lib/synod-app";
/// The folder of it that the app sees; what the sidecar needs besides is beside it.
pub const STATE_FOLDER: &str = "data";
/// Where kubelet mounts that folder in the sidecar once more, for one reason: it makes the folder,
/// for the pod's group, before the sidecar looks for it.
pub const STATE_MADE_PATH: &str = "/var/lib/synod-app-data";
/// Where the sidecar finds its configuration (`config.yaml`, `peers.json`).
pub const CONFIG_PATH: &str = "/etc/synod/config";
/// Where the sidecar finds `genesis.json`, once there is one.
pub const GENESIS_PATH: &str = "/etc/synod/genesis";
/// Where the sidecar finds its certificates.
pub const TLS_PATH: &str = "/etc/synod/tls";
/// User and group that the sidecar runs as.
pub const USER: i64 = 65_532;
/// Label that asks for a sidecar of the service it names.
pub const INJECT_LABEL: &str = "synod.dev/inject";
/// Label with the name of the service.
pub const SERVICE_LABEL: &str = "synod.dev/service";
/// Label with the name of the cluster.
pub const CLUSTER_LABEL: &str = "synod.dev/cluster";
/// Label of the pods of witnesses, whose value is [`WITNESS`].
pub const ROLE_LABEL: &str = "synod.dev/role";
/// See [`ROLE_LABEL`].
pub const WITNESS: &str = "witness";
/// The configuration of the sidecars that are witnesses.
pub const WITNESS_CONFIG: &str = "witness.yaml";
/// Label that Kubernetes gives pods of a StatefulSet: their number.
pub const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// The name that the app's own port gets when Services are to find the sidecar's.
pub const APP_PORT: &str = "synod-app";
/// Annotation with what the sidecar took the place of, so that it can be taken out again.
pub const ORIGINAL_ANNOTATION: &str = "synod.dev/original";

/// ConfigMap with the sidecars' configuration.
pub fn config_map(service: &str) -> String {
    format!("{service}-sidecar")
}

/// ConfigMap with the genesis, which comes to exist later.
pub fn genesis_map(service: &str) -> String {
    format!("{service}-genesis")
}

/// Secret with the members' certificates.
pub fn tls_secret(service: &str) -> String {
    format!("{service}-members-tls")
}

/// Secret whose key `token` is what hooks and probes show to the sidecar.
pub fn token_secret(service: &str) -> String {
    format!("{service}-sidecar-token")
}

/// The sidecar's configuration beside an app of this revision.
pub fn config_file(revision: u64) -> String {
    match revision {
        0 => "config.yaml".to_owned(),
        number => format!("config-{number}.yaml"),
    }
}

/// The revision whose configuration that is.
pub fn revision_of(config_file: &str) -> Option<u64> {
    let name = config_file.rsplit('/').next()?.strip_suffix(".yaml")?;
    match name.strip_prefix("config")? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

/// Claim with the log of a member, as a StatefulSet names it.
pub fn log_claim(member: &str) -> String {
    format!("{LOG_VOLUME}-{member}")
}
