//! Who is a member, in which role, and which sets of voters are quorums.

use crate::quorum::Quorums;
use crate::types::{Epoch, Incarnation, MemberId};

/// What a member does for the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes and runs the app.
    Voter,
    /// Runs the app, has no vote.
    Observer,
    /// Votes and keeps the log, runs no app.
    Witness,
}

/// One member of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, used for this incarnation only.
    pub id: MemberId,
    /// Its stable name, such as `notes-us-east-0`.
    pub name: String,
    /// The life of the log that this number stands for.
    pub incarnation: Incarnation,
    /// What it does.
    pub role: Role,
    /// Where it is; empty where no region was given.
    pub region: String,
}

/// The membership of one epoch, part of the chosen history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its number.
    pub epoch: Epoch,
    /// Ordered by id, ids and names unique.
    pub members: Vec<Member>,
    /// Which sets of voters decide.
    pub quorums: Quorums,
    /// Who may propose in round 0 without phase 1: a voter, or [`MemberId`] 0 for nobody (rule M1).
    pub first_leader: MemberId,
}
