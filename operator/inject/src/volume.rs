//! The app's volume, which the sidecar saves and puts back: the app's containers see one folder of
//! it, the sidecar all of it, as the same user.

use serde_json::{Value, json};

use super::injection::{AppState, Injection};
use super::json::{has, list, list_mut, named, set, text};
use super::names;

/// The app's volume as the sidecar mounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateMount {
    /// Its name.
    pub(super) volume: String,
    /// Whose the files on it are.
    pub(super) owner: Owner,
}

/// As whom the sidecar runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: i64,
    pub(super) group: i64,
}

/// Of a template that was checked; `None`: the app has no volume.
pub(super) fn state_mount(template: &Value, injection: &Injection) -> Option<StateMount> {
    let AppState::Volume { mount_path } = &injection.state else {
        return None;
    };
    let container = &injection.app.container;
    Some(StateMount {
        volume: super::state_volume(template, container, mount_path),
        owner: owner(&template["spec"], container)?,
    })
}

/// As whom the app runs, if the template says so: an image's own user is not known here.
pub(super) fn owner(spec: &Value, container: &str) -> Option<Owner> {
    let app = named(list(spec, "containers"), container)?;
    let said = |field: &str| {
        let of = |it: &Value| it.get("securityContext")?.get(field)?.as_i64();
        of(app).or_else(|| of(spec))
    };
    Some(Owner {
        user: said("runAsUser")?,
        group: said("runAsGroup").unwrap_or(names::USER),
    })
}

/// Lets every container mount no more of the volume than the app's folder.
pub(super) fn narrow(spec: &mut Value, volume: &str) {
    each(spec, volume, |mount| {
        let folder = names::STATE_FOLDER;
        let path = match text(mount, "subPath").filter(|it| !it.is_empty()) {
            Some(within) => format!("{folder}/{within}"),
            None => folder.to_owned(),
        };
        mount["subPath"] = json!(path);
    });
}

/// Takes [`narrow`] back.
pub(super) fn widen(spec: &mut Value, volume: &str) {
    each(spec, volume, |mount| {
        let within = text(mount, "subPath").and_then(|it| {
            let rest = it.strip_prefix(names::STATE_FOLDER)?;
            Some(rest.trim_start_matches('/').to_owned())
        });
        match within {
            None => {}
            Some(within) if within.is_empty() => set(mount, "subPath", Value::Null),
            Some(within) => mount["subPath"] = json!(within),
        }
    });
}

fn each(spec: &mut Value, volume: &str, change: impl Fn(&mut Value)) {
    for key in ["containers", "initContainers"] {
        if !has(spec, key) {
            continue;
        }
        for container in list_mut(spec, key) {
            if !has(container, "volumeMounts") {
                continue;
            }
            for mount in list_mut(container, "volumeMounts") {
                if text(mount, "name") == Some(volume) {
                    change(mount);
                }
            }
        }
    }
}

// === impl Owner ===

impl Default for Owner {
    /// Nobody's but the sidecar's own.
    fn default() -> Self {
        Self {
            user: names::USER,
            group: names::USER,
        }
    }
}
