//! The thread that owns the log: all writes that wait go into one sync (group commit).
//!
//! In: numbered writes, from any thread. Out: the number of the last one synced, by callback. While
//! a sync is under way, writes queue; when it ends, what queued is the next batch (rule P2).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synod_failpoint::{Point, hit};
use synod_paxos::Record;

use crate::error::{AppendError, SyncError};
use crate::reader::LogReader;
use crate::spare::Spare;
use crate::wal::Wal;

/// A batch is not made larger than about this, so that one sync does not take too long.
const BATCH_BYTES: u64 = 8 << 20;
/// How often space is looked for when there was none.
const RETRY: Duration = Duration::from_millis(500);

/// A handle on the thread that writes the log. Dropping it syncs what is queued (what fits) and
/// ends the thread.
#[derive(Debug)]
pub struct LogWriter {
    queue: Sender<Input>,
    gauges: Arc<Gauges>,
    reader: LogReader,
    thread: Option<JoinHandle<()>>,
}

/// What the thread lets others see.
#[derive(Debug, Default)]
struct Gauges {
    full: AtomicBool,
    bytes: AtomicU64,
    used_bytes: AtomicU64,
}

enum Input {
    Write { io: u64, records: Vec<Record> },
    SpareMade(Spare),
    Close,
}

/// Records that were not taken yet.
struct Waiting {
    io: u64,
    records: Vec<Record>,
    /// How many of them were.
    taken: usize,
}

/// The thread's own.
struct Writer<F> {
    wal: Wal,
    input: Receiver<Input>,
    queue: Sender<Input>,
    gauges: Arc<Gauges>,
    on_synced: F,
    waiting: VecDeque<Waiting>,
    /// Taken, not synced: the highest io, and whether anybody may wait for it to be synced.
    taken: Option<u64>,
    must_sync: bool,
    /// Nothing fits at the moment.
    stuck: bool,
    /// While the disk is full, no segment is made in reserve before this.
    spare_after: Option<Instant>,
    closing: bool,
}

// === impl LogWriter ===

impl LogWriter {
    /// Starts the thread. `on_synced` gets the number of a write once it and all before it are
    /// synced; `on_fatal` is called once, when nothing more can be written: end the process.
    pub fn spawn(
        wal: Wal,
        on_synced: impl FnMut(u64) + Send + 'static,
        on_fatal: impl FnOnce(SyncError) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, input) = mpsc::channel();
        let gauges = Arc::new(Gauges::default());
        let reader = wal.reader();
        let mut writer = Writer {
            wal,
            input,
            queue: queue.clone(),
            gauges: gauges.clone(),
            on_synced,
            waiting: VecDeque::new(),
            taken: None,
            must_sync: false,
            stuck: false,
            spare_after: None,
            closing: false,
        };
        writer.show();
        let thread = std::thread::Builder::new()
            .name("wal".to_owned())
            .spawn(move || {
                if let Err(error) = writer.run() {
                    on_fatal(error);
                }
            })?;
        Ok(Self {
            queue,
            gauges,
            reader,
            thread: Some(thread),
        })
    }

    /// Queues records behind all earlier ones. Never waits: the caller bounds what it has under
    /// way. `io` grows with each write. After a fatal error writes are dropped, unreported.
    pub fn write(&self, io: u64, records: Vec<Record>) {
        // The thread ends early only after `on_fatal`.
        let _ = self.queue.send(Input::Write { io, records });
    }

    /// The disk is full, or nearly: take no new proposals. Entries already written here fit, or
    /// wait until they do.
    pub fn is_full(&self) -> bool {
        self.gauges.full.load(Ordering::Relaxed)
    }

    /// Bytes of all segments, the one in reserve counted.
    pub fn bytes(&self) -> u64 {
        self.gauges.bytes.load(Ordering::Relaxed)
    }

    /// The same without what is not written yet.
    pub fn used_bytes(&self) -> u64 {
        self.gauges.used_bytes.load(Ordering::Relaxed)
    }

    /// Reads entries from any thread.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let _ = self.queue.send(Input::Close);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

// === impl Writer ===

impl<F: FnMut(u64)> Writer<F> {
    fn run(&mut self) -> Result<(), SyncError> {
        self.want_spare();
        while !self.closing || (!self.waiting.is_empty() && !self.stuck) {
            self.receive();
            self.take()?;
            self.sync()?;
            self.want_spare();
            self.show();
        }
        // What only carried commits was not synced yet.
        self.wal.sync().map(drop)
    }

