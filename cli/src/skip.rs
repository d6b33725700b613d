//! `synod skip`: a person's word that the request that no copy gets past is given up.

use std::path::PathBuf;

use synod_proto::v1::SkipRequest;
use synod_proto::v1::control_client::ControlClient;
use synod_sidecar::config::Config;
use tonic::transport::Channel;

use crate::exit::Failure;
use crate::local::control::control_of;
use crate::local::group::status;
use crate::remote::RemoteArgs;
use crate::running::GroupArgs;

/// Give up a request that no copy gets past
///
/// A request that makes every copy of the app end or hang is skipped by itself, once all members have
/// said that they did not execute it. Where one cannot say so, since it is gone for good or has lost what
/// it knew, a person decides: its client may have been told that the request was executed.
#[derive(Debug, clap::Args)]
pub(crate) struct SkipArgs {
    /// The folder of a running `synod local`
    #[arg(long, value_name = "DIR", required_unless_present = "at")]
    data: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
    /// The request's place in the agreed order, as `synod status` says it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    slot: u64,
}

/// Asks the leader.
pub(crate) fn run(args: &SkipArgs) -> Result<(), Failure> {
    crate::block_on(skip(args))?
}

async fn skip(args: &SkipArgs) -> Result<(), Failure> {
    let mut control = control(args).await?;
    let slot = args.slot;
    let answer = control.skip(SkipRequest { slot }).await;
    let answer = answer.map_err(|error| {
        Failure::failed(format!("slot {slot} is not skipped: {}", error.message()))
    })?;
    let skipped = answer.into_inner();
    let unsure = if skipped.may_have_been_acknowledged {
        "; it may have been acknowledged"
    } else {
        ""
    };
    crate::print(&format!(
        "slot {slot} is skipped: {} {}{unsure}\n",
        skipped.method, skipped.path
    ))
}

/// Of the leader: the one that was given is taken for it, and refuses if it is not.
async fn control(args: &SkipArgs) -> Result<ControlClient<Channel>, Failure> {
    let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
    if let Some(remote) = args.remote.member().map_err(failed)? {
        return remote.control().await.map_err(failed);
    }
    let data = args.data.clone();
    let data = data.ok_or_else(|| Failure::usage("give --data, or --at with what it needs"))?;
    let group = GroupArgs { data };
    let members = group.members()?;
    let leader = leader(&members).await?;
    control_of(&group.data, leader).await.map_err(failed)
}

/// The member that says that it leads.
pub(crate) async fn leader(members: &[Config]) -> Result<&Config, Failure> {
    for member in members {
        let status = status(member.listen.admin).await;
        if status.and_then(|it| it.leader).as_ref() == Some(&member.member) {
            return Ok(member);
        }
    }
    Err(Failure::failed(
        "no member leads: see `synod status` for what they wait for",
    ))
}
