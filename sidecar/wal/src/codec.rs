//! The bodies of records: entries and the genesis.
//!
//! An entry's body: time (8 bytes), seed (16), kind (2), id: member (4), boot (8), sequence (8),
//! floor (8), then the payload. Slot, ballot and hash are in the record's header.
//!
//! A genesis: group (16), protocol (4), epoch (8), first leader (4), quorums (kind 1, phase 1: 4,
//! phase 2: 4), number of members (4), each: id (4), incarnation (16), role (1), name, region; then
//! policy, initial state. Texts and bytes are preceded by their length (4).

use bytes::Bytes;
use synod_paxos::{
    AgreedTime, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch, Genesis,
    GroupId, Incarnation, Member, MemberId, Quorums, Role,
};

use crate::format::{RecordHeader, hash_at, u16_at, u32_at, u64_at};

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
    let configuration = &genesis.configuration;
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(&genesis.group.0);
    out.extend_from_slice(&genesis.protocol.to_le_bytes());
    out.extend_from_slice(&configuration.epoch.0.to_le_bytes());
    out.extend_from_slice(&configuration.first_leader.0.to_le_bytes());
    let (kind, phase1, phase2) = match configuration.quorums {
        Quorums::Majority => (0_u8, 0, 0),
        Quorums::Flexible { phase1, phase2 } => (1, phase1, phase2),
    };
    out.push(kind);
    out.extend_from_slice(&phase1.to_le_bytes());
    out.extend_from_slice(&phase2.to_le_bytes());
    out.extend_from_slice(&(configuration.members.len() as u32).to_le_bytes());
    for member in &configuration.members {
        out.extend_from_slice(&member.id.0.to_le_bytes());
        out.extend_from_slice(&member.incarnation.0.to_le_bytes());
        out.push(match member.role {
            Role::Voter => 0,
            Role::Observer => 1,
            Role::Witness => 2,
        });
        put_bytes(&mut out, member.name.as_bytes());
        put_bytes(&mut out, member.region.as_bytes());
    }
    put_bytes(&mut out, &genesis.policy);
    put_bytes(&mut out, &genesis.initial_state);
    out
}

/// The genesis of a body, if it is one.
pub(crate) fn genesis(body: &[u8]) -> Option<Genesis> {
    let mut take = Take(body);
    let group = GroupId(take.array()?);
    let protocol = take.u32()?;
    let epoch = Epoch(u64::from_le_bytes(take.array()?));
    let first_leader = MemberId(take.u32()?);
    let [kind] = take.array()?;
    let (phase1, phase2) = (take.u32()?, take.u32()?);
    let quorums = match kind {
        0 => Quorums::Majority,
        1 => Quorums::Flexible { phase1, phase2 },
        _ => return None,
    };
    let mut members = Vec::new();
    for _ in 0..take.u32()? {
        let id = MemberId(take.u32()?);
        let incarnation = Incarnation(u128::from_le_bytes(take.array()?));
        let role = match take.array()? {
            [0] => Role::Voter,
            [1] => Role::Observer,
            [2] => Role::Witness,
            _ => return None,
        };
        members.push(Member {
            id,
            name: take.text()?,
            incarnation,
            role,
            region: take.text()?,
        });
    }
    let genesis = Genesis {
        group,
        configuration: Configuration {
            epoch,
            members,
            quorums,
            first_leader,
        },
        policy: Bytes::copy_from_slice(take.bytes()?),
        protocol,
        initial_state: Bytes::copy_from_slice(take.bytes()?),
    };
    take.0.is_empty().then_some(genesis)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a genesis is far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes fields from the front of a body.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
