//! The HTTP face of the notes board: a page for people, JSON for programs, and its whole state to be
//! saved and put back.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Form, Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::store::{Draft, NotRestored, Slot, Store};

const PAGE: &str = include_str!("page.html");
const COLORS: [&str; 5] = ["yellow", "pink", "blue", "green", "white"];
const MAX_TEXT: usize = 2000;

pub(super) fn router(store: Store) -> Router {
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/notes", get(list).post(create))
        .route("/notes/{id}", get(read).put(update).delete(remove))
        .route("/synod/applied", get(applied))
        .route(
            "/backup",
            get(save).put(restore).layer(DefaultBodyLimit::disable()),
        )
        .fallback(|| async { Failure::NotFound("there is no such page") })
        .method_not_allowed_fallback(|| async { Failure::Method })
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(store)
}

/// What goes wrong, as clients see it.
#[derive(Debug)]
enum Failure {
    Bad(String),
    NotFound(&'static str),
    Method,
    Storage(rusqlite::Error),
}

type Answer = Result<Response, Failure>;

#[derive(Deserialize)]
struct Paging {
    before: Option<i64>,
    limit: Option<u32>,
}

async fn list(State(store): State<Store>, Query(paging): Query<Paging>) -> Answer {
    let limit = paging.limit.unwrap_or(500).min(10_000);
    let page = on_disk(move || store.page(paging.before.unwrap_or(i64::MAX), limit)).await?;
    Ok(Json(page).into_response())
}

async fn create(State(store): State<Store>, headers: HeaderMap, Input(draft): Input) -> Answer {
    let slot = slot(&headers);
    let note = on_disk(move || store.add(slot, &draft)).await?;
    let location = format!("/notes/{}", note.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(note),
    )
        .into_response())
}

async fn read(State(store): State<Store>, Path(id): Path<i64>) -> Answer {
    match on_disk(move || store.get(id)).await? {
        Some(note) => Ok(Json(note).into_response()),
        None => Err(Failure::NotFound("there is no such note")),
    }
}

async fn update(
    State(store): State<Store>,
    Path(id): Path<i64>,
    headers: HeaderMap,
    Input(draft): Input,
) -> Answer {
    let slot = slot(&headers);
    match on_disk(move || store.set(slot, id, &draft)).await? {
        Some(note) => Ok(Json(note).into_response()),
        None => Err(Failure::NotFound("there is no such note")),
    }
}

async fn remove(State(store): State<Store>, Path(id): Path<i64>, headers: HeaderMap) -> Answer {
    let slot = slot(&headers);
    if on_disk(move || store.remove(slot, id)).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Failure::NotFound("there is no such note"))
    }
}

/// The slot of the last request whose effect is stored.
async fn applied(State(store): State<Store>) -> Answer {
    let slot = on_disk(move || store.applied()).await?;
    Ok(slot.to_string().into_response())
}

async fn save(State(store): State<Store>) -> Answer {
    let backup = on_disk(move || store.backup()).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, backup).into_response())
}

async fn restore(State(store): State<Store>, headers: HeaderMap, backup: Bytes) -> Answer {
    let slot = slot(&headers);
    on_disk(move || store.restore(slot, &backup)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The request's place in the agreed order; none without Synod.
fn slot(headers: &HeaderMap) -> Slot {
    headers.get("synod-slot")?.to_str().ok()?.parse().ok()
}

/// Runs what may wait for the disk where it holds nobody up.
async fn on_disk<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("storage does not panic")
        .map_err(Into::into)
}

/// A note as JSON or as a form.
struct Input(Draft);

#[derive(Deserialize)]
struct JsonNote {
    text: String,
    color: Option<String>,
    done: Option<bool>,
}

#[derive(Deserialize)]
struct FormNote {
    text: String,
    color: Option<String>,
    done: Option<String>,
}

impl<S: Send + Sync> FromRequest<S> for Input {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let form = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|it| it.to_str().ok())
            .is_some_and(|it| it.starts_with("application/x-www-form-urlencoded"));
        let (text, color, done) = if form {
            let Form(FormNote { text, color, done }) = Form::from_request(request, state)
                .await
                .map_err(|error| Failure::Bad(error.body_text()))?;
            (
                text,
                color,
                done.is_some_and(|it| it == "true" || it == "on"),
            )
        } else {
            let body = Bytes::from_request(request, state)
                .await
                .map_err(|error| Failure::Bad(error.body_text()))?;
            let JsonNote { text, color, done } =
                serde_json::from_slice(&body).map_err(|it| Failure::Bad(it.to_string()))?;
            (text, color, done.unwrap_or(false))
        };
        draft(text.trim(), color, done).map(Self)
    }
}

