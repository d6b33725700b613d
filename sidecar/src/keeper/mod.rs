//! The keeper of this member's snapshots: it stands between apply, which says when a state can be
//! taken and must be put back; the agreement, whose log begins behind a snapshot; and the other
//! members, who take turns and give each other what is missing.
//!
//! ```text
//! turns     the leader looks round: whose turn is it?  ──►  Handle::take, or a copy of another's
//! states    apply has one taken, put back, thrown away
//! witness   there is no app: only the tables are kept, as far as copies have snapshots
//! Keeper    compared? ──► it is usable ──► apply and the agreement forget what it stands for
//!           the log has a gap that nobody fills? ──► fetch one ──► the agreement goes on behind it
//! ```
//!
//! Nothing here decides what is true: a snapshot counts as compared when the comparison of the
//! copies says so, and the agreement checks each base against its log.

mod fetch;
mod gate;
mod past;
mod plan;
mod scrub;
mod states;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
mod turns;
mod witness;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use synod_failpoint::{Point, hit};
use synod_paxos::{Base, GroupId, MemberId, Slot};
use synod_wal::LogReader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;

use fetch::{GetError, copy_of, get, install};
use plan::{Begin, Compared, Fate, Kept, Scene};
pub use states::Stored;
use turns::Held;
pub use turns::Turns;

use crate::admin::status;
use crate::app::App;
use crate::apply::{ApplyHandle, ApplyStatus, Availability, Fold, Ledger, NotTaken, Verified};
use crate::config::{Config, state};
use crate::node::{Channels, NodeHandle, NodeStatus};
use crate::snapshot::policy::{Due, Report};
use crate::snapshot::volume::{Volume, VolumeError};
use crate::snapshot::{Finding, Snapshot, SnapshotId, Standing, Store, StoreError, blocking};

/// For the simulator, which decides by the same.
#[doc(hidden)]
pub mod sim {
    pub use super::plan::{Begin, Compared, Fate, Kept, Scene, fate};
}

/// Under the data folder.
const FOLDER: &str = "snapshots";
/// Room that snapshots leave on the volume for the log, in bytes.
const RESERVE_BYTES: u64 = 256 << 20;
/// The keeper looks round at least so often.
const LOOK: Duration = Duration::from_millis(500);
/// A member that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// Parts of the log's room. Behind the newest snapshot no more than this is left, so that there is
/// always one to cut the log behind.
const DUE: (u64, u64) = (1, 4);
/// From here on what could not be compared must do (rule N2).
const HALF: (u64, u64) = (1, 2);
/// And from here on one snapshot must do, instead of two.
const NEARLY_FULL: (u64, u64) = (3, 4);
/// A copy that is not further behind follows the log.
const NEAR_SLOTS: u64 = 10_000;

/// Why the keeper cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The folder of snapshots.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app's volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// What an earlier process knew about the copy.
    #[error("cannot read the ledger: {0}; check the volume and its permissions")]
    Ledger(#[source] io::Error),
    /// The group has not begun, and with it the volume.
    #[error(
        "state.volume.path: {0} is not empty, and the group begins with an empty state: empty it, or \
         give another folder"
    )]
    NotEmpty(PathBuf),
}

/// Why no snapshot was taken on request.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// There is no app.
    #[error("a witness runs no app: it has no state to save")]
    Witness,
    /// `state.snapshot.type` is `None`.
    #[error("the service has no method for snapshots: give it one (state.snapshot.type)")]
    NoMethod,
    /// One at a time.
    #[error("a snapshot is being made or fetched here already: wait for it")]
    Busy,
    /// Apply did not.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// It was taken, and could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was taken, and is gone.
    #[error("the snapshot was thrown away: {0}")]
    Gone(String),
}

/// What a member's snapshots are made of, before there is anything to do with them.
pub struct Beginning {
    /// This member's snapshots.
    pub store: Store,
    /// How the app's state comes in and out.
    pub states: Arc<Stored>,
    /// Of the newest that may be used.
    pub newest: Option<Base>,
}

/// A cheap handle on this member's snapshots.
#[derive(Clone, Debug)]
pub struct Handle {
    store: Store,
    states: Arc<Stored>,
    apply: ApplyHandle,
    node: NodeHandle,
    has_method: bool,
    /// There is no app here: what is in the store are tables.
    witness: bool,
    /// Making or fetching one.
    one: Arc<Semaphore>,
    /// While this member leads.
    held: Arc<Mutex<Option<Held>>>,
    /// What others offer and was found to be damaged there: the others come first.
    bad: Arc<Mutex<BTreeSet<(MemberId, SnapshotId)>>>,
}

