//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

/// Makes what ReplicatedServices ask for true.
#[derive(Clone, Debug, Parser)]
#[command(name = "synod-operator", version, about, max_term_width = 100)]
pub struct Flags {
    /// Name of this cluster: what `placement` of services calls it.
    #[arg(long, env = "SYNOD_CLUSTER", default_value = "local", value_parser = cluster_name)]
    pub cluster: String,
    /// Region of this cluster.
    #[arg(long, env = "SYNOD_REGION", default_value = "")]
    pub region: String,
    /// Whether ReplicatedServices are kept here; otherwise only the work that a hub gives is done.
    #[arg(long, env = "SYNOD_HUB", default_value_t = true, action = ArgAction::Set)]
    pub hub: bool,
    /// Trust domain of the members' certificates. It must not change while services exist.
    #[arg(long, env = "SYNOD_TRUST_DOMAIN", default_value = "synod.local")]
    pub trust_domain: String,
    /// Image of the sidecar.
    #[arg(long, env = "SYNOD_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// When kubelet pulls the sidecar's image.
    #[arg(long, env = "SYNOD_SIDECAR_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub sidecar_pull_policy: String,
    /// The namespace that the operator runs in: its lease, its own Secrets and the registrations of
    /// other clusters are there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "synod-system")]
    pub namespace: String,
    /// Name of this pod, by which the holder of the lease is known. Default: the host's name.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod: Option<String>,
    /// Name of the Lease by which several instances agree on the one that writes.
    #[arg(long, default_value = "synod-operator")]
    pub lease: String,
    /// Where health and metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The webhook that adds sidecars to labelled pods.
    #[command(flatten)]
    pub webhook: WebhookFlags,
}

/// The webhook that adds sidecars to labelled pods.
#[derive(Clone, Debug, Args)]
pub struct WebhookFlags {
    /// Where the webhook is served; without it there is none.
    #[arg(long = "webhook-listen", id = "webhook-listen", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Name of the webhook's Service.
    #[arg(
        long = "webhook-service",
        id = "webhook-service",
        value_name = "NAME",
        default_value = "synod-operator-webhook"
    )]
    pub service: String,
    /// Name of the MutatingWebhookConfiguration, and of the policy beside it.
    #[arg(
        long = "webhook-configuration",
        id = "webhook-configuration",
        value_name = "NAME",
        default_value = "synod-operator"
    )]
    pub configuration: String,
    /// Folder with tls.crt and tls.key that somebody else keeps; otherwise the operator makes its own.
    #[arg(
        long = "webhook-certificate",
        id = "webhook-certificate",
        value_name = "FOLDER"
    )]
    pub certificate: Option<PathBuf>,
}

// === impl Flags ===

impl Flags {
    /// By what name this instance holds the lease.
    pub fn identity(&self) -> String {
        self.pod
            .clone()
            .or_else(|| std::env::var("HOSTNAME").ok())
            .unwrap_or_else(|| format!("process-{}", std::process::id()))
    }
}

fn cluster_name(text: &str) -> Result<String, String> {
    crate::registry::check_name(text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("synod-operator").chain(line.split_whitespace()))
    }

    #[test]
    fn a_line_as_the_chart_writes_it_is_taken() {
        let flags = parse(
            "--cluster=us-east --region=us-east-1 --hub=false --trust-domain=a.example \
             --sidecar-image=synod-sidecar:1 --sidecar-pull-policy=Never --lease=synod \
             --listen=0.0.0.0:8080 --webhook-listen=0.0.0.0:9443 --webhook-service=synod-webhook \
             --webhook-configuration=synod --webhook-certificate=/etc/synod/webhook",
        )
        .expect("good");
        assert_eq!(
            (flags.cluster.as_str(), flags.region.as_str()),
            ("us-east", "us-east-1")
        );
        assert!(!flags.hub);
        assert_eq!(flags.webhook.service, "synod-webhook");
    }

    #[test]
    fn without_more_it_is_a_hub_named_local_without_a_webhook() {
        let flags = parse("--sidecar-image=i").expect("good");
        assert_eq!((flags.cluster.as_str(), flags.hub), ("local", true));
        assert_eq!(flags.webhook.listen, None);
    }

    #[test]
    fn a_name_that_no_cluster_can_have_is_refused() {
        let error = parse("--sidecar-image=i --cluster=A_b").expect_err("bad");
        assert!(error.to_string().contains("lower-case"), "{error}");
    }
}
