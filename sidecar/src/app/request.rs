//! An ordered request as the app gets it: the same bytes on every copy (rule A2).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use synod_paxos::{AgreedTime, Slot};
use synod_proto::v1;

use super::{BoxError, Instance, headers};
use crate::config::Protocol;

const SLOT: HeaderName = HeaderName::from_static("synod-slot");
const TIME: HeaderName = HeaderName::from_static("synod-time");
const SEED: HeaderName = HeaderName::from_static("synod-seed");

/// A request for the app, with what was agreed about it.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its slot.
    pub slot: Slot,
    /// Agreed time.
    pub time: AgreedTime,
    /// Agreed random bits.
    pub seed: u128,
    /// What the client sent.
    pub request: Arc<v1::Request>,
    /// The only process it may go to.
    pub instance: Instance,
}

impl Order {
    /// As HTTP; `None` if it cannot be said in HTTP, which is so on every copy.
    pub(super) fn to_http(&self, protocol: Protocol) -> Option<Request<WholeBody>> {
        let request = &*self.request;
        let method = Method::from_bytes(request.method.as_bytes()).ok()?;
        let mut headers = headers::from_request(&request.headers)?;
        let trailers = headers::from_request(&request.trailers)?;
        headers.remove(header::TRAILER);
        let has_length = headers.remove(header::CONTENT_LENGTH).is_some();
        if trailers.is_empty() {
            if has_length || !request.body.is_empty() || takes_body(&method) {
                headers.insert(header::CONTENT_LENGTH, request.body.len().into());
            }
        } else {
            let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
            headers.insert(
                header::TRAILER,
                HeaderValue::try_from(names.join(", ")).ok()?,
            );
        }
        headers.insert(SLOT, self.slot.0.into());
        headers.insert(TIME, HeaderValue::try_from(format_time(self.time)).ok()?);
        headers.insert(
            SEED,
            HeaderValue::try_from(format!("{:032x}", self.seed)).ok()?,
        );
        let mut http = Request::new(WholeBody {
            data: (!request.body.is_empty()).then(|| request.body.clone()),
            trailers: (!trailers.is_empty()).then_some(trailers),
        });
        *http.method_mut() = method;
        *http.uri_mut() = uri(&request.target, &mut headers, protocol)?;
        *http.headers_mut() = headers;
        Some(http)
    }
}

/// The target as the protocol wants it: HTTP/2 carries the host in it.
pub(super) fn uri(target: &str, headers: &mut HeaderMap, protocol: Protocol) -> Option<Uri> {
    let uri: Uri = target.parse().ok()?;
    if protocol == Protocol::Http1 {
        return Some(uri);
    }
    let host = headers.remove(header::HOST);
    let authority: Authority = match host {
        Some(host) => host.to_str().ok()?.parse().ok()?,
        None => Authority::from_static("localhost"),
    };
    let mut parts = uri.into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert("/".parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Methods for which an empty body is said, too (RFC 9110, section 8.6).
fn takes_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// RFC 3339, UTC, nine digits after the second.
fn format_time(time: AgreedTime) -> String {
    // A u64 of nanoseconds ends in the year 2554, within what the format can say.
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(time.0);
    humantime::format_rfc3339_nanos(time).to_string()
}

/// A body that is all there.
#[derive(Debug, Default)]
pub(super) struct WholeBody {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for WholeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = this
            .data
            .take()
            .map(Frame::data)
            .or_else(|| this.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // With trailers the body is sent in chunks, which an exact size would prevent.
        let data = self.data.as_ref().map_or(0, |data| data.len() as u64);
        if self.trailers.is_none() {
            SizeHint::with_exact(data)
        } else {
            SizeHint::default()
        }
    }
}
