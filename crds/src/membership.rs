//! Who the members of a group are, as its leader says, and what it is asked to change about them: the
//! parts of a `ReplicaGroup` by which hub and operators tell each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::MemberRole;

/// What the leader is asked to change about the members: all of it is one change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MembersChange {
    /// The epoch of the members that it was made from; refused in any other.
    pub epoch: u64,
    /// Members that join with an empty log, and without a vote but for witnesses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub join: Vec<JoiningMember>,
    /// Numbers of members that are to be in the group no more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub leave: Vec<u32>,
    /// Members that are to do something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub roles: Vec<RoleChange>,
}

/// A member that joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoiningMember {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The life of its log, 32 hex digits.
    #[schemars(length(min = 1, max = 64))]
    pub incarnation: String,
    /// Where it is.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub region: String,
    /// What it does at first: Witness, which has its vote from the beginning, or Observer. Default: Observer.
    #[serde(default = "without_vote", skip_serializing_if = "is_without_vote")]
    pub role: MemberRole,
}

fn without_vote() -> MemberRole {
    MemberRole::Observer
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_without_vote(role: &MemberRole) -> bool {
    *role == MemberRole::Observer
}

/// A member that is to do something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleChange {
    /// Its number.
    #[schemars(range(min = 1))]
    pub id: u32,
    /// What.
    pub role: MemberRole,
}

/// Who is in the group, as its leader says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Membership {
    /// Of these members.
    pub epoch: u64,
    /// An entry of this epoch is chosen: what the last change left behind is needed no more.
    pub settled: bool,
    /// Name of the leader that says so.
    #[schemars(length(max = 63))]
    pub leader: String,
    /// By number.
    #[schemars(length(max = 64))]
    pub members: Vec<ConfiguredMember>,
    /// Lives of logs that are in the group no more, the latest ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub former: Vec<String>,
    /// How a member with an empty log gets in: the text of its join file; empty while nobody needs it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 524_288))]
    pub join: String,
}

/// One member of the group, as its leader says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfiguredMember {
    /// Its number; another one in each life of its log.
    #[schemars(range(min = 1))]
    pub id: u32,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The life of its log, 32 hex digits.
    #[schemars(length(max = 64))]
    pub incarnation: String,
    /// What it does.
    pub role: MemberRole,
    /// Where it is.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub region: String,
    /// The leader hears it.
    #[serde(default)]
    pub heard: bool,
    /// It is within one window of the leader's log.
    #[serde(default)]
    pub caught_up: bool,
}
