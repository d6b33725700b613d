//! Asks a cluster what the hub would ask it, with the hub's own credentials. Comes in: a
//! registration's kubeconfig. Goes out: the version of the cluster, or why the hub could not work
//! with it.

use std::time::Duration;

use kube::config::Kubeconfig;
use synod_operator::registry::{ask, connect};

/// How long a cluster may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Its version, such as `v1.34.1`.
pub(super) async fn probe(config: Kubeconfig) -> Result<String, String> {
    let work = async {
        let client = connect(config).await?;
        ask(&client).await?;
        let version = client.apiserver_version().await;
        // Whether the hub may know the version is of no importance.
        Ok(version.map_or_else(|_| String::new(), |it| it.git_version))
    };
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}
