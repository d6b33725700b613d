//! Members as they travel: who is in the group, and how it is to be changed.

use synod_paxos::{Configuration, Member, MemberId, ReconfigureRefused, Role};
use synod_proto::v1::member_change::Change;
use synod_proto::v1::{ChangeMembersRequest, GroupMember, MemberRole, MembersResponse};
use tonic::Status;

use crate::config::genesis::parse_incarnation;
use crate::config::join::JoinFile;
use crate::config::{is_label, is_region};
use crate::node::handle::{self, NodeStatus};
use crate::node::members::{ChangeRefused, MemberChange, Membership, Progress};

/// What is told about the members.
pub(super) fn to_response(
    membership: &Membership,
    status: &NodeStatus,
    service: &str,
) -> MembersResponse {
    let Membership {
        genesis,
        configuration,
        former,
        settled,
        progress,
    } = membership;
    let leader = status.leader.and_then(|it| status.find(it));
    let members = configuration.members.iter().zip(progress);
    let began_with = genesis.configuration.epoch == configuration.epoch;
    MembersResponse {
        epoch: configuration.epoch.0,
        members: members.map(|(it, how)| to_wire(it, *how)).collect(),
        settled: *settled,
        leader: leader.map(|it| it.name.clone()).unwrap_or_default(),
        leads: status.leader == Some(status.member),
        // Nobody joins the first members but by the genesis.
        join: if began_with {
            String::new()
        } else {
            JoinFile::new(genesis, service, configuration).to_text()
        },
        former: former
            .iter()
            .map(|it| to_wire(it, Progress::default()))
            .collect(),
    }
}

/// What is asked for.
pub(super) fn read(request: &ChangeMembersRequest) -> Result<Vec<MemberChange>, Status> {
    let changes = request.changes.iter().enumerate();
    let read = changes.map(|(at, change)| {
        let invalid =
            |what: &str| Status::invalid_argument(format!("changes[{at}]: {what}; nothing was done"));
        match change.change.as_ref() {
            Some(Change::Add(new)) => {
                let label = "its name must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a \
                             letter or digit";
                if !is_label(&new.name) {
                    return Err(invalid(label));
                }
                if !is_region(&new.region) {
                    return Err(invalid("its region must be at most 63 printable characters"));
                }
                let lives = "its incarnation must be 32 hex digits, as its status says it";
                Ok(MemberChange::Add {
                    name: new.name.clone(),
                    incarnation: parse_incarnation(&new.incarnation)
                        .ok_or_else(|| invalid(lives))?,
                    role: read_role(new.role()).ok_or_else(|| invalid("its role is missing"))?,
                    region: new.region.clone(),
                })
            }
            Some(Change::Remove(id)) => Ok(MemberChange::Remove(MemberId(*id))),
            Some(Change::Role(new)) => {
                let role = read_role(new.role()).ok_or_else(|| invalid("its role is missing"))?;
                Ok(MemberChange::Role(MemberId(new.id), role))
            }
            None => Err(invalid("says nothing")),
        }
    });
    read.collect()
}

