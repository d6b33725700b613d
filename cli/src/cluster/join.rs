//! `synod cluster join`. Comes in: a kubeconfig of the cluster that joins. Goes out: the hub's
//! account there, and on stdout the Secret that registers it in the hub.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use synod_api::ReplicaGroup;
use synod_operator::registry::{CLUSTER_LABEL, KUBECONFIG_KEY, REGION_KEY, check};

use super::account::{self, ACCOUNT, Token};
use super::connection::{Connection, client, failed};
use super::{name, probe, secret_name};
use crate::exit::Failure;

/// Let a hub place members in a cluster
///
/// In the cluster that joins, this makes a service account that may touch ReplicaGroups and nothing
/// else. On stdout is the Secret that registers the cluster in the hub:
///
///     synod cluster join --name eu --region eu-west-1 --context eu |
///       kubectl --context hub apply --server-side -f -
///
/// Run it again to renew a registration.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct JoinArgs {
    /// What placements call the cluster: its operator's --cluster (chart: cluster.name)
    #[arg(long, value_parser = name)]
    name: String,
    /// The region of the cluster
    #[arg(long, value_parser = region)]
    region: String,
    #[command(flatten)]
    joining: Connection,
    /// Address of its API server as the hub reaches it; otherwise as the kubeconfig has it
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Namespace of the operator in the cluster that joins
    #[arg(short, long, default_value = "synod-system")]
    namespace: String,
    /// Namespace of the operator in the hub
    #[arg(long, value_name = "NAMESPACE", default_value = "synod-system")]
    hub_namespace: String,
    /// Only print what is needed in the cluster that joins, and write nothing
    #[arg(long)]
    print_account: bool,
    /// How long the cluster may take to make the account's token
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn region(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) {
        return Err("a region has 1 to 63 characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) async fn run(args: &JoinArgs) -> Result<(), Failure> {
    if args.print_account {
        return crate::print(&account::manifest(&args.namespace));
    }
    let config = args.joining.config().await?;
    let server = args
        .server
        .clone()
        .unwrap_or_else(|| config.cluster_url.to_string());
    let server = server.trim_end_matches('/').to_owned();
    // The name in the certificate is that of the address, unless that is another one.
    let tls_name = config
        .tls_server_name
        .clone()
        .filter(|_| args.server.is_none());
    let client = client(config)?;
    knows_groups(&client, &args.name).await?;
    if !account::has_namespace(&client, &args.namespace).await {
        return Err(Failure::failed(format!(
            "the cluster that joins has no namespace {}: install the operator there first, or give its namespace with -n",
            args.namespace
        )));
    }
    operator(&client, args).await?;
    let token = account::make(&client, &args.namespace, args.timeout).await?;
    let kubeconfig = kubeconfig(&args.name, &server, tls_name.as_deref(), &token);
    let checked = check(&kubeconfig)
        .map_err(|error| Failure::usage(format!("the server {server}: {error}")))?;
    try_it(args, &server, probe::probe(checked).await)?;
    let text = serde_yaml::to_string(&secret(args, &kubeconfig)).expect("a Secret is YAML");
    crate::print(&text)?;
    eprintln!(
        "synod: the Secret on stdout registers {} in the hub, once it is applied there. It holds a credential.",
        args.name
    );
    Ok(())
}

/// Without the definition of ReplicaGroups there is no operator either.
async fn knows_groups(client: &Client, name: &str) -> Result<(), Failure> {
    let api: Api<ReplicaGroup> = Api::all(client.clone());
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Failure::failed(format!(
            "the cluster knows no ReplicaGroups: install the operator there first (helm install, with cluster.name={name} and hub=false)"
        ))),
        // Whoever may not list them may still be allowed to make the account.
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(failed("ask the cluster that joins")(error)),
    }
}

/// The operator there does only work that is addressed to it.
async fn operator(client: &Client, args: &JoinArgs) -> Result<(), Failure> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), &args.namespace);
    // Who may not look must know.
    let Ok(list) = api.list(&ListParams::default()).await else {
        return Ok(());
    };
    let operators = list
        .items
        .iter()
        .filter_map(|it| Some((it.name_any(), installed(it)?)));
    let operators: Vec<_> = operators.collect();
    if operators.is_empty() {
        eprintln!(
            "synod: no operator is seen in namespace {} there; without one, nothing will happen in {}",
            args.namespace, args.name
        );
    }
    for (deployment, (cluster, hub)) in operators {
        if cluster != args.name {
            return Err(Failure::usage(format!(
                "the operator in Deployment {deployment} there was installed as cluster `{cluster}`, not `{}`: is this the right cluster? Then use its name, or install it with cluster.name={}",
                args.name, args.name
            )));
        }
        if hub {
            eprintln!(
                "synod: the operator there is a hub itself: install it with hub=false, unless services are to be kept there too"
            );
        }
    }
    Ok(())
}

