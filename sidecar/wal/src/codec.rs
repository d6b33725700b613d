//! The bodies of records: entries, the genesis, bases.
//!
//! An entry's body: time (8 bytes), seed (16), kind (2), id: member (4), boot (8), sequence (8),
//! floor (8), then the payload. Slot, ballot and hash are in the record's header.
//!
//! A genesis: group (16), protocol (4), configuration ([`Configuration::put`]), policy, initial state.
//! Texts and bytes are preceded by their length (4).
//!
//! A base: twice the same, each with its hash (16) before it and its length (4): time (8), protocol
//! (4), configuration, and the list of former members unless it is empty ([`Member::put_all`]). Slot
//! and ballot are in the record's header. Of a join and an entry into an epoch: twice the
//! configuration, in the same way.

use bytes::Bytes;
use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch,
    Genesis, GroupId, Member, MemberId, Slot,
};

use crate::format::{
    Hash, RecordHeader, VERSION, VERSION_2, hash, hash_at, u16_at, u32_at, u64_at,
};

/// Bytes of an entry's body before its payload.
pub(crate) const ENTRY_FIXED_BYTES: usize = 54;

/// Appends the body of an entry.
pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let start = out.len();
    out.extend_from_slice(&entry.time.0.to_le_bytes());
    out.extend_from_slice(&entry.seed.to_le_bytes());
    out.extend_from_slice(&entry.command.kind.0.to_le_bytes());
    out.extend_from_slice(&entry.command.id.member.0.to_le_bytes());
    out.extend_from_slice(&entry.command.id.boot.0.to_le_bytes());
    out.extend_from_slice(&entry.command.id.sequence.to_le_bytes());
    out.extend_from_slice(&entry.command.floor.to_le_bytes());
    assert_eq!(out.len() - start, ENTRY_FIXED_BYTES, "as documented");
    out.extend_from_slice(&entry.command.payload);
}

/// The entry of a record, if its body is what its header's hash says.
pub(crate) fn entry(header: &RecordHeader, body: Vec<u8>) -> Option<Entry> {
    if body.len() < ENTRY_FIXED_BYTES {
        return None;
    }
    let entry = Entry {
        slot: header.slot,
        ballot: header.ballot,
        time: AgreedTime(u64_at(&body, 0)),
        seed: u128::from_le_bytes(hash_at(&body, 8)),
        command: Command {
            kind: CommandKind(u16_at(&body, 24)),
            id: CommandId {
                member: MemberId(u32_at(&body, 26)),
                boot: Boot(u64_at(&body, 30)),
                sequence: u64_at(&body, 38),
            },
            floor: u64_at(&body, 46),
            payload: Bytes::from(body).slice(ENTRY_FIXED_BYTES..),
        },
    };
    (entry.hash().0 == header.hash).then_some(entry)
}

/// The body of a genesis.
pub(crate) fn genesis_body(genesis: &Genesis) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&genesis.group.0);
    out.extend_from_slice(&genesis.protocol.to_le_bytes());
    genesis.configuration.put(&mut out);
    put_bytes(&mut out, &genesis.policy);
    put_bytes(&mut out, &genesis.initial_state);
    out
}

/// What a record carries besides entries and the genesis: it is in its body twice, since it can be
/// asked for from nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Base(Base),
    Configuration(Configuration),
}

impl Content {
    /// Lowest version of the format that has it.
    pub(crate) fn version(&self) -> u32 {
        match self {
            Self::Base(base) => base_version(base),
            Self::Configuration(_) => VERSION,
        }
    }

    /// The body of a record that carries it.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(1024);
        match self {
            Self::Base(base) => put_base(&mut copy, base),
            Self::Configuration(configuration) => configuration.put(&mut copy),
        }
        let mut out = Vec::with_capacity(2 * copy.len() + 40);
        for _ in 0..2 {
            out.extend_from_slice(&hash(&copy));
            put_bytes(&mut out, &copy);
        }
        out
    }

    /// What a record carries, if one of the copies in its body is good.
    pub(crate) fn of(header: &RecordHeader, body: &[u8]) -> Option<Self> {
        let (first, second) = body.split_at(body.len() / 2);
        [first, second].into_iter().find_map(|half| {
            let mut take = Take(half);
            let expected: Hash = take.array()?;
            let copy = take.bytes()?;
            if !take.0.is_empty() || hash(copy) != expected {
                return None;
            }
            let mut take = Take(copy);
            let content = if header.kind.is_base() {
                Self::Base(take_base(header.slot, header.ballot, &mut take)?)
            } else {
                Self::Configuration(take.configuration()?)
            };
            take.0.is_empty().then_some(content)
        })
    }
}

/// Lowest version of the format that has this base.
pub(crate) fn base_version(base: &Base) -> u32 {
    if base.configuration.epoch > Epoch(1) || !base.former.is_empty() {
        VERSION
    } else {
        VERSION_2
    }
}

