//! The file from which a group begins (rule M5): written once, create-only, by whoever forms the
//! group, and read by each member until its own log holds it. Never read again after that.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use synod_paxos::{
    Configuration, Epoch, Genesis, GroupId, Identity, Incarnation, Member, MemberId, Quorums, Role,
};
use synod_proto::v1::Policy;

/// The file's content, JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenesisFile {
    /// Name of the service.
    pub service: String,
    /// The protocol version that the group starts with.
    pub protocol: u32,
    /// The epoch of the first members: 1, or 0 of a group that was restored.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: u64,
    /// The first members.
    pub members: Vec<GenesisMember>,
    /// The bytes of `synod.v1.Policy` number 1 in hex: they are agreed on as they are.
    pub policy: String,
    /// BLAKE3 of the state that the group begins with, in hex; empty: with none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub initial_state: String,
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
pub struct GenesisMember {
    /// Its number, from 1.
    pub id: u32,
    /// Its stable name.
    pub name: String,
    /// The life of its log as its `/status` says it: 32 hex digits.
    pub incarnation: String,
    /// What it does.
    pub role: GenesisRole,
    /// Where it is; empty when there is only one place.
    #[serde(default)]
    pub region: String,
}

/// As [`Role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenesisRole {
    /// Votes and runs the app.
    Voter,
    /// Runs the app, has no vote.
    Observer,
    /// Votes and keeps the log, runs no app.
    Witness,
}

/// Why no group can begin from a file.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file could not be read or written.
    #[error("genesis {path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is one already: a group is formed once.
    #[error("genesis {path} exists already: a group is formed once and never formed again")]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// It says something that cannot be.
    #[error("genesis {path}: {field}: {problem}")]
    Content {
        /// Which file; empty when there is none yet.
        path: PathBuf,
        /// Where.
        field: String,
        /// What.
        problem: String,
    },
    /// It is for others.
    #[error(
        "genesis {path} is not for this member: {problem}; if the disk of {member} was lost or \
         replaced, replace the member in the running group instead"
    )]
    NotAMember {
        /// Which file.
        path: PathBuf,
        /// This member.
        member: String,
        /// What differs.
        problem: String,
    },
}

// === impl GenesisFile ===

impl GenesisFile {
    /// The file for a group of these members and this policy.
    pub fn new(service: &str, protocol: u32, members: Vec<GenesisMember>, policy: &Policy) -> Self {
        Self {
            service: service.to_owned(),
            protocol,
            epoch: first_epoch(),
            members,
            policy: to_hex(&policy.encode_to_vec()),
            initial_state: String::new(),
        }
    }

    /// The file that a group with this genesis began with.
    pub(crate) fn of(genesis: &Genesis, service: &str) -> Self {
        Self {
            service: service.to_owned(),
            protocol: genesis.protocol,
            members: genesis
                .configuration
                .members
                .iter()
                .map(Into::into)
                .collect(),
            policy: to_hex(&genesis.policy),
            epoch: genesis.configuration.epoch.0,
            initial_state: to_hex(&genesis.initial_state),
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a genesis of strings is JSON")
    }

    /// Reads the file; `None` when there is none yet.
    pub fn read(path: &Path) -> Result<Option<Self>, GenesisError> {
        read_json(path)
    }

    /// Writes the file if there is none; the loser of a race gets [`GenesisError::Exists`]. A
    /// reader sees all of it or nothing, and it is on disk when this returns.
    pub fn write_create_only(&self, path: &Path) -> Result<(), GenesisError> {
        self.to_genesis()
            .map_err(|(field, problem)| GenesisError::Content {
                path: path.to_owned(),
                field,
                problem,
            })?;
        create(path, self.text().as_bytes()).map_err(|error| {
            let path = path.to_owned();
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                GenesisError::Exists { path }
            } else {
                GenesisError::File { path, error }
            }
        })
    }

    /// What the log of this member begins with. Checks that the member is one of the group, with
    /// the log that it has.
    pub fn genesis_for(
        &self,
        path: &Path,
        service: &str,
        own: &Identity,
    ) -> Result<Genesis, GenesisError> {
        let genesis = self
            .to_genesis()
            .map_err(|(field, problem)| GenesisError::Content {
                path: path.to_owned(),
                field,
                problem,
            })?;
        let refuse = |problem: String| GenesisError::NotAMember {
            path: path.to_owned(),
            member: own.name.clone(),
            problem,
        };
        if self.service != service {
            return Err(refuse(format!(
                "it is for the service {:?}, this member is of {service:?}",
                self.service
            )));
        }
        let members = &genesis.configuration.members;
        match members.iter().find(|it| it.name == own.name) {
            None => Err(refuse(format!("it does not name {:?}", own.name))),
            Some(member) if member.incarnation != own.incarnation => Err(refuse(format!(
                "it names incarnation {} of it, the log here is of {}",
                member.incarnation, own.incarnation
            ))),
            Some(_) => Ok(genesis),
        }
    }