/// What an operator calls its cluster and whether it is a hub, by its arguments; `None` when this is
/// no operator.
fn installed(deployment: &Deployment) -> Option<(String, bool)> {
    let template = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let arguments = |it: &Container| it.args.clone().unwrap_or_default();
    let is_operator = |it: &Vec<String>| it.iter().any(|it| it.starts_with("--sidecar-image="));
    let arguments = template
        .containers
        .iter()
        .map(arguments)
        .find(is_operator)?;
    let value = |flag: &str| arguments.iter().find_map(|it| it.strip_prefix(flag));
    let cluster = value("--cluster=").unwrap_or("local").to_owned();
    Some((cluster, value("--hub=") != Some("false")))
}

/// With the credentials that the hub will have.
fn try_it(args: &JoinArgs, server: &str, answer: Result<String, String>) -> Result<(), Failure> {
    let name = &args.name;
    let local = ["//127.", "//localhost", "//[::1]"];
    if args.server.is_none() && local.iter().any(|it| server.contains(it)) {
        eprintln!(
            "synod: {server} leads to this machine only: give --server with the address at which the hub reaches {name}"
        );
    }
    match answer {
        Ok(version) => {
            eprintln!("synod: {name} at {server} answers the hub's account ({version})");
            Ok(())
        }
        Err(problem) if args.server.is_some() => {
            // The hub may reach what this machine does not.
            eprintln!("synod: from here, {server} cannot be used: {problem}");
            Ok(())
        }
        Err(problem) => Err(Failure::failed(format!(
            "the hub's account cannot use {server}: {problem}"
        ))),
    }
}

/// With everything in it.
fn kubeconfig(name: &str, server: &str, tls_name: Option<&str>, token: &Token) -> String {
    let ca = k8s_openapi::ByteString(token.ca.clone());
    let mut cluster = json!({"server": server, "certificate-authority-data": ca});
    if let Some(tls_name) = tls_name {
        cluster["tls-server-name"] = json!(tls_name);
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": ACCOUNT, "user": {"token": token.token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": ACCOUNT}}],
        "current-context": name,
    });
    serde_yaml::to_string(&config).expect("strings are YAML")
}

/// As the hub's operator reads it.
fn secret(args: &JoinArgs, kubeconfig: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(&args.name),
            "namespace": args.hub_namespace,
            "labels": {CLUSTER_LABEL: args.name},
        },
        "type": "Opaque",
        "stringData": {KUBECONFIG_KEY: kubeconfig, REGION_KEY: args.region},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            token: "t0ken".to_owned(),
            ca: b"PEM".to_vec(),
        }
    }

    #[test]
    fn the_kubeconfig_that_is_made_is_one_that_the_operator_takes() {
        let name = Some("kubernetes");
        let text = kubeconfig("eu", "https://eu.example:6443", name, &token());
        let config = check(&text).expect("good");
        let cluster = config.clusters[0].cluster.as_ref().expect("one");
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("UEVN"));
        assert_eq!(cluster.tls_server_name.as_deref(), Some("kubernetes"));
        let plain = kubeconfig("eu", "http://eu.example", None, &token());
        check(&plain).expect_err("not without TLS");
    }

    #[test]
    fn what_the_operator_there_calls_itself_is_read_from_its_arguments() {
        let deployment = |args: &[&str]| -> Deployment {
            serde_json::from_value(json!({
                "spec": {"selector": {}, "template": {"spec": {"containers": [
                    {"name": "operator", "args": args},
                ]}}},
            }))
            .expect("a Deployment")
        };
        let member = ["--cluster=eu", "--hub=false", "--sidecar-image=a"];
        let member = installed(&deployment(&member)).expect("an operator");
        assert_eq!(member, ("eu".to_owned(), false));
        let plain = installed(&deployment(&["--sidecar-image=a"])).expect("an operator");
        assert_eq!(plain, ("local".to_owned(), true));
        assert_eq!(installed(&deployment(&["--cluster=eu"])), None);
    }
}
