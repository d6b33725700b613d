//! From a manifest to the policy that the members agree on (rule P7).

use synod_proto::v1;

use crate::ordering::Ordering;
use crate::routes::{Consistency, DefaultConsistency, PathMatchType, Route, RouteMatch};
use crate::runtime::{Divergence, DivergenceAction, Poison, PoisonSkip};
use crate::service::ReplicatedServiceSpec;

/// The part of a specification that members decide by, as the first version of their policy. The
/// caller sets another version where one is already in force.
pub fn policy(service: &str, spec: &ReplicatedServiceSpec) -> v1::Policy {
    let Ordering {
        idempotency,
        max_body_size,
        queue_timeout,
        response_timeout,
        lanes: _,
    } = &spec.ordering;
    v1::Policy {
        version: 1,
        classes_version: 0,
        routes: spec.routes.iter().map(route).collect(),
        default_consistency: match spec.default_consistency {
            DefaultConsistency::ByMethod => v1::Consistency::Unspecified,
            DefaultConsistency::Ordered => v1::Consistency::Ordered,
        }
        .into(),
        idempotency: Some(v1::IdempotencyPolicy {
            header: idempotency.header.to_ascii_lowercase(),
            principal_headers: idempotency
                .principal
                .headers
                .iter()
                .map(|it| it.to_ascii_lowercase())
                .collect(),
            principal_cookies: idempotency.principal.cookies.clone(),
            keep_for_ms: idempotency.keep_for.as_millis(),
            max_bytes: idempotency.max_size.bytes(),
        }),
        max_body_bytes: max_body_size.bytes(),
        queue_timeout_ms: queue_timeout.as_millis(),
        response_timeout_ms: response_timeout.as_millis(),
        apply_timeout_ms: spec.app.apply_timeout.as_millis(),
        service: service.to_owned(),
        divergence: divergence(&spec.divergence),
        poison: poison(spec.poison),
    }
}

/// Likewise nothing where it says what is so anyway.
fn poison(poison: Poison) -> Option<v1::PoisonPolicy> {
    use v1::poison_policy::Skip;

    let skip = match poison.skip {
        PoisonSkip::Never => Skip::Never,
        PoisonSkip::WhenAllFailed => return None,
        PoisonSkip::WhenReachableFailed => Skip::WhenReachableFailed,
    };
    Some(v1::PoisonPolicy { skip: skip.into() })
}

/// Nothing where it says what is so anyway: older members know no such field.
fn divergence(divergence: &Divergence) -> Option<v1::DivergencePolicy> {
    use v1::divergence_policy::Action;

    let action = match divergence.action {
        DivergenceAction::Observe => Action::Observe,
        DivergenceAction::Alert => Action::Alert,
        DivergenceAction::Quarantine => Action::Unspecified,
        DivergenceAction::Halt => Action::Halt,
    };
    let names = divergence.ignore_headers.iter();
    let policy = v1::DivergencePolicy {
        action: action.into(),
        ignore_headers: names.map(|it| it.to_ascii_lowercase()).collect(),
    };
    (policy != v1::DivergencePolicy::default()).then_some(policy)
}

fn route(route: &Route) -> v1::Route {
    let consistency = match route.consistency {
        None => v1::Consistency::Unspecified,
        Some(Consistency::Ordered) => v1::Consistency::Ordered,
        Some(Consistency::Linearizable) => v1::Consistency::Linearizable,
        Some(Consistency::Session) => v1::Consistency::Session,
        Some(Consistency::BoundedStale) => v1::Consistency::BoundedStale,
        Some(Consistency::Local) => v1::Consistency::Local,
        Some(Consistency::Bypass) => v1::Consistency::Bypass,
    };
    v1::Route {
        name: route.name.clone(),
        matches: route.matches.iter().map(route_match).collect(),
        consistency: consistency.into(),
        max_staleness_ms: route
            .max_staleness
            .map_or(0, crate::duration::Duration::as_millis),
        streaming: route.streaming,
    }
}

