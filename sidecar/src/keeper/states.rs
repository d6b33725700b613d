//! How the app's state comes into this member's snapshots, and out of them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use synod_failpoint::{Point, hit};
use synod_paxos::{GroupId, Incarnation, Slot};
use synod_wal::LogReader;
use tokio::task::spawn_blocking;

use super::gate::Gate;
use super::{TakeError, tell_finding};
use crate::app::{App, Instance};
use crate::apply::{Fold, RestoreError, StateError, States, Take};
use crate::config::state::SnapshotKind;
use crate::config::{Config, Protocol};
use crate::node::NodeHandle;
use crate::snapshot::http::{Endpoint, HttpFailure, HttpSnapshots, SameApp, ask};
use crate::snapshot::volume::{Staged, Volume, VolumeError};
use crate::snapshot::{
    Draft, Head, Method, Snapshot, StateReader, Store, StoreError, in_background,
};

/// Makers remembered: more than snapshots that wait for their comparison are kept.
const MAKERS: usize = 16;
/// Longest wait for an app that is asked which slot its state contains.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// What the states of one member are made of.
pub(super) struct Parts<'a, A> {
    pub(super) config: &'a Config,
    pub(super) store: Store,
    pub(super) volume: Option<Volume>,
    pub(super) app: Arc<A>,
    pub(super) node: NodeHandle,
    pub(super) log: LogReader,
    pub(super) maker: Incarnation,
    pub(super) group: Option<GroupId>,
}

/// Keeps the app's states in a [`Store`].
pub struct Stored {
    store: Store,
    method: SavedBy,
    volume: Option<Volume>,
    gate: Gate,
    applied: Option<Endpoint>,
    address: SocketAddr,
    protocol: Protocol,
    look: Look,
    node: NodeHandle,
    log: LogReader,
    maker: Incarnation,
    /// The group of the log when this process started.
    group: Option<GroupId>,
    /// What was taken last, until it is stored.
    taken: Mutex<Option<Taken>>,
    /// Of whose state the snapshots are that this process has made, the last few.
    makers: Mutex<BTreeMap<Slot, Instance>>,
}

type Look = Arc<dyn Fn() -> io::Result<Option<Instance>> + Send + Sync>;

enum SavedBy {
    Nothing,
    Http(Box<HttpSnapshots>),
    Volume,
}

struct Taken {
    slot: Slot,
    /// Whose state it is.
    instance: Instance,
    /// Apply has said that it is the state of its slot.
    good: bool,
    what: What,
}

enum What {
    /// All of it.
    Draft(Box<Draft>),
    Frozen(Box<Frozen>),
}

/// A copy of the volume, that the app does not write to.
struct Frozen {
    staged: Staged,
    head: Head,
    tables: Bytes,
}

// === impl Stored ===