    /// The first record of the group's logs; errors are `(field, problem)`.
    pub(super) fn to_genesis(&self) -> Result<Genesis, (String, String)> {
        let problem = |field: String, text: &str| (field, text.to_owned());
        if self.protocol == 0 {
            return Err(problem("protocol".into(), "must be at least 1"));
        }
        let policy = from_hex(&self.policy)
            .ok_or_else(|| problem("policy".into(), "is not a string of hex digits"))?;
        Policy::decode(&policy[..])
            .map_err(|error| problem("policy".into(), &format!("is no policy: {error}")))?;
        let initial_state = from_hex(&self.initial_state)
            .ok_or_else(|| problem("initialState".into(), "is not a string of hex digits"))?;
        if self.epoch > 1 || (self.epoch == 0 && initial_state.is_empty()) {
            let what = "must be 1, or 0 of a group that was restored";
            return Err(problem("epoch".into(), what));
        }
        let members = read_members(&self.members)?;
        let mut genesis = Genesis {
            group: GroupId::default(),
            configuration: Configuration {
                epoch: Epoch(self.epoch),
                members,
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            },
            policy: Bytes::from(policy),
            protocol: self.protocol,
            initial_state: Bytes::from(initial_state),
        };
        genesis.group = group_of(&genesis);
        Ok(genesis)
    }
}

/// Reads a file of this shape; `None` when there is none yet.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, GenesisError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(GenesisError::File {
                path: path.to_owned(),
                error,
            });
        }
    };
    let mut json = serde_json::Deserializer::from_slice(&text);
    let file =
        serde_path_to_error::deserialize(&mut json).map_err(|error| GenesisError::Content {
            path: path.to_owned(),
            field: error.path().to_string(),
            problem: error.inner().to_string(),
        })?;
    Ok(Some(file))
}

/// The members as the agreement has them, by number; errors are `(field, problem)`.
pub(super) fn read_members(given: &[GenesisMember]) -> Result<Vec<Member>, (String, String)> {
    let problem = |field: String, text: &str| (field, text.to_owned());
    let mut members = Vec::new();
    let (mut ids, mut names, mut lives) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (at, member) in given.iter().enumerate() {
        let field = |name: &str| format!("members[{at}].{name}");
        let incarnation = parse_incarnation(&member.incarnation)
            .ok_or_else(|| problem(field("incarnation"), "is not 32 hex digits, or is zero"))?;
        if member.id == 0 || !ids.insert(member.id) {
            return Err(problem(field("id"), "must be a number of its own, from 1"));
        }
        if member.name.is_empty() || !names.insert(&member.name) {
            return Err(problem(field("name"), "must be a name of its own"));
        }
        if !lives.insert(incarnation) {
            return Err(problem(field("incarnation"), "must be its own"));
        }
        members.push(Member {
            id: MemberId(member.id),
            name: member.name.clone(),
            incarnation,
            role: member.role.into(),
            region: member.region.clone(),
        });
    }
    if !members.iter().any(|it| it.role == Role::Voter) {
        return Err(problem("members".into(), "no voter is among them"));
    }
    members.sort_by_key(|it| it.id);
    Ok(members)
}

impl From<GenesisRole> for Role {
    fn from(role: GenesisRole) -> Self {
        match role {
            GenesisRole::Voter => Self::Voter,
            GenesisRole::Observer => Self::Observer,
            GenesisRole::Witness => Self::Witness,
        }
    }
}

impl From<Role> for GenesisRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Voter => Self::Voter,
            Role::Observer => Self::Observer,
            Role::Witness => Self::Witness,
        }
    }
}

impl From<&Member> for GenesisMember {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id.0,
            name: member.name.clone(),
            incarnation: member.incarnation.to_string(),
            role: member.role.into(),
            region: member.region.clone(),
        }
    }
}

/// Hash over all the other fields: every member computes it for itself, so that two groups can
/// never be taken for one.
pub fn group_of(genesis: &Genesis) -> GroupId {
    let mut hasher = blake3::Hasher::new_derive_key("synod genesis 1");
    let mut put = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let configuration = &genesis.configuration;
    put(&configuration.epoch.0.to_le_bytes());
    put(&configuration.first_leader.0.to_le_bytes());
    match configuration.quorums {
        Quorums::Majority => put(&[0]),
        Quorums::Flexible { phase1, phase2 } => {
            put(&[1]);
            put(&phase1.to_le_bytes());
            put(&phase2.to_le_bytes());
        }
    }
    put(&(configuration.members.len() as u64).to_le_bytes());
    for member in &configuration.members {
        put(&member.id.0.to_le_bytes());
        put(member.name.as_bytes());
        put(&member.incarnation.0.to_le_bytes());
        put(&[match member.role {
            Role::Voter => 1,
            Role::Observer => 2,
            Role::Witness => 3,
        }]);
        put(member.region.as_bytes());
    }
    put(&genesis.policy);
    put(&genesis.protocol.to_le_bytes());
    put(&genesis.initial_state);
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    GroupId(id)
}