fn route_match(it: &RouteMatch) -> v1::RouteMatch {
    v1::RouteMatch {
        method: it.method.clone().unwrap_or_default(),
        path: it.path.as_ref().map(|path| match path.kind {
            PathMatchType::Exact => v1::route_match::Path::Exact(path.value.clone()),
            PathMatchType::PathPrefix => v1::route_match::Path::Prefix(path.value.clone()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_specification_gives_the_documented_defaults() {
        let policy = policy("notes", &ReplicatedServiceSpec::default());
        assert_eq!(policy.service, "notes");
        assert_eq!((policy.version, policy.classes_version), (1, 0));
        assert_eq!(policy.default_consistency(), v1::Consistency::Unspecified);
        assert_eq!(policy.max_body_bytes, 16 << 20);
        assert_eq!(policy.queue_timeout_ms, 10_000);
        assert_eq!(policy.response_timeout_ms, 35_000);
        assert_eq!(policy.apply_timeout_ms, 30_000);
        let idempotency = policy.idempotency.expect("always there");
        assert_eq!(idempotency.header, "idempotency-key");
        assert_eq!(idempotency.principal_headers, ["authorization"]);
        assert_eq!(idempotency.keep_for_ms, 86_400_000);
        assert_eq!(idempotency.max_bytes, 32 << 20);
        assert_eq!(policy.divergence, None);
        assert_eq!(policy.poison, None);
    }

    #[test]
    fn what_is_done_about_copies_that_differ_is_said_where_it_is_not_the_default() {
        let yaml = "divergence: {action: Halt, ignoreHeaders: [ETag]}";
        let spec = serde_yaml::from_str(yaml).expect("valid");
        let divergence = policy("notes", &spec).divergence.expect("said");
        assert_eq!(divergence.action(), v1::divergence_policy::Action::Halt);
        assert_eq!(divergence.ignore_headers, ["etag"]);
        let yaml = "divergence: {action: Quarantine}";
        let spec = serde_yaml::from_str(yaml).expect("valid");
        assert_eq!(policy("notes", &spec).divergence, None);
    }

    #[test]
    fn what_is_done_about_a_request_that_fails_on_every_copy_is_said_where_it_is_not_the_default() {
        use v1::poison_policy::Skip;

        for (word, skip) in [
            ("Never", Some(Skip::Never)),
            ("WhenAllFailed", None),
            ("WhenReachableFailed", Some(Skip::WhenReachableFailed)),
        ] {
            let yaml = format!("poison: {{skip: {word}}}");
            let spec = serde_yaml::from_str(&yaml).expect("valid");
            let poison = policy("notes", &spec).poison;
            assert_eq!(poison.map(|it| it.skip()), skip, "{word}");
        }
    }

    #[test]
    fn routes_keep_their_order_and_their_classes() {
        let yaml = "
defaultConsistency: Ordered
routes:
- {name: health, matches: [{path: {type: Exact, value: /healthz}, method: GET}], consistency: Bypass}
- {name: reports, matches: [{path: {type: PathPrefix, value: /reports}}], consistency: BoundedStale, maxStaleness: 5s}
- {name: events, streaming: true, consistency: Local, matches: [{method: GET}]}
- {name: rest}
";
        let spec = serde_yaml::from_str(yaml).expect("valid");
        let policy = policy("notes", &spec);
        assert_eq!(policy.default_consistency(), v1::Consistency::Ordered);
        let names: Vec<_> = policy.routes.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["health", "reports", "events", "rest"]);
        let classes: Vec<_> = policy.routes.iter().map(v1::Route::consistency).collect();
        assert_eq!(
            classes,
            [
                v1::Consistency::Bypass,
                v1::Consistency::BoundedStale,
                v1::Consistency::Local,
                v1::Consistency::Unspecified
            ]
        );
        assert_eq!(policy.routes[1].max_staleness_ms, 5_000);
        assert!(policy.routes[2].streaming);
        let health = &policy.routes[0].matches[0];
        assert_eq!(health.method, "GET");
        assert_eq!(
            health.path,
            Some(v1::route_match::Path::Exact("/healthz".to_owned()))
        );
    }
}