/// The task's state.
pub struct Keeper {
    handle: Handle,
    channels: Arc<Channels>,
    /// Up to where this copy was compared with others, and agreed with a majority (rule N2).
    verified: watch::Receiver<Verified>,
    due: Due,
    log_max_bytes: u64,
    /// The newest that apply was told of.
    told: Slot,
    fetching: Option<JoinHandle<()>>,
    /// How often the snapshots are read, if they are.
    scrub: Option<Duration>,
    /// What was complained about last.
    complaint: String,
}

/// Where a member has its snapshots.
pub(crate) fn snapshots(data: &Path) -> PathBuf {
    data.join(FOLDER)
}

/// Opens the store and the volume. `group`: the one whose log is there already.
pub fn begin<A: App>(
    config: &Config,
    app: Arc<A>,
    node: NodeHandle,
    log: LogReader,
    maker: synod_paxos::Incarnation,
    group: Option<GroupId>,
) -> Result<Beginning, KeeperError> {
    let (store, findings) = Store::open(&snapshots(&config.data), RESERVE_BYTES)?;
    findings.iter().for_each(tell_finding);
    let astray = Ledger::noted_astray(&config.data, maker).map_err(KeeperError::Ledger)?;
    if let Some(astray) = astray {
        let void = store.void_since(astray)?;
        void.iter().for_each(tell_finding);
    }
    let volume = config.state.volume.as_ref().filter(|_| !config.witness);
    let volume = volume
        .map(|it| Volume::open(&it.path, &it.work))
        .transpose()?;
    if let (None, Some(volume), Some(path)) = (group, &volume, &config.state.volume)
        && !(volume.is_empty()? || volume.interrupted()?.is_some())
    {
        return Err(KeeperError::NotEmpty(path.path.clone()));
    }
    let states = Stored::new(states::Parts {
        config,
        store: store.clone(),
        volume,
        app,
        node,
        log,
        maker,
        group,
    });
    let newest = states.sound()?.and_then(|it| base_of(&store, &it));
    Ok(Beginning {
        store,
        states: Arc::new(states),
        newest,
    })
}

fn part_of(bytes: u64, (part, whole): (u64, u64)) -> u64 {
    bytes / whole * part
}

fn tell_finding(finding: &Finding) {
    tracing::warn!("in the folder of snapshots: {finding}");
}

/// What the agreement must know of what a snapshot stands for.
fn base_of(store: &Store, snapshot: &Snapshot) -> Option<Base> {
    let head = &snapshot.head;
    let fold = fold_of(store, snapshot)?;
    Some(Base {
        slot: head.slot,
        ballot: head.ballot,
        time: head.time,
        protocol: head.protocol,
        configuration: fold.configuration().clone(),
        former: fold.former().to_vec(),
    })
}

