//! The group's disruption token: who may take one member away now. Operators of several clusters ask
//! for it; two never hold it at once.
//!
//! In: what operators ask the leader. Out: its answers. The token is a lease in the leader's memory
//! (Gray and Cheriton, SOSP 1989): the holder counts from before it asked, the leader from after it
//! was asked. A new leader does not know what the one before it granted, so it grants nothing for as
//! long as the longest lease. What is granted is granted by a leader that a quorum confirmed after it
//! was asked: no quorum, no token.

use std::sync::{Arc, Mutex, MutexGuard};

use synod_paxos::{Ballot, Epoch};
use tonic::Status;

use super::clock;
use super::handle::{NodeHandle, NodeStatus};
use super::stops::{confirm, leads};

/// The longest lease, in milliseconds.
const LONGEST_MS: u64 = 60_000;
/// How long a new leader grants nothing: the longest lease, and what clocks may differ by in it.
const QUIET_MS: u64 = LONGEST_MS + LONGEST_MS / 10;
/// Longest name of a holder, in bytes.
const LONGEST_NAME: usize = 253;

/// The token of one member's group. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Disruptions {
    node: NodeHandle,
    desk: Arc<Mutex<Desk>>,
}

/// What somebody who asks is told. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is theirs for so long from when they asked.
    Granted(u64),
    /// Another has it, for so long at most.
    Held { by: String, for_ms: u64 },
    /// This leader is too new, for so long.
    Quiet { for_ms: u64 },
}

/// Who holds it. Times are milliseconds of a clock that never goes back.
#[derive(Debug, Default)]
struct Desk {
    /// The leadership that the holder belongs to.
    term: Option<Ballot>,
    holder: Option<Holder>,
}

#[derive(Debug)]
struct Holder {
    name: String,
    until_ms: u64,
}

// === impl Disruptions ===

impl Disruptions {
    /// Of a member that has not joined its group yet.
    pub(super) fn new(node: NodeHandle) -> Self {
        Self {
            node,
            desk: Arc::default(),
        }
    }

    /// Asks for the token, or renews it.
    pub(super) async fn acquire(
        &self,
        epoch: u64,
        holder: &str,
        ttl_ms: u64,
    ) -> Result<Answer, Status> {
        check_holder(holder)?;
        if ttl_ms == 0 {
            return Err(Status::invalid_argument("ttl_ms must be more than 0"));
        }
        let status = self.node.status().borrow().clone();
        let term = leading(&status)?;
        check_epoch(status.epoch, epoch)?;
        let began_ms = status.led_since_ns / 1_000_000;
        let ttl_ms = ttl_ms.min(LONGEST_MS);
        let answer = {
            let mut desk = self.desk();
            desk.lead(term);
            desk.acquire(now_ms(), began_ms, holder, ttl_ms)
        };
        if !matches!(answer, Answer::Granted(_)) {
            return Ok(answer);
        }
        // Only who still leads may say so: an earlier leader does not know what the next one grants.
        confirm(&self.node, term).await?;
        check_epoch(self.node.status().borrow().epoch, epoch)?;
        Ok(answer)
    }

    /// Gives it back; true when it was held.
    pub(super) fn release(&self, holder: &str) -> Result<bool, Status> {
        check_holder(holder)?;
        let term = leading(&self.node.status().borrow())?;
        let mut desk = self.desk();
        desk.lead(term);
        Ok(desk.release(now_ms(), holder))
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no holder panics")
    }
}

/// The ballot in which this member leads.
fn leading(status: &NodeStatus) -> Result<Ballot, Status> {
    if leads(status, status.promised) {
        return Ok(status.promised);
    }
    Err(Status::failed_precondition(
        "this member does not lead: ask the leader",
    ))
}

fn check_holder(holder: &str) -> Result<(), Status> {
    let plain = |it: u8| it.is_ascii_graphic();
    if (1..=LONGEST_NAME).contains(&holder.len()) && holder.bytes().all(plain) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "holder must be 1 to {LONGEST_NAME} visible ASCII characters"
    )))
}

fn check_epoch(is: Epoch, wanted: u64) -> Result<(), Status> {
    if is.0 == wanted {
        return Ok(());
    }
    let words = format!("the group is in epoch {is}, not {wanted}: plan again");
    Err(Status::failed_precondition(words))
}

fn now_ms() -> u64 {
    clock::now().mono_ns / 1_000_000
}

// === impl Desk ===

impl Desk {
    /// This member leads in the ballot `term`. Changes nothing when that is known.
    fn lead(&mut self, term: Ballot) {
        if self.term != Some(term) {
            *self = Self {
                term: Some(term),
                holder: None,
            };
        }
    }

    /// Somebody asks, of a leader that began at `began_ms`.
    fn acquire(&mut self, now_ms: u64, began_ms: u64, name: &str, ttl_ms: u64) -> Answer {
        self.forget(now_ms);
        if let Some(other) = self.holder.as_ref().filter(|it| it.name != name) {
            return Answer::Held {
                by: other.name.clone(),
                for_ms: other.until_ms - now_ms,
            };
        }
        let quiet_ms = (began_ms + QUIET_MS).saturating_sub(now_ms);
        if quiet_ms > 0 {
            return Answer::Quiet { for_ms: quiet_ms };
        }
        // Never shorter than what it was told before.
        let before_ms = self.holder.as_ref().map_or(0, |it| it.until_ms);
        self.holder = Some(Holder {
            name: name.to_owned(),
            until_ms: before_ms.max(now_ms + ttl_ms),
        });
        Answer::Granted(ttl_ms)
    }

    fn release(&mut self, now_ms: u64, name: &str) -> bool {
        self.forget(now_ms);
        self.holder.take_if(|it| it.name == name).is_some()
    }

    fn forget(&mut self, now_ms: u64) {
        self.holder.take_if(|it| it.until_ms <= now_ms);
    }
}

#[cfg(test)]
mod tests;
