//! Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Readiness};

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let routes = Router::new()
        // Answered by the same threads that run the controllers: no answer means they are stuck.
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let missing = readiness.missing();
                async move {
                    if missing.is_empty() {
                        (StatusCode::OK, "ok\n".to_owned())
                    } else {
                        let text = format!("waiting for: {}\n", missing.join(", "));
                        (StatusCode::SERVICE_UNAVAILABLE, text)
                    }
                }
            }),
        )
        .route(
            "/metrics",
            get(move || {
                let text = metrics.encode();
                async move {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    ([(header::CONTENT_TYPE, kind)], text)
                }
            }),
        );
    let ended = axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "health and metrics are not served any more");
    }
}
