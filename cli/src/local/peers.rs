//! Where the members find each other: at each other's ports, or at relays that keep them apart by the
//! round-trip times that were asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use synod_sidecar::config::peers::{PeerAddress, PeerTable};

use super::member::Member;
use super::relay;
use super::settings::pairs;
use crate::exit::Failure;

/// The distances between members, and the relays that make them.
#[derive(Debug)]
pub(super) struct Relays {
    /// By pair, the lower number first. Members that were added later are nowhere far away.
    rtts: BTreeMap<(u32, u32), Duration>,
    /// From whom to which address.
    made: BTreeMap<(u32, SocketAddr), SocketAddr>,
}

impl Relays {
    /// With one time for each pair of these members, in order; or with none.
    pub(super) fn new(rtts: &[Duration], numbers: &[u32]) -> Self {
        let count = u32::try_from(numbers.len()).expect("a few members");
        let number = |at: u32| numbers[at as usize - 1];
        let pairs = pairs(count).into_iter();
        let pairs = pairs.map(|(one, other)| (number(one), number(other)));
        Self {
            rtts: pairs.zip(rtts.iter().copied()).collect(),
            made: BTreeMap::new(),
        }
    }

    /// Tells every member where the others are.
    pub(super) async fn write_peers(&mut self, members: &[Member]) -> Result<(), Failure> {
        for own in members {
            let mut table = PeerTable::default();
            for peer in members {
                let address = self.address(own.number, peer).await;
                let address = address
                    .map_err(|error| Failure::failed(format!("cannot start a relay: {error}")))?;
                table.members.push(PeerAddress {
                    name: peer.name.clone(),
                    address: address.to_string(),
                });
            }
            table.write(&own.folder.peers()).map_err(Failure::failed)?;
        }
        Ok(())
    }

    async fn address(&mut self, own: u32, peer: &Member) -> std::io::Result<SocketAddr> {
        let (target, pair) = (
            peer.listen.peer,
            (own.min(peer.number), own.max(peer.number)),
        );
        let Some(rtt) = self.rtts.get(&pair) else {
            return Ok(target);
        };
        if let Some(made) = self.made.get(&(own, target)) {
            return Ok(*made);
        }
        let made = relay::start(target, *rtt).await?;
        self.made.insert((own, target), made);
        Ok(made)
    }
}
