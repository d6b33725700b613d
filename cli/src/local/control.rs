//! What operators may ask of a member, asked with the certificate that a group's folder holds.

use std::path::Path;

use anyhow::Context as _;
use synod_proto::v1::control_client::ControlClient;
use synod_sidecar::config::Config;
use synod_sidecar::identity::{Connector, Identity, Names, Who, connect};
use tonic::transport::Channel;

use super::certificates::Certificates;

/// A connection to a member's `Control`.
pub(super) async fn control(
    certificates: &Certificates,
    names: &Names,
    member: &str,
    peer: std::net::SocketAddr,
) -> anyhow::Result<ControlClient<Channel>> {
    let channel = connect(
        &certificates.files(&Who::Operator),
        names,
        Who::Operator,
        &peer.to_string(),
        Who::Member(member.to_owned()),
    )
    .await
    .with_context(|| format!("cannot speak to {member}"))?;
    Ok(ControlClient::new(channel))
}

/// The same, to a member of the running group in `folder`.
pub(crate) async fn control_of(
    folder: &Path,
    member: &Config,
) -> anyhow::Result<ControlClient<Channel>> {
    let names = member.names();
    let certificates = Certificates::new(folder.join("ca"), names.clone());
    control(&certificates, &names, &member.member, member.listen.peer).await
}

/// For connections of one's own to a member of the running group in `folder`.
pub(crate) fn connector_of(folder: &Path, member: &Config) -> anyhow::Result<Connector> {
    let names = member.names();
    let certificates = Certificates::new(folder.join("ca"), names.clone());
    let files = certificates.files(&Who::Operator);
    let identity = Identity::load(&files, &names, Who::Operator)?;
    let address = member.listen.peer.to_string();
    let to = Who::Member(member.member.clone());
    Ok(Connector::fixed(identity, to, address))
}
