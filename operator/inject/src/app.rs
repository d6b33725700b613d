//! The app's container beside a sidecar.

use serde_json::{Value, json};

use super::check::is_port;
use super::hooks::{self, Hook};
use super::injection::{AppState, Injection};
use super::json::{has, list, list_mut, object_mut, set, text};
use super::names;
use super::original::Original;

/// Changes the app's container; what it added to it is noted in `original`.
pub(super) fn change(app: &mut Value, injection: &Injection, original: &mut Original) {
    rename_ports(app, injection);
    let container = &injection.app.container;
    for (field, last) in [("startupProbe", "startupz"), ("readinessProbe", "readyz")] {
        if has(app, field) && !hooks::stays(&app[field]) {
            let probe = hooks::probe(&app[field], container, last, injection);
            set(app, field, probe);
        }
    }
    if !has(app, "livenessProbe") || !hooks::stays(&app["livenessProbe"]) {
        set(app, "livenessProbe", hooks::liveness(container, injection));
    }
    for hook in [Hook::PostStart, Hook::PreStop] {
        let rendered = hook.rendered(app, hooks::own(app, hook), injection);
        if let Some(rendered) = rendered {
            object_mut(app, "lifecycle").insert(hook.field().to_owned(), rendered);
        }
    }
    if let AppState::Volume { mount_path } = &injection.state
        && !mounts(app, mount_path)
    {
        list_mut(app, "volumeMounts")
            .push(json!({"name": names::STATE_VOLUME, "mountPath": mount_path}));
        original.state_mount = Some(mount_path.clone());
    }
}

/// No Service may find the app by the name of its port.
fn rename_ports(app: &mut Value, injection: &Injection) {
    if !has(app, "ports") {
        return;
    }
    let taken: Vec<String> = list(app, "ports")
        .iter()
        .filter_map(|it| text(it, "name").map(str::to_owned))
        .collect();
    let mut free = (0_u32..)
        .map(|n| match n {
            0 => names::APP_PORT.to_owned(),
            n => format!("{}-{n}", names::APP_PORT),
        })
        .filter(|name| !taken.contains(name));
    for port in list_mut(app, "ports") {
        if is_port(port, injection.app.port) && has(port, "name") {
            port["name"] = json!(free.next().expect("endless"));
        }
    }
}

/// Whether something is mounted there.
pub(super) fn mounts(app: &Value, mount_path: &str) -> bool {
    list(app, "volumeMounts")
        .iter()
        .any(|it| text(it, "mountPath") == Some(mount_path))
}
