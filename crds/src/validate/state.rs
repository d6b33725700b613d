//! Where state begins and lies: bootstrap, log, app state and snapshots.

use super::{Problems, is_token};
use crate::duration::Duration;
use crate::quantity::Quantity;
use crate::service::ReplicatedServiceSpec;
use crate::state::{BootstrapType, Endpoint, OnUncleanCrash, SnapshotType, StateType, VolumeClaim};

/// Four segments of the log.
const MIN_LOG_BYTES: u64 = 256 << 20;
/// A snapshot of any size comes within a reasonable time: in bytes a second.
const LEAST_RATE: u64 = 64 << 10;
/// What is claimed for the log when the manifest does not say.
const DEFAULT_LOG_GIBIBYTES: u64 = 10;

pub(super) fn check(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    bootstrap(p, spec);
    log(p, spec);
    state(p, spec);
    snapshot(p, spec);
}

fn bootstrap(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let bootstrap = &spec.bootstrap;
    match bootstrap.kind {
        BootstrapType::Claim => {
            p.add_if(
                bootstrap.claim.is_none(),
                "spec.bootstrap.claim",
                "it is missing: type Claim needs the cluster and the name of a volume claim",
            );
            let copied = spec.state.kind == StateType::Volume
                && spec.state.snapshot.kind == SnapshotType::Volume;
            p.add_if(
                !copied,
                "spec.bootstrap.type",
                "Claim needs an app with a volume that can be copied to all members: set \
                 `state.type: Volume` and `state.snapshot.type: Volume`",
            );
        }
        BootstrapType::Snapshot => {
            p.add_if(
                bootstrap.snapshot.is_none(),
                "spec.bootstrap.snapshot",
                "it is missing: type Snapshot needs the cluster, the volume claim and the folder of a backup",
            );
            p.add_if(
                spec.state.snapshot.kind == SnapshotType::None,
                "spec.bootstrap.type",
                "Snapshot needs an app whose state can be put back: set `state.snapshot`",
            );
        }
        BootstrapType::Empty | BootstrapType::Existing => {}
    }
    p.add_if(
        bootstrap.kind != BootstrapType::Claim && bootstrap.claim.is_some(),
        "spec.bootstrap.claim",
        "it has a meaning only with `type: Claim`: set that, or remove it",
    );
    p.add_if(
        bootstrap.kind != BootstrapType::Snapshot && bootstrap.snapshot.is_some(),
        "spec.bootstrap.snapshot",
        "it has a meaning only with `type: Snapshot`: set that, or remove it",
    );
    let Some(snapshot) = &bootstrap.snapshot else {
        return;
    };
    let within = |part: &str| !matches!(part, "" | "." | "..");
    p.add_if(
        snapshot.path.starts_with('/') || !snapshot.path.split('/').all(within),
        "spec.bootstrap.snapshot.path",
        format!("`{}` is not a folder in the claim: give its path without `/` at its beginning, and without `..`", snapshot.path),
    );
}

fn log(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let max = &spec.log.max_size;
    p.add_if(
        max.bytes() < MIN_LOG_BYTES,
        "spec.log.maxSize",
        format!("{max} is too small: at least 256Mi"),
    );
    let storage = match &spec.log.volume_claim {
        None => Some(Quantity::gibibytes(DEFAULT_LOG_GIBIBYTES)),
        Some(claim) => storage(p, "spec.log.volumeClaim", claim),
    };
    if let Some(storage) = storage {
        p.add_if(
            max.bytes() > storage.bytes(),
            "spec.log.maxSize",
            format!("{max} does not fit into the {storage} that spec.log.volumeClaim asks for: lower it, or ask for more"),
        );
    }
}

/// What a claim asks for.
fn storage(p: &mut Problems, path: &str, claim: &VolumeClaim) -> Option<Quantity> {
    let value = claim.spec.pointer("/resources/requests/storage")?;
    match serde_json::from_value(value.clone()) {
        Ok(quantity) => Some(quantity),
        Err(error) => {
            p.add(
                format!("{path}.spec.resources.requests.storage"),
                error.to_string(),
            );
            None
        }
    }
}

