//! Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Readiness};

/// Serves until `ended`; from `stop` on it says that the process is not ready any more.
pub(super) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
    ended: CancellationToken,
) {
    let routes = Router::new()
        // Answered by the same threads that run the controllers: no answer means they are stuck.
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || {
                let missing = readiness.missing();
                let ends = stop.is_cancelled();
                async move { ready(&missing, ends) }
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
        .with_graceful_shutdown(ended.cancelled_owned())
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "health and metrics are not served any more");
    }
}

fn ready(missing: &[&str], ends: bool) -> (StatusCode, String) {
    if ends {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the operator ends\n".to_owned(),
        );
    }
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = format!("waiting for: {}\n", missing.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_that_ends_is_not_ready_any_more() {
        assert_eq!(ready(&[], false).0, StatusCode::OK);
        assert_eq!(ready(&["a"], false).1, "waiting for: a\n");
        assert_eq!(ready(&[], true).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
