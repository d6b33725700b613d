//! `synod cluster list`. Comes in: the Secrets of a hub. Goes out: a table, without credentials.

use std::collections::BTreeMap;

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use synod_operator::registry::{CLUSTER_LABEL, KUBECONFIG_KEY, REGION_KEY, check};

use super::connection::{Connection, failed};
use super::probe::probe;
use crate::exit::Failure;

/// Show the clusters that a hub knows, besides its own
///
/// Each is asked from this machine, with the hub's credentials. What the hub itself last saw is in
/// `status.clusters` of the services that are placed there.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    hub: Connection,
    /// Namespace of the operator in the hub
    #[arg(short, long, default_value = "synod-system")]
    namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Name,
}

/// One registration.
struct Entry {
    name: String,
    region: String,
    secret: String,
    config: Result<Kubeconfig, String>,
}

/// What is shown of it: no credentials.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: String,
    region: String,
    server: String,
    secret: String,
    /// The version of the cluster, or why it is not reached.
    answer: Result<String, String>,
}

pub(super) async fn run(args: &ListArgs) -> Result<(), Failure> {
    let api: Api<Secret> = Api::namespaced(args.hub.client().await?, &args.namespace);
    let secrets = api
        .list(&ListParams::default().labels(CLUSTER_LABEL))
        .await
        .map_err(failed("list Secrets in the hub"))?;
    let entries = entries(&secrets.items);
    if args.output == Output::Name && !entries.is_empty() {
        let names: Vec<_> = entries.iter().map(|it| it.name.as_str()).collect();
        return crate::print(&format!("{}\n", names.join("\n")));
    }
    if entries.is_empty() && args.output != Output::Json {
        eprintln!("No cluster is registered in namespace {}.", args.namespace);
        return Ok(());
    }
    // All at once: one that does not answer holds nobody up.
    let asked: Vec<_> = entries
        .into_iter()
        .map(|it| tokio::spawn(line(it)))
        .collect();
    let mut lines = Vec::new();
    for it in asked {
        lines.push(it.await.map_err(Failure::failed)?);
    }
    let text = match args.output {
        Output::Json => format!("{:#}\n", as_json(&lines)),
        Output::Table | Output::Name => table(&lines),
    };
    crate::print(&text)
}

fn entries(secrets: &[Secret]) -> Vec<Entry> {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut all: Vec<Entry> = secrets.iter().map(entry).collect();
    for it in &all {
        let secrets = seen.entry(it.name.clone()).or_default();
        secrets.push(it.secret.clone());
    }
    // The operator takes neither of two.
    for it in &mut all {
        let secrets = &seen[&it.name];
        if secrets.len() > 1 {
            it.config = Err(format!(
                "the Secrets {} all register it: keep one",
                secrets.join(", ")
            ));
        }
    }
    all.sort_by(|a, b| (&a.name, &a.secret).cmp(&(&b.name, &b.secret)));
    all
}

fn entry(secret: &Secret) -> Entry {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|it| it.get(key));
        bytes.map_or_else(String::new, |it| {
            String::from_utf8_lossy(&it.0).into_owned()
        })
    };
    Entry {
        name: secret
            .labels()
            .get(CLUSTER_LABEL)
            .cloned()
            .unwrap_or_default(),
        region: text(REGION_KEY).trim().to_owned(),
        secret: secret.name_any(),
        config: check(&text(KUBECONFIG_KEY)).map_err(|it| it.to_string()),
    }
}

async fn line(entry: Entry) -> Line {
    let server = entry.config.as_ref().ok().and_then(|it| {
        let cluster = it.clusters.first()?.cluster.as_ref()?;
        cluster.server.clone()
    });
    let answer = match entry.config {
        Ok(config) => probe(config).await,
        Err(problem) => Err(format!("the registration is refused: {problem}")),
    };
    Line {
        name: entry.name,
        region: entry.region,
        server: server.unwrap_or_default(),
        secret: entry.secret,
        answer,
    }
}

fn table(lines: &[Line]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["NAME", "REGION", "REACHABLE", "VERSION", "SERVER"]);
    for it in lines {
        let (reachable, version) = match &it.answer {
            Ok(version) => ("Yes".to_owned(), version.as_str()),
            Err(problem) => (format!("No: {problem}"), ""),
        };
        table.add_row([&it.name, &it.region, &reachable, version, &it.server]);
    }
    format!("{}\n", table.trim_fmt())
}

fn as_json(lines: &[Line]) -> Value {
    let clusters: Vec<Value> = lines
        .iter()
        .map(|it| {
            json!({
                "name": it.name,
                "region": it.region,
                "server": it.server,
                "secret": it.secret,
                "reachable": it.answer.is_ok(),
                "version": it.answer.as_ref().ok(),
                "problem": it.answer.as_ref().err(),
            })
        })
        .collect();
    json!({ "clusters": clusters })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;

    use super::*;

    const CONFIG: &str = "{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {token: s3cret}}], contexts: [{name: x, context: {cluster: c, user: u}}]}";

    fn secret(name: &str, config: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([(CLUSTER_LABEL.to_owned(), "eu".to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(
                [
                    (KUBECONFIG_KEY.to_owned(), ByteString(config.into())),
                    (REGION_KEY.to_owned(), ByteString("eu-1\n".into())),
                ]
                .into(),
            ),
            ..Secret::default()
        }
    }

    async fn shown(secrets: &[Secret]) -> Vec<Line> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut lines = Vec::new();
        for it in entries(secrets) {
            lines.push(line(it).await);
        }
        lines
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_be_reached_is_shown_with_the_reason_and_without_credentials() {
        let lines = shown(&[secret("synod-cluster-eu", CONFIG)]).await;
        assert_eq!(lines[0].region, "eu-1");
        assert_eq!(lines[0].server, "https://127.0.0.1:1");
        let text = format!("{}{}", table(&lines), as_json(&lines));
        assert!(text.contains("No: "), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[tokio::test]
    async fn registrations_that_the_operator_does_not_take_are_shown_as_refused() {
        let bad = CONFIG.replace("token: s3cret", "exec: {command: aws}");
        let lines = shown(&[secret("a", &bad)]).await;
        let problem = lines[0].answer.as_ref().expect_err("refused");
        assert!(problem.contains("exec"), "{problem}");
        let lines = shown(&[secret("a", CONFIG), secret("b", CONFIG)]).await;
        for it in &lines {
            let problem = it.answer.as_ref().expect_err("refused");
            assert!(problem.contains("a, b"), "{problem}");
        }
    }
}