fn state(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let state = &spec.state;
    p.within(
        "spec.state.maxReplay",
        state.max_replay,
        Duration::from_secs(1),
        Duration::from_hours(720),
    );
    match (state.kind, &state.volume) {
        (StateType::Volume, None) => p.add(
            "spec.state.volume",
            "it is missing: type Volume needs the path where the app's volume is mounted",
        ),
        (StateType::Volume, Some(volume)) => {
            p.add_if(
                !volume.mount_path.starts_with('/') || volume.mount_path == "/",
                "spec.state.volume.mountPath",
                format!(
                    "`{}` cannot hold a volume: give a folder's path from `/`",
                    volume.mount_path
                ),
            );
            if let Some(claim) = &volume.volume_claim {
                storage(p, "spec.state.volume.volumeClaim", claim);
            }
        }
        (StateType::Ephemeral, Some(_)) => p.add(
            "spec.state.volume",
            "it has a meaning only with `type: Volume`: set that, or remove it",
        ),
        (StateType::Ephemeral, None) => {}
    }
    p.add_if(
        state.kind == StateType::Ephemeral && state.on_unclean_crash.is_some(),
        "spec.state.onUncleanCrash",
        "it has a meaning only with `type: Volume`: an ephemeral app always starts over; remove it",
    );
    let asks = state.on_unclean_crash == Some(OnUncleanCrash::AppliedHeader);
    match &state.applied {
        None => p.add_if(
            asks,
            "spec.state.applied",
            "it is missing: AppliedHeader needs the request that the app answers with its slot",
        ),
        Some(_) if !asks => p.add(
            "spec.state.applied",
            "it has a meaning only with `onUncleanCrash: AppliedHeader`: set that, or remove it",
        ),
        Some(applied) => endpoint(p, "spec.state.applied", applied),
    }
}

fn snapshot(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let snapshot = &spec.state.snapshot;
    match (snapshot.kind, &snapshot.http) {
        (SnapshotType::Http, None) => p.add(
            "spec.state.snapshot.http",
            "it is missing: type HTTP needs the requests that save and restore the state",
        ),
        (SnapshotType::Http, Some(http)) => {
            endpoint(p, "spec.state.snapshot.http.save", &http.save);
            endpoint(p, "spec.state.snapshot.http.restore", &http.restore);
            if let Some(settle) = &http.settle {
                endpoint(p, "spec.state.snapshot.http.settle", settle);
            }
        }
        (_, Some(_)) => p.add(
            "spec.state.snapshot.http",
            "it has a meaning only with `type: HTTP`: set that, or remove it",
        ),
        (_, None) => {}
    }
    p.add_if(
        snapshot.kind == SnapshotType::Volume && spec.state.kind != StateType::Volume,
        "spec.state.snapshot.type",
        "Volume needs `state.type: Volume`: set that, or use HTTP or None",
    );
    if let Some(rate) = &snapshot.transfer_rate {
        p.add_if(
            snapshot.kind == SnapshotType::None,
            "spec.state.snapshot.transferRate",
            "no snapshot is ever sent with `type: None`: set HTTP or Volume, or remove it",
        );
        p.add_if(
            rate.bytes() < LEAST_RATE,
            "spec.state.snapshot.transferRate",
            format!("{rate} a second is out of bounds: use 64Ki or more"),
        );
    }
    let Some(every) = &snapshot.every else {
        return;
    };
    p.add_if(
        snapshot.kind == SnapshotType::None,
        "spec.state.snapshot.every",
        "no snapshot is ever due with `type: None`: set HTTP or Volume, or remove it",
    );
    p.add_if(
        every.slots == 0,
        "spec.state.snapshot.every.slots",
        "0 is out of bounds: use 1 or more",
    );
    p.add_if(
        every.log_size.bytes() == 0 || every.log_size.bytes() > spec.log.max_size.bytes() / 2,
        "spec.state.snapshot.every.logSize",
        format!(
            "{} is out of bounds: at most half of spec.log.maxSize, {}, or the log fills up before it is cut",
            every.log_size, spec.log.max_size
        ),
    );
}

fn endpoint(p: &mut Problems, path: &str, endpoint: &Endpoint) {
    let Endpoint {
        method,
        path: target,
    } = endpoint;
    p.add_if(
        !is_token(method) || method.len() > 32 || method.bytes().any(|it| it.is_ascii_lowercase()),
        format!("{path}.method"),
        format!("`{method}` is not a method: write it in upper case, such as GET"),
    );
    p.add_if(
        !target.starts_with('/')
            || target.len() > 1024
            || !target.bytes().all(|it| it.is_ascii_graphic()),
        format!("{path}.path"),
        format!("`{target}` is not a path: begin with `/`"),
    );
}
