//! Names of the children of a group, besides those that its pods refer to.

use synod_api::WITNESS_SUFFIX;

use crate::inject::names;

/// Who writes them, for server-side apply.
pub(crate) const MANAGER: &str = "synod-group";
/// On all children.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "synod");
pub(crate) const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// On claims: UID of the service whose data they hold.
pub(crate) const OWNER_LABEL: &str = "synod.dev/owner";
/// On children: what was last applied, as a digest.
pub(crate) const APPLIED_ANNOTATION: &str = "synod.dev/applied";
/// On pods: what their template was made from, as a digest.
pub(crate) const TEMPLATE_ANNOTATION: &str = "synod.dev/template";
/// On pods: which configuration they should have seen, as a digest. A change makes kubelet look.
pub(crate) const SEEN_ANNOTATION: &str = "synod.dev/configuration";

/// The StatefulSet; its pods are called after it.
pub(crate) fn workload(service: &str, cluster: &str) -> String {
    format!("{service}-{cluster}")
}

/// The StatefulSet of the witnesses beside that one.
pub(crate) fn witnesses(workload: &str) -> String {
    format!("{workload}{WITNESS_SUFFIX}")
}

/// The headless Service, by which members of one cluster find each other.
pub(crate) fn headless(service: &str) -> String {
    format!("{service}-members")
}

/// The Service of one member.
pub(crate) fn pod_service(service: &str, ordinal: u32) -> String {
    format!("{service}-m-{ordinal}")
}

/// Secret with the key of this cluster's intermediate certificate.
pub(crate) fn issuer_secret(service: &str) -> String {
    format!("{service}-issuer")
}

/// Secret with the operator's certificate for this group.
pub(crate) fn operator_secret(service: &str) -> String {
    format!("{service}-operator-tls")
}

/// By which Services, budgets and policies find the pods of a group.
pub(crate) fn selector(service: &str, cluster: &str) -> [(&'static str, String); 2] {
    [
        (names::SERVICE_LABEL, service.to_owned()),
        (names::CLUSTER_LABEL, cluster.to_owned()),
    ]
}
