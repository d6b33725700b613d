//! The sample app: registers, counters and lists over HTTP, in memory or in a folder. An ordinary
//! single-instance program, whose answers say enough to check histories.
//!
//! | request | effect | answer |
//! |---|---|---|
//! | `PUT /r/{key}`, body a number | overwrite | `{"version":n,"value":v}` |
//! | `POST /c/{key}`, body a number | add | `{"version":n,"value":v}` |
//! | `POST /l/{key}`, body a number | append | `{"version":n}` |
//! | `GET /r|c|l/{key}` | none | `{"version":n,"value":v}`, with `null` and 404 when never written |
//! | `GET /dump` | none | all keys |
//! | `GET /state` | none | the whole state, to be put back |
//! | `PUT /state` | that is the state | |
//! | `GET /applied` | none | the slot of the last write that is kept |
//! | `GET /counts` | none | writes and restores of this process |
//! | `POST /which` | none | `{"revision":n}`, which it was started with |
//! | `POST /echo` | counts | what arrived: method, target, headers, length of the body |
//!
//! It can be made to be wrong, for the sake of testing the tests ([`Bug`]), of what depends on its
//! saving its state ([`Misdeed`]), and of requests that are its end ([`Fate`]).

mod fate;
mod misdeed;
mod state;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use synod_history::Observed;
use tokio::net::TcpListener;

pub use fate::Fate;
pub use misdeed::Misdeed;
use state::{Cell, Kept, State};

/// What the app does wrong at every so many writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    #[default]
    None,
    /// Answers without keeping the write.
    Lose(u64),
    /// Applies the write once more than it says.
    Twice(u64),
    /// Answers reads from what was there before the last write of the key.
    Stale(u64),
}

/// How the app is to behave.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Added to each write, before it.
    pub delay: Duration,
    /// Between a write and its answer: who is killed then has kept what nobody knows of.
    pub lag: Duration,
    /// Where the state is kept; `None`: in memory.
    pub keep: Option<PathBuf>,
    /// The file that tells which [`Misdeed`] is to be done.
    pub misdeeds: Option<PathBuf>,
    /// The file that tells which requests are its end ([`Fate`]).
    pub fates: Option<PathBuf>,
    /// See [`Bug`].
    pub bug: Bug,
    /// What it says that it is.
    pub revision: u64,
    /// The status code with which it does.
    pub which: u16,
}

struct App {
    options: Options,
    state: Mutex<State>,
}

type Answer = (StatusCode, Value);
type Body = BoxBody<Bytes, Infallible>;

