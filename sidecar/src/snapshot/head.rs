//! What a snapshot is of.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use synod_paxos::{AgreedTime, Ballot, EntryHash, Epoch, GroupId, Incarnation, MemberId, Slot};
use synod_proto::v1;

/// All that is known about a snapshot before the app's state is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The group whose log it stands for.
    pub group: GroupId,
    /// The last slot whose effect is in it.
    pub slot: Slot,
    /// Ballot of the entry at that slot.
    pub ballot: Ballot,
    /// Hash of that entry.
    pub entry: EntryHash,
    /// Agreed time of that entry.
    pub time: AgreedTime,
    /// The epoch in force behind that slot.
    pub epoch: Epoch,
    /// The configuration of that epoch, as the bytes that were chosen.
    pub configuration: Bytes,
    /// BLAKE3 of the policy in force.
    pub policy: [u8; 32],
    /// Protocol version in force.
    pub protocol: u32,
    /// Revision of the app that made the state.
    pub revision: u64,
    /// How the state was saved.
    pub method: Method,
    /// Who made it.
    pub maker: Incarnation,
}

/// How the app's state is saved and put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// There is no state besides the tables.
    None,
    /// By requests to the app ([`super::http`]).
    Http,
    /// By a copy of the app's volume ([`super::volume`]).
    Volume,
}

/// Names the bytes of one snapshot file: BLAKE3 over them. Copies at other members have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 32]);

/// BLAKE3 over the app's state as the app gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateDigest(pub [u8; 32]);

/// A field of a head that says nothing sensible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its head has no good {0}")]
pub struct HeadError(pub(super) &'static str);

// === impl Head ===

impl Head {
    /// As sent and stored.
    pub fn to_proto(&self) -> v1::SnapshotHead {
        v1::SnapshotHead {
            group: Bytes::copy_from_slice(&self.group.0),
            slot: self.slot.0,
            ballot: Some(v1::Ballot {
                epoch: self.ballot.epoch.0,
                round: self.ballot.round,
                node: self.ballot.node.0,
            }),
            entry_hash: Bytes::copy_from_slice(&self.entry.0),
            time_ns: self.time.0,
            epoch: self.epoch.0,
            configuration: self.configuration.clone(),
            policy_digest: Bytes::copy_from_slice(&self.policy),
            protocol: self.protocol,
            revision: self.revision,
            method: match self.method {
                Method::None => v1::SnapshotMethod::None,
                Method::Http => v1::SnapshotMethod::Http,
                Method::Volume => v1::SnapshotMethod::Volume,
            }
            .into(),
            maker: Bytes::copy_from_slice(&self.maker.0.to_be_bytes()),
        }
    }

    /// From what was sent or stored.
    pub fn from_proto(head: v1::SnapshotHead) -> Result<Self, HeadError> {
        let ballot = head.ballot.ok_or(HeadError("ballot"))?;
        Ok(Self {
            group: GroupId(array(&head.group, "group")?),
            slot: Slot(head.slot),
            ballot: Ballot {
                epoch: Epoch(ballot.epoch),
                round: ballot.round,
                node: MemberId(ballot.node),
            },
            entry: EntryHash(array(&head.entry_hash, "entry hash")?),
            time: AgreedTime(head.time_ns),
            epoch: Epoch(head.epoch),
            configuration: head.configuration,
            policy: array(&head.policy_digest, "policy digest")?,
            protocol: head.protocol,
            revision: head.revision,
            method: match v1::SnapshotMethod::try_from(head.method) {
                Ok(v1::SnapshotMethod::None) => Method::None,
                Ok(v1::SnapshotMethod::Http) => Method::Http,
                Ok(v1::SnapshotMethod::Volume) => Method::Volume,
                Ok(v1::SnapshotMethod::Unspecified) | Err(_) => return Err(HeadError("method")),
            },
            maker: Incarnation(u128::from_be_bytes(array(&head.maker, "maker")?)),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let head = v1::SnapshotHead::decode(bytes).map_err(|_| HeadError("encoding"))?;
        Self::from_proto(head)
    }
}

/// A field of fixed length.
pub(super) fn array<const N: usize>(
    bytes: &[u8],
    field: &'static str,
) -> Result<[u8; N], HeadError> {
    bytes.try_into().map_err(|_| HeadError(field))
}

// === impl SnapshotId, StateDigest ===

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
