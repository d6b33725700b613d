//! Who is in the group and who should be: one look, and the next step. The step is planned by
//! [`synod_api::members`]; what is wanted is in `group.json`, which `synod members` edits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use synod_api::MemberRole;
use synod_api::members::{self, Change, Plan, Process, Situation, Step, Wanted};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::member_change::Change as WireChange;
use synod_proto::v1::{
    ChangeMembersRequest, GroupMember, MemberChange, MemberRole as WireRole, MembersRequest,
    MembersResponse, NewMember, NewRole,
};
use synod_sidecar::admin::status::Status;
use synod_sidecar::identity::Names;
use tonic::transport::Channel;

use super::certificates::Certificates;
use super::control::control;
use super::folder::{Group, MemberFolder, replace};

/// All that one look at the group needs.
pub(super) struct Look {
    pub(super) certificates: Certificates,
    pub(super) names: Names,
    /// Who should be in it.
    pub(super) group: Group,
    /// The leader, and where it listens for its peers.
    pub(super) leader: (String, SocketAddr),
    /// Everybody that has a folder, with what its process says of itself.
    pub(super) there: BTreeMap<String, (MemberFolder, Option<Process>)>,
    /// The leader does not know yet what becomes of a request that fails on every copy.
    pub(super) held: bool,
}

impl Look {
    /// Looks, takes the next step if that is a change, and tells what is to be done here.
    pub(super) async fn step(self) -> anyhow::Result<Plan> {
        let (name, peer) = &self.leader;
        let mut control = control(&self.certificates, &self.names, name, *peer).await?;
        let members = ask(&mut control).await?;
        if !members.leads {
            bail!("{name} does not lead any more");
        }
        self.let_in(&members)?;
        let given_up = self.there.values();
        let given_up = given_up.filter_map(|(folder, _)| folder.read_given_up());
        let given_up = given_up.collect();
        let there = self.there.iter();
        let there = there.map(|(name, (_, process))| (name.clone(), process.clone()));
        let plan = plan(
            &self.group,
            &members,
            &there.collect(),
            self.held,
            &given_up,
        );
        if let Step::Change { epoch, changes } = &plan.step {
            change(&mut control, *epoch, changes).await?;
        }
        Ok(plan)
    }

    /// Whoever is in the group and has nothing in its log gets its join file.
    fn let_in(&self, members: &MembersResponse) -> anyhow::Result<()> {
        for (folder, process) in self.there.values() {
            let Some(process) = process.as_ref().filter(|it| it.empty) else {
                continue;
            };
            let is_it = |it: &GroupMember| it.incarnation == process.incarnation;
            let path = folder.join();
            let old = std::fs::read(&path).unwrap_or_default();
            if members.members.iter().any(is_it) && old != members.join.as_bytes() {
                replace(&path, members.join.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// What a member's process says of itself.
pub(crate) fn process(status: &Status) -> Option<Process> {
    (!status.incarnation.is_empty()).then(|| Process {
        incarnation: status.incarnation.clone(),
        empty: status.group.is_none(),
    })
}

/// Who is in the group, as a member knows it.
pub(crate) async fn ask(control: &mut ControlClient<Channel>) -> anyhow::Result<MembersResponse> {
    let answer = control.members(MembersRequest {}).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    Ok(answer.into_inner())
}

/// The next step from the members that the leader tells to those that are wanted.
pub(crate) fn plan(
    group: &Group,
    members: &MembersResponse,
    there: &BTreeMap<String, Option<Process>>,
    held: bool,
    given_up: &BTreeSet<String>,
) -> Plan {
    let role = |name: &String| {
        if group.observers.contains(name) {
            MemberRole::Observer
        } else if group.witnesses.contains(name) {
            MemberRole::Witness
        } else {
            MemberRole::Voter
        }
    };
    let wanted: Vec<Wanted> = group
        .members
        .iter()
        .map(|name| Wanted {
            name: name.clone(),
            role: role(name),
            region: String::new(),
        })
        .collect();
    let told = members::Group {
        epoch: members.epoch,
        settled: members.settled,
        leader: members.leader.clone(),
        members: members.members.iter().map(read).collect(),
        former: members
            .former
            .iter()
            .map(|it| it.incarnation.clone())
            .collect(),
    };
    members::plan(Situation {
        wanted: &wanted,
        group: &told,
        there,
        held,
        given_up,
    })
}

async fn change(
    control: &mut ControlClient<Channel>,
    epoch: u64,
    changes: &[Change],
) -> anyhow::Result<()> {
    let changes = changes.iter().map(|it| MemberChange {
        change: Some(to_wire(it)),
    });
    let request = ChangeMembersRequest {
        epoch,
        changes: changes.collect(),
    };
    match control.change_members(request).await {
        Ok(_) => Ok(()),
        Err(error) => bail!("{}", error.message()),
    }
}

fn to_wire(change: &Change) -> WireChange {
    match change.clone() {
        Change::Join {
            name,
            incarnation,
            role,
            region,
        } => WireChange::Add(NewMember {
            name,
            incarnation,
            role: wire(role).into(),
            region,
        }),
        Change::Leave { id, .. } => WireChange::Remove(id),
        Change::Become { id, role, .. } => WireChange::Role(NewRole {
            id,
            role: wire(role).into(),
        }),
    }
}

fn wire(role: MemberRole) -> WireRole {
    match role {
        MemberRole::Voter => WireRole::Voter,
        MemberRole::Observer => WireRole::Observer,
        MemberRole::Witness => WireRole::Witness,
    }
}

fn read(member: &GroupMember) -> members::Member {
    members::Member {
        id: member.id,
        name: member.name.clone(),
        incarnation: member.incarnation.clone(),
        role: match member.role() {
            WireRole::Voter => MemberRole::Voter,
            WireRole::Witness => MemberRole::Witness,
            WireRole::Observer | WireRole::Unspecified => MemberRole::Observer,
        },
        heard: member.heard,
        caught_up: member.caught_up,
    }
}
