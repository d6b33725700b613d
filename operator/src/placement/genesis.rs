//! The first configuration (rule M5): built once, when all members have reported; recorded in a
//! ConfigMap that is only ever created; and from then on the truth about who the members are. Pure.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use serde::{Deserialize, Serialize};
use synod_api::{GroupMemberStatus, MemberRole, ReplicatedServiceSpec};

use super::members::Member;

/// Key of the genesis in the record.
pub(crate) const GENESIS_KEY: &str = "genesis.json";
/// Key of the members in a record without a genesis: they have one in their logs, and must never be
/// given another. This version writes no such record.
pub(crate) const MEMBERS_KEY: &str = "members.json";

/// Name of the record.
pub(crate) fn record_name(service: &str) -> String {
    format!("{service}-genesis-record")
}

/// What members read, as the sidecar defines it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GenesisFile {
    /// Name of the service.
    pub(crate) service: String,
    /// The protocol version that the group starts with.
    pub(crate) protocol: u32,
    /// The epoch before the first entry: 1, or 0 of a group that was restored.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub(crate) epoch: u64,
    /// The first members.
    pub(crate) members: Vec<GenesisMember>,
    /// `synod.v1.Policy` number 1, in hex.
    pub(crate) policy: String,
    /// Digest of the state that the group begins with, in hex; empty: it begins with nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) initial_state: String,
}

fn first_epoch() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_first_epoch(epoch: &u64) -> bool {
    *epoch == first_epoch()
}

/// One of the first members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GenesisMember {
    /// Its number.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: String,
    /// The life of its log; empty in the record of an earlier service's members.
    pub(crate) incarnation: String,
    /// What it does.
    pub(crate) role: MemberRole,
    /// Where it is.
    #[serde(default)]
    pub(crate) region: String,
}

/// Why there is no genesis yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotYet {
    /// These have not reported: name, and what is missing.
    Waiting(Vec<(String, String)>),
    /// These are of a group already.
    Formed(Vec<String>),
    /// They cannot be one group.
    Impossible(String),
}

/// The policy as it should be, in hex.
pub(crate) fn policy_hex(service: &str, spec: &ReplicatedServiceSpec) -> String {
    use std::fmt::Write as _;
    let bytes = synod_api::policy(service, spec).encode_to_vec();
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// The genesis of these members, once each of them has reported an empty log of its own.
pub(crate) fn build(
    service: &str,
    members: &[Member],
    reported: &BTreeMap<&str, &GroupMemberStatus>,
    policy: String,
) -> Result<GenesisFile, NotYet> {
    let mut waiting = Vec::new();
    let mut formed = Vec::new();
    let mut lives = BTreeSet::new();
    let (mut low, mut high) = (1, u32::MAX);
    let mut file = Vec::new();
    for it in members {
        let name = &it.member.name;
        let Some(status) = reported.get(name.as_str()) else {
            waiting.push((name.clone(), "it has not reported".to_owned()));
            continue;
        };
        if status.epoch > 0 {
            formed.push(name.clone());
            continue;
        }
        if !is_incarnation(&status.incarnation) {
            let why = if status.problem.is_empty() {
                "it has not reported"
            } else {
                &status.problem
            };
            waiting.push((name.clone(), why.to_owned()));
            continue;
        }
        if status.endpoint.is_empty() {
            waiting.push((name.clone(), "it has no address yet".to_owned()));
            continue;
        }
        if !lives.insert(&status.incarnation) {
            return Err(NotYet::Impossible(format!(
                "{name} has the same log as another member: its volume is a copy of that one's"
            )));
        }
        low = low.max(status.protocol[0]);
        high = high.min(status.protocol[1]);
        file.push(GenesisMember {
            id: it.member.id,
            name: name.clone(),
            incarnation: status.incarnation.clone(),
            role: it.member.role,
            region: it.region.clone(),
        });
    }
    if !formed.is_empty() {
        return Err(NotYet::Formed(formed));
    }
    if !waiting.is_empty() {
        return Err(NotYet::Waiting(waiting));
    }
    if high < low {
        return Err(NotYet::Impossible(format!(
            "the members' sidecars have no protocol version in common: one needs at least {low}, \
             another speaks at most {high}; use one sidecar image in all clusters"
        )));
    }
    assert_eq!(file.len(), members.len(), "every member is in it");
    Ok(GenesisFile {
        service: service.to_owned(),
        protocol: high,
        epoch: first_epoch(),
        members: file,
        policy,
        initial_state: String::new(),
    })
}

/// 32 hex digits, not all zero.
fn is_incarnation(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|it| it.is_ascii_hexdigit())
        && text.bytes().any(|it| it != b'0')
}

// === impl GenesisFile ===

