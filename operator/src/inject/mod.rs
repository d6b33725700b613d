//! A sidecar for a pod. Comes in: a pod or a pod's template as raw JSON, and what the sidecar is made
//! from ([`Injection`]). Goes out: the template with the sidecar ([`render`]), or why it cannot have
//! one. Pure. Fields that are not known here are kept.

pub mod names;

mod error;
mod injection;

use serde_json::Value;

pub use error::{InjectError, InjectProblem};
pub use injection::{AppState, InjectedApp, Injection, LogVolume, Member, SidecarImage, Way};

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
    let _ = (template, injection);
    Err(InjectError::one(
        "spec",
        "the sidecar cannot be rendered yet",
    ))
}

/// What about the template makes the sidecar's work weaker; `container` is the app's.
pub fn weaknesses(template: &Value, container: &str) -> Vec<Weakness> {
    let _ = (template, container);
    Vec::new()
}

/// Name of the claim template for the app's own volume: what its container mounts at that path
/// already, or [`names::STATE_VOLUME`].
pub fn state_volume(template: &Value, container: &str, mount_path: &str) -> String {
    let _ = (template, container, mount_path);
    names::STATE_VOLUME.to_owned()
}
