//! The app beside each member, and whoever starts it and starts it again: a list of lines in memory.
//!
//! `POST /lines` adds its body and answers with how many there are, then padding of as many bytes as the
//! header `pad` says. `GET /lines` shows all. `GET /much` answers with as many bytes as `pad` says, as fast
//! as they are taken. `POST /sink` answers once it may read.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use synod_sidecar::apply::ApplyHandle;
use synod_sidecar::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client;
use crate::group::{ADMIN, APP};

/// How often the app is looked after.
const LOOK: Duration = Duration::from_millis(100);
/// Of an answer that is as long as one likes.
const PIECE: usize = 32 << 10;

/// One copy, over all its starts.
#[derive(Default)]
pub(crate) struct Copy {
    /// The state: gone with the process.
    pub(crate) lines: RefCell<Vec<String>>,
    pub(crate) starts: Cell<u32>,
    /// What it does to the connection of the next line.
    pub(crate) breaks: Cell<Option<Break>>,
    /// Connections that it broke.
    pub(crate) broken: Cell<u32>,
    /// Bytes of long answers that it was rid of.
    pub(crate) produced: Cell<u64>,
    /// Bytes that it read of what goes into the sink.
    pub(crate) sunk: Cell<u64>,
    /// It reads what goes into the sink.
    pub(crate) reads: watch::Sender<bool>,
}

/// Where it closes the connection with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Before it has done anything.
    BeforeExecution,
    /// Afterwards, without an answer.
    BeforeAnswer,
    /// In the middle of the answer's body.
    InAnswer,
}

/// The answer, or its first half and then the end of the connection; or nothing of an answer.
struct Answer {
    left: u64,
    breaks: bool,
    copy: Option<Rc<Copy>>,
    head: Option<Bytes>,
}

/// The connection is broken on purpose.
#[derive(Debug, thiserror::Error)]
#[error("broken off")]
struct Broken;

/// Starts the app, looks after it as a kubelet would, and starts it again.
pub(crate) async fn keep(copy: Rc<Copy>, apply: ApplyHandle) -> Infallible {
    loop {
        copy.lines.borrow_mut().clear();
        copy.starts.set(copy.starts.get() + 1);
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], APP)));
        let listener = listener.await.expect("its port is free");
        apply.app_started();
        tokio::select! {
            never = serve(listener, copy.clone()) => match never {},
            () = until_it_must_go() => {}
        }
        sleep(LOOK).await;
    }
}

async fn until_it_must_go() {
    loop {
        sleep(LOOK).await;
        let asked = client::get(&format!("127.0.0.1:{ADMIN}"), "/app-health/app/livez").await;
        if asked.is_ok_and(|it| it.status == StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
    }
}

async fn serve(listener: TcpListener, copy: Rc<Copy>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        let copy = copy.clone();
        connections.spawn_local(async move {
            let service = service_fn(|request| answer(copy.clone(), request));
            let served = http1::Builder::new()
                // What the simulated sockets hold is counted in writes.
                .max_buf_size(2 * PIECE)
                .serve_connection(TokioIo::new(stream), service);
            // It is the other side's affair how a connection ends, or it was broken on purpose.
            let _ = served.await;
        });
    }
}

async fn answer(copy: Rc<Copy>, request: Request<Incoming>) -> Result<Response<Answer>, Broken> {
    let pad = request.headers().get("pad");
    let pad = pad
        .and_then(|it| it.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let words = |text: String| Answer {
        head: Some(text.into()),
        left: 0,
        breaks: false,
        copy: None,
    };
    let answer = match (request.method(), request.uri().path()) {
        (&Method::POST, "/lines") => {
            let line = request.into_body().collect().await.map_err(|_| Broken)?;
            let line = String::from_utf8_lossy(&line.to_bytes()).into_owned();
            let breaks = copy.breaks.take();
            copy.broken
                .set(copy.broken.get() + u32::from(breaks.is_some()));
            if breaks == Some(Break::BeforeExecution) {
                return Err(Broken);
            }
            let id = line.split(' ').next().unwrap_or_default().to_owned();
            copy.lines.borrow_mut().push(id);
            if breaks == Some(Break::BeforeAnswer) {
                return Err(Broken);
            }
            let mut answer = words(copy.lines.borrow().len().to_string());
            answer.left = pad.max(PIECE as u64 * u64::from(breaks.is_some()));
            answer.breaks = breaks.is_some();
            answer
        }
        (&Method::GET, "/much") => Answer {
            copy: Some(copy),
            left: pad,
            ..words(String::new())
        },
        (&Method::POST, "/sink") => {
            let mut body = request.into_body();
            let mut reads = copy.reads.subscribe();
            loop {
                let may_read = reads.wait_for(|it| *it).await;
                drop(may_read.expect("the copy has the sender"));
                let Some(frame) = body.frame().await else {
                    break;
                };
                let data = frame.map_err(|_| Broken)?.into_data().unwrap_or_default();
                copy.sunk.set(copy.sunk.get() + data.len() as u64);
            }
            words(copy.sunk.get().to_string())
        }
        _ => words(copy.lines.borrow().join(",")),
    };
    Ok(Response::new(answer))
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(head) = self.head.take() {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.breaks {
            self.left = 0;
            return Poll::Ready(Some(Err(Broken)));
        }
        let piece = self.left.min(PIECE as u64);
        self.left -= piece;
        if let Some(copy) = &self.copy {
            copy.produced.set(copy.produced.get() + piece);
        }
        Poll::Ready(Some(Ok(Frame::data(vec![b'.'; piece as usize].into()))))
    }
}
