//! WebSocket and other upgrades, on streaming routes only: passed to this member's app as they
//! are, never ordered.
//!
//! In: a request that asks for an upgrade. Out: the app's answer; when it agrees, bytes both ways
//! until one side ends. Calls the app by a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::backend::{AppBody, Backend};
use super::body::ResponseBody;
use super::core::{Call, Core};
use super::guard::Watched;
use super::headers;
use super::problem::Problem;

/// For the app to take the connection and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client asks its connection to become.
#[derive(Debug)]
pub(super) struct Upgrade {
    protocol: HeaderValue,
    client: Option<OnUpgrade>,
}

/// The upgrade that a request asks for. One to HTTP/2 is a mere offer (RFC 7540, 3.2): it is not
/// taken up, and the request is served as it is.
pub(super) fn wanted(parts: &mut request::Parts) -> Option<Upgrade> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let protocol = parts.headers.get(header::UPGRADE)?.clone();
    let asks = names_upgrade(&parts.headers);
    if !asks || protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return None;
    }
    Some(Upgrade {
        protocol,
        client: parts.extensions.remove::<OnUpgrade>(),
    })
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

// === impl Core ===

impl<B: Backend> Core<B> {
    pub(super) async fn upgrade(
        &self,
        call: &Call,
        upgrade: Upgrade,
        watched: &Arc<Watched>,
    ) -> Result<Response<ResponseBody>, Problem> {
        if self.witness {
            return Err(Problem::unavailable(
                "this member runs no app, and upgrades are not handed on: ask another member",
            ));
        }
        let (Some(app), Some(client)) = (self.app, upgrade.client) else {
            return Err(Problem::upgrade_refused());
        };
        if call.method != Method::GET {
            return Err(Problem::upgrade_refused());
        }
        let place = self.stream_place()?;
        let away = || Problem::unavailable("the app beside this member does not run");
        let Ok(Ok(stream)) = timeout(PATIENCE, TcpStream::connect(app)).await else {
            return Err(away());
        };
        // A failure costs latency only.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| away())?;
        tokio::spawn(connection.with_upgrades());
        let request = request_to_app(call, &upgrade.protocol);
        let Ok(Ok(mut response)) = timeout(PATIENCE, sender.send_request(request)).await else {
            return Err(Problem::app_failed());
        };
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let mut place = Some(place);
        if switches {
            let server = hyper::upgrade::on(&mut response);
            watched.becomes_tunnel();
            tokio::spawn(tunnel(client, server, place.take()));
        }
        let protocol = response.headers().get(header::UPGRADE).cloned();
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        headers::strip_reserved(&mut parts.headers);
        self.sign(&mut parts.headers, self.sent());
        if switches {
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts
                .headers
                .insert(header::UPGRADE, protocol.unwrap_or(upgrade.protocol));
            return Ok(Response::from_parts(parts, ResponseBody::empty()));
        }
        let body = AppBody::new(body.map_err(Into::into));
        Ok(Response::from_parts(
            parts,
            ResponseBody::app(body).in_place(place),
        ))
    }
}

fn request_to_app(call: &Call, protocol: &HeaderValue) -> Request<Empty<bytes::Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.target.clone().into();
    let fields = request.headers_mut();
    fields.clone_from(&call.headers);
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, protocol.clone());
    request
}

async fn tunnel(client: OnUpgrade, server: OnUpgrade, place: Option<OwnedSemaphorePermit>) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not come about");
            return;
        }
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    // Either side may go at any time; there is nobody to tell.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    drop(place);
}