/// All of a base but its slot and ballot: time (8), protocol (4), configuration, and, if there are
/// any, the members of before.
pub(crate) fn put_base(out: &mut Vec<u8>, base: &Base) {
    out.extend_from_slice(&base.time.0.to_le_bytes());
    out.extend_from_slice(&base.protocol.to_le_bytes());
    base.configuration.put(out);
    if !base.former.is_empty() {
        Member::put_all(&base.former, out);
    }
}

pub(crate) fn take_base(slot: Slot, ballot: Ballot, take: &mut Take<'_>) -> Option<Base> {
    Some(Base {
        slot,
        ballot,
        time: AgreedTime(take.u64()?),
        protocol: take.u32()?,
        configuration: take.configuration()?,
        former: match take.0 {
            [] => Vec::new(),
            _ => Member::take_all(&mut take.0)?,
        },
    })
}

pub(crate) fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.extend_from_slice(&ballot.epoch.0.to_le_bytes());
    out.extend_from_slice(&ballot.round.to_le_bytes());
    out.extend_from_slice(&ballot.node.0.to_le_bytes());
}

/// The genesis of a body, if it is one.
pub(crate) fn genesis(body: &[u8]) -> Option<Genesis> {
    let mut take = Take(body);
    let group = GroupId(take.array()?);
    let protocol = take.u32()?;
    let configuration = take.configuration()?;
    let genesis = Genesis {
        group,
        configuration,
        policy: Bytes::copy_from_slice(take.bytes()?),
        protocol,
        initial_state: Bytes::copy_from_slice(take.bytes()?),
    };
    take.0.is_empty().then_some(genesis)
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a genesis is far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes fields from the front of a body.
pub(crate) struct Take<'a>(pub(crate) &'a [u8]);

impl<'a> Take<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn ballot(&mut self) -> Option<Ballot> {
        Some(Ballot {
            epoch: Epoch(self.u64()?),
            round: self.u64()?,
            node: MemberId(self.u32()?),
        })
    }

    fn configuration(&mut self) -> Option<Configuration> {
        Configuration::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Incarnation, Quorums, Role};

    use super::*;
    use crate::format::Kind;

    #[test]
    fn a_genesis_reads_back_as_written_and_each_shorter_one_is_refused() {
        let genesis = Genesis {
            group: GroupId([7; 16]),
            configuration: Configuration {
                epoch: Epoch(1),
                members: vec![Member {
                    id: MemberId(1),
                    name: "notes-0".to_owned(),
                    incarnation: Incarnation(9),
                    role: Role::Witness,
                    region: "here".to_owned(),
                }],
                quorums: Quorums::Flexible {
                    phase1: 3,
                    phase2: 1,
                },
                first_leader: MemberId(0),
            },
            policy: Bytes::from_static(b"policy"),
            protocol: 1,
            initial_state: Bytes::new(),
        };
        let body = genesis_body(&genesis);
        assert_eq!(super::genesis(&body), Some(genesis));
        for length in 0..body.len() {
            assert_eq!(super::genesis(&body[..length]), None, "{length} bytes");
        }
    }

    fn base() -> Base {
        let member = |number: u32| Member {
            id: MemberId(number),
            name: format!("notes-{number}"),
            incarnation: Incarnation(number.into()),
            role: Role::Voter,
            region: String::new(),
        };
        Base {
            slot: Slot(9),
            ballot: Ballot {
                epoch: Epoch(1),
                round: 2,
                node: MemberId(1),
            },
            time: AgreedTime(8),
            protocol: 2,
            configuration: Configuration {
                epoch: Epoch(1),
                members: vec![member(2)],
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            },
            former: vec![member(1), member(3)],
        }
    }

    #[test]
    fn what_is_there_twice_reads_back_from_either_copy() {
        let without = Base {
            former: Vec::new(),
            ..base()
        };
        for (kind, content) in [
            (Kind::Compact, Content::Base(base())),
            (Kind::Install, Content::Base(without)),
            (Kind::Enter, Content::Configuration(base().configuration)),
        ] {
            let mut header = RecordHeader::new(kind);
            (header.slot, header.ballot) = (base().slot, base().ballot);
            let body = content.body();
            for at in 0..body.len() {
                let mut damaged = body.clone();
                damaged[at] ^= 1;
                assert_eq!(
                    Content::of(&header, &damaged),
                    Some(content.clone()),
                    "byte {at}"
                );
            }
            let mut lost = body.clone();
            (lost[3], lost[body.len() - 1]) = (0xEE, 0xEE);
            assert_eq!(Content::of(&header, &lost), None);
        }
    }

    #[test]
    fn only_what_version_2_does_not_know_asks_for_version_3() {
        let mut base = base();
        assert_eq!(Content::Base(base.clone()).version(), VERSION);
        base.former.clear();
        assert_eq!(Content::Base(base.clone()).version(), VERSION_2);
        base.configuration.epoch = Epoch(2);
        assert_eq!(Content::Base(base).version(), VERSION);
    }
}
