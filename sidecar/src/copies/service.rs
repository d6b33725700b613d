//! The side of each member: hears the leader, and tells what its copy has answered.

use synod_proto::v1::copies_server::{Copies, CopiesServer};
use synod_proto::v1::{CompareRequest, CompareResponse};
use tonic::{Request, Response, Status};

use super::wire;
use crate::apply::ApplyHandle;
use crate::identity::{Caller, same_group};
use crate::node::{self, NodeHandle};

/// Digests in one answer, at most.
pub(super) const DIGESTS: usize = 1_024;

/// Answers the leader that this member follows, and nobody else.
#[derive(Clone, Debug)]
pub struct CopiesService {
    node: NodeHandle,
    apply: ApplyHandle,
}

/// For the port of the peers.
pub fn service(node: NodeHandle, apply: ApplyHandle) -> CopiesServer<CopiesService> {
    CopiesServer::new(CopiesService { node, apply })
}

// === impl CopiesService ===

impl CopiesService {
    /// Only who leads says what becomes of a copy.
    fn check(&self, request: &Request<CompareRequest>) -> Result<(), Status> {
        let name = Caller::member(request, "only members compare copies")?;
        let CompareRequest { group, term, .. } = request.get_ref();
        let status = self.node.status().borrow().clone();
        same_group(status.group, group)?;
        if status.is_witness() {
            let words = "a witness has no copy to compare";
            return Err(Status::failed_precondition(words));
        }
        let term = node::wire::read_term(*term)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let mut callers = members.filter(|it| it.name == name).map(|it| it.id);
        let follows = node::leader(&status);
        if callers.any(|caller| follows == Some((caller, term))) {
            return Ok(());
        }
        let words = "this member does not follow the caller in that ballot";
        Err(Status::failed_precondition(words))
    }
}

#[tonic::async_trait]
impl Copies for CopiesService {
    async fn compare(
        &self,
        request: Request<CompareRequest>,
    ) -> Result<Response<CompareResponse>, Status> {
        self.check(&request)?;
        let word = wire::read_request(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let batch = self.apply.compare(&word, DIGESTS).await;
        let batch = batch.ok_or_else(|| Status::unavailable("this member is ending"))?;
        Ok(Response::new(wire::response(batch)))
    }
}
