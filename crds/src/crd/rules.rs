//! The rules that the API server checks when an object is written, in its language (CEL). They are
//! those that need more than one field, or the object as it was: bounds of single fields are in the
//! schema, and all is checked again by [`validate`](crate::validate) in the operator.

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct FieldRule {
    /// Kind of object.
    pub kind: &'static str,
    /// The schema that it is attached to, such as `spec.placement[]`; `self` in the rule.
    pub at: &'static str,
    /// The expression that must be true.
    pub rule: &'static str,
    /// The field, what is wrong with it, and the way out.
    pub message: &'static str,
    /// The field seen from `at`, for the server's own words; empty: `at` itself.
    pub field: &'static str,
}

const SERVICE: &str = "ReplicatedService";
const GROUP: &str = "ReplicaGroup";

const fn rule(
    kind: &'static str,
    at: &'static str,
    field: &'static str,
    rule: &'static str,
    message: &'static str,
) -> FieldRule {
    FieldRule {
        kind,
        at,
        rule,
        message,
        field,
    }
}

/// All rules.
pub const FIELD_RULES: &[FieldRule] = &[
    // === Names leave room for those of children ===
    rule(
        SERVICE,
        "",
        "",
        "size(self.metadata.name) <= 40",
        "metadata.name: at most 40 characters leave room for the names of pods and Services: choose a shorter one",
    ),
    rule(
        SERVICE,
        "",
        "",
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name: pods and Services are named after it: use lower-case letters, digits and `-`, beginning with a letter and ending with a letter or digit",
    ),
    rule(
        SERVICE,
        "",
        ".spec.placement",
        "!has(self.spec.placement) || self.spec.placement.all(p, size(self.metadata.name) + 1 + size(p.cluster) <= 52)",
        "spec.placement: the name of the service and that of a cluster make more than 52 characters: choose shorter ones",
    ),
    // === Members ===
    rule(
        SERVICE,
        "spec",
        ".replicas",
        "!(has(self.replicas) && has(self.placement))",
        "spec.replicas: it excludes spec.placement: remove one of the two",
    ),
    rule(
        SERVICE,
        "spec",
        ".replicas",
        "!has(self.replicas) || self.replicas % 2 == 1 || (has(self.acknowledgedRisks) && 'EvenVoters' in self.acknowledgedRisks)",
        "spec.replicas: an even number of votes tolerates no more losses than one fewer: use an odd number, or add EvenVoters to spec.acknowledgedRisks",
    ),
    rule(
        SERVICE,
        "spec",
        ".placement",
        "!has(self.placement) || self.placement.map(p, p.voters + p.witnesses).sum() % 2 == 1 || (has(self.acknowledgedRisks) && 'EvenVoters' in self.acknowledgedRisks)",
        "spec.placement: an even number of votes (voters and witnesses) tolerates no more losses than one fewer: use an odd number, or add EvenVoters to spec.acknowledgedRisks",
    ),
    rule(
        SERVICE,
        "spec",
        ".placement",
        "!has(self.placement) || self.placement.map(p, p.voters + p.witnesses).sum() <= 9",
        "spec.placement: more than 9 votes (voters and witnesses) are too many: use observers, which answer reads without a vote",
    ),
    rule(
        SERVICE,
        "spec",
        ".placement",
        "!has(self.placement) || self.placement.exists(p, p.voters > 0)",
        "spec.placement: no voter runs the app: set voters of at least one cluster to 1 or more",
    ),
    rule(
        SERVICE,
        "spec",
        ".placement",
        "!has(self.placement) || self.placement.map(p, p.voters + p.observers + p.witnesses).sum() <= 32",
        "spec.placement: more than 32 members in all: use fewer observers",
    ),
    rule(
        SERVICE,
        "spec.placement[]",
        "",
        "self.voters + self.observers + self.witnesses > 0",
        "spec.placement[]: no member would run there: set voters, observers or witnesses, or remove the entry",
    ),
    rule(
        SERVICE,
        "spec.placement[]",
        ".cluster",
        "self.cluster.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "spec.placement[].cluster: use the cluster's name as it was registered: at most 40 lower-case letters, digits and `-`",
    ),
    // === The app ===
    rule(
        SERVICE,
        "spec",
        ".template",
        "has(self.template) != has(self.workloadRef)",
        "spec.template: give either the app's pod template or a spec.workloadRef to take it from, and only one of the two",
    ),
    rule(
        SERVICE,
        "spec.workloadRef",
        "",
        "self.apiVersion == 'apps/v1' && self.kind in ['Deployment', 'StatefulSet'] && size(self.name) > 0",
        "spec.workloadRef: name a Deployment or StatefulSet of apps/v1",
    ),
    rule(
        SERVICE,
        "spec",
        ".ordering.responseTimeout",
        "duration(self.ordering.responseTimeout) >= duration(self.app.applyTimeout)",
        "spec.ordering.responseTimeout: it is shorter than spec.app.applyTimeout, so clients would be told `unknown` about requests that are still in time: raise it, or lower applyTimeout",
    ),
    rule(
        SERVICE,
        "spec.ordering",
        ".maxBodySize",
        "quantity(string(self.maxBodySize)).compareTo(quantity('16Mi')) <= 0",
        "spec.ordering.maxBodySize: at most 16Mi, because each body travels in one message between members",
    ),
    rule(
        SERVICE,
        "spec.ordering.lanes[].key",
        "",
        "[has(self.pathSegment), has(self.header), has(self.jsonPointer)].exists_one(it, it)",
        "spec.ordering.lanes[].key: give exactly one of pathSegment, header and jsonPointer",
    ),
    // === State ===
    rule(
        SERVICE,
        "spec.log",
        ".maxSize",
        "quantity(string(self.maxSize)).compareTo(quantity('256Mi')) >= 0",
        "spec.log.maxSize: at least 256Mi",
    ),
    rule(
        SERVICE,
        "spec.state",
        ".volume",
        "(self.type == 'Volume') == has(self.volume)",
        "spec.state.volume: it is needed with `type: Volume`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec.state",
        ".snapshot.type",
        "self.snapshot.type != 'Volume' || self.type == 'Volume'",
        "spec.state.snapshot.type: Volume needs `state.type: Volume`: set that, or use HTTP or None",
    ),
    rule(
        SERVICE,
        "spec.state",
        ".onUncleanCrash",
        "!has(self.onUncleanCrash) || self.type == 'Volume'",
        "spec.state.onUncleanCrash: it has a meaning only with `type: Volume`: an ephemeral app always starts over; remove it",
    ),
    rule(
        SERVICE,
        "spec.state",
        ".applied",
        "(has(self.onUncleanCrash) && self.onUncleanCrash == 'AppliedHeader') == has(self.applied)",
        "spec.state.applied: it is needed with `onUncleanCrash: AppliedHeader`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec.state.snapshot",
        ".http",
        "(self.type == 'HTTP') == has(self.http)",
        "spec.state.snapshot.http: it is needed with `type: HTTP`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec.state.snapshot",
        ".every",
        "!has(self.every) || self.type != 'None'",
        "spec.state.snapshot.every: no snapshot is ever due with `type: None`: set HTTP or Volume, or remove it",
    ),
    rule(
        SERVICE,
        "spec.bootstrap",
        ".claim",
        "(self.type == 'Claim') == has(self.claim)",
        "spec.bootstrap.claim: it is needed with `type: Claim`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec.bootstrap",
        ".snapshot",
        "(self.type == 'Snapshot') == has(self.snapshot)",
        "spec.bootstrap.snapshot: it is needed with `type: Snapshot`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec",
        ".bootstrap",
        "!has(self.bootstrap) || self.bootstrap.type != 'Claim' || (has(self.state) && self.state.type == 'Volume' && self.state.snapshot.type == 'Volume')",
        "spec.bootstrap.type: Claim needs an app with a volume that can be copied to all members: set `state.type: Volume` and `state.snapshot.type: Volume`",
    ),
    // === Routes ===
    rule(
        SERVICE,
        "spec.routes[]",
        ".name",
        "self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "spec.routes[].name: use at most 63 lower-case letters, digits and `-`",
    ),
    rule(
        SERVICE,
        "spec.routes[]",
        ".maxStaleness",
        "(has(self.consistency) && self.consistency == 'BoundedStale') == has(self.maxStaleness)",
        "spec.routes[].maxStaleness: it is needed with `consistency: BoundedStale`, and has no meaning without: give both or none",
    ),
    rule(
        SERVICE,
        "spec.routes[]",
        ".streaming",
        "!self.streaming || !has(self.consistency) || self.consistency != 'Ordered'",
        "spec.routes[].streaming: a stream cannot be ordered: set consistency to another level",
    ),
    // === What a service is cannot be changed ===
    rule(
        SERVICE,
        "spec.state",
        ".type",
        "self.type == oldSelf.type",
        "spec.state.type: it cannot be changed: make a backup and a new service from it",
    ),
    rule(
        SERVICE,
        "spec.state.volume",
        ".mountPath",
        "self.mountPath == oldSelf.mountPath",
        "spec.state.volume.mountPath: it cannot be changed: make a backup and a new service from it",
    ),
    rule(
        SERVICE,
        "",
        ".spec.bootstrap",
        "!has(oldSelf.status) || !has(oldSelf.status.epoch) || self.spec.bootstrap == oldSelf.spec.bootstrap",
        "spec.bootstrap: the service was formed from it and it cannot be changed any more: put back what it was, or make a new service",
    ),
    rule(
        GROUP,
        "spec",
        ".owner",
        "self.owner == oldSelf.owner",
        "spec.owner: another service of this name has its members here: give one of the two another name, or delete the other first",
    ),
    rule(
        GROUP,
        "spec",
        ".cluster",
        "self.cluster == oldSelf.cluster",
        "spec.cluster: members are named after it and it cannot be changed: delete this object, or put back what it was",
    ),
    rule(
        GROUP,
        "spec",
        ".genesis",
        "!has(oldSelf.genesis) || (has(self.genesis) && self.genesis == oldSelf.genesis)",
        "spec.genesis: a group is formed once: put back what it was, or make a new service",
    ),
];
