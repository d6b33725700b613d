//! What stands in place of the start of a log: all that the agreement must know of a chosen prefix
//! whose entries are gone. A snapshot of the app's state at the same slot has the rest.

use crate::configuration::{Configuration, Member};
use crate::record::Genesis;
use crate::types::{AgreedTime, Ballot, Slot};

/// The chosen prefix `1..=slot`, without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Last slot of the prefix; 0 for the genesis.
    pub slot: Slot,
    /// Ballot of the entry at `slot`. With the slot it names one entry (invariant I3), and so the
    /// whole prefix.
    pub ballot: Ballot,
    /// The stamp of that entry, the greatest of the prefix.
    pub time: AgreedTime,
    /// The protocol version in force behind `slot`.
    pub protocol: u32,
    /// The configuration in force behind `slot`.
    pub configuration: Configuration,
    /// All that were members once and are not in `configuration`, ordered by number: no number and no
    /// incarnation is used again (rule M4).
    pub former: Vec<Member>,
}

impl Base {
    /// What every log begins with.
    pub fn of_genesis(genesis: &Genesis) -> Self {
        Self {
            slot: Slot::ZERO,
            ballot: Ballot::default(),
            time: AgreedTime(0),
            protocol: genesis.protocol,
            configuration: genesis.configuration.clone(),
            former: Vec::new(),
        }
    }
}
