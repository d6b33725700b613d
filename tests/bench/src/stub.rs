//! A member with an app within its own process: everything but the app is the real thing (HTTP,
//! agreement over gRPC with mutual TLS, log on disk, ledger, apply). What etcd is compared with,
//! since etcd applies in its own process, too.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use synod_sidecar::app::{App, ExecuteError, Executed, Instance, Order, Pool};
use synod_sidecar::apply::{StoredBody, StoredResponse};
use synod_sidecar::config::Config;
use synod_sidecar::ingress::Reads;
use synod_sidecar::ingress::backend::{AppBody, AppError};
use synod_sidecar::ingress::body::RequestBody;
use synod_sidecar::run::{Member, init_trace};
use tokio::signal::unix::{SignalKind, signal};

/// A map from targets to bodies.
#[derive(Clone, Default)]
struct Stub {
    values: Arc<Mutex<HashMap<String, Bytes>>>,
}

impl App for Stub {
    fn look(&self) -> io::Result<Option<Instance>> {
        // A process that is started anew has an empty map: told apart by its number.
        Ok(NonZeroU64::new(u64::from(std::process::id())).map(Instance))
    }

    fn execute(
        self: Arc<Self>,
        order: Order,
    ) -> impl Future<Output = Result<Executed, ExecuteError>> + Send + 'static {
        let request = &order.request;
        self.values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request.target.clone(), request.body.clone());
        std::future::ready(Ok(Executed {
            response: Some(StoredResponse {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: StoredBody::Memory(Bytes::from_static(b"ok")),
                trailers: HeaderMap::new(),
            }),
        }))
    }

    fn set_reads(&self, _instance: Option<Instance>) {}

    fn doubted(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

impl Reads for Stub {
    async fn read(
        &self,
        request: http::Request<RequestBody>,
        _: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        let target = request.uri().path();
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let body = values.get(target).cloned().unwrap_or_default();
        let body = Full::new(body).map_err(|never| match never {});
        Ok(http::Response::new(body.boxed_unsync()))
    }

    async fn bypass(
        &self,
        request: http::Request<RequestBody>,
        pool: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        self.read(request, pool).await
    }
}

/// Runs the member that the file describes until SIGTERM.
pub(crate) async fn run(config: &Path) -> Result<()> {
    let _guard = init_trace();
    let mut terminate = signal(SignalKind::terminate())?;
    let stub = Stub::default();
    let mut member = Member::start(Config::load(config)?, stub.clone(), stub).await?;
    tokio::select! {
        end = member.ended() => anyhow::bail!("the member has ended: {end}"),
        _ = terminate.recv() => {}
    }
    member.stop().await;
    Ok(())
}
