//! Makes the digests of this copy's responses, beside the lane. Nothing is made before somebody has
//! asked for the first.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use synod_paxos::Slot;
use synod_proto::v1::Request;
use tokio::sync::mpsc;

use super::digests::{Batch, Digest, Digester, Digests};
use super::handle::{StoredBody, StoredResponse};

/// Responses that wait for their digest, at most: they are held meanwhile. Of what comes beyond,
/// there is none.
const WAITING: usize = 64;
/// Read from a file at a time, in bytes.
const PIECE: usize = 64 << 10;

/// The digests of this copy, as others see them.
#[derive(Debug, Default)]
pub(super) struct Compared {
    digests: Mutex<Digests>,
    wanted: AtomicBool,
}

/// The executor's end.
#[derive(Debug)]
pub(super) struct Digesting {
    compared: Arc<Compared>,
    waiting: mpsc::Sender<Executed>,
}

/// A response of which a digest is made.
struct Executed {
    slot: Slot,
    request: Arc<Request>,
    response: Arc<StoredResponse>,
}

// === impl Compared ===

impl Compared {
    pub(super) fn after(&self, slot: Slot, max: usize) -> Batch {
        self.wanted.store(true, Ordering::Relaxed);
        self.digests().after(slot, max)
    }

    pub(super) fn compared(&self, through: Slot) {
        self.digests().compared(through);
    }

    fn digests(&self) -> MutexGuard<'_, Digests> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Digesting ===

impl Digesting {
    /// Ends when it is dropped. Must be called within a runtime.
    pub(super) fn start(compared: Arc<Compared>) -> Self {
        let (waiting, mut executed) = mpsc::channel::<Executed>(WAITING);
        let made = compared.clone();
        tokio::spawn(async move {
            while let Some(executed) = executed.recv().await {
                let slot = executed.slot;
                let digest = digest(executed).await;
                if let Err(error) = &digest {
                    tracing::warn!(%slot, %error, "a response cannot be compared");
                }
                made.digests().end(slot, digest.ok());
            }
        });
        Self { compared, waiting }
    }

    /// The slot was executed, with this response.
    pub(super) fn executed(
        &self,
        slot: Slot,
        request: &Arc<Request>,
        response: Option<&Arc<StoredResponse>>,
    ) {
        if !self.compared.wanted.load(Ordering::Relaxed) {
            return;
        }
        let Some(response) = response else {
            return;
        };
        self.compared.digests().begin(slot);
        let executed = Executed {
            slot,
            request: request.clone(),
            response: response.clone(),
        };
        if self.waiting.try_send(executed).is_err() {
            self.compared.digests().end(slot, None);
        }
    }

    /// The copy has come so far.
    pub(super) fn reached(&self, applied: Slot) {
        self.compared.digests().reached(applied);
    }
}

async fn digest(executed: Executed) -> io::Result<Digest> {
    let response = executed.response;
    let mut digester = Digester::new(
        &executed.request.route,
        response.status,
        &response.headers,
        BTreeSet::new(),
    );
    let path = match &response.body {
        StoredBody::Memory(bytes) => {
            digester.body(bytes);
            return Ok(digester.finish(&response.trailers));
        }
        StoredBody::File { path, .. } => path.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut file = File::open(&*path)?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(digester.finish(&response.trailers)),
                Ok(count) => digester.body(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    });
    read.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::io::Write;

    fn response(body: StoredBody) -> Arc<StoredResponse> {
        Arc::new(StoredResponse {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body,
            trailers: http::HeaderMap::new(),
        })
    }

    async fn all(compared: &Compared, through: u64) -> Vec<(Slot, Digest)> {
        loop {
            let batch = compared.after(Slot(0), usize::MAX);
            if batch.through == Slot(through) {
                return batch.digests;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_body_has_the_same_digest_in_memory_and_in_a_file() {
        let compared = Arc::new(Compared::default());
        let digesting = Digesting::start(compared.clone());
        let request = Arc::new(Request::default());
        let body = vec![7; 3 * PIECE + 1];
        digesting.executed(
            Slot(1),
            &request,
            Some(&response(StoredBody::Memory(Bytes::new()))),
        );
        digesting.reached(Slot(1));
        assert_eq!(all(&compared, 1).await, [], "nobody had asked for it");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&body).unwrap();
        let file = StoredBody::File {
            len: body.len() as u64,
            path: Arc::new(file.into_temp_path()),
        };
        digesting.executed(Slot(2), &request, Some(&response(file)));
        let memory = StoredBody::Memory(body.into());
        digesting.executed(Slot(3), &request, Some(&response(memory)));
        digesting.executed(Slot(4), &request, None);
        digesting.reached(Slot(4));
        let made = all(&compared, 4).await;
        let slots: Vec<u64> = made.iter().map(|(slot, _)| slot.0).collect();
        assert_eq!(slots, [2, 3]);
        assert_eq!(made[0].1, made[1].1);
        compared.compared(Slot(2));
        assert_eq!(all(&compared, 4).await.len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_kept_up_with_is_lost_and_holds_nobody_up() {
        let compared = Arc::new(Compared::default());
        let digesting = Digesting::start(compared.clone());
        let _ = compared.after(Slot(0), 1);
        let request = Arc::new(Request::default());
        // The task has no turn before the end.
        for slot in 1..=200 {
            let empty = response(StoredBody::Memory(Bytes::new()));
            digesting.executed(Slot(slot), &request, Some(&empty));
            digesting.reached(Slot(slot));
        }
        assert_eq!(all(&compared, 200).await.len(), WAITING);
    }
}
