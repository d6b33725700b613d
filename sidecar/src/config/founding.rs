//! From what a group begins, if not with nothing: for the one member that makes its first state.

use std::path::PathBuf;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use synod_proto::v1::Policy;

use super::ConfigError;
use super::genesis::from_hex;

/// The section `founding`. It has a meaning for a member with an empty disk, and none afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Founding {
    /// Name of the member that does it; for all others the section says nothing.
    pub member: String,
    /// A folder that an app has used on its own; excludes `restore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Import>,
    /// A backup; excludes `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// A folder becomes the state behind the first slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Import {
    /// The folder. It is only read, and nobody may write to it meanwhile.
    pub volume: PathBuf,
    /// The first policy: `synod.v1.Policy` in hex.
    pub policy: String,
}

/// A group goes on as another one, with what a backup has of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restore {
    /// The folder of one backup. It is only read.
    pub backup: PathBuf,
    /// What was done at this slot and behind it is left out; without it nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// What the group begins from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder, with the first policy.
    Import(PathBuf, Box<Policy>),
    /// A backup.
    Restore(Restore),
}

// === impl Founding ===

impl Founding {
    /// What it says, if it makes sense.
    pub fn source(&self) -> Result<Source, ConfigError> {
        let bad = |field, value: &str, allowed: &str| ConfigError::Value {
            field,
            value: value.to_owned(),
            allowed: allowed.to_owned(),
        };
        match (&self.import, &self.restore) {
            (Some(import), None) => {
                let policy = from_hex(&import.policy);
                let policy = policy.and_then(|it| Policy::decode(&it[..]).ok());
                let policy = policy.ok_or_else(|| {
                    bad(
                        "founding.import.policy",
                        &import.policy,
                        "a policy, as hex digits",
                    )
                })?;
                Ok(Source::Import(import.volume.clone(), Box::new(policy)))
            }
            (None, Some(restore)) => Ok(Source::Restore(restore.clone())),
            (Some(_), Some(_)) => Err(bad("founding", "both", "one of import and restore")),
            (None, None) => Err(bad("founding", "neither", "one of import and restore")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(yaml: &str) -> Result<Source, String> {
        let founding: Founding = serde_yaml::from_str(yaml).expect("its shape");
        founding.source().map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_one_of_two() {
        let import = "import: {volume: /source, policy: '0801'}";
        let restore = "restore: {backup: /source/notes, before: 7}";
        let both = format!("{{member: notes-0, {import}, {restore}}}");
        assert!(source(&both).expect_err("both").contains("one of"));
        let none = source("{member: notes-0}").expect_err("none");
        assert!(none.contains("one of"), "{none}");
        match source(&format!("{{member: notes-0, {import}}}")) {
            Ok(Source::Import(_, policy)) => assert_eq!(policy.version, 1),
            other => panic!("{other:?}"),
        }
        match source(&format!("{{member: notes-0, {restore}}}")) {
            Ok(Source::Restore(restore)) => assert_eq!(restore.before, Some(7)),
            other => panic!("{other:?}"),
        }
        let bad = source("{member: notes-0, import: {volume: /source, policy: xyz}}");
        assert!(bad.expect_err("no hex").contains("founding.import.policy"));
    }
}
