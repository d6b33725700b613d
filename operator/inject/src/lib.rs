//! A sidecar for a pod. Comes in: a pod or a pod's template as raw JSON, and what the sidecar is made
//! from ([`Injection`]). Goes out: the template with the sidecar ([`render`]), or why it cannot have
//! one. Pure. Fields that are not known here are kept.

pub mod names;

mod app;
mod check;
mod error;
mod hooks;
mod injection;
mod json;
mod original;
mod sidecar;
mod volume;
mod witness;

use serde_json::{Map, Value};

use self::hooks::Hook;
use self::json::{has, list, list_mut, named, named_mut, object_mut, text};
use self::original::{Original, ensure_metadata};

pub use error::{InjectError, InjectProblem};
pub use injection::{AppState, InjectedApp, Injection, LogVolume, Member, SidecarImage, Way};
pub use witness::witness;

/// What about a template keeps a part of the sidecar's work from being done in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weakness {
    /// The app's container has a `postStart` of its own that cannot be called through the sidecar:
    /// a start of the app is noticed by its socket only.
    StartSignalWeak,
    /// The app's container has a liveness probe of its own that cannot be taken over: an app whose
    /// state is not known any more is only started anew by replacing its pod.
    RestartWeak,
}

/// The template (or pod) with the sidecar in it. Rendering what was rendered changes nothing.
pub fn render(template: &Value, injection: &Injection) -> Result<Value, InjectError> {
    let mut template = template.clone();
    check::readable(&template)?;
    Original::remove(&mut template);
    check::check(&template, injection)?;

    let client_port = check::client_port(&template["spec"], injection).to_owned();
    let containers = list_mut(&mut template["spec"], "containers");
    let app = named_mut(containers, &injection.app.container).expect("checked");
    let mut original = Original::of(app);
    app::change(app, injection, &mut original);
    let state = volume::state_mount(&template, injection);
    let spec = &mut template["spec"];
    if let Some(state) = &state {
        volume::narrow(spec, &state.volume);
        original.state_volume = Some(state.volume.clone());
    }
    let sidecar = sidecar::container(injection, &client_port, state.as_ref());
    list_mut(spec, "initContainers").insert(0, sidecar);
    list_mut(spec, "volumes").extend(sidecar::volumes(injection));
    security(spec, &mut original);
    labels(&mut template, injection, &mut original);
    original.write(&mut template);
    Ok(template)
}

/// The name of a container's port.
pub fn port_name<'a>(template: &'a Value, container: &str, port: u16) -> Option<&'a str> {
    check::port_name_of(template.get("spec")?, container, port)
}

/// The service whose members the pods of a template ask to be: the label [`names::INJECT_LABEL`].
pub fn asked(template: &Map<String, Value>) -> Option<&str> {
    let labels = template.get("metadata")?.get("labels")?;
    labels.get(names::INJECT_LABEL)?.as_str()
}

/// The template without the sidecar that [`render`] put into it; as it is when there is none.
pub fn remove(template: &Value) -> Result<Value, InjectError> {
    let mut template = template.clone();
    check::readable(&template)?;
    Original::remove(&mut template);
    Ok(template)
}

/// What about the template makes the sidecar's work weaker; `container` is the app's.
pub fn weaknesses(template: &Value, container: &str) -> Vec<Weakness> {
    let Some(app) = app(template, container) else {
        return Vec::new();
    };
    let mut weaknesses = Vec::new();
    if hooks::own(app, Hook::PostStart).is_some_and(|it| !has(it, "httpGet")) {
        weaknesses.push(Weakness::StartSignalWeak);
    }
    if app.get("livenessProbe").is_some_and(hooks::stays) {
        weaknesses.push(Weakness::RestartWeak);
    }
    weaknesses
}

/// Name of the claim template for the app's own volume: what its container mounts at that path
/// already, or [`names::STATE_VOLUME`].
pub fn state_volume(template: &Value, container: &str, mount_path: &str) -> String {
    let mounted = app(template, container)
        .into_iter()
        .flat_map(|app| list(app, "volumeMounts"))
        .find(|it| text(it, "mountPath") == Some(mount_path))
        .and_then(|it| text(it, "name"));
    mounted.unwrap_or(names::STATE_VOLUME).to_owned()
}

fn app<'a>(template: &'a Value, container: &str) -> Option<&'a Value> {
    named(list(template.get("spec")?, "containers"), container)
}

/// The sidecar must be able to write to its volume and to read its key: both belong to the pod's
/// group. A group that the template has is as good.
fn security(spec: &mut Value, original: &mut Original) {
    let context = object_mut(spec, "securityContext");
    let own = [
        ("fsGroup", Value::from(names::USER)),
        // Going through a large volume at each start takes minutes.
        ("fsGroupChangePolicy", Value::from("OnRootMismatch")),
    ];
    if context.get("fsGroup").is_some_and(|it| !it.is_null()) {
        return;
    }
    for (field, value) in own {
        if context.get(field).is_none_or(Value::is_null) {
            context.insert(field.to_owned(), value);
            original.security.push(field.to_owned());
        }
    }
}

fn labels(template: &mut Value, injection: &Injection, original: &mut Original) {
    let own = [
        (names::SERVICE_LABEL, &injection.service),
        (names::CLUSTER_LABEL, &injection.cluster),
    ];
    let further = injection
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), value));
    let labels = object_mut(ensure_metadata(template), "labels");
    for (key, value) in own.into_iter().chain(further) {
        let before = labels.insert(key.to_owned(), Value::String(value.clone()));
        let before = before.and_then(|it| it.as_str().map(str::to_owned));
        // The first is what it was: two of ours may have the same key.
        original.labels.entry(key.to_owned()).or_insert(before);
    }
}

#[cfg(test)]
mod tests;