/// Serves on `listener` until the process ends.
pub async fn serve(listener: TcpListener, options: Options) -> std::io::Result<()> {
    let state = State::open(options.keep.as_deref())?;
    let app = Arc::new(App {
        options,
        state: Mutex::new(state),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(app.handle(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                // Copies are compared byte by byte.
                .auto_date_header(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Where an app told by its environment is to listen.
pub fn address_from_environment() -> anyhow::Result<SocketAddr> {
    let port = std::env::var("PORT").map_err(|_| anyhow::anyhow!("PORT is not set"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?)))
}

/// Reads the answer to `GET /dump`.
pub fn parse_dump(body: &[u8]) -> anyhow::Result<BTreeMap<String, Observed>> {
    let dump: BTreeMap<String, Value> = serde_json::from_slice(body)?;
    let keys = dump.into_iter();
    keys.map(|(key, cell)| Ok((key, parse_cell(&cell)?)))
        .collect()
}

/// Reads the answer to a request on one key.
pub fn parse_cell(cell: &Value) -> anyhow::Result<Observed> {
    let version = cell.get("version").and_then(Value::as_u64);
    let value = match cell.get("value") {
        None => None,
        Some(Value::Null) => Some(synod_history::Value::Absent),
        Some(Value::Number(number)) => {
            let number = number.as_u64();
            let number = number.ok_or_else(|| anyhow::anyhow!("not a number: {cell}"))?;
            Some(synod_history::Value::Number(number))
        }
        Some(Value::Array(list)) => {
            let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
            let numbers = numbers.ok_or_else(|| anyhow::anyhow!("not a list: {cell}"))?;
            Some(synod_history::Value::List(numbers))
        }
        Some(_) => anyhow::bail!("not an answer of the sample app: {cell}"),
    };
    anyhow::ensure!(version.is_some(), "no version in {cell}");
    Ok(Observed { version, value })
}

// === impl App ===

impl App {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return respond((StatusCode::BAD_REQUEST, json!({"error": "body"})));
        };
        let body = body.to_bytes();
        let write = !matches!(parts.method, Method::GET | Method::HEAD);
        if write && !self.options.delay.is_zero() {
            tokio::time::sleep(self.options.delay).await;
        }
        let path = parts.uri.path();
        if write && let Some(file) = &self.options.fates {
            Fate::meet(file, path).await;
        }
        let slot = slot(&parts);
        if path == "/echo" {
            return respond(self.echo(&parts, body.len()));
        }
        if path == "/dump" && parts.method == Method::GET {
            return respond((StatusCode::OK, self.dump()));
        }
        match (&parts.method, path) {
            (&Method::GET, "/state") => return self.save().await,
            (&Method::PUT, "/state") => return respond(self.restore(slot, &body)),
            (&Method::GET, "/applied") => {
                return respond((StatusCode::OK, json!(self.state().kept.slot)));
            }
            (&Method::POST, "/which") => {
                let status = StatusCode::from_u16(self.options.which).unwrap_or_default();
                return respond((status, json!({"revision": self.options.revision})));
            }
            (&Method::GET, "/counts") => return respond((StatusCode::OK, self.counts())),
            _ => {}
        }
        let kind = path.get(..3).unwrap_or("");
        let key = path.trim_start_matches('/');
        let at = (slot, key);
        let answer = match (&parts.method, kind) {
            (&Method::GET, "/r/" | "/c/" | "/l/") => self.get(key),
            (&Method::PUT, "/r/") => self.write(at, &body, |_, number| json!(number)),
            (&Method::POST, "/c/") => self.write(at, &body, |old, number| {
                json!(old.as_u64().unwrap_or(0).wrapping_add(number))
            }),
            (&Method::POST, "/l/") => self.write(at, &body, |old, number| {
                let mut list = old.as_array().cloned().unwrap_or_default();
                list.push(json!(number));
                Value::Array(list)
            }),
            _ => (StatusCode::NOT_FOUND, json!({"error": "no such resource"})),
        };
        if write && !self.options.lag.is_zero() {
            tokio::time::sleep(self.options.lag).await;
        }
        respond(answer)
    }

    async fn save(&self) -> Response<Body> {
        let text = serde_json::to_vec(&self.state().kept).expect("keys are strings");
        let text = Bytes::from(text);
        if let Some(misdeed) = self.misdeed()
            && let Some(response) = misdeed.save(&text).await
        {
            return response;
        }
        Response::new(Full::new(text).boxed())
    }

    fn restore(&self, slot: Option<u64>, body: &[u8]) -> Answer {
        if self.misdeed() == Some(Misdeed::Refuse) {
            let error = json!({"error": "told to refuse"});
            return (StatusCode::UNPROCESSABLE_ENTITY, error);
        }
        let Ok(kept) = serde_json::from_slice::<Kept>(body) else {
            return (StatusCode::BAD_REQUEST, json!({"error": "no state"}));
        };
        match self.state().replace(slot, kept) {
            Ok(()) => (StatusCode::OK, json!({})),
            Err(error) => failed(&error),
        }
    }

    fn misdeed(&self) -> Option<Misdeed> {
        Misdeed::told_by(self.options.misdeeds.as_deref()?)
    }

    fn counts(&self) -> Value {
        let state = self.state();
        json!({"writes": state.writes, "restored": state.restored})
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &str) -> Answer {
        let mut state = self.state();
        state.reads += 1;
        let stale =
            matches!(self.options.bug, Bug::Stale(every) if state.reads.is_multiple_of(every));
        let cells = if stale {
            &state.before
        } else {
            &state.kept.cells
        };
        match cells.get(key) {
            Some(cell) => (StatusCode::OK, cell.json()),
            None => (StatusCode::NOT_FOUND, Cell::default().json()),
        }
    }

    fn write(
        &self,
        (slot, key): (Option<u64>, &str),
        body: &[u8],
        change: impl Fn(&Value, u64) -> Value,
    ) -> Answer {
        let number = std::str::from_utf8(body)
            .ok()
            .and_then(|text| u64::from_str(text).ok());
        let Some(number) = number else {
            return (
                StatusCode::UNPROCESSABLE_ENTITY,
                json!({"error": "the body is no number"}),
            );
        };
        let mut state = self.state();
        state.writes += 1;
        let old = state.kept.cells.get(key).cloned().unwrap_or_default();
        let after = old.changed(number, &change);
        let kept = match self.options.bug {
            Bug::Lose(every) if state.writes.is_multiple_of(every) => old.clone(),
            Bug::Twice(every) if state.writes.is_multiple_of(every) => {
                after.changed(number, &change)
            }
            _ => after.clone(),
        };
        state.before.insert(key.to_owned(), old);
        if let Err(error) = state.keep(slot, key, kept) {
            return failed(&error);
        }
        let mut answer = after.json();
        if after.value.is_array() {
            answer = json!({"version": after.version});
        }
        (StatusCode::OK, answer)
    }

    fn dump(&self) -> Value {
        let state = self.state();
        let cells = state.kept.cells.iter();
        cells
            .map(|(key, cell)| (key.clone(), cell.json()))
            .collect()
    }

    fn echo(&self, parts: &http::request::Parts, length: usize) -> Answer {
        let mut state = self.state();
        state.kept.echoes += 1;
        let headers: Vec<Value> = parts
            .headers
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let answer = json!({
            "count": state.kept.echoes,
            "method": parts.method.as_str(),
            "target": parts.uri.to_string(),
            "headers": headers,
            "length": length,
        });
        (StatusCode::OK, answer)
    }
}

/// The request's place in the agreed order, if it has one.
fn slot(parts: &http::request::Parts) -> Option<u64> {
    parts.headers.get("synod-slot")?.to_str().ok()?.parse().ok()
}

fn failed(error: &std::io::Error) -> Answer {
    let error = json!({"error": error.to_string()});
    (StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn respond((status, body): Answer) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string()));
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

impl FromStr for Bug {
    type Err = anyhow::Error;

    /// `lose:50`, `twice:50` or `stale:50`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, every) = text.split_once(':').unwrap_or((text, "50"));
        let every = every.parse()?;
        match name {
            "lose" => Ok(Self::Lose(every)),
            "twice" => Ok(Self::Twice(every)),
            "stale" => Ok(Self::Stale(every)),
            _ => anyhow::bail!("no such bug: {name}"),
        }
    }
}
