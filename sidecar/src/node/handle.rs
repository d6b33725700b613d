//! What the rest of the sidecar may ask of the agreement.

use bytes::Bytes;
use synod_paxos::{Ballot, CommandId, CommandKind, Epoch, GroupId, MemberId, NotTaken, Slot};
use tokio::sync::{oneshot, watch};

/// A cheap handle on the node's event loop.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    status: watch::Receiver<NodeStatus>,
}

/// A command that was taken for proposal.
#[derive(Debug)]
pub struct Proposed {
    /// The id it was given (rule P6).
    pub id: CommandId,
    /// Where it was chosen, or that it never will be. Dropped only when the node ends.
    pub decided: oneshot::Receiver<Decided>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is at this slot (a command sent again may also be at a later one, where it does nothing).
    Chosen(Slot),
    /// It never will be chosen: no copy left this member.
    Withdrawn(NotTaken),
}

/// What the node knows about itself and its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// `None` before genesis.
    pub group: Option<GroupId>,
    /// This member; 0 before genesis.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whom it follows; itself when it leads.
    pub leader: Option<MemberId>,
    /// Its promise.
    pub promised: Ballot,
    /// Last slot of its log.
    pub last: Slot,
    /// Last slot known to be chosen.
    pub commit: Slot,
    /// It was within one window of its group's log since it started (page 5, pod readiness).
    pub log_counts: bool,
    /// Members whose heartbeats it hears and that say that their own copy serves clients.
    pub serving: Vec<MemberId>,
}

/// Why the node did not even take a command: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is waiting here already.
    #[error("too many requests wait for agreement at this member")]
    Overloaded,
    /// The member is leaving.
    #[error("this member is shutting down")]
    ShuttingDown,
    /// The group does not exist yet.
    #[error("the group has not been formed yet")]
    NoGroup,
}

impl NodeHandle {
    /// Gives the command an id and has it agreed on. Does not wait.
    pub fn propose(&self, kind: CommandKind, payload: Bytes) -> Result<Proposed, ProposeError> {
        let _ = (kind, payload);
        Err(ProposeError::NoGroup)
    }

    /// The slot that a linearizable read beginning now must see applied (rule R1). Asks again by
    /// itself until the group answers; the caller sets the time limit by dropping the future.
    pub async fn read_index(&self) -> Slot {
        std::future::pending().await
    }

    /// The latest status, and its changes.
    pub fn status(&self) -> watch::Receiver<NodeStatus> {
        self.status.clone()
    }
}
