//! How a group comes to be, and how a changed manifest reaches it. Comes in: what the members say of
//! themselves. Goes out: the genesis file, once; or a policy, proposed to the running group.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use prost::Message as _;
use synod_proto::v1::propose_policy_response::Result as Outcome;
use synod_proto::v1::{Policy, ProposePolicyRequest, RaiseProtocolRequest, StatusRequest};
use synod_sidecar::admin::status::Status;
use synod_sidecar::config::genesis::{GenesisFile, GenesisMember, GenesisRole};

use super::certificates::Certificates;
use super::control::control;
use super::folder::{Folder, replace, trouble};
use super::member::{Member, names};
use crate::exit::Failure;

/// The protocol version that new groups start with.
const PROTOCOL: u32 = 3;
const TRIES: u32 = 10;
const RETRY: Duration = Duration::from_millis(300);

/// Whether the group was formed before. A genesis that is not this group's is refused.
pub(super) fn is_formed(folder: &Folder) -> Result<bool, Failure> {
    let path = folder.genesis();
    let genesis = GenesisFile::read(&path).map_err(Failure::usage)?;
    let Some(genesis) = genesis else {
        return Ok(false);
    };
    if genesis.service == folder.group().service {
        Ok(true)
    } else {
        Err(Failure::usage(format!(
            "{} is another group's: use another folder",
            path.display()
        )))
    }
}

/// Writes the genesis when every member has said which life of its log it is in; true when it is
/// there.
pub(super) fn form(
    folder: &Folder,
    statuses: &[Option<&Status>],
    policy: &Policy,
) -> Result<bool, Failure> {
    let mut members = Vec::new();
    for (status, id) in statuses.iter().copied().zip(1..) {
        let Some(status) = status.filter(|it| !it.incarnation.is_empty()) else {
            return Ok(false);
        };
        if status.group.is_some() {
            return Err(Failure::failed(format!(
                "{} is in a group already, and {} is gone: without it nobody else can join; use another folder",
                status.member,
                folder.genesis().display()
            )));
        }
        members.push(GenesisMember {
            id,
            name: status.member.clone(),
            incarnation: status.incarnation.clone(),
            role: if folder.group().witnesses.contains(&status.member) {
                GenesisRole::Witness
            } else {
                GenesisRole::Voter
            },
            region: String::new(),
        });
    }
    GenesisFile::new(&folder.group().service, PROTOCOL, members, policy)
        .write_create_only(&folder.genesis())
        .map_err(Failure::failed)?;
    remember(&folder.policy(), policy)?;
    Ok(true)
}

/// Whether the group was last asked to take another policy than this.
pub(super) fn has_changed(folder: &Folder, policy: &Policy) -> bool {
    std::fs::read(folder.policy()).map_or(true, |last| last != plain(policy))
}

/// Has the group agree on a policy, by compare-and-set against the version in force; returns the
/// new version.
pub(super) async fn propose(
    folder: &Folder,
    certificates: &Certificates,
    member: &Member,
    policy: &Policy,
) -> anyhow::Result<u64> {
    let mut problem = anyhow::anyhow!("another version came first each time");
    for _ in 0..TRIES {
        match try_propose(certificates, &folder.group().service, member, policy).await {
            Ok(Some(version)) => {
                remember(&folder.policy(), policy).map_err(|it| anyhow::anyhow!("{it}"))?;
                return Ok(version);
            }
            Ok(None) => {}
            Err(error) => problem = error,
        }
        tokio::time::sleep(RETRY).await;
    }
    Err(problem.context("the changed manifest was not taken over"))
}

/// `None`: another version was in force.
async fn try_propose(
    certificates: &Certificates,
    service: &str,
    member: &Member,
    policy: &Policy,
) -> anyhow::Result<Option<u64>> {
    let names = names(service);
    let mut control = control(certificates, &names, &member.name, member.listen.peer).await?;
    let status = control
        .status(StatusRequest {})
        .await
        .with_context(|| format!("{} does not tell its status", member.name))?
        .into_inner();
    let answer = control
        .propose_policy(ProposePolicyRequest {
            policy: Some(Policy {
                version: status.policy_version + 1,
                ..policy.clone()
            }),
            expected_version: status.policy_version,
            epoch: 0,
        })
        .await
        .with_context(|| format!("{} does not take the policy", member.name))?
        .into_inner();
    match answer.result() {
        Outcome::Done => Ok(Some(answer.version)),
        Outcome::Conflict => Ok(None),
        Outcome::Unspecified => bail!("{} gave an answer of another version of synod", member.name),
    }
}

/// Has the group agree on a higher protocol, which all of its members speak; `leader` leads it.
pub(super) async fn raise_protocol(
    certificates: &Certificates,
    service: &str,
    leader: &Member,
    version: u32,
) -> anyhow::Result<()> {
    let (names, name) = (names(service), &leader.name);
    let mut control = control(certificates, &names, name, leader.listen.peer).await?;
    control
        .raise_protocol(RaiseProtocolRequest { version })
        .await
        .with_context(|| format!("{name} does not raise the protocol"))?;
    Ok(())
}

fn remember(path: &Path, policy: &Policy) -> Result<(), Failure> {
    replace(path, &plain(policy)).map_err(|error| trouble("write", path, &error))
}

/// The policy without what the group numbers itself.
fn plain(policy: &Policy) -> Vec<u8> {
    Policy {
        version: 0,
        classes_version: 0,
        ..policy.clone()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::folder::Group;

    fn status(number: u32) -> Status {
        Status {
            member: format!("notes-{number}"),
            incarnation: format!("{number:032x}"),
            ..Status::default()
        }
    }

    #[test]
    fn a_group_is_formed_once_all_members_have_spoken_and_never_again() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let folder = Folder::open(Some(&path), Group::new("notes", 3, None)).expect("made");
        let policy = Policy {
            version: 1,
            ..Policy::default()
        };
        let mut statuses = vec![Some(status(1)), None, Some(status(3))];
        let formed = |statuses: &[Option<Status>]| {
            let said: Vec<_> = statuses.iter().map(Option::as_ref).collect();
            form(&folder, &said, &policy)
        };
        assert!(!formed(&statuses).expect("waits"));
        statuses[1] = Some(Status {
            incarnation: String::new(),
            ..status(2)
        });
        assert!(!formed(&statuses).expect("waits"));
        assert!(!is_formed(&folder).expect("fine"));
        statuses[1] = Some(status(2));
        assert!(formed(&statuses).expect("formed"));
        assert!(is_formed(&folder).expect("fine"));
        formed(&statuses).expect_err("formed already");

        assert!(!has_changed(&folder, &policy));
        let later = Policy {
            version: 9,
            ..policy.clone()
        };
        assert!(!has_changed(&folder, &later), "its number is no change");
        let other = Policy {
            max_body_bytes: 5,
            ..policy.clone()
        };
        assert!(has_changed(&folder, &other));
    }

    #[test]
    fn a_genesis_of_another_group_is_refused() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let folder = Folder::open(Some(&path), Group::new("notes", 3, None)).expect("made");
        let member = GenesisMember {
            id: 1,
            name: "wiki-1".to_owned(),
            incarnation: format!("{:032x}", 1),
            role: GenesisRole::Voter,
            region: String::new(),
        };
        GenesisFile::new("wiki", 1, vec![member], &Policy::default())
            .write_create_only(&folder.genesis())
            .expect("written");
        let text = is_formed(&folder).expect_err("another's").to_string();
        assert!(text.contains("another group"), "{text}");
    }
}
