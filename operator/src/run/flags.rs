//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser};

use super::check::Check;

/// What the program is asked to do.
#[derive(Debug)]
pub(super) enum Asked {
    /// To run: without a subcommand.
    Run(Box<Flags>),
    /// To ask one that runs how it is.
    Check(Check),
}

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

// === impl Asked ===

impl Asked {
    pub(super) fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut command = Flags::command()
            .subcommand(Check::command())
            .subcommand_negates_reqs(true);
        let matches = command.try_get_matches_from_mut(arguments)?;
        match matches.subcommand() {
            Some((_, check)) => Ok(Self::Check(Check::from_arg_matches(check)?)),
            None => Ok(Self::Run(Box::new(Flags::from_arg_matches(&matches)?))),
        }
    }
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

    fn asked(line: &str) -> Result<Asked, clap::Error> {
        Asked::parse(std::iter::once("synod-operator").chain(line.split_whitespace()))
    }

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        match asked(line)? {
            Asked::Run(flags) => Ok(*flags),
            Asked::Check(check) => panic!("not asked to check: {check:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().subcommand(Check::command()).debug_assert();
    }

    #[test]
    fn a_check_needs_nothing_but_a_url() {
        let line = "check --url http://synod-metrics.synod-system.svc:8080";
        assert!(matches!(asked(line), Ok(Asked::Check(_))));
        let error = asked("check").expect_err("which one?");
        assert!(error.to_string().contains("--url"), "{error}");
    }

    #[test]
    fn without_a_sidecars_image_it_does_not_run() {
        let error = parse("--cluster=a").expect_err("bad");
        assert!(error.to_string().contains("--sidecar-image"), "{error}");
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
