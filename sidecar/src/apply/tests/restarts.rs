//! Apps, processes and members that die and come back.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http_body_util::Full;
use tokio::sync::oneshot;

use super::*;
use crate::app::Client;
use crate::config::Protocol;

#[tokio::test]
async fn an_app_that_starts_anew_executes_the_whole_log_and_nobody_is_answered_twice() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    for sequence in 1..=3 {
        process.choose(sequence, &request());
    }
    soon(process.handle.wait_applied(Slot(3))).await;
    app.on_next(Next::Hang);
    app.listen(8);
    process.handle.app_started();
    let status = process.status(|status| status.rebuilding).await;
    assert!(!status.serving && status.app_stalled);
    assert_eq!((status.applied, status.sent), (Slot(0), Slot(3)));
    let applied = process.handle.wait_applied(Slot(1));
    assert!(
        applied.now_or_never().is_none(),
        "the new app has not seen it"
    );
    app.shared.go_on.notify_one();
    process.status(|status| status.serving).await;
    let expected = [(7, 1), (7, 2), (7, 3), (8, 1), (8, 2), (8, 3)];
    assert_eq!(app.executed(), expected);
    assert_eq!(body(&process.answered(2).await), "2");
    process.shut_down().await;
}

#[tokio::test]
async fn after_an_unknown_end_the_app_must_be_stopped_and_the_client_still_gets_its_answer() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1, &request());
    process.answered(1).await;
    app.on_next(Next::BreakOff);
    process.choose(2, &request());
    let status = process.status(|status| status.condemned.is_some()).await;
    assert!(!status.serving);
    app.listen(0);
    process.status(|status| status.condemned.is_none()).await;
    app.listen(8);
    assert_eq!(process.answered(2).await.outcome, Outcome::Executed);
    assert_eq!(app.executed(), [(7, 1), (8, 1), (8, 2)]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_process_killed_between_requests_goes_on_with_the_same_app() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1, &keyed("k"));
    process.choose(2, &request());
    process.answered(2).await;
    process.kill().await;

    let process = Process::begun(data.path(), &log, app.clone());
    process.status(|status| status.serving).await;
    process.choose(3, &request());
    process.choose(4, &keyed("k"));
    assert_eq!(body(&process.answered(3).await), "3");
    assert_eq!(app.executed(), [(7, 1), (7, 2), (7, 3)]);
    let first = process.answered(1).await;
    assert_eq!(first.outcome, Outcome::Executed);
    assert!(
        first.response.is_none(),
        "its response went with the process"
    );
    let repeat = process.answered(4).await;
    assert_eq!((repeat.slot, repeat.outcome), (Slot(1), Outcome::Replayed));
    process.shut_down().await;
}

#[tokio::test]
async fn a_process_killed_with_a_request_in_flight_has_the_app_rebuilt() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1, &request());
    process.answered(1).await;
    app.on_next(Next::Hang);
    process.choose(2, &request());
    process.status(|status| status.sent == Slot(2)).await;
    process.kill().await;

    let process = Process::begun(data.path(), &log, app.clone());
    process.status(|status| status.condemned.is_some()).await;
    app.listen(8);
    process.status(|status| status.serving).await;
    assert_eq!(app.executed(), [(7, 1), (8, 1), (8, 2)]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_process_that_is_asked_to_end_leaves_nothing_in_flight() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let mut process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.status(|status| status.serving).await;
    app.on_next(Next::Hang);
    process.choose(1, &request());
    process.choose(2, &request());
    process.status(|status| status.sent == Slot(1)).await;
    process.feed = None;
    tokio::task::yield_now().await;
    assert!(!process.task.is_finished());
    app.shared.go_on.notify_one();
    process.shut_down().await;
    assert_eq!(app.executed(), [(7, 1)]);

    let process = Process::begun(data.path(), &log, app.clone());
    process.status(|status| status.applied == Slot(2)).await;
    assert_eq!(app.executed(), [(7, 1), (7, 2)]);
    process.shut_down().await;
}