impl Stored {
    pub(super) fn new<A: App>(parts: Parts<'_, A>) -> Self {
        let config = parts.config;
        let (address, protocol) = (config.app.address, config.app.protocol);
        let app = parts.app;
        let method = match (config.state.snapshot.kind, &config.state.snapshot.http) {
            (SnapshotKind::Http, Some(http)) => {
                let endpoint = |call: &crate::config::state::Call| {
                    call.endpoint("state.snapshot.http")
                        .expect("the configuration was checked")
                };
                SavedBy::Http(Box::new(HttpSnapshots {
                    address,
                    protocol,
                    save: endpoint(&http.save),
                    restore: endpoint(&http.restore),
                    settle: http.settle.as_ref().map(endpoint),
                    limits: http.limits(),
                }))
            }
            (SnapshotKind::Volume, _) => SavedBy::Volume,
            (SnapshotKind::None | SnapshotKind::Http, _) => SavedBy::Nothing,
        };
        let applied = config.state.applied.as_ref();
        Self {
            store: parts.store,
            method,
            volume: parts.volume,
            gate: Gate::new(
                config
                    .state
                    .volume
                    .as_ref()
                    .and_then(|it| it.started.clone()),
            ),
            applied: applied.map(|it| {
                it.endpoint("state.applied")
                    .expect("the configuration was checked")
            }),
            address,
            protocol,
            look: Arc::new(move || app.look()),
            node: parts.node,
            log: parts.log,
            maker: parts.maker,
            group: parts.group,
            taken: Mutex::new(None),
            makers: Mutex::default(),
        }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The newest that may be used, of the group that this process found in the log.
    pub(super) fn newest(&self) -> Option<Snapshot> {
        let group = self.group?;
        let all = self.store.list().into_iter().rev();
        all.filter(|it| it.head.group == group)
            .find(|it| it.standing.usable())
    }

    /// The same, once its tables were read. What is damaged is set aside.
    pub(super) fn sound(&self) -> Result<Option<Snapshot>, StoreError> {
        while let Some(newest) = self.newest() {
            let damage = match self.store.read(newest.id) {
                Ok(_) => None,
                Err(error) => {
                    tracing::error!(%error, "the newest snapshot cannot be read");
                    self.store.check(newest.id)?
                }
            };
            match damage {
                Some(finding) => tell_finding(&finding),
                None => return Ok(Some(newest)),
            }
        }
        Ok(None)
    }

    /// What was to be put back could not be read: it is set aside, if that is since it is damaged.
    async fn doubt(&self, slot: Slot) {
        let store = self.store.clone();
        let checked = spawn_blocking(move || {
            let found = store.list().into_iter().find(|it| it.head.slot == slot);
            found.map_or(Ok(None), |it| store.check(it.id))
        });
        match checked.await {
            Ok(Ok(finding)) => finding.iter().for_each(tell_finding),
            Ok(Err(error)) => tracing::error!(%slot, %error, "the snapshot cannot be checked"),
            Err(error) => tracing::error!(%slot, %error, "the snapshot cannot be checked"),
        }
    }

    /// Stores what apply had taken at this slot.
    pub(super) async fn finish(&self, slot: Slot) -> Result<Snapshot, TakeError> {
        let taken = self.taken().take().filter(|it| it.slot == slot && it.good);
        let taken = taken.ok_or_else(|| TakeError::Gone("another took its place".to_owned()))?;
        let draft = match taken.what {
            What::Draft(draft) => *draft,
            What::Frozen(frozen) => {
                let store = self.store.clone();
                let packed = in_background(move || frozen.pack(&store)).await;
                packed.map_err(|error| TakeError::Gone(error.0))?
            }
        };
        // Before it can be seen, or it would be taken for one of an earlier process.
        self.makers().insert(slot, taken.instance);
        Ok(draft.finish().await?)
    }

    /// Of whose state the snapshot at this slot is, if this process has made it.
    pub(super) fn maker_of(&self, slot: Slot) -> Option<Instance> {
        self.makers().get(&slot).copied()
    }

    /// Whose store it is.
    pub(super) fn maker(&self) -> Incarnation {
        self.maker
    }

    fn makers(&self) -> MutexGuard<'_, BTreeMap<Slot, Instance>> {
        let mut makers = self.makers.lock().unwrap_or_else(PoisonError::into_inner);
        while makers.len() > MAKERS {
            makers.pop_first();
        }
        makers
    }

    fn taken(&self) -> MutexGuard<'_, Option<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that listens is this one.
    fn same(&self, instance: Instance) -> SameApp {
        let look = self.look.clone();
        Arc::new(move || look().is_ok_and(|it| it == Some(instance)))
    }

    /// Of a snapshot with these tables, which are those of `slot`.
    pub(super) async fn head(
        &self,
        slot: Slot,
        fold: &Fold,
        method: Method,
    ) -> Result<Head, StateError> {
        let unknown = || StateError(format!("the log does not know slot {slot} any more"));
        let base = self.node.base_at(slot, fold.time()).await;
        let base = base.ok_or_else(unknown)?;
        let group = self.node.status().borrow().group.ok_or_else(unknown)?;
        let log = self.log.clone();
        let entry = spawn_blocking(move || log.read(slot, slot, 1)).await;
        let entry = entry.map_err(|error| StateError(error.to_string()))?;
        let entry = entry.map_err(|error| StateError(error.to_string()))?;
        let entry = entry.first().ok_or_else(unknown)?.hash();
        Ok(Head {
            group,
            slot,
            ballot: base.ballot,
            entry,
            time: base.time,
            epoch: base.configuration.epoch,
            configuration: fold.configuration_bytes(),
            policy: *blake3::hash(&fold.policy().encode_to_vec()).as_bytes(),
            protocol: base.protocol,
            revision: fold.revision(),
            method,
            maker: self.maker,
        })
    }