/// Nothing was done, and why.
pub(super) fn refused(error: &ChangeRefused, status: &NodeStatus) -> Status {
    let name = |id: MemberId| handle::name(status, id);
    let words = match error {
        ChangeRefused::Refused(ReconfigureRefused::NotLeader { leader }) => match leader {
            Some(leader) => format!("this member does not lead: ask {}", name(*leader)),
            None => "nobody leads: wait for a leader".to_owned(),
        },
        ChangeRefused::Refused(ReconfigureRefused::NotCaughtUp { member }) => {
            let name = name(*member);
            format!("{name} has not caught up: wait until its log is near the leader's")
        }
        ChangeRefused::Refused(ReconfigureRefused::Witness { member }) => {
            let name = name(*member);
            format!(
                "{name} cannot change between running the app and being a witness: remove it, and add \
                 a new member in its place"
            )
        }
        ChangeRefused::Refused(ReconfigureRefused::FewCopies { members }) => {
            let names: Vec<String> = members.iter().map(|it| name(*it)).collect();
            format!(
                "too few copies would have the log, and witnesses cannot give them a state: wait until \
                 these have caught up, or remove those that will not come back: {}",
                names.join(", ")
            )
        }
        ChangeRefused::Refused(ReconfigureRefused::Unheard { members }) => {
            let names: Vec<String> = members.iter().map(|it| name(*it)).collect();
            format!(
                "without {} there would be no quorum: bring them back, and wait until those that are \
                 witnesses have caught up, or change the members so that they are not needed",
                names.join(", ")
            )
        }
        other => other.to_string(),
    };
    let words = format!("{words}; nothing was done");
    match error {
        ChangeRefused::NoMember(_) | ChangeRefused::Nothing => Status::failed_precondition(words),
        ChangeRefused::Refused(refused) => match refused {
            ReconfigureRefused::UnderWay { .. }
            | ReconfigureRefused::Unheard { .. }
            | ReconfigureRefused::Busy
            | ReconfigureRefused::Ended => Status::unavailable(words),
            ReconfigureRefused::Invalid(_)
            | ReconfigureRefused::UsedBefore { .. }
            | ReconfigureRefused::Witness { .. }
            | ReconfigureRefused::ManyNewVoters { .. } => Status::invalid_argument(words),
            _ => Status::failed_precondition(words),
        },
    }
}

/// It is the one that was asked for, whoever will lead it first.
pub(super) fn is_same(asked: &Configuration, chosen: &Configuration) -> bool {
    (asked.epoch, &asked.members) == (chosen.epoch, &chosen.members)
}

fn to_wire(member: &Member, progress: Progress) -> GroupMember {
    let role = match member.role {
        Role::Voter => MemberRole::Voter,
        Role::Observer => MemberRole::Observer,
        Role::Witness => MemberRole::Witness,
    };
    GroupMember {
        id: member.id.0,
        name: member.name.clone(),
        incarnation: member.incarnation.to_string(),
        role: role.into(),
        region: member.region.clone(),
        heard: progress.heard,
        caught_up: progress.caught_up,
        applied: progress.applied.0,
    }
}

fn read_role(role: MemberRole) -> Option<Role> {
    match role {
        MemberRole::Unspecified => None,
        MemberRole::Voter => Some(Role::Voter),
        MemberRole::Observer => Some(Role::Observer),
        MemberRole::Witness => Some(Role::Witness),
    }
}

#[cfg(test)]
mod tests {
    use synod_proto::v1::{MemberChange as Wire, NewMember, NewRole};

    use super::*;

    fn read_one(change: Option<Change>) -> Result<Vec<MemberChange>, Status> {
        read(&ChangeMembersRequest {
            epoch: 1,
            changes: vec![Wire { change }],
        })
    }

    fn new_member() -> NewMember {
        NewMember {
            name: "notes-4".to_owned(),
            incarnation: format!("{:032x}", 7),
            role: MemberRole::Observer.into(),
            region: String::new(),
        }
    }

    #[test]
    fn an_edit_that_says_too_little_is_refused_by_its_place() {
        let refused = |change: Option<Change>| {
            let status = read_one(change).expect_err("refused");
            assert!(status.message().starts_with("changes[0]: "), "{status}");
            status.message().to_owned()
        };
        assert!(refused(None).contains("nothing"));
        let mut member = new_member();
        member.name = "Notes".to_owned();
        assert!(refused(Some(Change::Add(member))).contains("name"));
        let mut member = new_member();
        member.incarnation = "7".to_owned();
        assert!(refused(Some(Change::Add(member))).contains("incarnation"));
        let mut member = new_member();
        member.role = 0;
        assert!(refused(Some(Change::Add(member))).contains("role"));
        let role = NewRole { id: 2, role: 0 };
        assert!(refused(Some(Change::Role(role))).contains("role"));
        assert_eq!(
            read_one(Some(Change::Add(new_member())))
                .expect("good")
                .len(),
            1
        );
    }
}
