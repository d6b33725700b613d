//! What we say when the app has not answered: problem details (RFC 9457) with stable types.
//!
//! In: what went wrong. Out: a status, a JSON body and our header fields. Calls nothing.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;
use synod_paxos::Slot;

use super::body::ResponseBody;
use super::headers::SYNOD_OUTCOME;

/// Where the documentation of the types is; together with a type's name it is its identity.
const TYPES: &str = "https://synod.dev/problems/";

/// What became of an ordered request, as `Synod-Outcome` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutcomeName {
    Executed,
    Replayed,
    Skipped,
    NotOrdered,
    Unknown,
    ResponseGone,
}

/// An answer of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Last part of its type URI.
    pub(super) kind: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: Cow<'static, str>,
    pub(super) outcome: Option<OutcomeName>,
    /// Of the command, where it has one.
    pub(super) slot: Option<Slot>,
    /// In seconds.
    pub(super) retry_after: Option<u32>,
    /// As `/status` says it.
    pub(super) waiting_on: Option<&'static str>,
}

// === impl OutcomeName ===

impl OutcomeName {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::Skipped => "skipped",
            Self::NotOrdered => "not-ordered",
            Self::Unknown => "unknown",
            Self::ResponseGone => "executed-response-gone",
        }
    }
}

// === impl Problem ===

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            kind,
            title,
            detail: detail.into(),
            outcome: None,
            slot: None,
            retry_after: None,
            waiting_on: None,
        }
    }

    fn with_outcome(mut self, outcome: OutcomeName) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// The slot of the command that this is about.
    pub(super) fn at(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// A refusal before anything was ordered says so where the request would have been ordered.
    pub(super) fn of_ordered(mut self) -> Self {
        self.outcome.get_or_insert(OutcomeName::NotOrdered);
        self
    }

    pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        let title = "The request is malformed";
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", title, detail)
    }

    pub(super) fn header_too_large() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "header-too-large",
            "The header section is too large",
            "send fewer or shorter header fields",
        )
    }

    pub(super) fn too_slow(what: &'static str) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request-too-slow",
            "The request came too slowly",
            what,
        )
    }

    pub(super) fn body_too_large(max_bytes: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            format!("a body may have up to {max_bytes} bytes (ordering.maxBodySize)"),
        )
    }

    pub(super) fn ambiguous_path(detail: String) -> Self {
        let title = "The path is ambiguous";
        Self::new(StatusCode::BAD_REQUEST, "ambiguous-path", title, detail)
    }

    pub(super) fn invalid_key(detail: &'static str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-idempotency-key",
            "The Idempotency-Key is not valid",
            format!("{detail}; a key has 1 to 255 bytes, with or without quotes"),
        )
    }

    pub(super) fn invalid_token() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-min-slot",
            "Synod-Min-Slot is not valid",
            "send back what Synod-Slot said, such as 1042;group=\"5f2c9a1b\", or a bare number",
        )
    }

    pub(super) fn other_history() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "other-history",
            "The token belongs to another history",
            "Synod-Min-Slot names another group than this one: forget the token and read again",
        )
    }

    pub(super) fn expectation_failed() -> Self {
        Self::new(
            StatusCode::EXPECTATION_FAILED,
            "expectation-failed",
            "The expectation cannot be met",
            "the only Expect taken is 100-continue",
        )
    }

    pub(super) fn connect() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "connect-not-supported",
            "CONNECT is not supported",
            "this is not a proxy to elsewhere",
        )
    }

    pub(super) fn upgrade_refused() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "upgrade-refused",
            "No upgrades on this route",
            "only a route with `streaming: true` takes WebSocket and other upgrades",
        )
    }

    pub(super) fn method_not_allowed(detail: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The method is not allowed",
            detail,
        )
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is nothing here",
            "below /.well-known/synod/ only `outcome` is there",
        )
    }

    pub(super) fn no_group() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no-group",
            "The group has not been formed yet",
            "its members have not agreed on a first configuration",
        )
        .retry_after(1)
        .of_ordered()
    }

    /// Definite (rule X3): it is not ordered and never will be.
    pub(super) fn not_ordered(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not-ordered",
            "The request was not executed and never will be",
            detail,
        )
        .retry_after(1)
        .with_outcome(OutcomeName::NotOrdered)
    }

    /// Rule K2: no copy gets past this slot.
    pub(super) fn stuck(slot: Slot) -> Self {
        let detail = format!(
            "the copies fail at the request at slot {slot}, and nothing is taken before it is decided what \
             becomes of that"
        );
        Self {
            waiting_on: Some("poison"),
            ..Self::not_ordered(detail)
        }
    }

    pub(super) fn unknown() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "unknown",
            "It is not known whether the request was or will be executed",
            "retry only with the same Idempotency-Key, or ask /.well-known/synod/outcome with it",
        )
        .with_outcome(OutcomeName::Unknown)
    }

    pub(super) fn skipped() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "skipped",
            "The request was skipped",
            "it made every copy of the app fail and will never be executed again",
        )
        .with_outcome(OutcomeName::Skipped)
    }

    pub(super) fn response_gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "executed-response-gone",
            "The request was executed; its response is gone",
            "no member that could be asked has the stored response; the request is not executed again",
        )
        .with_outcome(OutcomeName::ResponseGone)
    }

    pub(super) fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "The Idempotency-Key was used for another request",
            "method, target and body must be the same under one key; this one was not executed",
        )
        .with_outcome(OutcomeName::NotOrdered)
    }

    pub(super) fn principal_changed() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-principal-changed",
            "The Idempotency-Key belongs to another principal",
            "the request was sent before with other credentials; this one was not executed",
        )
        .with_outcome(OutcomeName::NotOrdered)
    }

    /// Of the outcome endpoint: nothing is told about other principals' requests.
    pub(super) fn key_of_another() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-principal-changed",
            "The Idempotency-Key belongs to another principal",
            "ask with the credentials that the request was sent with",
        )
    }

    pub(super) fn unavailable(detail: &'static str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "No copy can answer now",
            detail,
        )
        .retry_after(1)
    }

    pub(super) fn too_many_streams(most: usize) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-streams",
            "Too many streams are open",
            format!("this member keeps up to {most} streams open; try again, or another member"),
        )
        .retry_after(1)
    }

    pub(super) fn app_failed() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "app-failed",
            "The app did not answer",
            "the connection to the app was lost before its response",
        )
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Its JSON.
    pub(super) fn body(&self) -> Bytes {
        let mut body = json!({
            "type": format!("{TYPES}{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(outcome) = self.outcome {
            body["outcome"] = outcome.as_str().into();
        }
        if let Some(slot) = self.slot {
            body["slot"] = slot.0.into();
        }
        if let Some(on) = self.waiting_on {
            body["waiting_on"] = on.into();
        }
        Bytes::from(body.to_string())
    }

    /// Without `Synod-Slot` and `Synod-Member`.
    pub(super) fn response(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(outcome) = self.outcome {
            let value = HeaderValue::from_static(outcome.as_str());
            headers.insert(SYNOD_OUTCOME.clone(), value);
        }
        if matches!(self.kind, "malformed-request" | "request-too-slow") {
            // Where the next request begins, if there is one, is anybody's guess.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        response
    }
}
