//! What contradicts itself or is out of bounds. Comes in: a typed object. Goes out: every problem,
//! with its field's path and the way out. The same rules that the custom resource checks by CEL.

mod routes;
mod state;
mod template;

use std::collections::BTreeSet;
use std::fmt;

use crate::duration::Duration;
use crate::ordering::{LaneKey, Ordering};
use crate::placement::WITNESS_SUFFIX;
use crate::service::{ReplicatedServiceSpec, Risk};

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.replicas`.
    pub path: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The problems found so far.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }

    fn add_if(&mut self, bad: bool, path: impl Into<String>, message: impl Into<String>) {
        if bad {
            self.add(path, message);
        }
    }

    fn at_most(&mut self, path: &str, count: usize, max: usize) {
        self.add_if(
            count > max,
            path,
            format!("{count} entries are too many: at most {max}"),
        );
    }

    fn within(&mut self, path: &str, value: Duration, min: Duration, max: Duration) {
        self.add_if(
            value < min || value > max,
            path,
            format!("{value} is out of bounds: use {min} to {max}"),
        );
    }
}

/// Children's names are made from the service's, and Kubernetes allows 63 characters.
const MAX_NAME: usize = 40;
/// A StatefulSet's name goes into a label together with a hash of eleven characters.
const MAX_STATEFUL_SET_NAME: usize = 52;
const MAX_VOTES: u32 = 9;
const MAX_MEMBERS: u32 = 32;
/// Half of the window of messages under way to a member (32 MiB), and a quarter of a log segment.
const MAX_BODY_BYTES: u64 = 16 << 20;

/// All that is wrong with a service of this name; empty when it is fine.
pub fn validate(name: &str, spec: &ReplicatedServiceSpec) -> Vec<Problem> {
    let mut problems = Problems::default();
    let p = &mut problems;
    service_name(p, name);
    members(p, name, spec);
    let mut risks = BTreeSet::new();
    for (index, risk) in spec.acknowledged_risks.iter().enumerate() {
        p.add_if(
            !risks.insert(format!("{risk:?}")),
            format!("spec.acknowledgedRisks[{index}]"),
            format!("`{risk:?}` is named twice: once is enough"),
        );
    }
    template::check(p, spec);
    state::check(p, spec);
    routes::check(p, spec);
    ordering(p, spec);
    p.at_most(
        "spec.divergence.ignoreHeaders",
        spec.divergence.ignore_headers.len(),
        64,
    );
    p.at_most(
        "spec.divergence.ignoreJSONPointers",
        spec.divergence.ignore_json_pointers.len(),
        64,
    );
    for (index, pointer) in spec.divergence.ignore_json_pointers.iter().enumerate() {
        json_pointer(
            p,
            &format!("spec.divergence.ignoreJSONPointers[{index}]"),
            pointer,
        );
    }
    p.at_most(
        "spec.leader.preferredRegions",
        spec.leader.preferred_regions.len(),
        16,
    );
    for (index, region) in spec.leader.preferred_regions.iter().enumerate() {
        p.add_if(
            region.len() > 63 || region.chars().any(char::is_control),
            format!("spec.leader.preferredRegions[{index}]"),
            format!(
                "`{region}` is not a name of a region: at most 63 bytes, without control characters"
            ),
        );
    }
    p.add_if(
        spec.service.port == 0,
        "spec.service.port",
        "0 is not a port: use 1 to 65535",
    );
    if let Some(name) = &spec.service.name {
        p.add_if(
            !is_label(name, 63) || !name.starts_with(|it: char| it.is_ascii_lowercase()),
            "spec.service.name",
            format!("`{name}` is not a name of a Service: use lower-case letters, digits and `-`, beginning with a letter"),
        );
    }
    problems.0
}

fn service_name(p: &mut Problems, name: &str) {
    if name.is_empty() {
        p.add("metadata.name", "it is missing: give the service a name");
    } else if name.len() > MAX_NAME {
        p.add(
            "metadata.name",
            format!(
                "`{name}` has {} characters, at most {MAX_NAME} leave room for the names of pods and Services: choose a shorter one",
                name.len()
            ),
        );
    } else if !is_label(name, MAX_NAME) || !name.starts_with(|it: char| it.is_ascii_lowercase()) {
        p.add(
            "metadata.name",
            format!("`{name}` cannot be a name: use lower-case letters, digits and `-`, beginning with a letter and ending with a letter or digit"),
        );
    }
}

fn members(p: &mut Problems, name: &str, spec: &ReplicatedServiceSpec) {
    let path = if let Some(placement) = &spec.placement {
        p.add_if(
            spec.replicas.is_some(),
            "spec.replicas",
            "it excludes spec.placement: remove one of the two",
        );
        p.add_if(
            placement.is_empty(),
            "spec.placement",
            "it is empty: name at least one cluster, or remove it",
        );
        p.at_most("spec.placement", placement.len(), 16);
        let mut clusters = BTreeSet::new();
        for (index, it) in placement.iter().enumerate() {
            let path = format!("spec.placement[{index}]");
            p.add_if(
                !clusters.insert(&it.cluster),
                format!("{path}.cluster"),
                format!(
                    "`{}` is named twice: put its numbers into one entry",
                    it.cluster
                ),
            );
            p.add_if(
                !is_label(&it.cluster, 40),
                format!("{path}.cluster"),
                format!("`{}` is not a name of a cluster: use at most 40 lower-case letters, digits and `-`", it.cluster),
            );
            p.add_if(
                name.len() <= MAX_NAME && name.len() + 1 + it.cluster.len() > MAX_STATEFUL_SET_NAME,
                format!("{path}.cluster"),
                format!("`{name}-{}` is longer than {MAX_STATEFUL_SET_NAME} characters: choose a shorter name for the service or the cluster", it.cluster),
            );
            let witnesses = format!("{name}-{}{WITNESS_SUFFIX}", it.cluster);
            p.add_if(
                it.witnesses > 0
                    && name.len() + 1 + it.cluster.len() <= MAX_STATEFUL_SET_NAME
                    && witnesses.len() > MAX_STATEFUL_SET_NAME,
                format!("{path}.witnesses"),
                format!("`{witnesses}`, as the StatefulSet of its witnesses is called, is longer than {MAX_STATEFUL_SET_NAME} characters: choose a shorter name for the service or the cluster"),
            );
            p.add_if(
                it.voters == 0 && it.observers == 0 && it.witnesses == 0,
                path,
                "no member would run there: set voters, observers or witnesses, or remove the entry",
            );
        }
        let voters = placement
            .iter()
            .map(|it| it.voters)
            .fold(0, u32::saturating_add);
        p.add_if(
            voters == 0 && !placement.is_empty(),
            "spec.placement",
            "no voter runs the app: set voters of at least one cluster to 1 or more",
        );
        let witnesses = placement
            .iter()
            .map(|it| it.witnesses)
            .fold(0, u32::saturating_add);
        // Whatever votes are lost while the others can go on, one that has a state must be left (rule W5).
        let needed = witnesses.max(2);
        p.add_if(
            witnesses > 0 && voters > 0 && voters < needed && spec.votes() <= MAX_VOTES,
            "spec.placement",
            format!(
                "{voters} voters and {witnesses} witnesses: a witness has no state, so beside so many at \
                 least {needed} voters must run the app, or else the votes that may be lost could be all \
                 that have one: add voters, or use fewer witnesses"
            ),
        );
        let observers = placement
            .iter()
            .map(|it| it.observers)
            .fold(0, u32::saturating_add);
        p.add_if(
            spec.votes().saturating_add(observers) > MAX_MEMBERS,
            "spec.placement",
            format!("more than {MAX_MEMBERS} members in all: use fewer observers"),
        );
        "spec.placement"
    } else {
        p.add_if(
            spec.replicas == Some(0),
            "spec.replicas",
            "0 copies are no service: use 1, 3, 5, 7 or 9; `paused` stops the operator, and deleting the object ends the service",
        );
        "spec.replicas"
    };
    let votes = spec.votes();
    p.add_if(
        votes > MAX_VOTES,
        path,
        format!(
            "{votes} votes are too many: at most {MAX_VOTES}; observers answer reads without a vote"
        ),
    );
    p.add_if(
        votes > 0 && votes.is_multiple_of(2) && !spec.acknowledges(Risk::EvenVoters),
        path,
        format!(
            "{votes} votes tolerate no more losses than {}: use an odd number, or add EvenVoters to spec.acknowledgedRisks",
            votes.saturating_sub(1)
        ),
    );
}

fn ordering(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    let Ordering {
        idempotency,
        max_body_size,
        queue_timeout,
        response_timeout,
        lanes,
    } = &spec.ordering;
    let hour = Duration::from_hours(1);
    let least: Duration = "1ms".parse().expect("a duration");
    p.within("spec.ordering.queueTimeout", *queue_timeout, least, hour);
    p.within(
        "spec.ordering.responseTimeout",
        *response_timeout,
        least,
        Duration::from_hours(24),
    );
    p.within(
        "spec.app.applyTimeout",
        spec.app.apply_timeout,
        least,
        Duration::from_hours(24),
    );
    p.add_if(
        *response_timeout < spec.app.apply_timeout,
        "spec.ordering.responseTimeout",
        format!(
            "{response_timeout} is shorter than spec.app.applyTimeout, {}: clients would be told `unknown` about requests that are still in time; raise it, or lower applyTimeout",
            spec.app.apply_timeout
        ),
    );
    p.add_if(
        max_body_size.bytes() > MAX_BODY_BYTES,
        "spec.ordering.maxBodySize",
        format!("{max_body_size} is too large: at most 16Mi, because each body travels in one message between members"),
    );
    p.within(
        "spec.ordering.idempotency.keepFor",
        idempotency.keep_for,
        Duration::from_secs(1),
        Duration::from_hours(720),
    );
    let bytes = idempotency.max_size.bytes();
    p.add_if(
        !(64 << 10..=1 << 30).contains(&bytes),
        "spec.ordering.idempotency.maxSize",
        format!("{} is out of bounds: use 64Ki to 1Gi", idempotency.max_size),
    );
    header(p, "spec.ordering.idempotency.header", &idempotency.header);
    p.at_most(
        "spec.ordering.idempotency.principal.headers",
        idempotency.principal.headers.len(),
        8,
    );
    for (index, name) in idempotency.principal.headers.iter().enumerate() {
        header(
            p,
            &format!("spec.ordering.idempotency.principal.headers[{index}]"),
            name,
        );
    }
    p.at_most(
        "spec.ordering.idempotency.principal.cookies",
        idempotency.principal.cookies.len(),
        8,
    );
    for (index, name) in idempotency.principal.cookies.iter().enumerate() {
        p.add_if(
            !is_token(name) || name.len() > 64,
            format!("spec.ordering.idempotency.principal.cookies[{index}]"),
            format!("`{name}` is not a name of a cookie: use letters, digits and `-_.`"),
        );
    }
    p.at_most("spec.ordering.lanes", lanes.len(), 8);
    for (index, lane) in lanes.iter().enumerate() {
        let path = format!("spec.ordering.lanes[{index}]");
        lane_key(p, &format!("{path}.key"), &lane.key);
        p.add_if(
            !(1..=1024).contains(&lane.count),
            format!("{path}.count"),
            format!("{} is out of bounds: use 1 to 1024", lane.count),
        );
    }
}

fn lane_key(p: &mut Problems, path: &str, key: &LaneKey) {
    let given = [
        key.path_segment.is_some(),
        key.header.is_some(),
        key.json_pointer.is_some(),
    ];
    p.add_if(
        given.iter().filter(|it| **it).count() != 1,
        path,
        "give exactly one of pathSegment, header and jsonPointer",
    );
    p.add_if(
        key.path_segment.is_some_and(|it| !(1..=32).contains(&it)),
        format!("{path}.pathSegment"),
        "segments count from 1, to 32",
    );
    if let Some(name) = &key.header {
        header(p, &format!("{path}.header"), name);
    }
    if let Some(pointer) = &key.json_pointer {
        json_pointer(p, &format!("{path}.jsonPointer"), pointer);
    }
}

fn header(p: &mut Problems, path: &str, name: &str) {
    if !is_token(name) || name.len() > 64 {
        p.add(
            path,
            format!("`{name}` is not a name of a header: use letters, digits and `-`"),
        );
    } else if name.to_ascii_lowercase().starts_with("synod-") {
        p.add(
            path,
            format!("`{name}` is reserved: headers that begin with Synod- never pass between clients and the app; choose another"),
        );
    }
}

fn json_pointer(p: &mut Problems, path: &str, pointer: &str) {
    p.add_if(
        (!pointer.is_empty() && !pointer.starts_with('/')) || pointer.len() > 256,
        path,
        format!("`{pointer}` is not a JSON pointer: write it like /items/0/name (RFC 6901)"),
    );
}

/// A DNS label of at most `max` characters.
fn is_label(text: &str, max: usize) -> bool {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A token of HTTP (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let mark = |it: u8| b"!#$%&'*+-.^_`|~".contains(&it);
    !text.is_empty()
        && text
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || mark(it))
}

#[cfg(test)]
mod tests;
