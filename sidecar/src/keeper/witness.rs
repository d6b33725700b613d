//! What a witness keeps instead of snapshots. It runs no app, so no state stands for the log that it
//! forgets: those of the copies do (rule W5). Of its own it needs the tables at the place where its log
//! begins: policy, members, keys and skips, by which its entrance classifies requests, and by which it
//! leads while nobody else can. So it saves them, as a snapshot without a state, which nobody else is ever
//! offered; and if it is behind everybody's log, it gets those of another member's snapshot, without the
//! state behind them. Such a one, too, is used only as far as enough copies have snapshots: until then it has
//! no log, and so votes for nothing. Or else its vote would make good for the log of a witness before it,
//! and a copy that is away and lacks what that one kept would find nobody who has it.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use synod_paxos::{MemberId, Slot};
use synod_proto::v1::snapshot_turns_client::SnapshotTurnsClient;
use synod_proto::v1::{SnapshotReport, SnapshotReportRequest};
use tokio::time::timeout;

use super::{GetError, Handle};
use crate::identity::Connector;
use crate::ingress::PeerChannels;
use crate::node::{Channels, NodeStatus};
use crate::snapshot::policy::held;
use crate::snapshot::transfer::Fetcher;
use crate::snapshot::{Head, Method, Snapshot, Standing, StoreError, blocking};

/// Longest wait for another member's report.
const PATIENCE: Duration = Duration::from_secs(1);

/// One look: saved tables may be used as far as copies have snapshots, and further ones are saved once
/// those have come so far. Up to where the log may be cut now.
pub(super) async fn look(handle: &Handle, channels: &Channels) -> Result<Slot, StoreError> {
    let held = held_by_copies(handle, channels).await;
    let marking = handle.clone();
    let newest = blocking(move || marking.mark_tables(held)).await?;
    let admitted = handle.apply.status().borrow().admitted;
    if newest < held && held <= admitted {
        handle.save_tables().await?;
    }
    Ok(held)
}

/// What enough of the members that run the app say that they have. Who does not answer has nothing.
async fn held_by_copies(handle: &Handle, channels: &Channels) -> Slot {
    let node = handle.node.status().borrow().clone();
    let said = ask_all(&node, channels).await;
    let configuration = node.configuration.as_deref();
    let held = configuration.map(|it| {
        held(it, |member| {
            let found = said.iter().find(|(it, _)| *it == member);
            Slot(found.map(|(_, it)| it.newest_usable).unwrap_or_default())
        })
    });
    held.unwrap_or_default()
}

/// The same as the leader says, whose members are those of now: one that has no log yet knows those that there
/// were when it was taken in, and they may be gone.
pub(super) async fn held_as_led(handle: &Handle, channels: &Channels) -> Slot {
    let node = handle.node.status().borrow().clone();
    let said = ask_all(&node, channels).await;
    let known = node.configuration.as_ref().map(|it| it.epoch.0);
    let told = said.iter().map(|(_, it)| (it.held_epoch, it.held));
    let newest = told.filter(|(epoch, _)| Some(*epoch) >= known).max();
    newest.map(|(_, slot)| Slot(slot)).unwrap_or_default()
}

/// All others that are known and answer.
async fn ask_all(node: &NodeStatus, channels: &Channels) -> Vec<(MemberId, SnapshotReport)> {
    let (Some(group), Some(configuration)) = (node.group, &node.configuration) else {
        return Vec::new();
    };
    let request = SnapshotReportRequest {
        group: Bytes::copy_from_slice(&group.0),
    };
    let others = configuration.members.iter().map(|it| it.id);
    let asking = others.filter(|it| *it != node.member).filter_map(|member| {
        let mut client = SnapshotTurnsClient::new(channels.channel(member)?);
        let request = request.clone();
        Some(async move {
            let asked = timeout(PATIENCE, client.report(request)).await;
            Some((member, asked.ok()?.ok()?.into_inner()))
        })
    });
    join_all(asking).await.into_iter().flatten().collect()
}

/// The tables of a snapshot that another member offers, in the own store.
pub(super) async fn tables_of(
    handle: &Handle,
    fetcher: &Fetcher,
    connector: &Connector,
    offer: &Snapshot,
) -> Result<Snapshot, GetError> {
    let slot = offer.head.slot;
    tracing::info!(%slot, "the tables of a snapshot are being fetched");
    let tables = fetcher.fetch_tables(connector, offer).await?;
    let head = Head {
        method: Method::None,
        maker: handle.states.maker(),
        ..offer.head.clone()
    };
    let store = handle.store.clone();
    let kept = blocking(move || {
        let saved = store.begin(head, &tables, 0)?.commit()?;
        store.mark_verified(saved.id)?;
        store.get(saved.id)
    });
    Ok(kept.await?)
}

impl Handle {
    /// Blocks. The slot of the newest tables that are here, whether they may be used or not.
    fn mark_tables(&self, held: Slot) -> Result<Slot, StoreError> {
        let waiting = |it: &Snapshot| it.standing == Standing::Uncompared;
        for saved in self.own().filter(waiting) {
            if saved.head.slot <= held {
                self.store.mark_verified(saved.id)?;
            }
        }
        self.store.retain()?;
        let newest = self.own().next_back();
        Ok(newest.map(|it| it.head.slot).unwrap_or_default())
    }

    /// Saves the tables as they are now.
    async fn save_tables(&self) -> Result<(), StoreError> {
        let Some(fold) = self.apply.tables().await else {
            return Ok(());
        };
        let slot = fold.admitted();
        let head = match self.states.head(slot, &fold, Method::None).await {
            Ok(head) => head,
            Err(error) => {
                tracing::debug!(%slot, %error, "the tables are not saved now");
                return Ok(());
            }
        };
        let store = self.store.clone();
        blocking(move || store.begin(head, &fold.save(), 0)?.commit()).await?;
        tracing::info!(%slot, "the tables are saved");
        Ok(())
    }
}
