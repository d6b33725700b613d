//! What the manifest may say and this version does not do. It is refused rather than taken in silence:
//! who writes it relies on it. Pure.

use synod_api::{Placement, ReplicatedServiceSpec, SnapshotType, State, StateType};

use crate::inject;

/// Every such field, with its path and the way out; empty: none.
pub(crate) fn unsupported(
    spec: &ReplicatedServiceSpec,
    placement: &[Placement],
) -> Vec<&'static str> {
    let ReplicatedServiceSpec {
        state,
        ordering,
        divergence,
        service,
        ..
    } = spec;
    let template = spec.template.as_ref();
    let labelled = template.is_some_and(|it| inject::asked(&it.0).is_some());
    let table = [
        (
            placement.iter().any(|it| it.witnesses > 0) && labelled,
            "spec.placement[].witnesses: beside pods of a StatefulSet of your own this version makes none: \
             let spec.workloadRef name it without the label synod.dev/inject in its pod template, or use \
             voters",
        ),
        (
            state.kind == StateType::Volume && state.snapshot.kind == SnapshotType::Http,
            "spec.state.snapshot.type: an app with a volume is put back by its files in this version: \
             use Volume",
        ),
        (
            state.max_replay != State::default().max_replay,
            "spec.state.maxReplay: nobody measures that yet: remove it",
        ),
        (
            !ordering.lanes.is_empty(),
            "spec.ordering.lanes: requests are executed one after another in this version: remove it",
        ),
        (
            !divergence.ignore_json_pointers.is_empty(),
            "spec.divergence.ignoreJSONPointers: bodies are compared as a whole in this version: \
             remove it",
        ),
        (
            service.export,
            "spec.service.export: this version makes no ServiceExport: make one yourself for the \
             Service, and set export to false",
        ),
    ];
    let found = table.into_iter().filter(|(is, _)| *is);
    found.map(|(_, words)| words).collect()
}

#[cfg(test)]
mod tests {
    use super::super::members;
    use super::super::validate::tests::spec;
    use super::*;

    fn found(yaml: &str) -> Vec<&'static str> {
        let spec = spec(yaml);
        unsupported(&spec, &members::placement(&spec, "local"))
    }

    #[test]
    fn what_would_have_no_effect_is_refused_with_its_path_and_the_way_out() {
        for (yaml, path) in [
            (
                "state: {type: Volume, volume: {mountPath: /data}, snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}",
                "spec.state.snapshot.type",
            ),
            ("state: {maxReplay: 1m}", "spec.state.maxReplay"),
            (
                "ordering: {lanes: [{key: {pathSegment: 1}, count: 4}]}",
                "spec.ordering.lanes",
            ),
            (
                "divergence: {ignoreJSONPointers: [/a]}",
                "spec.divergence.ignoreJSONPointers",
            ),
            ("service: {export: true}", "spec.service.export"),
        ] {
            let words = found(yaml);
            assert_eq!(words.len(), 1, "{yaml}: {words:?}");
            assert!(words[0].starts_with(&format!("{path}: ")), "{}", words[0]);
        }
        let two = found("service: {export: true}\nstate: {maxReplay: 1m}");
        assert_eq!(two.len(), 2, "both are told: {two:?}");
    }

    #[test]
    fn witnesses_beside_a_users_own_statefulset_are_refused() {
        let mut spec = spec("placement: [{cluster: us, voters: 2, witnesses: 1}]");
        let template = "{metadata: {labels: {synod.dev/inject: notes}}, spec: {containers: [{name: app, image: i}]}}";
        spec.template = Some(serde_yaml::from_str(template).expect("a template"));
        let words = unsupported(&spec, &members::placement(&spec, "local"));
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].starts_with("spec.placement[].witnesses: "));
    }

    #[test]
    fn what_is_so_anyway_may_be_said() {
        for yaml in [
            "placement: [{cluster: us, voters: 2, witnesses: 1}]",
            "replicas: 3",
            "bootstrap: {type: Existing}",
            "update: {strategy: Switch}",
            "update: {strategy: Rolling}",
            "poison: {skip: Never}",
            "poison: {skip: WhenReachableFailed}",
            "divergence: {action: Alert, ignoreHeaders: [X-A]}",
            "reads: {protocol: ReadIndex}",
            "leader: {preferredRegions: [us-1]}",
            "app: {protocol: H2C}",
            "state: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}",
            "state: {type: Volume, volume: {mountPath: /data}}",
            "state: {type: Volume, volume: {mountPath: /data}, onUncleanCrash: AtLeastOnce, snapshot: {type: Volume}}",
            "state: {type: Volume, volume: {mountPath: /data}, onUncleanCrash: AppliedHeader, applied: {method: GET, path: /slot}}",
        ] {
            assert_eq!(found(yaml), [""; 0], "{yaml}");
        }
    }
}
