//! Who the members of a service are and from what they were formed: all that must be known to look
//! after those that run, whatever the manifest says by now. Pure.

use super::genesis::GenesisFile;
use super::members::{self, Member};

/// Whether the service has been formed, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Formed {
    /// Not yet.
    No,
    /// From this genesis, word for word.
    Genesis(String),
    /// There is a record without a genesis. The text is what it says about the members.
    Earlier(String),
}

/// The members of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roster {
    /// Name of the service.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// Who they are.
    pub(crate) members: Vec<Member>,
    /// Whether they were formed.
    pub(crate) formed: Formed,
}

// === impl Roster ===

impl Roster {
    /// Of a service that was formed; `None` when it was not, or its record cannot be read.
    pub(crate) fn recorded(name: &str, uid: &str, formed: &Formed) -> Option<Self> {
        let (Formed::Genesis(text) | Formed::Earlier(text)) = formed else {
            return None;
        };
        let file = GenesisFile::parse(text).ok()?;
        Some(Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            members: members::recorded(name, &file)?,
            formed: formed.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{formed, valid};
    use super::*;

    #[test]
    fn the_members_are_known_from_the_record_alone() {
        let roster = Roster::recorded("notes", "uid-1", &formed()).expect("readable");
        assert_eq!(roster, valid(formed()).roster);
        assert_eq!(Roster::recorded("notes", "uid-1", &Formed::No), None);
        for text in ["", "{", "{}"] {
            let formed = Formed::Genesis(text.to_owned());
            assert_eq!(Roster::recorded("notes", "uid-1", &formed), None, "{text}");
        }
        assert_eq!(
            Roster::recorded("other", "uid-1", &formed()),
            None,
            "of others"
        );
    }
}
