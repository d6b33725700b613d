//! `synod cluster`: which clusters a hub may place members in. Comes in: kubeconfigs. Goes out: in
//! the cluster that joins an account that may touch ReplicaGroups and nothing else, and for the hub a
//! Secret with its token.

mod account;
mod connection;
mod join;
mod list;
mod probe;
mod remove;

use clap::{Args, Subcommand};
use synod_operator::registry::check_name;

use crate::exit::Failure;

/// Register the clusters that services may be placed in
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Join(join::JoinArgs),
    List(list::ListArgs),
    Remove(remove::RemoveArgs),
}

/// Name of the Secret in the hub.
fn secret_name(cluster: &str) -> String {
    format!("synod-cluster-{cluster}")
}

/// A cluster's name on the command line.
fn name(text: &str) -> Result<String, String> {
    check_name(text)?;
    Ok(text.to_owned())
}

pub(crate) fn run(args: ClusterArgs) -> Result<(), Failure> {
    // One that is there already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::block_on(async {
        match args.command {
            Command::Join(args) => join::run(&args).await,
            Command::List(args) => list::run(&args).await,
            Command::Remove(args) => remove::run(&args).await,
        }
    })?
}
