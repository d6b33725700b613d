//! `synod cluster remove`. Comes in: a cluster's name. Goes out: its registration is deleted, and
//! what stays is told.

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use synod_api::ReplicatedService;
use synod_operator::registry::CLUSTER_LABEL;

use super::account::{self, ACCOUNT};
use super::connection::{Connection, failed};
use super::name;
use crate::exit::Failure;

/// Take a cluster's registration out of a hub
///
/// What runs there goes on running, and nobody looks after it from the hub any more. Refused while
/// services are placed there, unless --force: that is how you say that a cluster is lost for good,
/// so that services can be deleted without it.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// What placements call the cluster
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    hub: Connection,
    /// Namespace of the operator, in both clusters
    #[arg(short, long, default_value = "synod-system")]
    namespace: String,
    /// The cluster's own context: the hub's account is deleted there, so that its credential ends
    #[arg(long, value_name = "CONTEXT")]
    cluster_context: Option<String>,
    /// Also while services are placed there
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: &RemoveArgs) -> Result<(), Failure> {
    let hub = args.hub.client().await?;
    let services = placed(&hub, &args.name).await?;
    if !services.is_empty() && !args.force {
        return Err(Failure::failed(format!(
            "members of {} are in {}: delete those services first; --force leaves the members there on their own",
            services.join(", "),
            args.name
        )));
    }
    let api: Api<Secret> = Api::namespaced(hub, &args.namespace);
    let label = format!("{CLUSTER_LABEL}={}", args.name);
    let secrets = api
        .list(&ListParams::default().labels(&label))
        .await
        .map_err(failed("list Secrets in the hub"))?;
    if secrets.items.is_empty() {
        return Err(Failure::usage(format!(
            "no cluster is registered as {} in namespace {}: see `synod cluster list`",
            args.name, args.namespace
        )));
    }
    for secret in secrets {
        let name = secret.name_any();
        api.delete(&name, &DeleteParams::default())
            .await
            .map_err(failed(&format!("delete Secret {name}")))?;
    }
    eprintln!("{} is not registered any more.", args.name);
    if !services.is_empty() {
        eprintln!(
            "The members of {} there stay and go on; whoever wants them gone deletes their ReplicaGroups there.",
            services.join(", ")
        );
    }
    match &args.cluster_context {
        Some(context) => {
            let cluster = Connection {
                kubeconfig: args.hub.kubeconfig.clone(),
                context: Some(context.clone()),
            };
            account::delete(&cluster.client().await?, &args.namespace).await?;
            eprintln!("The hub's account there is deleted. The operator there stays.");
        }
        None => eprintln!(
            "The operator there stays, and so does the hub's account, whose credential is still good: delete it with --cluster-context, or there with: kubectl -n {} delete serviceaccount {ACCOUNT}",
            args.namespace
        ),
    }
    Ok(())
}

/// Services with members there, by what they want and by what was last seen.
async fn placed(hub: &Client, cluster: &str) -> Result<Vec<String>, Failure> {
    let resource = ApiResource::erase::<ReplicatedService>(&());
    let api: Api<DynamicObject> = Api::all_with(hub.clone(), &resource);
    let services = match api.list(&ListParams::default()).await {
        Ok(services) => services,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(Failure::usage(
                "the cluster knows no ReplicatedServices, so it is no hub: give the hub's with --context or --kubeconfig",
            ));
        }
        Err(error) => return Err(failed("list services in the hub")(error)),
    };
    Ok(services
        .iter()
        .filter(|it| names(&it.data, cluster))
        .map(|it| format!("{}/{}", it.namespace().unwrap_or_default(), it.name_any()))
        .collect())
}

fn names(service: &Value, cluster: &str) -> bool {
    ["/spec/placement", "/status/members"]
        .into_iter()
        .any(|list| {
            service
                .pointer(list)
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|it| it["cluster"] == cluster))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_in_the_clusters_it_wants_and_in_those_it_was_seen_in() {
        let service = json!({
            "spec": {"placement": [{"cluster": "us"}]},
            "status": {"members": [{"name": "a", "cluster": "eu"}]},
        });
        assert!(names(&service, "us") && names(&service, "eu"));
        assert!(!names(&service, "ap"));
        assert!(!names(&json!({"spec": {"replicas": 3}}), "us"));
    }
}
