//! The side of each member: answers the leader that it follows, and nobody else.

use std::sync::Arc;

use synod_paxos::{Ballot, MemberId};
use synod_proto::v1::poison_server::{Poison, PoisonServer};
use synod_proto::v1::{
    PoisonAskRequest, PoisonAskResponse, PoisonDoubtsRequest, PoisonDoubtsResponse,
    PoisonFreeRequest, PoisonFreeResponse, PoisonRestoreRequest, PoisonRestoreResponse, PoisonTerm,
};
use tonic::{Request, Response, Status};

use super::board::Board;
use super::wire::{self, WireError};
use crate::apply::ApplyHandle;
use crate::identity::{Caller, same_group};
use crate::keeper;
use crate::node::{self, Channels, NodeHandle};

/// See the module.
#[derive(Clone, Debug)]
pub struct PoisonService {
    node: NodeHandle,
    apply: ApplyHandle,
    board: Board,
    snapshots: keeper::Handle,
    channels: Arc<Channels>,
}

/// For the port of the peers.
pub fn service(
    node: NodeHandle,
    apply: ApplyHandle,
    board: Board,
    snapshots: keeper::Handle,
    channels: Arc<Channels>,
) -> PoisonServer<PoisonService> {
    PoisonServer::new(PoisonService {
        node,
        apply,
        board,
        snapshots,
        channels,
    })
}

// === impl PoisonService ===

impl PoisonService {
    /// The caller leads in the ballot that it says, as far as this member knows: the ballot.
    fn check<T>(&self, request: &Request<T>, term: Option<&PoisonTerm>) -> Result<Ballot, Status> {
        let name = Caller::member(request, "only members ask about requests that fail")?;
        let missing = || Status::invalid_argument("term is missing");
        let term = term.ok_or_else(missing)?;
        let status = self.node.status().borrow().clone();
        same_group(status.group, &term.group)?;
        if status.is_witness() {
            let words = "a witness has no copy: it can say nothing about a request";
            return Err(Status::failed_precondition(words));
        }
        let ballot = wire::read_ballot(term).map_err(invalid)?;
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let mut callers = members.filter(|it| it.name == name).map(|it| it.id);
        let follows = node::leader(&status);
        if callers.any(|caller| follows == Some((caller, ballot))) {
            return Ok(ballot);
        }
        let words = "this member does not follow the caller in that ballot";
        Err(Status::failed_precondition(words))
    }
}

#[tonic::async_trait]
impl Poison for PoisonService {
    async fn doubts(
        &self,
        request: Request<PoisonDoubtsRequest>,
    ) -> Result<Response<PoisonDoubtsResponse>, Status> {
        self.check(&request, request.get_ref().term.as_ref())?;
        let stuck = request.get_ref().stuck;
        let stuck = (stuck != 0).then(|| wire::read_slot("stuck", stuck));
        self.board.note_stuck(stuck.transpose().map_err(invalid)?);
        let doubts = self.apply.doubts().await.ok_or_else(ending)?;
        Ok(Response::new(wire::doubts(&doubts)))
    }

    async fn ask(
        &self,
        request: Request<PoisonAskRequest>,
    ) -> Result<Response<PoisonAskResponse>, Status> {
        let ballot = self.check(&request, request.get_ref().term.as_ref())?;
        let request = request.into_inner();
        let ask = wire::read_ask(ballot, request.slot, request.number).map_err(invalid)?;
        let standing = self.apply.ask(ask).await.ok_or_else(ending)?;
        let standing = standing.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(wire::standing(standing)))
    }

    async fn free(
        &self,
        request: Request<PoisonFreeRequest>,
    ) -> Result<Response<PoisonFreeResponse>, Status> {
        let ballot = self.check(&request, request.get_ref().term.as_ref())?;
        let request = request.into_inner();
        let ask = wire::read_ask(ballot, request.slot, request.number).map_err(invalid)?;
        self.apply.free(ask).await.ok_or_else(ending)?;
        Ok(Response::new(PoisonFreeResponse {}))
    }

    async fn restore(
        &self,
        request: Request<PoisonRestoreRequest>,
    ) -> Result<Response<PoisonRestoreResponse>, Status> {
        self.check(&request, request.get_ref().term.as_ref())?;
        let request = request.into_inner();
        let slot = wire::read_slot("slot", request.slot).map_err(invalid)?;
        let from = MemberId(request.from);
        self.snapshots
            .clone()
            .help_past(self.channels.clone(), slot, from);
        Ok(Response::new(PoisonRestoreResponse {}))
    }
}

fn invalid(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn ending() -> Status {
    Status::unavailable("this member is ending")
}
