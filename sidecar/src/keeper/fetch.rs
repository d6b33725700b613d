//! A snapshot from another member: the best that is offered, for a log that goes on behind it.

use std::sync::PoisonError;

use synod_failpoint::{Point, hit};
use synod_paxos::{MemberId, Slot};

use super::{Handle, SILENCE, witness};
use crate::identity::Connector;
use crate::node::Channels;
use crate::snapshot::policy::{Source, best_source};
use crate::snapshot::transfer::{FetchError, Fetcher};
use crate::snapshot::{Snapshot, StoreError};

/// Why no snapshot came from another member.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("a witness runs no app: it has no use for a state")]
    Witness,
    #[error("another one is being made or fetched here")]
    Busy,
    #[error("no member that can be reached offers one that reaches the log")]
    NoSource,
    #[error(
        "too few members that run the app say that they have one: a witness does not vote for what only \
         they have"
    )]
    NotHeld,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches the best that others offer, of this slot or a later one.
pub(super) async fn get(
    handle: &Handle,
    channels: &Channels,
    at_least: Slot,
) -> Result<Snapshot, GetError> {
    let _one = handle.turn().ok_or(GetError::Busy)?;
    let node = handle.node.status().borrow().clone();
    let group = node.group.ok_or(GetError::NoSource)?;
    let fetcher = Fetcher::new(handle.store.clone(), group, SILENCE);
    let others = node.configuration.iter().flat_map(|it| &it.members);
    let others = others.filter(|it| it.id != node.member).map(|it| it.id);
    let asking = others.filter_map(|member| {
        let connector = channels.connector(member)?;
        let fetcher = &fetcher;
        Some(async move { (member, fetcher.list(&connector).await) })
    });
    let mut offers = Vec::new();
    let mut sources = Vec::new();
    for (member, listed) in futures::future::join_all(asking).await {
        for offer in listed.into_iter().flatten() {
            sources.push(Source {
                member,
                leads: node.leader == Some(member),
                healthy: node.serving.contains(&member),
                busy: false,
                id: offer.id,
                slot: offer.head.slot,
                standing: offer.standing,
            });
            offers.push((member, offer));
        }
    }
    let bad = handle
        .bad
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let is_good = |it: &&Source| !bad.contains(&(it.member, it.id));
    let best_of = |sources: &[Source]| best_source(sources, at_least.next(), None);
    let mut held = sources.clone();
    if handle.witness {
        let by_copies = witness::held_as_led(handle, channels).await;
        held.retain(|it| it.slot <= by_copies);
    }
    let good: Vec<Source> = held.iter().filter(is_good).copied().collect();
    let best = best_of(&good).or_else(|| best_of(&held));
    let best = best.ok_or_else(|| match best_of(&sources) {
        Some(_) => GetError::NotHeld,
        None => GetError::NoSource,
    })?;
    let offer = offers
        .into_iter()
        .find(|(member, offer)| (*member, offer.id) == (best.member, best.id))
        .ok_or(GetError::NoSource)?
        .1;
    let connector = channels.connector(best.member);
    let connector = connector.ok_or(GetError::NoSource)?;
    let got = if handle.witness {
        witness::tables_of(handle, &fetcher, &connector, &offer).await
    } else {
        copy_of(&fetcher, &connector, best.member, &offer).await
    };
    let mut bad = handle.bad.lock().unwrap_or_else(PoisonError::into_inner);
    match &got {
        Ok(_) => bad.clear(),
        Err(GetError::Fetch(FetchError::DamagedThere(_) | FetchError::Refused(_))) => {
            bad.insert((best.member, best.id));
        }
        Err(_) => {}
    }
    got
}

pub(super) async fn copy_of(
    fetcher: &Fetcher,
    connector: &Connector,
    member: MemberId,
    offer: &Snapshot,
) -> Result<Snapshot, GetError> {
    let slot = offer.head.slot;
    tracing::info!(%slot, peer = %member, bytes = offer.bytes, "a snapshot is being fetched");
    let snapshot = fetcher.fetch(connector, offer).await?;
    tracing::info!(%slot, peer = %member, "a snapshot was fetched");
    Ok(snapshot)
}

/// The log goes on behind it, unless it has what it needs by now.
pub(super) async fn install(handle: &Handle, snapshot: &Snapshot) {
    let Some(base) = handle.base_of(snapshot.clone()).await else {
        return;
    };
    let slot = base.slot;
    hit(Point::FetchStored);
    if let Some(Err(error)) = handle.node.install(base).await {
        tracing::error!(%slot, %error, "the snapshot does not go with the log");
    }
}