fn fold_of(store: &Store, snapshot: &Snapshot) -> Option<Fold> {
    let tables = store.read(snapshot.id).map(|it| it.tables());
    let loaded = match tables {
        Ok(tables) => Fold::load(&tables).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match loaded {
        Ok(fold) => Some(fold),
        Err(error) => {
            tracing::error!(slot = %snapshot.head.slot, %error, "a snapshot is of no use");
            None
        }
    }
}

// === impl Handle ===

impl Handle {
    /// On what [`begin`] gave.
    pub fn new(
        beginning: &Beginning,
        config: &Config,
        apply: ApplyHandle,
        node: NodeHandle,
    ) -> Self {
        Self {
            store: beginning.store.clone(),
            states: beginning.states.clone(),
            apply,
            node,
            has_method: config.state.snapshot.kind != state::SnapshotKind::None,
            witness: config.witness,
            one: Arc::new(Semaphore::new(1)),
            held: Arc::default(),
            bad: Arc::default(),
        }
    }

    /// Takes a snapshot at the next slot where that can be done, and stores it; goes on to its end
    /// when nobody waits for it. It may be used once its slots were compared.
    pub async fn take(&self) -> Result<Snapshot, TakeError> {
        if self.witness {
            return Err(TakeError::Witness);
        }
        if !self.has_method {
            return Err(TakeError::NoMethod);
        }
        let one = self.turn().ok_or(TakeError::Busy)?;
        let handle = self.clone();
        let taking = tokio::spawn(async move {
            let slot = handle.apply.take_snapshot().await?;
            let made = handle.states.finish(slot).await;
            drop(one);
            let made = made?;
            tracing::info!(%slot, bytes = made.bytes, "a snapshot is stored");
            Ok(made)
        });
        match taking.await {
            Ok(taken) => taken,
            Err(error) => Err(TakeError::Gone(error.to_string())),
        }
    }

    /// The snapshots that are here, oldest first. What a witness keeps is none.
    pub fn list(&self) -> Vec<Snapshot> {
        let mut all = self.store.list();
        all.retain(Snapshot::has_state);
        all
    }

    /// The newest of this group, for the status.
    pub fn newest(&self) -> Option<status::Snapshot> {
        let mut states = self.own().filter(Snapshot::has_state);
        states.next_back().map(|it| status::Snapshot {
            slot: it.head.slot.0,
            bytes: it.bytes,
            verified: it.standing == Standing::Verified,
        })
    }

    /// The app may be started from now on; false: not now.
    pub fn let_start(&self) -> bool {
        let opened = self.states.gate().open();
        opened
            .inspect_err(|error| tracing::warn!(%error, "the app is not started yet"))
            .is_ok()
    }

    /// The app may be started here at any time, so its volume cannot be put back in this pod.
    pub fn is_started(&self) -> bool {
        self.states.gate().is_open()
    }

    /// The app's state can be saved and put back.
    pub fn has_method(&self) -> bool {
        self.has_method
    }

    /// If this copy stands at a barrier: has its state saved, which the next revision of the app begins
    /// with (rule V1). Goes on by itself; to be called again and again.
    fn save_at_barrier(&self) {
        let Some(end) = self.apply.status().borrow().revision.ends_at else {
            return;
        };
        let mut of_now = self.own().filter(|it| it.head.slot == end);
        if !self.has_method
            || self.witness
            || self.one.available_permits() == 0
            || of_now.next().is_some()
        {
            return;
        }
        let handle = self.clone();
        tokio::spawn(async move {
            match handle.take().await {
                Ok(made) => {
                    tracing::info!(slot = %made.head.slot, "the state at the barrier is saved");
                }
                Err(error) => {
                    tracing::warn!(slot = %end, %error, "the state at the barrier was not saved");
                }
            }
        });
    }

    fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.one.clone().try_acquire_owned().ok()
    }

    fn group(&self) -> Option<GroupId> {
        self.node.status().borrow().group
    }

    /// Those of this group.
    fn own(&self) -> impl DoubleEndedIterator<Item = Snapshot> {
        let group = self.group();
        let all = self.store.list().into_iter();
        all.filter(move |it| Some(it.head.group) == group)
    }

    fn newest_usable(&self) -> Option<Snapshot> {
        self.own().rev().find(|it| it.standing.usable())
    }

    /// What there is to decide about; `told`: the newest that apply was told of.
    fn scene<'a>(&self, kept: &'a [Kept], told: Slot, nearly_full: bool) -> Scene<'a> {
        let node = self.node.status().borrow().clone();
        let apply = self.apply.status().borrow().clone();
        Scene {
            kept,
            base: apply.base,
            void: apply.void,
            told,
            reached: node.commit.max(node.installed),
            log_base: node.base,
            not_needed: apply.not_needed,
            nearly_full,
            needs: node.needs_snapshot,
            held: None,
        }
    }

    /// What is in the store, oldest first.
    fn kept(&self, verified: Verified) -> Vec<Kept> {
        let compared = |slot| Compared::of(self.states.maker_of(slot), slot, verified);
        let kept = self.own().map(|it| Kept {
            id: it.id,
            slot: it.head.slot,
            standing: it.standing,
            compared: compared(it.head.slot),
        });
        kept.collect()
    }

    /// Blocks, as the store does. `fills`: the log has no more room to wait for comparisons.
    fn mark(&self, verified: Verified, fills: bool) -> Result<(), StoreError> {
        let astray = self.apply.status().borrow().astray;
        for kept in self.kept(verified) {
            let slot = kept.slot;
            match plan::fate(&kept, fills, astray) {
                Some(Fate::Verified) => {
                    self.store.mark_verified(kept.id)?;
                    tracing::info!(%slot, "the snapshot may be used: its slots were compared");
                }
                Some(Fate::Discarded) => {
                    tracing::info!(%slot, "a snapshot is removed: its slots cannot be compared any more");
                    self.store.discard(kept.id)?;
                }
                Some(Fate::Unverified) => {
                    self.store.mark_unverified(kept.id)?;
                    tracing::warn!(
                        %slot,
                        "the snapshot is used though its slots could not be compared: the log is half \
                         full, and other copies are away"
                    );
                }
                None => {}
            }
        }
        self.store.retain()?;
        Ok(())
    }

    async fn base_of(&self, snapshot: Snapshot) -> Option<Base> {
        let store = self.store.clone();
        blocking(move || base_of(&store, &snapshot)).await
    }

    /// What this member says of itself when turns are given.
    fn report(&self) -> Report {
        let node = self.node.status().borrow().clone();
        let apply = self.apply.status().borrow().clone();
        let newest = self.own().next_back().map(|it| it.head.slot);
        let newest = newest.unwrap_or_default();
        let usable = self.newest_usable().map(|it| it.head.slot);
        let kept = self.kept(Verified::default());
        let lacks = self.scene(&kept, Slot::ZERO, false).lacked();
        // What lies in the log behind the newest: about its part of it.
        let behind = u128::from(node.last.0.saturating_sub(newest.0.max(node.base.0)));
        let all = u128::from(node.last.0.saturating_sub(node.base.0)).max(1);
        let bytes = u128::from(node.log_bytes) * behind / all;
        Report {
            member: node.member,
            witness: self.witness,
            leads: node.leader == Some(node.member),
            healthy: is_healthy(&node, &apply),
            applied: apply.applied,
            newest,
            newest_usable: usable.unwrap_or_default(),
            log_bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            busy: self.one.available_permits() == 0,
            lacks: lacks.unwrap_or_default(),
        }
    }
}