    async fn take_now(&self, take: Take) -> Result<(), StateError> {
        let Take { slot, instance, .. } = take;
        let what = match &self.method {
            SavedBy::Nothing => {
                return Err(StateError(
                    "the service has no method for snapshots (state.snapshot.type)".to_owned(),
                ));
            }
            SavedBy::Http(http) => {
                let http = http.clone();
                http.settle(slot)
                    .await
                    .map_err(|error| StateError(error.to_string()))?;
                let head = self.head(slot, &take.tables, Method::Http).await?;
                hit(Point::SnapshotFrozen);
                let same = self.same(take.instance);
                let saved = http
                    .save(&self.store, head, take.tables.save(), &same)
                    .await;
                let saved = saved.map_err(|error| StateError(error.to_string()))?;
                What::Draft(Box::new(saved))
            }
            SavedBy::Volume => {
                let head = self.head(slot, &take.tables, Method::Volume).await?;
                hit(Point::SnapshotFrozen);
                let volume = self.volume.clone().ok_or_else(no_volume)?;
                let store = self.store.clone();
                let staged =
                    spawn_blocking(move || stage(&volume, &store, head, take.tables.save()));
                staged
                    .await
                    .unwrap_or_else(|error| Err(StateError(error.to_string())))?
            }
        };
        *self.taken() = Some(Taken {
            slot,
            instance,
            good: false,
            what,
        });
        Ok(())
    }

    /// Of the usable snapshot at this slot.
    async fn open(&self, slot: Slot) -> Result<StateReader, StateError> {
        let store = self.store.clone();
        let opened = spawn_blocking(move || {
            let all = store.list();
            let found = all.iter().find(|it| it.head.slot == slot);
            let found = found.filter(|it| it.standing.usable());
            let gone = || StateError(format!("there is no snapshot of slot {slot} any more"));
            let id = found.ok_or_else(gone)?.id;
            store
                .read(id)
                .map_err(|error| StateError(error.to_string()))
        });
        let opened = opened
            .await
            .unwrap_or_else(|error| Err(StateError(error.to_string())));
        if opened.is_err() {
            self.doubt(slot).await;
        }
        opened
    }
}

fn no_volume() -> StateError {
    StateError("the app has no volume (state.volume)".to_owned())
}

/// A copy where that takes no time, else all of it.
fn stage(volume: &Volume, store: &Store, head: Head, tables: Bytes) -> Result<What, StateError> {
    let staged = volume
        .stage()
        .map_err(|error| StateError(error.to_string()))?;
    hit(Point::SnapshotVolumeStaged);
    let is_copy = staged.frozen();
    let frozen = Frozen {
        staged,
        head,
        tables,
    };
    if is_copy {
        return Ok(What::Frozen(Box::new(frozen)));
    }
    Ok(What::Draft(Box::new(frozen.pack(store)?)))
}

