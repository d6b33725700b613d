//! How copies get past a request that one of them has executed and that the others cannot (rule K1): by
//! its state. No second copy has answered what it has, so nobody can compare that; it is used all the same
//! (rule N2).

use std::sync::Arc;

use synod_paxos::{MemberId, Slot};

use super::{GetError, Handle, SILENCE, TakeError, copy_of};
use crate::node::Channels;
use crate::snapshot::transfer::Fetcher;
use crate::snapshot::{Standing, StoreError, blocking};

/// Why that was not begun, or did not come to its end.
#[derive(Debug, thiserror::Error)]
enum PastError {
    #[error("this copy differs from others: its state is not given to them")]
    Astray,
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    Get(#[from] GetError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Handle {
    /// If `from` is this member, a snapshot of its copy that holds `slot` may be used from now on, by
    /// others too; otherwise this member gets one from there. Goes on by itself. To be called again while
    /// it shows no effect: it does a step at a time.
    pub fn help_past(self, channels: Arc<Channels>, slot: Slot, from: MemberId) {
        tokio::spawn(async move {
            let own = self.node.status().borrow().member;
            let helped = if from == own {
                self.give_past(slot).await
            } else {
                self.get_past(&channels, slot, from).await
            };
            if let Err(error) = helped {
                tracing::warn!(%slot, peer = %from, %error, "no state behind a request that fails");
            }
        });
    }

    fn is_past(&self, slot: Slot) -> bool {
        self.newest_usable().is_some_and(|it| it.head.slot >= slot)
    }

    async fn give_past(&self, slot: Slot) -> Result<(), PastError> {
        if self.is_past(slot) {
            return Ok(());
        }
        if self.apply.status().borrow().astray.is_some() {
            return Err(PastError::Astray);
        }
        let newest = self.own().rev().find(|it| {
            let of_this_life = self.states.maker_of(it.head.slot).is_some();
            it.head.slot >= slot && it.standing == Standing::Uncompared && of_this_life
        });
        let made = match newest {
            Some(made) => made,
            None => self.take().await?,
        };
        if made.head.slot < slot {
            return Ok(());
        }
        let store = self.store.clone();
        blocking(move || store.mark_unverified(made.id)).await?;
        tracing::warn!(
            slot = %made.head.slot,
            "the snapshot is used though its slots could not be compared: only this copy could execute \
             the request at slot {slot}"
        );
        Ok(())
    }

    async fn get_past(
        &self,
        channels: &Channels,
        slot: Slot,
        from: MemberId,
    ) -> Result<(), PastError> {
        if self.is_past(slot) {
            return Ok(());
        }
        let _one = self.turn().ok_or(GetError::Busy)?;
        let connector = channels.connector(from).ok_or(GetError::NoSource)?;
        let group = self.group().ok_or(GetError::NoSource)?;
        let fetcher = Fetcher::new(self.store.clone(), group, SILENCE);
        let offers = fetcher.list(&connector).await.map_err(GetError::from)?;
        let newest = offers.iter().rev().find(|it| it.head.slot >= slot);
        // It is still being made: this is asked for again.
        if let Some(newest) = newest {
            copy_of(&fetcher, &connector, from, newest).await?;
        }
        Ok(())
    }
}
