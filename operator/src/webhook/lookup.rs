//! What there is about a pod's service, read from the API server as it is now: a cache might not have
//! the group or the StatefulSet that was made a moment ago, and its pods would be refused.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client};
use synod_api::ReplicaGroup;

use crate::inject::names;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) service: String,
    pub(super) namespace: String,
    pub(super) group: Option<ReplicaGroup>,
    /// The StatefulSets of the namespace.
    pub(super) sets: Vec<StatefulSet>,
    /// What the app's hooks show to the sidecar.
    pub(super) token: Option<String>,
    /// Members that have a certificate.
    pub(super) certified: BTreeSet<String>,
}

/// Reads.
pub(super) async fn lookup(client: &Client, namespace: &str, service: &str) -> kube::Result<Facts> {
    let groups: Api<ReplicaGroup> = Api::namespaced(client.clone(), namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let (token, tls) = (names::token_secret(service), names::tls_secret(service));
    let params = ListParams::default();
    let (group, sets, token, tls) = tokio::try_join!(
        groups.get_opt(service),
        sets.list(&params),
        secrets.get_opt(&token),
        secrets.get_opt(&tls),
    )?;
    let data = |secret: Option<Secret>| secret.and_then(|it| it.data).unwrap_or_default();
    let token = data(token).remove("token");
    Ok(Facts {
        service: service.to_owned(),
        namespace: namespace.to_owned(),
        group,
        sets: sets.items,
        token: token.and_then(|it| String::from_utf8(it.0).ok()),
        certified: data(tls)
            .into_keys()
            .filter_map(|it| it.strip_suffix(".crt").map(str::to_owned))
            .collect(),
    })
}
