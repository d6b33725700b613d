//! The bytes of a configuration, in the log as in the records on disk, and of the command that
//! proposes one. Numbers are little-endian.
//!
//! A configuration: epoch (8), first leader (4), quorums (kind 1, phase 1: 4, phase 2: 4), number of
//! members (4), each: id (4), incarnation (16), role (1), name, region. Texts are preceded by their
//! length (4).
//!
//! The payload of [`CommandKind::RECONFIGURE`]: version (4), now 1, and a configuration.

use crate::configuration::{Configuration, Member, Role};
use crate::quorum::Quorums;
use crate::types::{Command, CommandKind, Entry, Epoch, Incarnation, MemberId};

/// Of the payload.
const VERSION: u32 = 1;

impl Configuration {
    /// Appends its bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.first_leader.0.to_le_bytes());
        let (kind, phase1, phase2) = match self.quorums {
            Quorums::Majority => (0_u8, 0, 0),
            Quorums::Flexible { phase1, phase2 } => (1, phase1, phase2),
        };
        out.push(kind);
        out.extend_from_slice(&phase1.to_le_bytes());
        out.extend_from_slice(&phase2.to_le_bytes());
        Member::put_all(&self.members, out);
    }

    /// Takes one from the front of `bytes`; `None` if there is none. Says nothing of whether a group
    /// can have it ([`Configuration::check`]).
    pub fn take(bytes: &mut &[u8]) -> Option<Self> {
        let epoch = Epoch(u64::from_le_bytes(array(bytes)?));
        let first_leader = MemberId(number(bytes)?);
        let [kind] = array(bytes)?;
        let (phase1, phase2) = (number(bytes)?, number(bytes)?);
        let quorums = match kind {
            0 => Quorums::Majority,
            1 => Quorums::Flexible { phase1, phase2 },
            _ => return None,
        };
        Some(Self {
            epoch,
            members: Member::take_all(bytes)?,
            quorums,
            first_leader,
        })
    }
}

impl Member {
    /// Appends a list of members, preceded by their number.
    pub fn put_all(members: &[Self], out: &mut Vec<u8>) {
        put_length(members.len(), out);
        for member in members {
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.extend_from_slice(&member.incarnation.0.to_le_bytes());
            out.push(match member.role {
                Role::Voter => 0,
                Role::Observer => 1,
                Role::Witness => 2,
            });
            for text in [&member.name, &member.region] {
                put_length(text.len(), out);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Takes such a list from the front of `bytes`; `None` if there is none.
    pub fn take_all(bytes: &mut &[u8]) -> Option<Vec<Self>> {
        let mut members = Vec::new();
        for _ in 0..number(bytes)? {
            let id = MemberId(number(bytes)?);
            let incarnation = Incarnation(u128::from_le_bytes(array(bytes)?));
            let role = match array(bytes)? {
                [0] => Role::Voter,
                [1] => Role::Observer,
                [2] => Role::Witness,
                _ => return None,
            };
            members.push(Self {
                id,
                name: text(bytes)?,
                incarnation,
                role,
                region: text(bytes)?,
            });
        }
        Some(members)
    }
}

impl Command {
    /// The command that ends an epoch with this configuration.
    pub fn reconfigure(configuration: &Configuration) -> Self {
        let mut payload = VERSION.to_le_bytes().to_vec();
        configuration.put(&mut payload);
        Self {
            kind: CommandKind::RECONFIGURE,
            payload: payload.into(),
            ..Self::default()
        }
    }
}

impl Entry {
    /// The configuration in force from the next slot on, if this entry ends its epoch. Apply takes it
    /// from here; what is none to this function is none on any member.
    pub fn reconfigures_to(&self) -> Option<Configuration> {
        if self.command.kind != CommandKind::RECONFIGURE {
            return None;
        }
        let mut bytes = &self.command.payload[..];
        if number(&mut bytes)? != VERSION {
            return None;
        }
        let configuration = Configuration::take(&mut bytes)?;
        let sound = bytes.is_empty()
            && configuration.check().is_ok()
            && configuration.epoch == self.ballot.epoch.next();
        sound.then_some(configuration)
    }
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("a configuration is far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*array)
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    array(bytes).map(u32::from_le_bytes)
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = number(bytes)? as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{AgreedTime, Ballot, Slot};

    fn configuration() -> Configuration {
        let member = |number: u32, role| Member {
            id: MemberId(number),
            name: format!("notes-{number}"),
            incarnation: Incarnation(u128::from(number) << 70),
            role,
            region: "here".to_owned(),
        };
        Configuration {
            epoch: Epoch(4),
            members: vec![
                member(1, Role::Voter),
                member(3, Role::Observer),
                member(9, Role::Witness),
            ],
            quorums: Quorums::Flexible {
                phase1: 2,
                phase2: 1,
            },
            first_leader: MemberId(9),
        }
    }

    fn entry(configuration: &Configuration) -> Entry {
        Entry {
            slot: Slot(7),
            ballot: Ballot {
                epoch: Epoch(3),
                round: 2,
                node: MemberId(1),
            },
            time: AgreedTime(1),
            seed: 0,
            command: Command::reconfigure(configuration),
        }
    }

    #[test]
    fn a_stop_sign_reads_back_as_written_and_each_shorter_or_longer_one_is_none() {
        let whole = entry(&configuration());
        assert_eq!(whole.reconfigures_to(), Some(configuration()));
        let bytes = whole.command.payload.clone();
        for length in 0..bytes.len() {
            let mut cut = whole.clone();
            cut.command.payload = bytes.slice(..length);
            assert_eq!(cut.reconfigures_to(), None, "{length} bytes");
        }
        let mut long = whole;
        long.command.payload = [&bytes[..], &[0]].concat().into();
        assert_eq!(long.reconfigures_to(), None);
    }

    #[test]
    fn a_stop_sign_ends_the_epoch_that_it_was_proposed_in_and_no_other() {
        let other = Configuration {
            epoch: Epoch(5),
            ..configuration()
        };
        assert_eq!(entry(&other).reconfigures_to(), None);
        let none = Configuration {
            first_leader: MemberId(3),
            ..configuration()
        };
        assert_eq!(entry(&none).reconfigures_to(), None, "no configuration");
        let mut request = entry(&configuration());
        request.command.kind = CommandKind::REQUEST;
        assert_eq!(request.reconfigures_to(), None);
    }

    #[test]
    fn the_bytes_of_a_stop_sign_are_as_documented() {
        let configuration = Configuration {
            members: vec![Member {
                id: MemberId(9),
                name: "n".to_owned(),
                incarnation: Incarnation(0x0102),
                role: Role::Voter,
                region: "rg".to_owned(),
            }],
            quorums: Quorums::Majority,
            ..configuration()
        };
        let golden = [
            &[1, 0, 0, 0][..],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0],
            &[9, 0, 0, 0],
            &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0],
            &[1, 0, 0, 0, b'n'],
            &[2, 0, 0, 0, b'r', b'g'],
        ];
        assert_eq!(entry(&configuration).command.payload[..], golden.concat());
    }
}
