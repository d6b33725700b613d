//! The fold as part of a snapshot: `synod.v1.Tables`, the same bytes on every member at the same
//! slot, so that members compare it by hash.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use synod_mutant::{Mutant, planted};
use synod_paxos::{
    AgreedTime, Configuration, Epoch, Incarnation, Member, MemberId, Quorums, Role, Slot,
};
use synod_proto::v1::{Tables, tables};

use super::fold::{Fold, Silent};
use super::ids::Ids;
use super::keys::Keys;

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// Why a fold cannot be had from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    /// It is not what was saved.
    #[error("the tables of the snapshot are damaged: {0}; take the snapshot of another member")]
    Damaged(&'static str),
    /// A newer version of this program has written it.
    #[error(
        "the tables of the snapshot have format {found}, and this version knows formats up to \
         {FORMAT}: upgrade this member"
    )]
    Newer {
        /// What it says.
        found: u32,
    },
}

impl Fold {
    /// All of it, in bytes that are equal wherever it is.
    pub fn save(&self) -> Bytes {
        let mut tables = Tables {
            format: FORMAT,
            slot: self.admitted.0,
            time_ns: self.time.0,
            protocol: self.protocol,
            revision: self.revision,
            revision_barrier: self.barrier.0,
            revision_unfinished: self.unfinished,
            revision_silent: self.silent.as_ref().map(|it| tables::Silent {
                number: it.number,
                barrier: it.barrier.0,
                disagreement: it.disagreement.clone(),
            }),
            revision_spent: self.spent,
            configuration: Some(save_configuration(&self.configuration)),
            former: self.former.iter().map(save_member).collect(),
            policy: Some((*self.policy).clone()),
            entrances: self.ids.save(),
            keys: self.keys.save(),
            skipped: self.skipped.iter().map(|slot| slot.0).collect(),
            checksum: Bytes::new(),
        };
        if planted(Mutant::IdsAreNotInSnapshots) {
            tables.entrances.clear();
        }
        if planted(Mutant::KeysAreNotInSnapshots) {
            tables.keys.clear();
        }
        if planted(Mutant::SkipsAreNotInSnapshots) {
            tables.skipped.clear();
        }
        let hash = blake3::hash(&tables.encode_to_vec());
        tables.checksum = Bytes::copy_from_slice(&hash.as_bytes()[..16]);
        tables.encode_to_vec().into()
    }

    /// The membership in force, as it is part of [`Fold::save`].
    pub fn configuration_bytes(&self) -> Bytes {
        save_configuration(&self.configuration)
            .encode_to_vec()
            .into()
    }

    /// What was saved. Checked as far as it can be without the log.
    pub fn load(saved: &Bytes) -> Result<Self, TablesError> {
        let damaged = TablesError::Damaged;
        // Copied: what is kept of it must not hold the buffer of a whole snapshot.
        let copy = Bytes::copy_from_slice(saved);
        let Ok(tables) = Tables::decode(copy) else {
            return Err(damaged("they cannot be decoded"));
        };
        if tables.format > FORMAT {
            let found = tables.format;
            return Err(TablesError::Newer { found });
        }
        let configuration = tables.configuration.ok_or("they have no configuration");
        let configuration = configuration.map_err(damaged)?;
        let policy = tables
            .policy
            .ok_or("they have no policy")
            .map_err(damaged)?;
        let former: Result<_, _> = tables.former.into_iter().map(load_member).collect();
        let fold = Self {
            configuration: load_configuration(configuration).map_err(damaged)?,
            former: former.map_err(damaged)?,
            admitted: Slot(tables.slot),
            time: AgreedTime(tables.time_ns),
            policy: Arc::new(policy),
            ids: Ids::load(tables.entrances).map_err(damaged)?,
            keys: Keys::load(tables.keys).map_err(damaged)?,
            skipped: tables
                .skipped
                .into_iter()
                .map(Slot)
                .collect::<BTreeSet<_>>(),
            revision: tables.revision,
            barrier: Slot(tables.revision_barrier),
            unfinished: tables.revision_unfinished,
            silent: tables.revision_silent.map(|it| Silent {
                number: it.number,
                barrier: Slot(it.barrier),
                disagreement: it.disagreement,
            }),
            spent: tables.revision_spent,
            protocol: tables.protocol,
        };
        // Also finds lists that are not sorted, and what this version would lose.
        if fold.save() != saved {
            return Err(damaged("their checksum is wrong"));
        }
        Ok(fold)
    }
}

fn save_configuration(it: &Configuration) -> tables::Configuration {
    let (phase1, phase2) = match it.quorums {
        Quorums::Majority => (0, 0),
        Quorums::Flexible { phase1, phase2 } => (phase1, phase2),
    };
    tables::Configuration {
        epoch: it.epoch.0,
        members: it.members.iter().map(save_member).collect(),
        phase1,
        phase2,
        first_leader: it.first_leader.0,
    }
}

fn save_member(member: &Member) -> tables::Member {
    tables::Member {
        id: member.id.0,
        name: member.name.clone(),
        incarnation: Bytes::copy_from_slice(&member.incarnation.0.to_be_bytes()),
        role: match member.role {
            Role::Voter => tables::Role::Voter,
            Role::Observer => tables::Role::Observer,
            Role::Witness => tables::Role::Witness,
        }
        .into(),
        region: member.region.clone(),
    }
}

fn load_configuration(it: tables::Configuration) -> Result<Configuration, &'static str> {
    let quorums = match (it.phase1, it.phase2) {
        (0, 0) => Quorums::Majority,
        (phase1, phase2) => Quorums::Flexible { phase1, phase2 },
    };
    let members: Result<_, _> = it.members.into_iter().map(load_member).collect();
    let configuration = Configuration {
        epoch: Epoch(it.epoch),
        members: members?,
        quorums,
        first_leader: MemberId(it.first_leader),
    };
    configuration.check()?;
    Ok(configuration)
}

fn load_member(it: tables::Member) -> Result<Member, &'static str> {
    let role = match it.role() {
        tables::Role::Voter => Role::Voter,
        tables::Role::Observer => Role::Observer,
        tables::Role::Witness => Role::Witness,
        tables::Role::Unspecified => return Err("a member has no role"),
    };
    let incarnation = <[u8; 16]>::try_from(&it.incarnation[..]);
    let incarnation = incarnation.map_err(|_| "an incarnation is not 16 bytes long")?;
    Ok(Member {
        id: MemberId(it.id),
        name: it.name,
        incarnation: Incarnation(u128::from_be_bytes(incarnation)),
        role,
        region: it.region,
    })
}