impl GenesisFile {
    /// Of a record's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The text to record. It is handed on as it is, byte for byte.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers are JSON")
    }

    /// Of members without anything to begin from.
    #[cfg(test)]
    pub(crate) fn of_members(service: &str, members: &[Member]) -> Self {
        let members = members
            .iter()
            .map(|it| GenesisMember {
                id: it.member.id,
                name: it.member.name.clone(),
                incarnation: String::new(),
                role: it.member.role,
                region: it.region.clone(),
            })
            .collect();
        Self {
            service: service.to_owned(),
            protocol: 0,
            epoch: first_epoch(),
            members,
            policy: String::new(),
            initial_state: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_api::{GroupMember, MemberState};

    use super::*;

    fn members() -> Vec<Member> {
        let member = |id: u32, cluster: &str| Member {
            cluster: cluster.to_owned(),
            region: format!("{cluster}-1"),
            member: GroupMember {
                name: format!("notes-{cluster}-0"),
                id,
                role: MemberRole::Voter,
                incarnation: String::new(),
                discard: String::new(),
            },
        };
        vec![member(1, "us"), member(2, "eu"), member(3, "ap")]
    }

    fn status(name: &str, life: u8) -> GroupMemberStatus {
        GroupMemberStatus {
            name: name.to_owned(),
            incarnation: format!("{life:032x}"),
            endpoint: "10.0.0.1:7443".to_owned(),
            state: MemberState::CatchingUp,
            role: None,
            leader: String::new(),
            epoch: 0,
            ready: false,
            policy_version: 0,
            protocol: [1, 2],
            protocol_in_force: 1,
            log_mebibytes: 0,
            snapshot: None,
            updated: true,
            revision: 0,
            running: None,
            made_of: None,
            may: None,
            problem: String::new(),
        }
    }

    fn all() -> Vec<GroupMemberStatus> {
        vec![
            status("notes-us-0", 1),
            status("notes-eu-0", 2),
            status("notes-ap-0", 3),
        ]
    }

    fn try_build(reported: &[GroupMemberStatus]) -> Result<GenesisFile, NotYet> {
        let reported = reported.iter().map(|it| (it.name.as_str(), it)).collect();
        let policy = policy_hex("notes", &ReplicatedServiceSpec::default());
        build("notes", &members(), &reported, policy)
    }

    #[test]
    fn a_genesis_names_every_member_with_the_log_it_reported() {
        let mut reported = all();
        reported[1].protocol = [1, 1];
        let file = try_build(&reported).expect("all have reported");
        assert_eq!(file.protocol, 1, "the highest that all speak");
        let lives: Vec<_> = file
            .members
            .iter()
            .map(|it| (it.id, it.incarnation.as_str(), it.region.as_str()))
            .collect();
        assert_eq!(
            lives,
            [
                (1, "00000000000000000000000000000001", "us-1"),
                (2, "00000000000000000000000000000002", "eu-1"),
                (3, "00000000000000000000000000000003", "ap-1"),
            ]
        );
        assert_eq!(
            GenesisFile::parse(&file.text()).expect("its own text"),
            file
        );
    }

    #[test]
    fn there_is_no_genesis_before_the_last_member_has_reported() {
        for change in [
            |it: &mut GroupMemberStatus| it.incarnation.clear(),
            |it: &mut GroupMemberStatus| it.incarnation = "0".repeat(32),
            |it: &mut GroupMemberStatus| it.endpoint.clear(),
            |it: &mut GroupMemberStatus| it.name = "notes-xx-0".into(),
        ] {
            let mut reported = all();
            change(&mut reported[1]);
            let Err(NotYet::Waiting(who)) = try_build(&reported) else {
                panic!("it waits");
            };
            assert_eq!(who[0].0, "notes-eu-0", "{who:?}");
        }
    }

    #[test]
    fn members_of_a_group_never_get_another_genesis() {
        let mut reported = all();
        reported[2].epoch = 4;
        reported[0].incarnation.clear();
        assert_eq!(
            try_build(&reported),
            Err(NotYet::Formed(vec!["notes-ap-0".to_owned()]))
        );
    }

    #[test]
    fn a_copied_volume_and_sidecars_without_a_common_version_are_told() {
        let mut reported = all();
        reported[2].incarnation = reported[0].incarnation.clone();
        assert!(matches!(try_build(&reported), Err(NotYet::Impossible(it)) if it.contains("copy")));
        let mut reported = all();
        reported[2].protocol = [3, 4];
        assert!(
            matches!(try_build(&reported), Err(NotYet::Impossible(it)) if it.contains("protocol"))
        );
    }

    #[test]
    fn the_file_is_the_one_that_the_sidecar_reads() {
        // The sidecar's tests read the same file.
        let golden = include_str!("../../../proto/golden/genesis.json");
        let file = GenesisFile::parse(golden).expect("the golden file");
        assert_eq!(file.text().trim(), golden.trim());
    }
}
