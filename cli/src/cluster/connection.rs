//! Ways to a cluster, with kubectl's flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::exit::Failure;

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(super) struct Connection {
    /// The kubeconfig file; otherwise KUBECONFIG, or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The context in it; otherwise its current one
    #[arg(long, value_name = "CONTEXT")]
    pub(super) context: Option<String>,
}

// === impl Connection ===

impl Connection {
    /// What is in the kubeconfig, or why there is nothing.
    fn read(&self) -> Result<Kubeconfig, Failure> {
        let read = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        read.map_err(|error| {
            let words = causes(&error);
            Failure::usage(format!("cannot read the kubeconfig: {words}"))
        })
    }

    /// Everything that leads to the cluster.
    pub(super) async fn config(&self) -> Result<Config, Failure> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = Config::from_custom_kubeconfig(self.read()?, &options)
            .await
            .map_err(unusable)?;
        if config.accept_invalid_certs {
            return Err(Failure::usage(
                "the kubeconfig has insecure-skip-tls-verify: whoever answers could be anybody; put the cluster's certificate into certificate-authority-data",
            ));
        }
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_secs(30));
        Ok(config)
    }

    /// A client for the cluster.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        client(self.config().await?)
    }
}

/// A client from what leads to a cluster.
pub(super) fn client(config: Config) -> Result<Client, Failure> {
    // The library runs it, and does not say which one could not be run.
    let exec = config.auth_info.exec.as_ref();
    let program = exec.and_then(|it| it.command.clone());
    Client::try_from(config).map_err(|error| match program {
        Some(program) => Failure::usage(format!(
            "the kubeconfig's program {program} gives no credentials: {}",
            causes(&error)
        )),
        None => unusable(error),
    })
}

fn unusable(error: impl std::error::Error) -> Failure {
    Failure::usage(format!("the kubeconfig cannot be used: {}", causes(&error)))
}

/// What an API server said, with what was being done.
pub(super) fn failed(what: &str) -> impl FnOnce(kube::Error) -> Failure {
    move |error| match error {
        kube::Error::Api(status) if status.code == 401 => Failure::failed(format!(
            "cannot {what}: the cluster does not accept the credentials of the kubeconfig (401), they may have ended"
        )),
        kube::Error::Api(status) => Failure::failed(format!(
            "cannot {what}: {} ({})",
            status.message, status.code
        )),
        error => Failure::failed(format!("cannot {what}: {}", causes(&error))),
    }
}

/// An error with its causes: the first one alone often says nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        let words = it.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = it.source();
    }
    text
}
