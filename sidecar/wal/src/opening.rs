//! With what state a segment begins: all that the segments before it come to, but for their entries.
//! So a log can begin with any segment, once nothing in those before it is needed.
//!
//! Which one it begins with, and with what state, is in two files, `start-a` and `start-b`
//! ([`crate::sealed`], magic `SYNODBEG`); both are written, one after the other, before anything is
//! removed. Their content, numbers little-endian: segment (8), boot (8), promised and accepted and
//! kept (epoch 8, round 8, node 4 each), last, last when kept, commit, base (8 each), an adoption
//! under way (0, or 1 with its ballot, first and last slot), number of raises of the protocol (4),
//! each: slot (8), version (4); the base (length 4, then slot, ballot, [`codec::put_base`]), the
//! genesis (length 4, then as in its record), and, if there is one, whom to ask for the log (as in a
//! record of a join).

use std::io;

use synod_failpoint::{Point, check};
use synod_paxos::{Ballot, Base, Boot, Configuration, Genesis, Slot};

use crate::codec::{self, Take};
use crate::disk::Disk;
use crate::format::{VERSION, VERSION_2};
use crate::outline::{Outline, Staged};
use crate::sealed;

const NAMES: [&str; 2] = ["start-a", "start-b"];
const MAGIC: [u8; 8] = *b"SYNODBEG";

/// The state that a segment begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) outline: Outline,
    pub(crate) base: Option<Base>,
    pub(crate) joining: Option<Configuration>,
}

/// Where a log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first segment.
    pub(crate) segment: u64,
    pub(crate) opening: Opening,
    pub(crate) genesis: Genesis,
}

// === impl Start ===