/// An app behind HTTP, killed again and again: each of its lives executes the log from its first
/// slot on, in order and without a repeat, and in the end the last one has all of it.
#[tokio::test]
async fn an_app_behind_http_that_is_killed_again_and_again_ends_up_with_all_of_the_log() {
    const DEATHS: u64 = 14;
    const REQUESTS: u64 = 20 * (DEATHS + 1);
    let data = tempfile::tempdir().unwrap();
    let lives = Lives::default();
    // Held all the time: a port that is free between two lives could become anybody's.
    let port = socket("127.0.0.1:0".parse().unwrap());
    let address = port.local_addr().unwrap();
    let log = Log::default();
    let client = Client::new(address, Protocol::Http1, handle::spool_dir(data.path()));
    let process = Process::begun(data.path(), &log, client);
    let mut dice = 12_345_u64;
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) % below
    };
    let mut chosen = 0;
    let mut choose_more = || {
        for _ in 0..20 {
            chosen += 1;
            process.choose(chosen, &request());
        }
    };
    let mut hit = BTreeSet::new();
    for death in 1..=DEATHS {
        choose_more();
        // Every time near other requests: one that fails often is tried again only after a pause.
        let tens = loop {
            let tens = 1 + roll(2 * death);
            if hit.insert(tens) {
                break tens;
            }
        };
        let end = End {
            slot: 10 * tens - roll(5),
            answers: roll(2) == 0,
        };
        let (life, dying) = live(address, lives.clone(), Some(end));
        if roll(2) == 0 {
            process.handle.app_started();
        }
        process.status(|status| status.condemned.is_none()).await;
        let reached = process.status(|status| status.condemned.is_some());
        tokio::select! {
            died = soon(dying) => died.unwrap(),
            _ = reached => {}
        }
        // Somewhere within what happens then.
        for _ in 0..roll(50) {
            tokio::task::yield_now().await;
        }
        kill(life).await;
    }
    choose_more();
    loop {
        let (life, _) = live(address, lives.clone(), None);
        process.status(|status| status.condemned.is_none()).await;
        let wanted =
            |status: &ApplyStatus| status.condemned.is_some() || status.applied == Slot(REQUESTS);
        if process.status(wanted).await.condemned.is_none() {
            break;
        }
        kill(life).await;
    }
    for sequence in 1..=REQUESTS {
        let answer = process.answered(sequence).await;
        assert_eq!(
            (answer.slot, answer.outcome),
            (Slot(sequence), Outcome::Executed)
        );
        assert_eq!(body(&answer), sequence.to_string());
    }
    let lives = lives.lock().unwrap().clone();
    assert!(
        lives.len() as u64 > DEATHS,
        "it was killed: {}",
        lives.len()
    );
    for executed in &lives {
        let expected: Vec<u64> = (1..=executed.len() as u64).collect();
        assert_eq!(*executed, expected);
    }
    assert_eq!(lives.last().unwrap().len() as u64, REQUESTS);
    process.shut_down().await;
}

/// The slots that each life of an app has executed.
type Lives = Arc<Mutex<Vec<Vec<u64>>>>;

/// When an app is to be killed.
#[derive(Clone, Copy)]
struct End {
    /// After this one was executed.
    slot: u64,
    /// And answered; else it stays in flight.
    answers: bool,
}

/// A bound socket that others may be bound beside.
fn socket(address: SocketAddr) -> tokio::net::TcpSocket {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// All its sockets close.
async fn kill(life: JoinHandle<()>) {
    life.abort();
    let _ = life.await;
}

/// One life of an app that notes the slots it executes, and says when it is to be killed.
fn live(
    address: SocketAddr,
    lives: Lives,
    end: Option<End>,
) -> (JoinHandle<()>, oneshot::Receiver<()>) {
    let listener = socket(address).listen(64).unwrap();
    let life = {
        let mut lives = lives.lock().unwrap();
        lives.push(Vec::new());
        lives.len() - 1
    };
    let (dies, dying) = oneshot::channel();
    let dies = Arc::new(Mutex::new(Some(dies)));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (lives, dies) = (lives.clone(), dies.clone());
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                let (lives, dies) = (lives.clone(), dies.clone());
                async move {
                    let _: &hyper::body::Incoming = request.body();
                    let text = request.headers()["synod-slot"].to_str().unwrap().to_owned();
                    let slot = text.parse().unwrap();
                    lives.lock().unwrap()[life].push(slot);
                    if let Some(end) = end.filter(|end| end.slot == slot) {
                        if let Some(dies) = dies.lock().unwrap().take() {
                            // It may have been condemned before.
                            let _ = dies.send(());
                        }
                        if !end.answers {
                            std::future::pending::<()>().await;
                        }
                    }
                    let body = Full::new(Bytes::from(text));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                }
            });
            connections.spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    (task, dying)
}
