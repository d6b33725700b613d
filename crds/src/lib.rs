//! The custom resources of `synod.dev/v1alpha1` as Rust types: what a user writes and what the
//! operator reports. Comes in: a manifest's text ([`parse`]). Goes out: the typed object, or every
//! problem with its field's path and the way out; and the replicated policy ([`policy`]). No I/O.
//!
//! The comments on the fields are what `kubectl explain` prints, so they are written for users.

mod app;
mod crd;
mod duration;
mod findings;
mod group;
mod int_or_string;
mod manifest;
pub mod members;
mod membership;
mod meta;
mod ordering;
mod placement;
mod policy;
mod quantity;
mod raw;
mod revision;
mod routes;
mod runtime;
mod service;
mod state;
mod status;
mod validate;

pub use app::{App, AppProtocol, PassthroughAcknowledgement, PassthroughPort};
pub use crd::{FIELD_RULES, FieldRule, files};
pub use duration::{Duration, DurationError};
pub use findings::{DivergedCopies, Findings, SkippedRequest, UndecidedRequest};
pub use group::{
    GroupApp, GroupFounding, GroupIssuer, GroupMember, GroupMemberStatus, GroupPeer, ReplicaGroup,
    ReplicaGroupSpec, ReplicaGroupStatus, SnapshotRequest,
};
pub use int_or_string::IntOrString;
pub use manifest::{ManifestError, parse};
pub use membership::{ConfiguredMember, JoiningMember, MembersChange, Membership, RoleChange};
pub use meta::{Manifest, ObjectMeta};
pub use ordering::{Idempotency, Lane, LaneKey, Ordering, Principal};
pub use placement::{
    FIRST_WITNESS, LocalObjectReference, Overrides, Placement, WITNESS_SUFFIX, is_witness,
};
pub use policy::policy;
pub use quantity::{Quantity, QuantityError};
pub use raw::RawObject;
pub use revision::{Along, GroupRevision, Revise, RevisionState};
pub use routes::{Consistency, DefaultConsistency, PathMatch, PathMatchType, Route, RouteMatch};
pub use runtime::{
    Divergence, DivergenceAction, Leader, Network, NetworkMode, Poison, PoisonSkip, ReadProtocol,
    Reads, Service, ServiceType, Sidecar, SidecarPorts, SidecarUpdate, Update, UpdateStrategy,
};
pub use service::{
    API_VERSION, KIND, ReplicatedService, ReplicatedServiceSpec, Risk, ScaleDown, WorkloadRef,
};
pub use state::{
    Bootstrap, BootstrapClaim, BootstrapSnapshot, BootstrapType, Endpoint, Every, HttpSnapshot,
    Log, OnUncleanCrash, Retention, Snapshot, SnapshotType, State, StateType, StateVolume,
    VolumeClaim, VolumeClaimRetentionPolicy,
};
pub use status::{
    ClusterStatus, Condition, LeaderStatus, MemberRole, MemberState, MemberStatus, ProtocolStatus,
    ReplicatedServiceStatus, SnapshotAnswer, SnapshotStatus, Standing, Summary, Tolerates,
};
pub use validate::{Problem, validate};
