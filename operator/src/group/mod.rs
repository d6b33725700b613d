//! The work of one cluster: from a `ReplicaGroup` to pods and what they need. Comes in: the group as
//! the hub wrote it, what is there already, what members say. Goes out: children by server-side
//! apply, deleted pods while a new template is rolled out, and the group's status.
//!
//! `dereference` reads, `validate`, `certificates`, `build` and `plan` decide, `apply` and `status`
//! write: only the first and the last do I/O.

pub(crate) mod adopt;
mod apply;
mod build;
mod bypass;
mod certificates;
mod children;
mod controller;
mod dereference;
mod disruptions;
mod findings;
mod members;
mod membership;
mod names;
mod observe;
mod plan;
mod pods;
mod policy;
mod reconcile;
mod requests;
mod revise;
mod roll;
mod runs;
mod source;
mod status;
mod validate;

pub use controller::run;

/// The configurations of the sidecars of a group, by file; nothing if it cannot be worked on.
#[cfg(test)]
pub(crate) fn configurations(
    group: &synod_api::ReplicaGroup,
    cluster: &str,
) -> Result<Vec<(String, String)>, validate::Stall> {
    let valid = validate::validate(group, cluster)?;
    let map = build::config_map(&valid).value;
    let files = map["data"].as_object().into_iter().flatten();
    let configurations = files.filter(|(name, _)| name.strip_suffix(".yaml").is_some());
    let text = |(name, text): (&String, &serde_json::Value)| {
        Some((name.clone(), text.as_str()?.to_owned()))
    };
    Ok(configurations.filter_map(text).collect())
}
