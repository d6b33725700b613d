//! The replicated policy as it should be and as it is in force (rule P7). Pure.

use prost::Message as _;
use synod_proto::v1::Policy;

/// What is proposed, and on top of which version.
#[derive(Debug, PartialEq)]
pub(crate) struct Proposal {
    pub(crate) policy: Policy,
    pub(crate) expected_version: u64,
    /// What will have been proposed, to be remembered.
    pub(crate) digest: String,
}

/// The policy that `wanted` (hex) asks for, unless it is in force: the leader says which version is
/// (`version`), and the digest of its content. `done` is what was last proposed from here, as
/// [`remember`] puts it: a leader of an older version may know less of a policy than it says.
///
/// Errors say what is wrong with `wanted`.
pub(crate) fn proposal(
    wanted: &str,
    version: u64,
    in_force: &str,
    done: Option<&str>,
) -> Result<Option<Proposal>, String> {
    let policy = parse(wanted)?;
    let digest = digest(&policy);
    if version == 0 || digest == in_force || done == Some(&remember(&digest, version)) {
        return Ok(None);
    }
    Ok(Some(Proposal {
        policy,
        expected_version: version,
        digest,
    }))
}

/// That a policy is in force as this version.
pub(crate) fn remember(digest: &str, version: u64) -> String {
    format!("{digest}@{version}")
}

fn parse(hex: &str) -> Result<Policy, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let text = hex.as_bytes();
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect();
    let bytes = bytes.ok_or("spec.policy is not a string of hex digits")?;
    Policy::decode(&bytes[..]).map_err(|error| format!("spec.policy is no policy: {error}"))
}

/// Of what a policy says, without its versions: as members compute it.
fn digest(policy: &Policy) -> String {
    let content = Policy {
        version: 0,
        classes_version: 0,
        ..policy.clone()
    };
    blake3::hash(&content.encode_to_vec()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(policy: &Policy) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for byte in policy.encode_to_vec() {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        text
    }

    fn policy(max_body_bytes: u64) -> Policy {
        Policy {
            version: 1,
            max_body_bytes,
            ..Policy::default()
        }
    }

    #[test]
    fn a_policy_is_proposed_when_its_content_is_not_in_force_whatever_its_version() {
        let (old, new) = (policy(1), policy(2));
        let force = Policy {
            version: 7,
            classes_version: 3,
            ..old.clone()
        };
        let in_force = digest(&force);
        assert_eq!(proposal(&hex(&old), 7, &in_force, None), Ok(None));
        let found = proposal(&hex(&new), 7, &in_force, None).expect("good");
        let found = found.expect("it differs");
        assert_eq!((found.policy, found.expected_version), (new.clone(), 7));
        let done = remember(&digest(&new), 8);
        assert_eq!(proposal(&hex(&new), 8, "of less", Some(&done)), Ok(None));
        assert!(
            proposal(&hex(&new), 9, "of less", Some(&done))
                .expect("good")
                .is_some()
        );
    }

    #[test]
    fn a_policys_digest_is_the_one_that_members_compute() {
        let policy = Policy {
            version: 7,
            classes_version: 3,
            max_body_bytes: 16 << 20,
            service: "notes".to_owned(),
            ..Policy::default()
        };
        assert_eq!(
            digest(&policy),
            "4f24d7a4f561e9cf23931ae5f9f55844ee29ef839c926045135524fe5529bf07"
        );
    }

    #[test]
    fn nothing_is_proposed_before_there_is_a_group_or_from_what_is_no_policy() {
        assert_eq!(proposal(&hex(&policy(1)), 0, "", None), Ok(None));
        for wrong in ["0", "zz", "ff"] {
            proposal(wrong, 1, "", None).expect_err(wrong);
        }
    }
}
