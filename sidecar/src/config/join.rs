//! The file by which a member with an empty disk gets into a group that runs (rules M2, M4): written
//! once the group has agreed on a configuration that names this life of its log, and read by the member
//! until its own log holds what it says. Never read again after that.

use std::path::Path;

use serde::{Deserialize, Serialize};
use synod_paxos::{Configuration, Epoch, Genesis, Identity, Member, MemberId, Quorums};

use super::genesis::{GenesisError, GenesisFile, GenesisMember, read_json, read_members};

/// The file's content, JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinFile {
    /// What the group began with.
    pub genesis: GenesisFile,
    /// The epoch of the members below.
    pub epoch: u64,
    /// The members of that epoch; whom to ask for the log.
    pub members: Vec<GenesisMember>,
}

// === impl JoinFile ===

impl JoinFile {
    /// How the members of this configuration get into the group.
    pub fn new(genesis: &Genesis, service: &str, configuration: &Configuration) -> Self {
        Self {
            genesis: GenesisFile::of(genesis, service),
            epoch: configuration.epoch.0,
            members: configuration.members.iter().map(Into::into).collect(),
        }
    }

    /// The content of the file.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a join file of strings is JSON")
    }

    /// Reads the file; `None` when there is none yet.
    pub fn read(path: &Path) -> Result<Option<Self>, GenesisError> {
        read_json(path)
    }

    /// What a log of this identity begins with, and the configuration that it is in; `None` when the
    /// file does not name it: it was written for another life of this log, or for others.
    pub fn for_member(
        &self,
        path: &Path,
        service: &str,
        own: &Identity,
    ) -> Result<Option<(Genesis, Configuration)>, GenesisError> {
        let content = |(field, problem)| GenesisError::Content {
            path: path.to_owned(),
            field,
            problem,
        };
        if self.genesis.service != service {
            let problem = format!("this member is of the service {service:?}");
            return Err(content(("genesis.service".to_owned(), problem)));
        }
        let genesis = self.genesis.to_genesis().map_err(content)?;
        let configuration = Configuration {
            epoch: Epoch(self.epoch),
            members: read_members(&self.members).map_err(content)?,
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        };
        if configuration.epoch <= genesis.configuration.epoch {
            let problem = "must be above the epoch that the group began with".to_owned();
            return Err(content(("epoch".to_owned(), problem)));
        }
        let named = |it: &Member| it.name == own.name && it.incarnation == own.incarnation;
        Ok(configuration
            .members
            .iter()
            .any(named)
            .then_some((genesis, configuration)))
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::Incarnation;

    use super::*;
    use crate::config::genesis::GenesisRole;

    fn member(id: u32) -> GenesisMember {
        GenesisMember {
            id,
            name: format!("notes-{id}"),
            incarnation: format!("{:032x}", 0xabc0 + u128::from(id)),
            role: GenesisRole::Voter,
            region: String::new(),
        }
    }

    fn file() -> JoinFile {
        let policy = synod_proto::v1::Policy {
            version: 1,
            ..Default::default()
        };
        let members = vec![member(1), member(2), member(3)];
        JoinFile {
            genesis: GenesisFile::new("notes", 1, members, &policy),
            epoch: 2,
            members: vec![member(1), member(2), member(4)],
        }
    }

    fn own(incarnation: u128) -> Identity {
        Identity {
            name: "notes-4".to_owned(),
            incarnation: Incarnation(incarnation),
        }
    }

    #[test]
    fn a_member_joins_the_group_that_began_with_others() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("join.json");
        assert_eq!(JoinFile::read(&path).expect("none"), None);
        std::fs::write(&path, file().to_text()).expect("written");
        let read = JoinFile::read(&path).expect("good").expect("there");
        let joined = read.for_member(&path, "notes", &own(0xabc4));
        let (genesis, configuration) = joined.expect("good").expect("named");
        assert_eq!(configuration.epoch, Epoch(2));
        assert_eq!(genesis.configuration.members.len(), 3);
        // A member of the group makes the same file of what its log holds.
        assert_eq!(JoinFile::new(&genesis, "notes", &configuration), file());
    }

    #[test]
    fn a_file_for_another_life_of_the_log_is_not_for_this_one() {
        let path = Path::new("join.json");
        let joined = file().for_member(path, "notes", &own(0xabc5));
        assert_eq!(joined.expect("good"), None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let path = Path::new("join.json");
        let refused = |edit: fn(&mut JoinFile)| {
            let mut file = file();
            edit(&mut file);
            let joined = file.for_member(path, "notes", &own(0xabc4));
            joined.expect_err("refused").to_string()
        };
        assert!(refused(|it| it.epoch = 1).contains("epoch"));
        assert!(refused(|it| it.genesis.service = "wiki".into()).contains("genesis.service"));
        assert!(refused(|it| it.members[0].id = 4).contains("members[2].id"));
        assert!(refused(|it| it.genesis.policy = "0x".into()).contains("policy"));
    }
}