fn is_healthy(node: &NodeStatus, apply: &ApplyStatus) -> bool {
    apply.serving && apply.applied.0 + NEAR_SLOTS >= node.commit.0
}

// === impl Keeper ===

impl Keeper {
    /// Of a member whose group is there.
    pub fn new(handle: Handle, channels: Arc<Channels>, config: &Config) -> Self {
        let every = config.state.snapshot.every;
        let newest = handle.states.newest();
        Self {
            verified: handle.apply.verified(),
            handle,
            channels,
            due: Due {
                slots: every.slots,
                log_bytes: every.log_bytes.min(part_of(config.log.max_bytes, DUE)),
            },
            log_max_bytes: config.log.max_bytes,
            told: newest.map(|it| it.head.slot).unwrap_or_default(),
            fetching: None,
            scrub: config.log.scrub(),
            complaint: String::new(),
        }
    }

    /// Until it is dropped.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut verified = self.verified.clone();
        let mut closed = false;
        let store = self.handle.store.clone();
        let scrub = self.scrub.map(|period| scrub::run(store, period));
        let _scrubbing = scrub.map(|it| AbortOnDropHandle::new(tokio::spawn(it)));
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = verified.changed(), if !closed => closed = changed.is_err(),
            }
            match self.look().await {
                Ok(()) => self.complaint.clear(),
                Err(error) => self.complain(error.to_string()),
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaint != complaint {
            tracing::warn!(error = complaint, "snapshots");
            self.complaint = complaint;
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let held = if self.handle.witness {
            Some(witness::look(&self.handle, &self.channels).await?)
        } else {
            self.mark().await?;
            None
        };
        let told = self.tell_apply().await;
        self.handle.save_at_barrier();
        let cut = self.compact(held).await;
        self.fetch();
        self.give_turn().await;
        told.and(cut)
    }

    /// What was compared may be used; and what was not, when the log has no more room to wait. What
    /// can never be compared any more, since the copy that it is of was made anew, goes.
    async fn mark(&self) -> Result<(), StoreError> {
        let handle = self.handle.clone();
        let verified = *self.verified.borrow();
        let fills = self.log_uses(HALF);
        blocking(move || handle.mark(verified, fills)).await
    }

    /// Its segments are made in advance, and of a small log they are a large part.
    fn log_uses(&self, part: (u64, u64)) -> bool {
        let bytes = self.handle.node.status().borrow().log_used_bytes;
        bytes >= part_of(self.log_max_bytes, part)
    }

    /// With what is reserved for what comes next.
    fn log_fills(&self, part: (u64, u64)) -> bool {
        let bytes = self.handle.node.status().borrow().log_bytes;
        bytes >= part_of(self.log_max_bytes, part)
    }

    fn kept(&self) -> Vec<Kept> {
        self.handle.kept(*self.verified.borrow())
    }

    fn scene<'a>(&self, kept: &'a [Kept]) -> Scene<'a> {
        let nearly_full = self.log_fills(NEARLY_FULL);
        self.handle.scene(kept, self.told, nearly_full)
    }

    /// A copy that must be made anew begins with the newest, or, if that is lost or void, with another.
    async fn tell_apply(&mut self) -> Result<(), StoreError> {
        if self.handle.group().is_none() {
            return Ok(());
        }
        let kept = self.kept();
        let scene = self.scene(&kept);
        if scene.base_is_lost() {
            tracing::warn!(slot = %scene.base, "the newest snapshot is lost: another takes its place");
            self.handle.apply.base_lost(scene.base).await;
            return Ok(());
        }
        let (slot, fold) = match scene.begin() {
            None => return Ok(()),
            Some(Begin::WithNothing) => (Slot::ZERO, None),
            Some(Begin::With(id)) => {
                let store = self.handle.store.clone();
                let found = blocking(move || {
                    let snapshot = store.get(id)?;
                    let fold = fold_of(&store, &snapshot);
                    if fold.is_none() {
                        store.check(id)?.iter().for_each(tell_finding);
                    }
                    Ok::<_, StoreError>((snapshot.head.slot, fold))
                });
                match found.await? {
                    (slot, Some(fold)) => (slot, Some(fold)),
                    (slot, None) => {
                        self.told = self.told.max(slot);
                        return Ok(());
                    }
                }
            }
        };
        hit(Point::SnapshotTold);
        let told = self.handle.apply.snapshot_available(fold).await;
        self.told = slot;
        if let (Availability::Void, Some(Begin::With(id))) = (told, scene.begin()) {
            tracing::error!(%slot, "a snapshot is removed: it holds what nobody should have executed");
            let store = self.handle.store.clone();
            blocking(move || store.discard(id)).await?;
        }
        Ok(())
    }

    /// See [`Scene::cut`].
    async fn compact(&self, held: Option<Slot>) -> Result<(), StoreError> {
        let handle = &self.handle;
        let kept = self.kept();
        let scene = Scene {
            held,
            ..self.scene(&kept)
        };
        let Some(id) = scene.cut() else {
            return Ok(());
        };
        let older = handle.store.get(id)?;
        let slot = older.head.slot;
        let Some(base) = handle.base_of(older).await else {
            return Ok(());
        };
        match handle.node.compact(base).await {
            Some(Ok(())) => tracing::info!(%slot, "the log begins behind a snapshot"),
            Some(Err(error)) => tracing::debug!(%slot, %error, "the log is not cut"),
            None => {}
        }
        Ok(())
    }

    /// Gets a snapshot from another member, if one is needed or wanted.
    fn fetch(&mut self) {
        if self.fetching.as_ref().is_some_and(|it| !it.is_finished()) {
            return;
        }
        let kept = self.kept();
        let scene = self.scene(&kept);
        let wants_state = self.handle.apply.status().borrow().revision.wants_state;
        let wants_state = wants_state.filter(|_| !self.handle.witness);
        let wanted = scene.lacked().max(wants_state);
        let Some(at_least) = wanted else {
            return;
        };
        // Nobody may have made it yet.
        let may_be_early = wanted > scene.needed();
        let (handle, channels) = (self.handle.clone(), self.channels.clone());
        self.fetching = Some(tokio::spawn(async move {
            let got = match handle.newest_usable().filter(|it| it.head.slot >= at_least) {
                Some(here) => Ok(here),
                None => get(&handle, &channels, at_least).await,
            };
            match got {
                Ok(snapshot) => install(&handle, &snapshot).await,
                Err(error @ GetError::NoSource) if may_be_early => {
                    tracing::debug!(slot = %at_least, %error, "no snapshot could be had yet");
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => {
                    tracing::warn!(slot = %at_least, %error, "no snapshot could be had");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }));
    }

    /// If this member leads: whoever's turn it is makes a snapshot, or is told whose to copy.
    async fn give_turn(&self) {
        // Until the app's next revision has taken over, nothing that it has made is saved.
        let unfinished = self.handle.apply.status().borrow().revision.is_unfinished;
        if self.handle.has_method {
            turns::give(&self.handle, &self.channels, self.due, !unfinished).await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(fetching) = &self.fetching {
            fetching.abort();
        }
    }
}
