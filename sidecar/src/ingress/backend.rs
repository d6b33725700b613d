//! What ingress needs of the rest of the sidecar, as one trait: the real handles, or doubles.
//!
//! Promises that callers build on: `policy` and `apply_status` are published no later than the
//! `applied` that covers them, and `sent` before the first byte goes to the app.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use synod_paxos::{AgreedTime, CommandId, CommandKind, Slot};
use synod_proto::v1::Policy;
use tokio::sync::watch;

use super::body::{BoxError, RequestBody};
use crate::app::{Client, NoApp, Pool, ReadBody, ReadError};
use crate::apply::handle::KeyOutcome;
use crate::apply::{Answer, ApplyHandle, ApplyStatus};
use crate::node::handle::{Held, ProposeError};
use crate::node::{NodeHandle, NodeStatus, Proposed};
use crate::poison::Board;

/// A body that the app sends.
pub type AppBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Why the app did not answer a read.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Not a byte was sent: it is down, or was started anew since.
    #[error("the app does not accept connections")]
    NotSent,
    /// It may have been executed.
    #[error("the connection to the app was lost before its response was complete")]
    Lost,
}

/// See the module.
pub trait Backend: Send + Sync + 'static {
    /// [`NodeHandle::propose_holding`].
    fn propose(
        &self,
        kind: CommandKind,
        payload: Bytes,
        held: Held,
    ) -> Result<Proposed, ProposeError>;
    /// [`NodeHandle::read_index`].
    fn read_index(&self) -> impl Future<Output = Slot> + Send;
    /// [`NodeHandle::status`].
    fn node_status(&self) -> &watch::Receiver<NodeStatus>;
    /// [`NodeHandle::agreed_now`].
    fn agreed_now(&self) -> AgreedTime;
    /// [`ApplyHandle::answer`].
    fn answer(&self, id: CommandId) -> impl Future<Output = Answer> + Send;
    /// [`ApplyHandle::wait_applied`].
    fn wait_applied(&self, slot: Slot) -> impl Future<Output = ()> + Send;
    /// [`ApplyHandle::key_outcome`].
    fn key_outcome(&self, principal: Bytes, key: Bytes) -> impl Future<Output = KeyOutcome> + Send;
    /// [`ApplyHandle::policy`].
    fn policy(&self) -> &watch::Receiver<Arc<Policy>>;
    /// [`ApplyHandle::status`].
    fn apply_status(&self) -> &watch::Receiver<ApplyStatus>;
    /// The last slot that any copy has executed, as far as this member has heard.
    fn executed(&self) -> Slot {
        self.apply_status().borrow().applied
    }
    /// [`Board::stuck`].
    fn stuck(&self) -> Option<Slot> {
        None
    }
    /// Sends a request that is not ordered to this member's app. It goes only to the app process
    /// that `apply_status` last described: one started since is not the state that was asked for.
    fn send_read(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> impl Future<Output = Result<http::Response<AppBody>, AppError>> + Send;
    /// As [`Backend::send_read`], whatever state the app is in.
    fn send_bypass(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> impl Future<Output = Result<http::Response<AppBody>, AppError>> + Send {
        self.send_read(request, pool)
    }
}

/// The app, for requests that are not ordered.
pub trait Reads: Send + Sync + 'static {
    /// See [`Backend::send_read`].
    fn read(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> impl Future<Output = Result<http::Response<AppBody>, AppError>> + Send;
    /// See [`Backend::send_bypass`].
    fn bypass(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> impl Future<Output = Result<http::Response<AppBody>, AppError>> + Send;
}

/// The real thing.
#[derive(Clone, Debug)]
pub struct Handles<R> {
    reads: R,
    node: NodeHandle,
    node_status: watch::Receiver<NodeStatus>,
    apply: ApplyHandle,
    apply_status: watch::Receiver<ApplyStatus>,
    policy: watch::Receiver<Arc<Policy>>,
    elsewhere: watch::Receiver<Slot>,
    board: Board,
}

// === impl Handles ===

impl<R> Handles<R> {
    /// Joins the handles of one member. `elsewhere`: what other members' copies have executed.
    pub fn new(
        node: NodeHandle,
        apply: ApplyHandle,
        elsewhere: watch::Receiver<Slot>,
        board: Board,
        reads: R,
    ) -> Self {
        Self {
            reads,
            node_status: node.status(),
            apply_status: apply.status(),
            policy: apply.policy(),
            elsewhere,
            board,
            node,
            apply,
        }
    }
}

impl<R: Reads> Backend for Handles<R> {
    fn propose(
        &self,
        kind: CommandKind,
        payload: Bytes,
        held: Held,
    ) -> Result<Proposed, ProposeError> {
        self.node.propose_holding(kind, payload, held)
    }

    async fn read_index(&self) -> Slot {
        self.node.read_index().await
    }

    fn node_status(&self) -> &watch::Receiver<NodeStatus> {
        &self.node_status
    }

    fn agreed_now(&self) -> AgreedTime {
        self.node.agreed_now()
    }

    async fn answer(&self, id: CommandId) -> Answer {
        self.apply.answer(id).await
    }

    async fn wait_applied(&self, slot: Slot) {
        self.apply.wait_applied(slot).await;
    }

    async fn key_outcome(&self, principal: Bytes, key: Bytes) -> KeyOutcome {
        self.apply.key_outcome(principal, key).await
    }

    fn policy(&self) -> &watch::Receiver<Arc<Policy>> {
        &self.policy
    }

    fn apply_status(&self) -> &watch::Receiver<ApplyStatus> {
        &self.apply_status
    }

    fn executed(&self) -> Slot {
        let applied = self.apply_status.borrow().applied;
        applied.max(*self.elsewhere.borrow())
    }

    fn stuck(&self) -> Option<Slot> {
        self.board.stuck()
    }

    async fn send_read(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        self.reads.read(request, pool).await
    }

    async fn send_bypass(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        self.reads.bypass(request, pool).await
    }
}

// === impl Reads ===

impl Reads for Client {
    async fn read(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        passed(self.send_read(request, pool).await)
    }

    async fn bypass(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        passed(Client::send_bypass(self, request, pool).await)
    }
}

impl Reads for NoApp {
    async fn read(
        &self,
        _: http::Request<RequestBody>,
        _: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        Err(AppError::NotSent)
    }

    async fn bypass(
        &self,
        _: http::Request<RequestBody>,
        _: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        Err(AppError::NotSent)
    }
}

fn passed(
    result: Result<http::Response<ReadBody>, ReadError>,
) -> Result<http::Response<AppBody>, AppError> {
    match result {
        Ok(response) => Ok(response.map(BodyExt::boxed_unsync)),
        Err(ReadError::NotSent(_) | ReadError::NotServing) => Err(AppError::NotSent),
        Err(ReadError::Lost(_)) => Err(AppError::Lost),
    }
}