    /// Waits for something to do, then takes all that is there.
    fn receive(&mut self) {
        let idle = self.waiting.is_empty() || self.stuck;
        if idle && !self.closing {
            let retry = self.stuck || self.wal.is_full();
            let first = if retry {
                match self.input.recv_timeout(RETRY) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Input::Close),
                }
            } else {
                Some(self.input.recv().unwrap_or(Input::Close))
            };
            if let Some(input) = first {
                self.accept(input);
            }
        }
        while let Ok(input) = self.input.try_recv() {
            self.accept(input);
        }
    }

    fn accept(&mut self, input: Input) {
        match input {
            Input::Write { io, records } => self.waiting.push_back(Waiting {
                io,
                records,
                taken: 0,
            }),
            Input::SpareMade(spare) => self.spare_made(spare),
            Input::Close => self.closing = true,
        }
    }

    /// Hands one batch to the log.
    fn take(&mut self) -> Result<(), SyncError> {
        self.stuck = false;
        let mut bytes = 0;
        while let Some(next) = self.waiting.front_mut() {
            if bytes >= BATCH_BYTES {
                break;
            }
            let records = &next.records[next.taken..];
            let lazy = records
                .iter()
                .all(|record| matches!(record, Record::Commit(_)));
            match self.wal.append(records) {
                Ok(_) => {}
                Err(AppendError::Full { taken }) => {
                    next.taken += taken;
                    self.must_sync |= taken > 0;
                    self.stuck = !self.make_room()?;
                    break;
                }
                Err(AppendError::Failed(error)) => return Err(error),
                Err(error @ AppendError::TooLarge { .. }) => {
                    return Err(SyncError {
                        cause: error.to_string(),
                    });
                }
            }
            bytes += records.iter().map(weight).sum::<u64>();
            self.must_sync |= !lazy;
            self.taken = Some(next.io);
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Takes out of its turn what says that the log has become shorter: it may wait behind the very
    /// entries that find no room. (It commutes with them: they are behind what it forgets.)
    fn make_room(&mut self) -> Result<bool, SyncError> {
        for waiting in &mut self.waiting {
            let rest = waiting.records.iter().skip(waiting.taken);
            let Some(at) = rest.into_iter().position(|it| self.wal.makes_room(it)) else {
                continue;
            };
            let record = waiting.records.remove(waiting.taken + at);
            return match self.wal.append(std::slice::from_ref(&record)) {
                Ok(_) => {
                    self.must_sync = true;
                    Ok(true)
                }
                Err(AppendError::Failed(error)) => Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be made shorter");
                    waiting.records.insert(waiting.taken + at, record);
                    Ok(false)
                }
            };
        }
        Ok(false)
    }

    /// Syncs what was taken. What only carries commits is a hint, and waits for company.
    fn sync(&mut self) -> Result<(), SyncError> {
        if self.must_sync {
            self.wal.sync()?;
            self.must_sync = false;
        }
        // First the gauges: who hears of a sync may ask for the bytes that it took.
        self.show();
        if let Some(io) = self.taken.take() {
            hit(Point::WalBeforeTold);
            (self.on_synced)(io);
        }
        Ok(())
    }

    fn spare_made(&mut self, spare: Spare) {
        self.wal.spare_made(spare);
        // A full disk is asked again now and then, not as fast as it can say no.
        self.spare_after = self.wal.is_full().then(|| Instant::now() + RETRY);
    }

    /// Has the next segment made in a thread of its own.
    fn want_spare(&mut self) {
        let waits = self.spare_after.is_some_and(|after| Instant::now() < after);
        if self.closing || (waits && self.wal.is_full()) {
            return;
        }
        let Some(maker) = self.wal.spare_wanted() else {
            return;
        };
        let queue = self.queue.clone();
        let spawned = std::thread::Builder::new()
            .name("wal-spare".to_owned())
            .spawn(move || {
                // Nobody listens any more when the log was closed.
                let _ = queue.send(Input::SpareMade(maker.make()));
            });
        if let Err(error) = spawned {
            self.spare_made(Spare::failed(error));
        }
    }

    fn show(&self) {
        self.gauges
            .full
            .store(self.wal.is_full(), Ordering::Relaxed);
        self.gauges.bytes.store(self.wal.bytes(), Ordering::Relaxed);
        let used = self.wal.used_bytes();
        self.gauges.used_bytes.store(used, Ordering::Relaxed);
    }
}

fn weight(record: &Record) -> u64 {
    match record {
        Record::Append(entry) | Record::Stage { entry, .. } | Record::Repair(entry) => {
            entry.weight()
        }
        _ => 0,
    }
}