impl Start {
    /// Writes both copies, durably, the worse one first. Until this returns the log begins where it did
    /// before, or here.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let content = self.encode();
        let mut names = NAMES;
        names.sort_by_key(|name| Self::read(disk, name).map(|start| start.segment));
        let [worse, better] = names;
        sealed::write(disk, worse, (MAGIC, self.version()), &content)?;
        check(Point::WalBeginningHalf)?;
        sealed::write(disk, better, (MAGIC, self.version()), &content)
    }

    /// The later one of the copies that are good.
    pub(crate) fn find(disk: &dyn Disk) -> Option<Self> {
        NAMES
            .into_iter()
            .filter_map(|name| Self::read(disk, name))
            .max_by_key(|start| start.segment)
    }

    /// Writes both copies again unless both say this: after damage, or a crash between the two.
    pub(crate) fn heal(&self, disk: &dyn Disk) -> io::Result<()> {
        let good = NAMES.map(|name| Self::read(disk, name).as_ref() == Some(self));
        if good == [true; 2] {
            return Ok(());
        }
        self.write(disk)
    }

    fn read(disk: &dyn Disk, name: &str) -> Option<Self> {
        let (content, _) = sealed::read(disk, name, MAGIC)?;
        Self::decode(&content)
    }

    /// Lowest version of the format that has it.
    fn version(&self) -> u32 {
        let Opening { base, joining, .. } = &self.opening;
        let joining = joining.as_ref().map_or(VERSION_2, |_| VERSION);
        base.as_ref()
            .map_or(VERSION_2, codec::base_version)
            .max(joining)
    }

    fn encode(&self) -> Vec<u8> {
        let Opening {
            outline,
            base,
            joining,
        } = &self.opening;
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&outline.boot.0.to_le_bytes());
        let (kept, kept_last) = outline.kept;
        for ballot in [outline.promised, outline.accepted, kept] {
            codec::put_ballot(&mut out, ballot);
        }
        for slot in [outline.last, kept_last, outline.commit, outline.base] {
            out.extend_from_slice(&slot.0.to_le_bytes());
        }
        match &outline.staged {
            None => out.push(0),
            Some(staged) => {
                out.push(1);
                codec::put_ballot(&mut out, staged.ballot);
                out.extend_from_slice(&staged.first.0.to_le_bytes());
                out.extend_from_slice(&staged.last.0.to_le_bytes());
            }
        }
        out.extend_from_slice(&(outline.upgrades.len() as u32).to_le_bytes());
        for (slot, version) in &outline.upgrades {
            out.extend_from_slice(&slot.0.to_le_bytes());
            out.extend_from_slice(&version.to_le_bytes());
        }
        let mut body = Vec::new();
        if let Some(base) = base {
            body.extend_from_slice(&base.slot.0.to_le_bytes());
            codec::put_ballot(&mut body, base.ballot);
            codec::put_base(&mut body, base);
        }
        codec::put_bytes(&mut out, &body);
        codec::put_bytes(&mut out, &codec::genesis_body(&self.genesis));
        if let Some(joining) = joining {
            joining.put(&mut out);
        }
        out
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let mut take = Take(content);
        let segment = take.u64()?;
        let boot = Boot(take.u64()?);
        let ballots: [Ballot; 3] = [take.ballot()?, take.ballot()?, take.ballot()?];
        let [last, kept_last, commit, base_slot] =
            [take.u64()?, take.u64()?, take.u64()?, take.u64()?].map(Slot);
        let staged = match take.array()? {
            [0] => None,
            [1] => Some(Staged {
                ballot: take.ballot()?,
                first: Slot(take.u64()?),
                last: Slot(take.u64()?),
            }),
            _ => return None,
        };
        let mut upgrades = std::collections::BTreeMap::new();
        for _ in 0..take.u32()? {
            upgrades.insert(Slot(take.u64()?), take.u32()?);
        }
        let body = take.bytes()?;
        let base = if body.is_empty() {
            None
        } else {
            let mut take = Take(body);
            let (slot, ballot) = (Slot(take.u64()?), take.ballot()?);
            Some(codec::take_base(slot, ballot, &mut take)?)
        };
        let genesis = codec::genesis(take.bytes()?)?;
        let joining = match take.0 {
            [] => None,
            _ => Some(Configuration::take(&mut take.0)?),
        };
        let outline = Outline {
            boot,
            has_genesis: true,
            promised: ballots[0],
            accepted: ballots[1],
            kept: (ballots[2], kept_last),
            last,
            commit,
            base: base_slot,
            upgrades,
            staged,
        };
        let start = Self {
            segment,
            opening: Opening {
                outline,
                base,
                joining,
            },
            genesis,
        };
        (take.0.is_empty() && start.makes_sense()).then_some(start)
    }

    fn makes_sense(&self) -> bool {
        let Opening { outline, base, .. } = &self.opening;
        let slot = base.as_ref().map_or(Slot::ZERO, |base| base.slot);
        self.segment > 0
            && slot == outline.base
            && outline.base <= outline.commit
            && outline.commit <= outline.last
            && outline.accepted <= outline.promised
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use synod_paxos::{
        AgreedTime, Configuration, Epoch, GroupId, Incarnation, Member, MemberId, Quorums, Role,
    };

    use super::*;
    use crate::testing::{MemDisk, Survival};

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(2),
        }
    }

    fn start(segment: u64) -> Start {
        let genesis = Genesis {
            group: GroupId([7; 16]),
            configuration: Configuration {
                epoch: Epoch(1),
                members: vec![Member {
                    id: MemberId(2),
                    name: "notes-0".to_owned(),
                    incarnation: Incarnation(9),
                    role: Role::Voter,
                    region: String::new(),
                }],
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            },
            policy: Bytes::from_static(b"policy"),
            protocol: 2,
            initial_state: Bytes::new(),
        };
        let base = Base {
            slot: Slot(5),
            ballot: ballot(3),
            time: AgreedTime(77),
            ..Base::of_genesis(&genesis)
        };
        let outline = Outline {
            boot: Boot(4),
            has_genesis: true,
            promised: ballot(9),
            accepted: ballot(8),
            kept: (ballot(7), Slot(12)),
            last: Slot(11),
            commit: Slot(6),
            base: Slot(5),
            upgrades: [(Slot(6), 3)].into(),
            staged: Some(Staged {
                ballot: ballot(9),
                first: Slot(7),
                last: Slot(8),
            }),
        };
        Start {
            segment,
            opening: Opening {
                outline,
                base: Some(base),
                joining: None,
            },
            genesis,
        }
    }

    #[test]
    fn a_start_reads_back_as_written_and_each_shorter_one_is_refused() {
        let mut first = start(3);
        for _ in 0..2 {
            let content = first.encode();
            assert_eq!(Start::decode(&content), Some(first.clone()));
            for length in 0..content.len() {
                assert_eq!(Start::decode(&content[..length]), None, "{length} bytes");
            }
            let mut joining = first.clone();
            joining.opening.joining = Some(first.genesis.configuration.clone());
            let with = joining.encode();
            assert_eq!(Start::decode(&with), Some(joining));
            for length in content.len() + 1..with.len() {
                assert_eq!(Start::decode(&with[..length]), None, "{length} bytes");
            }
            first.opening.base = None;
            first.opening.outline.base = Slot(0);
            first.opening.outline.staged = None;
            first.opening.outline.upgrades.clear();
        }
    }

    #[test]
    fn a_write_that_stops_at_any_step_leaves_a_good_copy_whichever_was_good_before() {
        for good in NAMES {
            for steps in 0..16 {
                for seed in 0..8 {
                    let disk = MemDisk::new();
                    start(3).write(&disk).unwrap();
                    for name in NAMES {
                        if name != good {
                            disk.damage(name, |bytes| bytes[600] ^= 1);
                        }
                    }
                    disk.stop_after(steps);
                    let _ = start(5).write(&disk);
                    let mut bits = seed;
                    let survival = || {
                        bits = bits / 2 + 4 * (bits % 2);
                        match bits % 2 {
                            0 => Survival::Lost,
                            _ => Survival::Kept,
                        }
                    };
                    disk.crash(survival, |changes| changes.min(seed as usize % 4));
                    let found = Start::find(&disk);
                    assert!(
                        found == Some(start(3)) || found == Some(start(5)),
                        "only {good} was good, {steps} steps, {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_good_copy_is_enough_and_the_later_one_counts() {
        let disk = MemDisk::new();
        assert_eq!(Start::find(&disk), None);
        start(3).write(&disk).unwrap();
        let old = disk.content("start-a").unwrap();
        start(5).write(&disk).unwrap();
        for name in NAMES {
            let disk = disk.copy();
            disk.damage(name, |bytes| bytes[600] ^= 1);
            assert_eq!(Start::find(&disk), Some(start(5)));
            disk.put(name, old.clone());
            assert_eq!(Start::find(&disk), Some(start(5)), "{name} is older");
        }
    }
}
