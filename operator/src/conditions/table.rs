//! The table itself.

use super::{Kind, Reason, Status};

macro_rules! kinds {
    ($($name:ident = $text:literal, $good:ident, $only:literal, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: Kind = Kind {
                name: $text,
                meaning: $meaning,
                good: Status::$good,
                only_when_true: $only,
            };
        )*
        /// All types.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

macro_rules! reasons {
    ($($name:ident = $text:literal on [$($on:ident),+]: $meaning:literal => $way_out:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $name: Reason = Reason {
                name: $text,
                on: &[$(&$on),+],
                meaning: $meaning,
                way_out: $way_out,
            };
        )*
        /// All reasons.
        pub static REASONS: &[&Reason] = &[$(&$name),*];
    };
}

kinds! {
    READY = "Ready", True, false, "Everything is as the manifest asks.";
    AVAILABLE = "Available", True, false, "A quorum of members agrees on requests, so clients are served.";
    PROGRESSING = "Progressing", False, false, "The operator is on the way to what the manifest asks.";
    DEGRADED = "Degraded", False, false, "The service goes on with less than it should have.";
    RECONCILING = "Reconciling", False, true, "As Progressing, under the name that tools know.";
    STALLED = "Stalled", False, true, "Nothing more happens before somebody changes something.";
    CERTIFICATES_VALID = "CertificatesValid", True, false, "Members know each other by certificates that have some time left.";
    TRAFFIC_INTERCEPTED = "TrafficIntercepted", True, false, "Nobody reaches the app past the agreed order.";
    DIVERGED = "Diverged", False, false, "Copies answered a request differently, and were not made anew yet.";
    LOG_UNBOUNDED = "LogUnbounded", False, false, "The log is never cut, so it grows, and a new copy replays all of it.";
}

reasons! {
    // === Good ===
    AS_DESIRED = "AsDesired" on [READY, PROGRESSING, DEGRADED, RECONCILING, STALLED, CERTIFICATES_VALID, TRAFFIC_INTERCEPTED, DIVERGED, LOG_UNBOUNDED]:
        "All is as the manifest asks." => "Nothing.";
    QUORUM_COMMITS = "QuorumCommits" on [AVAILABLE]:
        "A leader and a majority of votes are there." => "Nothing.";
    PENDING = "Pending" on [READY, AVAILABLE]:
        "No operator has looked at this object yet." =>
        "See that an operator runs (`kubectl get deploy -A -l app.kubernetes.io/name=synod`), and that `hub` is true where services are kept.";

    // === On the way ===
    FORMING = "Forming" on [READY, AVAILABLE, PROGRESSING, RECONCILING]:
        "The members have all reported; the first configuration is being handed out." =>
        "Wait. It takes seconds; if it does not end, look at the members' logs.";
    WAITING_FOR_MEMBERS = "WaitingForMembers" on [READY, AVAILABLE, PROGRESSING, RECONCILING, DEGRADED]:
        "Members are not there yet, or their copies are not caught up." =>
        "Wait while pods start. The message names the members; `kubectl describe pod` tells what theirs wait for.";
    WAITING_FOR_CLUSTER = "WaitingForCluster" on [READY, AVAILABLE, PROGRESSING, RECONCILING]:
        "The operator of a cluster has not taken up its part yet." =>
        "See that an operator of a fitting version runs in the named cluster.";
    WAITING_FOR_CERTIFICATES = "WaitingForCertificates" on [READY, AVAILABLE, PROGRESSING, RECONCILING, CERTIFICATES_VALID]:
        "A cluster's certificates have not been issued yet." =>
        "Wait; if it does not end, look at the logs of the operator in the named cluster and in the hub.";
    ROLLING_OUT = "RollingOut" on [READY, PROGRESSING, RECONCILING]:
        "Members are restarted one by one, the leader last." =>
        "Wait. If it does not move on, a restarted member does not become ready: its pod tells why.";
    ROLLING_BACK = "RollingBack" on [READY, PROGRESSING, RECONCILING]:
        "An app ended, and nobody knows what it had done of its last request: its volume is put back to the last snapshot, and executed anew from there. Its pod is replaced for that, one at a time, since kubelet would start the app upon files that are being changed." =>
        "Wait. If it happens often, look why the app ends: `kubectl logs POD -c CONTAINER --previous`.";
    REVISION_PENDING = "RevisionPending" on [READY, PROGRESSING, RECONCILING]:
        "Another revision of the app is to take over: the image, a command, the environment or a volume in the template was changed. The message says what is waited for before it begins." =>
        "Wait, or do what the message says. Putting the template back ends it.";
    REVISION_RUNS_ALONG = "RevisionRunsAlong" on [READY, PROGRESSING, RECONCILING]:
        "Another revision of the app executes what is agreed on, and nobody sees what it answers: the one before answers. Pods are replaced one at a time until half of the copies are of the new one; it takes over when these have caught up and every request has gone alike with both. The members are not changed meanwhile." =>
        "Wait. If the message names nobody who is next, a member has not got yet what the revision begins with, or the copies are not well. If the new pods do not start, put the template back (or give it another one): the revision is taken back, and nothing is lost.";
    REVISIONS_DISAGREE = "RevisionsDisagree" on [READY, PROGRESSING]:
        "The revision of the app that runs along silently has answered a request with another class of status codes than the one that answers clients. It does not take over. Clients are served by the one before, as if nothing were." =>
        "Put the template back, or give it an app that answers alike: the revision is taken back, its pods are replaced, and nothing is lost. Where the other answer is what is wanted: put the template back, then change it once more with `spec.update.strategy: Switch`, which compares nothing.";
    REVISION_BEGUN = "RevisionBegun" on [READY, PROGRESSING, RECONCILING]:
        "Another revision of the app executes what has been agreed on since its barrier: the state of there is saved, and pods are replaced, the leader's last. Requests wait until the first copy of it is there. The members are not changed meanwhile." =>
        "Wait. If the new pods do not start, or the app is not what it should be, put the template back (or give it another one): the revision is taken back to its barrier, and what it has executed is executed anew.";
    MEMBER_JOINING = "MemberJoining" on [READY, PROGRESSING, RECONCILING]:
        "A member that `replicas` or `placement` ask for starts, and comes into the group: without a vote, until it has caught up." =>
        "Wait. If it does not move on, the member in the message does not start, or the leader does not reach it: its pod and its log tell why.";
    MEMBER_CATCHING_UP = "MemberCatchingUp" on [READY, PROGRESSING, RECONCILING]:
        "A new member is in the group and takes over what it has missed; then it becomes a voter." =>
        "Wait: it takes as long as copying the newest snapshot and the log behind it.";
    MEMBER_REPLACING = "MemberReplacing" on [READY, PROGRESSING, RECONCILING]:
        "A member has another volume for its log than the one it was in the group with: the old one leaves, and it joins anew." =>
        "Wait. Where the message says that its log is of another group or of another member, give it an empty volume: delete its claims and its pod.";
    MEMBER_LEAVING = "MemberLeaving" on [READY, PROGRESSING, RECONCILING]:
        "A member that is not asked for any more leaves the group; its pod goes afterwards, its claims as `volumeClaimRetentionPolicy.whenScaled` says." =>
        "Wait. One vote goes at a time.";
    WAITING_FOR_QUORUM = "WaitingForQuorum" on [READY, PROGRESSING, RECONCILING]:
        "The members are to be others, and too few voters are heard to agree on that; or they have just become others, and have agreed on nothing since." =>
        "Bring back the members that are not heard. Nothing is removed meanwhile.";
    WAITING_FOR_PROTOCOL = "WaitingForProtocol" on [READY, PROGRESSING, RECONCILING]:
        "The members are to be others, and some of them run a sidecar that does not know how." =>
        "Update the sidecars: see updates.md. The protocol is raised by itself when all speak it.";
    DELETING = "Deleting" on [READY, AVAILABLE, PROGRESSING, RECONCILING]:
        "The service is being deleted in all its clusters." =>
        "Wait. A cluster that cannot be reached is named in the message: bring it back, or remove its registration (`synod cluster remove`), which leaves there what is there.";
    PAUSED = "Paused" on [PROGRESSING]:
        "`spec.paused` is set: the operator changes nothing. The service itself goes on." =>
        "Set `spec.paused` to false when you are done.";

    // === Refused, until somebody changes something ===
    INVALID_SPEC = "InvalidSpec" on [READY, AVAILABLE, STALLED]:
        "The manifest contradicts itself, or asks for what this version does not know." =>
        "Change the field that the message names. What runs goes on as it was.";
    INVALID_TEMPLATE = "InvalidTemplate" on [READY, STALLED]:
        "The API server refuses the pod template." =>
        "Change what its words in the message name, in `spec.template` or in the workload it is taken from.";
    WORKLOAD_NOT_FOUND = "WorkloadNotFound" on [READY, AVAILABLE, DEGRADED, STALLED]:
        "The workload that `spec.workloadRef` names does not exist, or no StatefulSet has the label of the service in its pod template." =>
        "Create it, correct the name, or give the pod template in `spec.template`. A service that runs keeps the template it has.";
    WORKLOAD_NOT_ADOPTABLE = "WorkloadNotAdoptable" on [READY, STALLED]:
        "The StatefulSet with the label of the service cannot be taken as it is: its pods start in order, or it replaces them by itself, or there are more or fewer than members." =>
        "Run the commands in the message. What must be is in adopting.md.";
    UNKNOWN_CLUSTER = "UnknownCluster" on [READY, AVAILABLE, STALLED, DEGRADED]:
        "A cluster of the placement is not registered here." =>
        "Register it with `synod cluster join`, or correct its name in `spec.placement`.";
    REGION_MAJORITY = "RegionMajority" on [READY, AVAILABLE, STALLED]:
        "One region would hold a majority of votes, so its loss would stop the service." =>
        "Spread the votes over the regions, or add RegionMajority to `spec.acknowledgedRisks`.";
    UNSUPPORTED = "Unsupported" on [READY, AVAILABLE, STALLED]:
        "The manifest asks for something that this version cannot do yet." =>
        "Change the field that the message names as it says, or install a version that can. What runs goes on as it was.";
    REVISION_NEEDS_SNAPSHOT = "RevisionNeedsSnapshot" on [READY, STALLED]:
        "The template has another revision of the app. That begins with the state that the last one has come to, and the service has no way to save it. What runs goes on as it was." =>
        "Give the service one (`spec.state.snapshot`): see state.md; the revision begins by itself then. Or put the template back.";
    CLAIM_CHANGE_UNSUPPORTED = "ClaimChangeUnsupported" on [READY, PROGRESSING]:
        "The manifest asks for other volume claims than the members have. This version does not change claims that exist; nothing is done about it." =>
        "Put back what the manifest said about the claims that the message names, or make a new service.";
    OWNED_BY_ANOTHER = "OwnedByAnother" on [READY, AVAILABLE, STALLED]:
        "In one of the clusters a service of this name and namespace belongs to another hub, or to an earlier service that was not deleted there." =>
        "Give one of the two another name, or delete the other (`kubectl delete rgrp NAME` in that cluster deletes its members there).";
    NAME_CONFLICT = "NameConflict" on [READY, AVAILABLE, STALLED]:
        "An object has the name of one that the operator would make, and is not the operator's. It is never taken over." =>
        "Rename or delete the object that the message names, or give the service another name.";
    EXISTING_DATA = "ExistingData" on [READY, AVAILABLE, STALLED]:
        "Volume claims of an earlier service of this name hold data." =>
        "To go on with it: set `spec.bootstrap.type: Existing`. Otherwise give this service another name; or, only when nobody needs that data, delete the claims that the message names, and the service begins empty.";
    BOOTSTRAP_IMPOSSIBLE = "BootstrapImpossible" on [READY, AVAILABLE, STALLED]:
        "The service cannot begin with what `spec.bootstrap` names. Nothing was changed, and nothing is lost." =>
        "Do what the message says; it goes on by itself. Until the service was formed, `spec.bootstrap` can be changed.";
    GENESIS_LOST = "GenesisLost" on [READY, STALLED]:
        "The members say that they are a group already, but the record of how it was formed is not there." =>
        "Put the ConfigMap that the message names back from a backup. Only when nobody needs their data: delete the service and the claims of its members, then create it again.";
    BYPASS_POSSIBLE = "BypassPossible" on [READY, STALLED]:
        "A Service sends clients to the app's own port, past the agreed order. The service is not formed while that is so." =>
        "Let the named Service target the port by the name in the message, or delete it.";
    INJECTION_MISSING = "InjectionMissing" on [READY, STALLED, DEGRADED]:
        "A pod that should have the sidecar has none." =>
        "Delete the pod, so that it is made again through the webhook. What it holds in memory is lost.";

    // === Less than there should be ===
    NO_QUORUM = "NoQuorum" on [READY, AVAILABLE]:
        "Less than a majority of votes is there: ordered requests get 503 until it is back." =>
        "Bring members back: the message names those that are gone. Never delete volumes of members to get there.";
    NO_COPY = "NoCopy" on [READY, AVAILABLE]:
        "A quorum of votes is there, some of them witnesses', and no member that runs the app is there and caught up: requests are agreed on, and nobody executes them." =>
        "Bring back a member that the message names, or wait until its copy is caught up. Never delete volumes of members to get there: witnesses have no state.";
    NO_LEADER = "NoLeader" on [READY, AVAILABLE]:
        "Members are there, but do not follow one leader." =>
        "Wait a few seconds. If it lasts, look whether they reach each other on the peer port (network policies, firewalls between clusters).";
    CLUSTER_UNREACHABLE = "ClusterUnreachable" on [READY, AVAILABLE, DEGRADED, PROGRESSING]:
        "The hub gets no answer from a cluster's API server. Members there may be well: they need neither the hub nor its operator." =>
        "Look at the message for what was tried. Expired credentials: `synod cluster join` again. Members are never removed because of this.";
    POISON_UNDECIDED = "PoisonUndecided" on [READY, AVAILABLE, DEGRADED]:
        "A request fails on every copy, and it is not known yet whether one of them has executed it. Ordered requests get 503 until that is decided, and no member is taken away." =>
        "Bring back the members that the message names: it goes on by itself once they have said what they know. When one cannot come back: `synod skip --slot SLOT --at LEADER:7443 ..` has the request skipped, though a client may have been told that it was executed; the certificate for that is got as for a backup, see bootstrap.md.";
    REQUEST_SKIPPED = "RequestSkipped" on [DEGRADED]:
        "Within the last hour a request was skipped, since every copy failed at it: nobody executes it. The client got 502; all others are served." =>
        "Look why the app fails at it: the message and an event have its slot, method and path. The message also says if a client may have been told that it was executed; then look after what it was to do.";
    MEMBER_UNREACHABLE = "MemberUnreachable" on [READY, DEGRADED]:
        "The operator hears nothing from a member." =>
        "Look at its pod and its node.";
    MEMBER_LOST = "MemberLost" on [READY, DEGRADED]:
        "A member has lost its volume, and with it its part of the log: that life of it takes no part any more." =>
        "Wait: it is replaced by itself while a majority of the voters is there. Without one, bring others back.";
    MEMBER_QUARANTINED = "MemberQuarantined" on [READY, DEGRADED]:
        "A copy answered differently from the others and was taken out." =>
        "It is rebuilt by itself. If it happens again, the app is not deterministic for the named request: see the guide on which programs fit.";
    REVISION_GONE = "RevisionGone" on [READY, DEGRADED]:
        "A member was away for so many revisions of the app that what it must execute first is of one that is not kept any more, and no other member has a state that it could begin with." =>
        "Wait for the next snapshot of another member. If that does not help, let it begin anew: delete its claims and its pod, see updates.md.";
    POD_NOT_STARTING = "PodNotStarting" on [READY, DEGRADED]:
        "A pod waits for something: an image, a Secret, a volume, a node with room." =>
        "The message has the words of kubelet or scheduler.";
    APP_NOT_ANSWERING = "AppNotAnswering" on [READY, DEGRADED]:
        "Nothing has answered on the app's port for ten seconds or longer: the app does not listen there, or still starts." =>
        "Look at the app's log, and whether the port in the message is the one on which it listens: `spec.app.port`, else its container's first port.";
    START_SIGNAL_WEAK = "StartSignalWeak" on [DEGRADED]:
        "The app has a postStart command of its own, so its start is noticed by other means, which take longer." =>
        "Nothing, or make the hook an HTTP one.";
    DISRUPTION_BLOCKED = "DisruptionBlocked" on [READY, DEGRADED, PROGRESSING]:
        "A member's node is cordoned, but the member cannot be evicted now." =>
        "Wait: evictions are tried again by whoever drains the node. The message says what for; bring members back that are not well.";
    CHILD_REFUSED = "ChildRefused" on [READY, DEGRADED, STALLED]:
        "The API server refuses an object that the operator makes for this service." =>
        "Look at its words in the message: often a quota, a policy, or a right that the operator lacks.";

    // === Particular matters ===
    CERTIFICATE_ENDS = "CertificateEnds" on [CERTIFICATES_VALID, READY, DEGRADED]:
        "A certificate is near its end and was not renewed." =>
        "See that the operators run in the hub and in the named cluster. Members go on until it has ended.";
    BYPASS_SEEN = "BypassSeen" on [TRAFFIC_INTERCEPTED]:
        "Somebody connected to the app past the agreed order, from the address in the message." =>
        "Find out who, and send them to the Service; a NetworkPolicy that is enforced keeps them out.";
    COPY_DIFFERS = "CopyDiffers" on [DIVERGED]:
        "Copies answered a request differently from the majority. What is done about it is the last word of the message, by `spec.divergence.action`." =>
        "With `Quarantine` they are made anew by themselves. If it happens again, the app is not deterministic for the named route: see the guide on which programs fit.";
    COPIES_DISAGREE = "CopiesDisagree" on [DIVERGED]:
        "Copies answered a request differently, and no answer has a majority: nobody can tell which is right, so none is taken out." =>
        "Look at the copies, decide which of them are wrong, and delete their pods and claims: they are made anew from the others.";
    UNVERIFIED_SNAPSHOT = "UnverifiedSnapshot" on [DEGRADED]:
        "The log was cut behind a snapshot on which copies could not be compared in time, since members are away." =>
        "Bring the members back; the next snapshot is compared again.";
    NO_SNAPSHOT = "NoSnapshot" on [LOG_UNBOUNDED]:
        "The service has no way to save the app's state, so all requests are kept." =>
        "Give it one (`spec.state.snapshot`): see state.md. Until then watch the size of the log in the message: at `spec.log.maxSize` writes are refused.";
    OPERATOR_ERROR = "OperatorError" on [READY, AVAILABLE, DEGRADED, PROGRESSING, RECONCILING, STALLED]:
        "A step failed and is tried again." =>
        "The message has the error. Missing rights: compare the operator's roles with the chart's.";
}