impl Frozen {
    fn pack(self, store: &Store) -> Result<Draft, StateError> {
        let bytes = self.staged.totals().disk_bytes;
        let mut draft = store
            .begin(self.head, &self.tables, bytes)
            .map_err(|error| StateError(error.to_string()))?;
        let packed = self.staged.pack(&mut draft);
        packed.map_err(|error| StateError(error.to_string()))?;
        hit(Point::SnapshotVolumePacked);
        Ok(draft)
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl States for Stored {
    fn latest(&self) -> Option<Bytes> {
        let newest = self.newest()?;
        match self.store.read(newest.id) {
            Ok(reader) => Some(reader.tables()),
            Err(error) => {
                tracing::error!(%error, "the newest snapshot cannot be read");
                None
            }
        }
    }

    fn half_restored(&self) -> bool {
        let interrupted = self.volume.as_ref().map(Volume::interrupted);
        // If nobody can tell, it is.
        interrupted.is_some_and(|it| it.map_or(true, |it| it.is_some()))
    }

    async fn restore(self: Arc<Self>, slot: Slot, instance: Instance) -> Result<(), RestoreError> {
        let not_begun = |error: StateError| RestoreError::NotBegun(error.0);
        let SavedBy::Http(http) = &self.method else {
            return Err(RestoreError::NotBegun(
                "the snapshots of this service are not put back by requests".to_owned(),
            ));
        };
        let reader = self.open(slot).await.map_err(not_begun)?;
        if reader.snapshot().head.method != Method::Http {
            return Err(RestoreError::NotBegun(format!(
                "the snapshot of slot {slot} was not saved by a request"
            )));
        }
        let restored = http.restore(reader, &self.same(instance)).await;
        let Err(error) = restored else {
            return Ok(());
        };
        match error.why {
            HttpFailure::Connect(_) | HttpFailure::OtherApp => {
                return Err(RestoreError::NotBegun(error.to_string()));
            }
            HttpFailure::Snapshot(_) => self.doubt(slot).await,
            _ => {}
        }
        Err(RestoreError::Begun(error.to_string()))
    }

    async fn restore_volume(self: Arc<Self>, slot: Slot) -> Result<(), StateError> {
        let volume = self.volume.clone().ok_or_else(no_volume)?;
        let reader = match slot {
            Slot::ZERO => None,
            slot => Some(self.open(slot).await?),
        };
        if let Some(reader) = &reader
            && reader.snapshot().head.method != Method::Volume
        {
            return Err(StateError(format!(
                "the snapshot of slot {slot} is not of a volume"
            )));
        }
        let kept_shut = self.gate.keep_shut().await;
        let kept_shut = kept_shut.ok_or_else(|| {
            StateError(
                "the app may be started upon it at any time: this is for the next pod".to_owned(),
            )
        })?;
        let restored = in_background(move || {
            let _kept_shut = kept_shut;
            match reader {
                Some(reader) => volume.restore(reader),
                None if volume.interrupted()?.is_none() && volume.is_empty()? => Ok(()),
                None => volume.clear(),
            }
        });
        let Err(error) = restored.await else {
            return Ok(());
        };
        if let VolumeError::Snapshot(_) = error {
            self.doubt(slot).await;
        }
        Err(StateError(error.to_string()))
    }

    async fn ask_applied(self: Arc<Self>, instance: Instance) -> Option<Slot> {
        let endpoint = self.applied.as_ref()?;
        let same = self.same(instance);
        let asked = ask(self.address, self.protocol, endpoint, &same, ASK_LIMIT).await;
        let said = asked.map_err(|error| error.to_string()).and_then(|text| {
            let slot = text.trim().parse().map(Slot);
            slot.map_err(|_| "its answer is not a decimal number".to_owned())
        });
        match said {
            Ok(slot) => Some(slot),
            Err(error) => {
                tracing::warn!(error, "the app does not say which slot its state contains");
                None
            }
        }
    }

    async fn take(self: Arc<Self>, take: Take) -> Result<(), StateError> {
        self.take_now(take).await
    }

    fn take_limit(&self) -> Option<Duration> {
        match &self.method {
            SavedBy::Http(http) => {
                let requests = 1 + u32::from(http.settle.is_some());
                Some(http.limits.whole.saturating_mul(requests))
            }
            SavedBy::Volume | SavedBy::Nothing => None,
        }
    }

    fn settle(&self, slot: Slot, good: bool) {
        let mut taken = self.taken();
        if good && let Some(taken) = taken.as_mut().filter(|it| it.slot == slot) {
            taken.good = true;
        } else {
            *taken = None;
        }
    }

    fn void(&self, slot: Slot) {
        let all = self.store.list();
        for snapshot in all.iter().filter(|it| it.head.slot == slot) {
            if let Err(error) = self.store.discard(snapshot.id) {
                tracing::warn!(%slot, %error, "a snapshot that is void cannot be removed");
            }
        }
    }

    fn void_since(&self, slot: Slot) {
        match self.store.void_since(slot) {
            Ok(findings) => findings.iter().for_each(tell_finding),
            Err(error) => {
                tracing::warn!(%slot, %error, "snapshots that are void cannot be removed");
            }
        }
    }
}
