//! The hub's account in another cluster: it may touch ReplicaGroups and nothing else. Comes in: a
//! client for that cluster. Goes out: the account's token.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::connection::failed;
use crate::exit::Failure;

/// Name of the account, of its role and of the role's binding.
pub(super) const ACCOUNT: &str = "synod-hub";
/// Name of the Secret that holds the account's token.
const TOKEN: &str = "synod-hub-token";
/// Who writes.
const MANAGER: &str = "synod-cli";
/// Between two looks whether the token is there.
const PERIOD: Duration = Duration::from_millis(200);

/// What the account's Secret holds.
#[derive(Debug)]
pub(super) struct Token {
    /// The credential; it lasts until the account or the Secret is deleted.
    pub(super) token: String,
    /// The cluster's certificate authority, PEM.
    pub(super) ca: Vec<u8>,
}

/// Everything that is needed in the cluster that joins.
pub(super) fn objects(namespace: &str) -> [Value; 4] {
    let labels = json!({"app.kubernetes.io/part-of": "synod"});
    let rbac = "rbac.authorization.k8s.io";
    [
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": namespace, "labels": labels},
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"),
            "kind": "ClusterRole",
            "metadata": {"name": ACCOUNT, "labels": labels},
            // What the hub does there and no more: it writes the work, watches how that goes, and
            // takes it away. The status is written by the operator there.
            "rules": [{
                "apiGroups": ["synod.dev"],
                "resources": ["replicagroups"],
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
            }],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ACCOUNT, "labels": labels},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": TOKEN,
                "namespace": namespace,
                "labels": labels,
                "annotations": {"kubernetes.io/service-account.name": ACCOUNT},
            },
            "type": "kubernetes.io/service-account-token",
        }),
    ]
}

/// The same as a file for kubectl.
pub(super) fn manifest(namespace: &str) -> String {
    objects(namespace).iter().fold(String::new(), |text, it| {
        let one = serde_yaml::to_string(it).expect("strings are YAML");
        format!("{text}---\n{one}")
    })
}

/// Makes the account, where that is allowed. What is not allowed may have been made by somebody else
/// before: that is seen by its token.
pub(super) async fn make(
    client: &Client,
    namespace: &str,
    timeout: Duration,
) -> Result<Token, Failure> {
    let mut denied = None;
    for object in objects(namespace) {
        match put(client, namespace, &object).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                denied.get_or_insert(status.message);
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Failure::failed(format!(
                    "the cluster that joins has no namespace {namespace}: install the operator there first, or give its namespace with -n"
                )));
            }
            Err(error) => {
                let what = format!("write {} {}", object["kind"], object["metadata"]["name"]);
                return Err(failed(&what.replace('"', ""))(error));
            }
        }
    }
    let Some(denied) = denied else {
        return wait(client, namespace, timeout).await;
    };
    if let Ok(Some(token)) = read(client, namespace).await {
        eprintln!("synod: not written, what is there is used: {denied}");
        return Ok(token);
    }
    Err(Failure::failed(format!(
        "{denied}\nHave somebody who may apply this in the cluster that joins; then, with the right to read the Secret {namespace}/{TOKEN}, run this command again:\n{}",
        manifest(namespace)
    )))
}

async fn put(client: &Client, namespace: &str, object: &Value) -> Result<(), kube::Error> {
    async fn apply<K>(api: Api<K>, object: &Value) -> Result<(), kube::Error>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let params = PatchParams::apply(MANAGER).force();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        api.patch(name, &params, &Patch::Apply(object))
            .await
            .map(drop)
    }
    let client = client.clone();
    match object["kind"].as_str() {
        Some("ServiceAccount") => {
            apply::<ServiceAccount>(Api::namespaced(client, namespace), object).await
        }
        Some("ClusterRole") => apply::<ClusterRole>(Api::all(client), object).await,
        Some("ClusterRoleBinding") => apply::<ClusterRoleBinding>(Api::all(client), object).await,
        _ => apply::<Secret>(Api::namespaced(client, namespace), object).await,
    }
}

/// The cluster itself fills the token in.
async fn wait(client: &Client, namespace: &str, timeout: Duration) -> Result<Token, Failure> {
    let wait = async {
        loop {
            if let Some(token) = read(client, namespace)
                .await
                .map_err(failed("read the account's token"))?
            {
                return Ok(token);
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    match tokio::time::timeout(timeout, wait).await {
        Ok(result) => result,
        Err(_) => Err(Failure::failed(format!(
            "the cluster made no token for the Secret {namespace}/{TOKEN} in time: is its controller manager running? Then run this command again"
        ))),
    }
}

async fn read(client: &Client, namespace: &str) -> Result<Option<Token>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let data = api.get_opt(TOKEN).await?.and_then(|it| it.data);
    Ok(data.and_then(|data| {
        Some(Token {
            token: String::from_utf8_lossy(&data.get("token")?.0).into_owned(),
            ca: data.get("ca.crt")?.0.clone(),
        })
    }))
}

/// Deletes the account, with its token.
pub(super) async fn delete(client: &Client, namespace: &str) -> Result<(), Failure> {
    let params = DeleteParams::default();
    let tokens: Api<Secret> = Api::namespaced(client.clone(), namespace);
    gone(tokens.delete(TOKEN, &params).await, "the token")?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    gone(accounts.delete(ACCOUNT, &params).await, "ServiceAccount")?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    gone(
        bindings.delete(ACCOUNT, &params).await,
        "ClusterRoleBinding",
    )?;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    gone(roles.delete(ACCOUNT, &params).await, "ClusterRole")
}

/// What is not there need not be deleted.
fn gone<T>(result: Result<T, kube::Error>, what: &str) -> Result<(), Failure> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failed(&format!("delete {what} of {ACCOUNT}"))(error)),
    }
}

/// Whether there is such a namespace; not known to those who may not look.
pub(super) async fn has_namespace(client: &Client, namespace: &str) -> bool {
    let api: Api<Namespace> = Api::all(client.clone());
    !matches!(api.get_opt(namespace).await, Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_may_touch_replica_groups_and_nothing_else() {
        let objects = objects("synod-system");
        let rules: Vec<_> = objects
            .iter()
            .filter_map(|it| it["rules"].as_array())
            .flatten()
            .collect();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0]["apiGroups"], json!(["synod.dev"]));
        assert_eq!(rules[0]["resources"], json!(["replicagroups"]));
        let verbs = rules[0]["verbs"].to_string();
        assert!(
            !verbs.contains('*') && !verbs.contains("escalate"),
            "{verbs}"
        );
        let bindings = objects.iter().filter(|it| it.get("roleRef").is_some());
        assert_eq!(bindings.count(), 1);
    }

    #[test]
    fn the_manifest_for_somebody_else_has_all_of_it_in_the_namespace_that_was_given() {
        let text = manifest("elsewhere");
        assert_eq!(text.matches("---\n").count(), 4);
        assert_eq!(text.matches("namespace: elsewhere").count(), 3);
        assert!(text.contains("type: kubernetes.io/service-account-token"));
    }
}
