//! The founder's log, before any member has it.

use std::sync::Arc;

use synod_paxos::{Base, Entry, Genesis, Identity, Incarnation, Record};
use synod_wal::{AppendError, FileDisk, Options, Wal};

use super::{Founder, FoundingError};

/// Written and synced at once, in bytes of entries.
const BATCH_BYTES: u64 = 4 << 20;

/// Takes what is chosen, in slot order.
pub(super) struct NewLog {
    wal: Wal,
    max_bytes: u64,
    waiting: Vec<Record>,
    bytes: u64,
}

// === impl NewLog ===

impl NewLog {
    /// A log that begins behind `base`.
    pub(super) fn begin(
        founder: &Founder<'_>,
        own: Incarnation,
        genesis: &Genesis,
        base: Base,
    ) -> Result<Self, FoundingError> {
        let disk = FileDisk::new(founder.data.join("log")).map_err(FoundingError::Disk)?;
        let options = Options::new(founder.log.segment_bytes, founder.log.max_bytes);
        let identity = Identity {
            name: founder.member.to_owned(),
            incarnation: own,
        };
        let (wal, recovered) = Wal::open(Arc::new(disk), &options, identity)?;
        if recovered.identity.incarnation != own {
            return Err(FoundingError::NotEmpty(founder.data.to_owned()));
        }
        Ok(Self {
            wal,
            max_bytes: founder.log.max_bytes,
            waiting: vec![Record::Genesis(genesis.clone()), Record::Install(base)],
            bytes: 0,
        })
    }

    /// The next entry, with all that follows from it for the agreement.
    pub(super) fn chosen(&mut self, entry: Entry) -> Result<(), FoundingError> {
        self.bytes += entry.weight();
        let slot = entry.slot;
        let upgrade = entry.command.upgrades_to();
        let next_epoch = entry.reconfigures_to();
        self.waiting.push(Record::Learn(entry));
        if let Some(version) = upgrade {
            self.waiting.push(Record::Protocol { slot, version });
        }
        if let Some(configuration) = next_epoch {
            self.waiting.push(Record::Enter {
                slot,
                configuration,
            });
        }
        if self.bytes >= BATCH_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// All of it is on disk when this returns.
    pub(super) fn finish(mut self) -> Result<(), FoundingError> {
        self.write()
    }

    fn write(&mut self) -> Result<(), FoundingError> {
        let appended = self.wal.append(&self.waiting);
        appended.map_err(|error| match error {
            AppendError::Full { .. } | AppendError::TooLarge { .. } => FoundingError::LogTooSmall {
                max_bytes: self.max_bytes,
                error,
            },
            AppendError::Failed(_) => FoundingError::Append(error),
        })?;
        self.wal.sync()?;
        self.waiting.clear();
        self.bytes = 0;
        Ok(())
    }
}