fn draft(text: &str, color: Option<String>, done: bool) -> Result<Draft, Failure> {
    if text.is_empty() || text.chars().count() > MAX_TEXT {
        return Err(Failure::Bad(format!(
            "a note needs a text of 1 to {MAX_TEXT} characters"
        )));
    }
    let color = color.unwrap_or_else(|| COLORS[0].to_owned());
    if !COLORS.contains(&color.as_str()) {
        return Err(Failure::Bad(format!(
            "color must be one of {}",
            COLORS.join(", ")
        )));
    }
    Ok(Draft {
        text: text.to_owned(),
        color,
        done,
    })
}

// === impl Failure ===

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error)
    }
}

impl From<NotRestored> for Failure {
    fn from(error: NotRestored) -> Self {
        match error {
            NotRestored::Bad(error) => Self::Bad(error),
            NotRestored::Storage(error) => Self::Storage(error),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::Bad(error) => (StatusCode::BAD_REQUEST, error),
            Self::NotFound(error) => (StatusCode::NOT_FOUND, error.to_owned()),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "that cannot be done here".to_owned(),
            ),
            Self::Storage(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        (status, Json(json!({ "error": error }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    /// Calls the router without a network.
    async fn call(
        router: &Router,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .body(axum::body::Body::from(body.to_owned()))
            .expect("a request");
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let response = hyper::service::Service::call(&service, request)
            .await
            .expect("infallible");
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn the_same_requests_give_the_same_answers_on_two_boards() {
        let script = [
            ("GET", "/healthz", "", "", 200),
            ("GET", "/", "", "", 200),
            (
                "POST",
                "/notes",
                "application/json",
                r#"{"text":"one","color":"pink"}"#,
                201,
            ),
            (
                "POST",
                "/notes",
                "application/x-www-form-urlencoded",
                "text=two+%26+more&done=on",
                201,
            ),
            (
                "POST",
                "/notes",
                "application/json",
                r#"{"text":"  "}"#,
                400,
            ),
            ("POST", "/notes", "application/json", "{", 400),
            (
                "POST",
                "/notes",
                "application/json",
                r#"{"text":"x","color":"red"}"#,
                400,
            ),
            (
                "PUT",
                "/notes/1",
                "application/json",
                r#"{"text":"uno","done":true}"#,
                200,
            ),
            (
                "PUT",
                "/notes/9",
                "application/json",
                r#"{"text":"x"}"#,
                404,
            ),
            ("DELETE", "/notes/2", "", "", 204),
            ("DELETE", "/notes/2", "", "", 404),
            (
                "POST",
                "/notes",
                "application/json",
                r#"{"text":"three"}"#,
                201,
            ),
            ("GET", "/notes/1", "", "", 200),
            ("GET", "/notes/2", "", "", 404),
            ("GET", "/notes/x", "", "", 400),
            ("GET", "/elsewhere", "", "", 404),
            ("PATCH", "/notes", "", "", 405),
            ("GET", "/synod/applied", "", "", 200),
            ("GET", "/backup", "", "", 200),
            ("PUT", "/backup", "", "{\"last_id\":3}\n", 204),
            ("PUT", "/backup", "", "{}", 400),
            (
                "PUT",
                "/backup",
                "",
                "{\"last_id\":3}\n{\"id\":3,\"text\":\"three\",\"color\":\"yellow\",\"done\":false}\n{\"id\":1,\"text\":\"uno\",\"color\":\"yellow\",\"done\":true}\n",
                204,
            ),
            ("GET", "/notes?limit=1", "", "", 200),
            ("GET", "/notes", "", "", 200),
        ];
        let folders = [
            tempfile::tempdir().expect("a"),
            tempfile::tempdir().expect("b"),
        ];
        let boards = folders
            .each_ref()
            .map(|it| router(Store::open(it.path()).expect("opens")));
        let mut last = String::new();
        for (method, path, kind, body, status) in script {
            let first = call(&boards[0], method, path, kind, body).await;
            let second = call(&boards[1], method, path, kind, body).await;
            assert_eq!(first, second);
            assert_eq!(first.0, status, "{method} {path}: {}", first.1);
            last = first.1;
        }
        let expected = json!({"count": 2, "notes": [
            {"id": 3, "text": "three", "color": "yellow", "done": false},
            {"id": 1, "text": "uno", "color": "yellow", "done": true},
        ]});
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&last).expect("JSON"),
            expected
        );
    }
}
