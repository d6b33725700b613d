//! What the sample app does wrong when its state is saved or put back. A file says which, so that it
//! can be changed from outside, and outlives the process.

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use super::{Body, respond};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// `save` is answered with 500.
    Fail,
    /// `save` is never answered.
    Hang,
    /// `save` declares more than it sends.
    Short,
    /// `restore` is answered with 422, and changes nothing.
    Refuse,
}

impl Misdeed {
    /// What the file says; `None`: the app does everything right.
    pub(super) fn told_by(file: &Path) -> Option<Self> {
        match std::fs::read_to_string(file).ok()?.trim() {
            "fail" => Some(Self::Fail),
            "hang" => Some(Self::Hang),
            "short" => Some(Self::Short),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }

    /// As the file says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Hang => "hang",
            Self::Short => "short",
            Self::Refuse => "refuse",
        }
    }

    /// Its answer to `save`, if that is where it shows.
    pub(super) async fn save(self, state: &Bytes) -> Option<Response<Body>> {
        match self {
            Self::Fail => Some(respond((
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({"error": "told to fail"}),
            ))),
            Self::Hang => std::future::pending().await,
            Self::Short => {
                // Of a length that the server does not know, or it would correct what is declared.
                let frame = Ok::<_, Infallible>(Frame::data(state.clone()));
                let body = StreamBody::new(futures::stream::iter([frame])).boxed();
                let mut response = Response::new(body);
                let declared = HeaderValue::from(state.len() + 10);
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_LENGTH, declared);
                Some(response)
            }
            Self::Refuse => None,
        }
    }
}
