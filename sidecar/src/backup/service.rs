//! The member's side: gives its log.

use std::pin::Pin;

use futures::Stream;
use futures::stream::try_unfold;
use synod_paxos::Slot;
use synod_proto::v1::backups_server::{Backups, BackupsServer};
use synod_proto::v1::{LogRangeRequest, LogRangeResponse, ReadLogPiece, ReadLogRequest};
use synod_wal::{LogReader, ReadError};
use tonic::{Request, Response, Status};

use crate::identity::{Caller, same_group};
use crate::node::{self, NodeHandle, NodeStatus, wire};
use crate::snapshot::blocking;

/// In one message, about; a single larger entry is sent all the same. In bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Gives the log of one member.
pub struct BackupService {
    node: NodeHandle,
    log: LogReader,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<ReadLogPiece, Status>> + Send>>;

/// For the port of the peers.
pub fn service(node: NodeHandle, log: LogReader) -> BackupsServer<BackupService> {
    BackupsServer::new(BackupService { node, log })
}

impl BackupService {
    /// The caller knows the group: where it stands here.
    fn check<T>(&self, request: &Request<T>, group: &[u8]) -> Result<NodeStatus, Status> {
        Caller::of(request)?;
        let status = self.node.status().borrow().clone();
        same_group(status.group, group)?;
        Ok(status)
    }
}

#[tonic::async_trait]
impl Backups for BackupService {
    type ReadLogStream = Pieces;

    async fn log_range(
        &self,
        request: Request<LogRangeRequest>,
    ) -> Result<Response<LogRangeResponse>, Status> {
        let status = self.check(&request, &request.get_ref().group)?;
        let (first, _) = self.log.range();
        Ok(Response::new(LogRangeResponse {
            first: first.0,
            through: status.commit.0,
            last: status.last.0,
            accepted: Some(wire::term(status.accepted)),
        }))
    }

    async fn read_log(&self, request: Request<ReadLogRequest>) -> Result<Response<Pieces>, Status> {
        let status = self.check(&request, &request.get_ref().group)?;
        let ReadLogRequest {
            from,
            through,
            accepted,
            ..
        } = request.into_inner();
        let most = if accepted {
            if let Some(leader) = status.leader {
                let words = format!(
                    "this member follows a leader, {}: what was chosen can be known",
                    node::name(&status, leader)
                );
                return Err(Status::failed_precondition(words));
            }
            status.last
        } else {
            status.commit
        };
        let through = match through {
            0 => most,
            asked if Slot(asked) <= most => Slot(asked),
            asked => {
                let words = format!("slot {asked} is not known to be chosen here");
                return Err(Status::out_of_range(words));
            }
        };
        let log = self.log.clone();
        let pieces = try_unfold(Slot(from.max(1)), move |next| {
            let log = log.clone();
            async move { piece(log, next, through).await }
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}

async fn piece(
    log: LogReader,
    next: Slot,
    through: Slot,
) -> Result<Option<(ReadLogPiece, Slot)>, Status> {
    if next > through {
        return Ok(None);
    }
    let read = blocking(move || log.read(next, through, PIECE_BYTES)).await;
    let entries = read.map_err(|error| match &error {
        ReadError::OutOfRange { .. } => Status::out_of_range(error.to_string()),
        ReadError::Faulty(_) => Status::unavailable(error.to_string()),
        ReadError::Io(_) | ReadError::Lost { .. } => Status::data_loss(error.to_string()),
    })?;
    let last = entries.last().map(|it| it.slot);
    let last = last.ok_or_else(|| Status::internal("the log gave no entry"))?;
    let entries = wire::write_entries(entries);
    Ok(Some((ReadLogPiece { entries }, last.next())))
}
