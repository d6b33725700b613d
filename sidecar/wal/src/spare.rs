//! The segment in reserve (rule W4): a file of zeros, made before it is needed.

use std::io;
use std::sync::Arc;

use synod_failpoint::{Point, check, hit};

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::is_zero;
use crate::segment::Segment;

/// Read at once when a file is looked at.
const PIECE_BYTES: u64 = 1 << 20;

/// Makes the next segment ahead of time, in any thread: zeros take a while to write.
#[derive(Debug)]
pub struct SpareMaker {
    disk: Arc<dyn Disk>,
    name: String,
    bytes: u64,
}

/// What a [`SpareMaker`] made, or why not; for [`crate::Wal::spare_made`].
#[derive(Debug)]
pub struct Spare {
    name: String,
    result: io::Result<()>,
}

/// The segment in reserve, if there is one.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    bytes: u64,
    ready: Option<String>,
    /// A [`SpareMaker`] is at work.
    making: bool,
    /// The last try failed.
    refused: bool,
    next_number: u64,
}

/// It has this size and holds nothing but zeros. Anything else, such as a write that went astray, would
/// later look like damage to what was written there.
fn is_blank(file: &dyn DiskFile, bytes: u64) -> bool {
    if file.size().ok() != Some(bytes) {
        return false;
    }
    let mut buffer = vec![0; PIECE_BYTES.min(bytes) as usize];
    (0..bytes).step_by(PIECE_BYTES as usize).all(|at| {
        let piece = &mut buffer[..PIECE_BYTES.min(bytes - at) as usize];
        file.read_exact_at(piece, at).is_ok() && is_zero(piece)
    })
}

// === impl SpareMaker ===

impl SpareMaker {
    /// Makes it. On a slow disk this takes seconds.
    pub fn make(self) -> Spare {
        let result = check(Point::WalBeforeSpare)
            .and_then(|()| self.disk.create(&self.name, self.bytes).map(drop));
        hit(Point::WalAfterSpare);
        Spare {
            name: self.name,
            result,
        }
    }
}

// === impl Spare ===

impl Spare {
    /// None could be made.
    pub(crate) fn failed(error: io::Error) -> Self {
        Self {
            name: String::new(),
            result: Err(error),
        }
    }
}

// === impl Spares ===

impl Spares {
    /// Takes over what an earlier start left.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        names: &[String],
        bytes: u64,
    ) -> Result<Self, OpenError> {
        let mut spares = Self {
            disk,
            bytes,
            ready: None,
            making: false,
            refused: false,
            next_number: 1,
        };
        for name in names {
            let Some(number) = Segment::spare_number(name) else {
                continue;
            };
            spares.next_number = spares.next_number.max(number.saturating_add(1));
            let is_good = spares.ready.is_none()
                && spares
                    .disk
                    .open(name)
                    .is_ok_and(|file| is_blank(file.as_ref(), bytes));
            if is_good {
                spares.ready = Some(name.clone());
            } else {
                spares
                    .disk
                    .remove(name)
                    .map_err(OpenError::io("removing an unfinished log segment"))?;
            }
        }
        Ok(spares)
    }

    /// Bytes it takes up, or will.
    pub(crate) fn bytes(&self) -> u64 {
        (u64::from(self.ready.is_some()) + u64::from(self.making)) * self.bytes
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// There is none, and the last try to make one failed.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused && self.ready.is_none()
    }

    pub(crate) fn is_making(&self) -> bool {
        self.making
    }

    /// There must be none: the limit is reached.
    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }

    /// There is more room now: another try may go well.
    pub(crate) fn reconsider(&mut self) {
        self.refused = false;
    }

    pub(crate) fn take(&mut self) -> Option<String> {
        self.ready.take()
    }

    /// Makes one here and now.
    pub(crate) fn make(&mut self) -> bool {
        let spare = self.maker().make();
        self.keep(spare)
    }

    /// Has one made elsewhere.
    pub(crate) fn begin(&mut self) -> SpareMaker {
        assert!(!self.making, "one at a time");
        self.making = true;
        self.maker()
    }

    /// The result of what [`Spares::begin`] began.
    pub(crate) fn made(&mut self, spare: Spare) {
        assert!(self.making, "it was begun");
        self.making = false;
        self.keep(spare);
    }

    fn maker(&mut self) -> SpareMaker {
        let number = self.next_number;
        self.next_number += 1;
        SpareMaker {
            disk: self.disk.clone(),
            name: Segment::spare_name(number),
            bytes: self.bytes,
        }
    }

    fn keep(&mut self, spare: Spare) -> bool {
        if let Err(error) = spare.result {
            if !self.refused {
                tracing::warn!(%error, "no room for a further log segment");
            }
            self.refused = true;
            return false;
        }
        self.refused = false;
        if self.ready.is_some() {
            // One was needed at once while this was in the making. A file that stays is found by
            // the next start.
            let _ = self.disk.remove(&spare.name);
        } else {
            self.ready = Some(spare.name);
        }
        true
    }
}