/// 32 hex digits as [`Incarnation`] prints itself; zero means none.
pub fn parse_incarnation(text: &str) -> Option<Incarnation> {
    let digits = text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok()?;
    (digits && number != 0).then_some(Incarnation(number))
}

/// The folder a file lies in; a bare name lies in the current one.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes
        .chunks_exact(2)
        .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
        .collect()
}

/// A hard link fails where the target exists, and what it links is complete: create-only and
/// whole at once.
fn create(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = folder_of(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    std::fs::hard_link(file.path(), path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> GenesisFile {
        let member = |id: u32| GenesisMember {
            id,
            name: format!("notes-{id}"),
            incarnation: format!("{:032x}", 0xabc0 + u128::from(id)),
            role: GenesisRole::Voter,
            region: String::new(),
        };
        let policy = Policy {
            version: 1,
            ..Policy::default()
        };
        GenesisFile::new("notes", 1, vec![member(3), member(1), member(2)], &policy)
    }

    fn own(name: &str, incarnation: u128) -> Identity {
        Identity {
            name: name.into(),
            incarnation: Incarnation(incarnation),
        }
    }

    #[test]
    fn every_member_makes_the_same_genesis_of_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("genesis.json");
        assert_eq!(GenesisFile::read(&path).expect("none"), None);
        file().write_create_only(&path).expect("written");
        let read = GenesisFile::read(&path).expect("good").expect("there");
        let first = read
            .genesis_for(&path, "notes", &own("notes-1", 0xabc1))
            .expect("a member");
        let second = read
            .genesis_for(&path, "notes", &own("notes-2", 0xabc2))
            .expect("a member");
        assert_eq!(first, second);
        assert_eq!(first.group, group_of(&first));
        assert_eq!(first.configuration.first_leader, MemberId(0));
    }

    #[test]
    fn a_second_genesis_is_never_written() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("genesis.json");
        file().write_create_only(&path).expect("written");
        let before = std::fs::read(&path).expect("read");
        let mut other = file();
        other.service = "other".into();
        let error = other.write_create_only(&path).expect_err("exists");
        assert!(matches!(error, GenesisError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("read"), before);
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_member_that_is_not_in_it_is_refused_with_the_reason() {
        let path = Path::new("genesis.json");
        for (service, identity, word) in [
            ("notes", own("notes-4", 0xabc1), "notes-4"),
            ("notes", own("notes-1", 0xabc2), "incarnation"),
            ("wiki", own("notes-1", 0xabc1), "wiki"),
        ] {
            let error = file()
                .genesis_for(path, service, &identity)
                .expect_err("refused");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn every_field_of_a_genesis_changes_the_group() {
        let base = file().to_genesis().expect("good");
        let mut changed = vec![base.clone(); 8];
        changed[0].policy = Bytes::from_static(b"x");
        changed[1].protocol = 2;
        changed[2].initial_state = Bytes::from_static(b"x");
        changed[3].configuration.members[0].name = "x".into();
        changed[4].configuration.members[0].region = "x".into();
        changed[5].configuration.members[0].role = Role::Witness;
        changed[6].configuration.members[0].incarnation = Incarnation(1);
        changed[7].configuration.quorums = Quorums::Flexible {
            phase1: 2,
            phase2: 2,
        };
        for other in changed {
            assert_ne!(group_of(&other), base.group, "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let change = |edit: fn(&mut GenesisFile)| {
            let mut file = file();
            edit(&mut file);
            file.to_genesis().expect_err("bad").0
        };
        assert_eq!(change(|it| it.members[1].id = 3), "members[1].id");
        assert_eq!(change(|it| it.members[0].id = 0), "members[0].id");
        assert_eq!(
            change(|it| it.members[2].name = "notes-3".into()),
            "members[2].name"
        );
        assert_eq!(
            change(|it| it.members[0].incarnation = "+1".into()),
            "members[0].incarnation"
        );
        assert_eq!(change(|it| it.policy = "0x".into()), "policy");
        assert_eq!(change(|it| it.policy = "ff".into()), "policy");
        assert_eq!(change(|it| it.protocol = 0), "protocol");
        assert_eq!(change(|it| it.members.clear()), "members");
    }

    #[test]
    fn the_file_is_the_one_that_the_operator_writes() {
        // The operator's tests read the same file.
        let golden = include_str!("../../../proto/golden/genesis.json");
        let file: GenesisFile = serde_json::from_str(golden).expect("the golden file");
        file.to_genesis().expect("a group can begin from it");
        let text = serde_json::to_string_pretty(&file).expect("JSON");
        assert_eq!(text.trim(), golden.trim());
    }
}
