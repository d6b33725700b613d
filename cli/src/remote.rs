//! A member that runs somewhere else, such as in a pod, reached by its address with the certificate that
//! its operator has.

use std::path::PathBuf;

use synod_proto::v1::control_client::ControlClient;
use synod_sidecar::config::Tls;
use synod_sidecar::identity::{Connector, Identity, Names, Who};
use tonic::transport::Channel;

/// Where it is, and who may ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RemoteArgs {
    /// Where a member listens for its peers, instead of --data: its pod's address with port 7443, or what
    /// `kubectl port-forward` leads there
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "data",
        requires_all = ["tls", "service", "name"])]
    pub(crate) at: Option<String>,
    /// Folder with tls.crt and tls.key of the Secret SERVICE-operator-tls, and ca.crt of the Secret
    /// SERVICE-members-tls
    #[arg(long, value_name = "DIR", requires = "at")]
    tls: Option<PathBuf>,
    /// Name of the service
    #[arg(long, value_name = "NAME", requires = "at")]
    service: Option<String>,
    /// Name of the member: that of its pod, mostly
    #[arg(long, value_name = "MEMBER", requires = "at")]
    name: Option<String>,
    /// Namespace of the service
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "default",
        requires = "at"
    )]
    namespace: String,
    /// Trust domain of the certificates, as the chart was told it
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        requires = "at"
    )]
    trust_domain: String,
}

/// One that can be asked.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) service: String,
    pub(crate) member: String,
    pub(crate) connector: Connector,
}

// === impl RemoteArgs ===

impl RemoteArgs {
    /// The member, if one was given.
    pub(crate) fn member(&self) -> anyhow::Result<Option<Remote>> {
        let (Some(at), Some(tls), Some(service), Some(member)) =
            (&self.at, &self.tls, &self.service, &self.name)
        else {
            return Ok(None);
        };
        let names = Names {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            service: service.clone(),
        };
        let files = Tls {
            ca: tls.join("ca.crt"),
            cert: tls.join("tls.crt"),
            key: tls.join("tls.key"),
        };
        let identity = Identity::load(&files, &names, Who::Operator)?;
        let connector = Connector::fixed(identity, Who::Member(member.clone()), at.clone());
        Ok(Some(Remote {
            service: service.clone(),
            member: member.clone(),
            connector,
        }))
    }
}

// === impl Remote ===

impl Remote {
    /// What operators may ask of it.
    pub(crate) async fn control(&self) -> anyhow::Result<ControlClient<Channel>> {
        Ok(ControlClient::new(self.connector.channel().await?))
    }
}
