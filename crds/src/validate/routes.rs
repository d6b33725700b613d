//! Routes: unique names, paths that can match, consistency that holds what it promises.

use std::collections::BTreeSet;

use super::{Problems, is_label, is_token};
use crate::duration::Duration;
use crate::routes::{Consistency, PathMatch, Route};
use crate::service::{ReplicatedServiceSpec, Risk};

/// Methods that are reads by default.
const READS: [&str; 7] = [
    "GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY",
];

pub(super) fn check(p: &mut Problems, spec: &ReplicatedServiceSpec) {
    p.at_most("spec.routes", spec.routes.len(), 64);
    let mut names = BTreeSet::new();
    for (index, route) in spec.routes.iter().enumerate() {
        let path = format!("spec.routes[{index}]");
        p.add_if(
            !is_label(&route.name, 63),
            format!("{path}.name"),
            format!(
                "`{}` cannot be a route's name: use at most 63 lower-case letters, digits and `-`",
                route.name
            ),
        );
        p.add_if(
            !names.insert(&route.name),
            format!("{path}.name"),
            format!(
                "`{}` names an earlier route: each needs a name of its own",
                route.name
            ),
        );
        one(p, &path, route, spec);
    }
}

fn one(p: &mut Problems, path: &str, route: &Route, spec: &ReplicatedServiceSpec) {
    p.at_most(&format!("{path}.matches"), route.matches.len(), 16);
    for (index, it) in route.matches.iter().enumerate() {
        let path = format!("{path}.matches[{index}]");
        if let Some(value) = &it.path {
            path_match(p, &format!("{path}.path.value"), value);
        }
        if let Some(name) = &it.method {
            method(p, &format!("{path}.method"), name);
        }
    }
    staleness(p, path, route);
    let unsafe_methods = unsafe_methods(route);
    if let (Some(consistency @ (Consistency::Bypass | Consistency::Local)), Some(methods)) =
        (route.consistency, &unsafe_methods)
    {
        p.add_if(
            !spec.acknowledges(Risk::UnorderedWrites),
            format!("{path}.consistency"),
            format!(
                "`{consistency:?}` would let {methods} pass by the agreed order: match only {}, or add UnorderedWrites to spec.acknowledgedRisks",
                READS.join(", ")
            ),
        );
    }
    if route.streaming {
        let ordered = match route.consistency {
            Some(it) => it == Consistency::Ordered,
            None => {
                unsafe_methods.is_some()
                    || spec.default_consistency == crate::routes::DefaultConsistency::Ordered
            }
        };
        p.add_if(
            ordered,
            format!("{path}.streaming"),
            "a stream cannot be ordered: set consistency to another level, or match reading methods only",
        );
    }
}

fn staleness(p: &mut Problems, path: &str, route: &Route) {
    let path = format!("{path}.maxStaleness");
    match (route.consistency, route.max_staleness) {
        (Some(Consistency::BoundedStale), None) => p.add(
            path,
            "it is missing: BoundedStale needs a bound, such as 5s",
        ),
        (Some(Consistency::BoundedStale), Some(value)) => p.within(
            &path,
            value,
            "1ms".parse().expect("a duration"),
            Duration::from_hours(24),
        ),
        (_, Some(_)) => p.add(
            path,
            "it has a meaning only with `consistency: BoundedStale`: set that, or remove it",
        ),
        (_, None) => {}
    }
}

fn path_match(p: &mut Problems, path: &str, it: &PathMatch) {
    let value = &it.value;
    let lower = value.to_ascii_lowercase();
    let segments = || value.split('/').skip(1);
    if !value.starts_with('/') || value.len() > 1024 {
        p.add(
            path,
            format!("`{value}` is not a path: begin with `/`, at most 1024 characters"),
        );
    } else if value.contains(['?', '#']) {
        p.add(
            path,
            format!("`{value}` holds a query or fragment: routes match the path only"),
        );
    } else if value.contains("//")
        || value.contains('\\')
        || lower.contains("%2e")
        || lower.contains("%2f")
        || segments().any(|it| it == "." || it == "..")
    {
        p.add(
            path,
            format!("`{value}` is ambiguous: write it without `..`, `//`, `\\`, `%2e` and `%2f`"),
        );
    } else if !value.bytes().all(|it| it.is_ascii_graphic()) {
        p.add(
            path,
            format!("`{value}` must be written as it is sent: percent-encode other characters"),
        );
    }
}

fn method(p: &mut Problems, path: &str, name: &str) {
    if !is_token(name) || name.len() > 32 || name.bytes().any(|it| it.is_ascii_lowercase()) {
        p.add(
            path,
            format!("`{name}` is not a method: write it in upper case, such as GET"),
        );
    } else if name == "CONNECT" || name == "TRACE" {
        p.add(path, format!("{name} is always refused: remove this match"));
    }
}

/// The methods of the route that may change something, in words; `None` when there are none.
fn unsafe_methods(route: &Route) -> Option<String> {
    let any = route.matches.is_empty() || route.matches.iter().any(|it| it.method.is_none());
    if any {
        return Some("any method".to_owned());
    }
    let names: BTreeSet<&str> = route
        .matches
        .iter()
        .filter_map(|it| it.method.as_deref())
        .filter(|it| !READS.contains(it))
        .collect();
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(", "))
}
