//! Keeps the two processes of a member running, as a kubelet would: first the sidecar, then the
//! app; what dies is started again. Comes in: a planned member. Goes out: [`Event`]s. An app whose
//! state goes with its process starts with an empty folder; one whose state is in its folder starts
//! when the sidecar says that it may. Each start is signalled to the sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use synod_api::StateType;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::commands::{Commands, own};
use super::folder::replace;
use super::member::Member;
use super::ports::somebody_listens;
use super::process::{Backoff, Program, Running, how};
use crate::guard::Guard;
use crate::http::call;

/// How often the app's liveness is asked for.
const LIVENESS_PERIOD: Duration = Duration::from_millis(200);
/// How long an app has to end by itself.
const APP_GRACE: Duration = Duration::from_secs(1);
/// How long a sidecar has to finish what it has begun and to hand over.
const SIDECAR_GRACE: Duration = Duration::from_secs(3);
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// An app that is held back for longer is told of.
const HELD_BACK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(50);

/// Starts in a row that came to nothing, after which something must be wrong.
pub(super) const HOPELESS: u32 = 3;

/// One of the two processes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Sidecar,
    App,
}

/// What happened to a process.
#[derive(Debug)]
pub(super) struct Event {
    /// Number of the member, from 1.
    pub(super) member: u32,
    pub(super) part: Part,
    pub(super) what: What,
}

/// See [`Event`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    Started {
        pid: i32,
    },
    /// It died. `quick_deaths` counts the starts in a row that came to nothing.
    Ended {
        how: String,
        again_in: Duration,
        quick_deaths: u32,
    },
    /// The sidecar wants the app to start over.
    StoppedForRebuild,
    /// This revision of the app is to run along silently.
    StoppedForRevision(u64),
    /// The sidecar does not let the app start yet: why.
    HeldBack(String),
    /// It could not be started; it is tried again.
    CannotStart(String),
    /// The app is there but nobody has listened on its port for that long.
    NotListening(Duration),
}

/// What all keepers share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// This program's file.
    pub(super) own: PathBuf,
    pub(super) guard: Guard,
    /// An app that does not listen after this time is reported.
    pub(super) app_timeout: Duration,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// Keeps a member's processes until it is told to stop.
#[derive(Debug)]
pub(super) struct Keeper {
    sidecar: Task,
    /// A witness has none.
    app: Option<Task>,
    along: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct Task {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What one keeping task works with.
struct Keep {
    member: Arc<Member>,
    part: Part,
    program: Program,
    context: Context,
    stop: watch::Receiver<bool>,
    /// A revision that is started instead of the one that is due, if it may be.
    along: watch::Receiver<Option<u64>>,
    /// Of the app that was started last.
    revision: u64,
    backoff: Backoff,
}

// === impl Keeper ===

impl Keeper {
    /// Starts a member: the sidecar now, the app when the sidecar is up.
    pub(super) fn start(member: Member, command: Option<&[String]>, context: Context) -> Self {
        let member = Arc::new(member);
        let sidecar = member.sidecar(&context.own);
        let app = (!member.witness).then(|| member.app(&context.own, command));
        let (along, asked) = watch::channel(None);
        Self {
            sidecar: Task::start(&member, Part::Sidecar, sidecar, &context, asked.clone()),
            app: app.map(|app| Task::start(&member, Part::App, app, &context, asked)),
            along,
        }
    }

    /// Ends the app and starts this revision of it in its place, if its sidecar lets that run along.
    pub(super) fn run_along(&self, revision: u64) {
        self.along.send_replace(Some(revision));
    }

    /// Ends the member: the sidecar finishes with its app still there, then the app ends.
    pub(super) async fn stop(self) {
        self.sidecar.stop().await;
        if let Some(app) = self.app {
            app.stop().await;
        }
    }
}

impl Task {
    fn start(
        member: &Arc<Member>,
        part: Part,
        program: Program,
        context: &Context,
        along: watch::Receiver<Option<u64>>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let keep = Keep {
            member: member.clone(),
            part,
            program,
            context: context.clone(),
            stop: stopped,
            along,
            revision: 0,
            backoff: Backoff::default(),
        };
        let task = tokio::spawn(async move {
            match part {
                Part::Sidecar => keep.sidecar().await,
                Part::App => keep.app().await,
            }
        });
        Self { stop, task }
    }

    async fn stop(self) {
        // The task may have ended by itself, when its program cannot be started.
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

// === impl Keep ===

impl Keep {
    async fn sidecar(mut self) {
        loop {
            let Ok((mut running, since)) = self.start() else {
                if self.pause().await {
                    continue;
                }
                return;
            };
            tokio::select! {
                status = running.wait() => {
                    if !self.ended(since, status.map_or_else(|it| it.to_string(), how)).await {
                        return;
                    }
                }
                () = stopped(&mut self.stop) => {
                    let _ = running.stop(SIDECAR_GRACE).await;
                    return;
                }
            }
        }
    }

    async fn app(mut self) {
        let admin = self.member.listen.admin;
        let mut stop = self.stop.clone();
        tokio::select! {
            () = until_up(admin) => {}
            () = stopped(&mut stop) => return,
        }
        loop {
            let prepared = tokio::select! {
                result = self.prepare(admin) => result,
                () = stopped(&mut stop) => return,
            };
            let started = match prepared {
                Ok(()) => self.start(),
                Err(problem) => {
                    self.tell(What::CannotStart(problem));
                    Err(())
                }
            };
            let Ok((mut running, since)) = started else {
                if self.pause().await {
                    continue;
                }
                return;
            };
            let mut along = self.along.clone();
            let end = tokio::select! {
                status = running.wait() => Ok(status.map_or_else(|it| it.to_string(), how)),
                () = stopped(&mut stop) => {
                    let _ = running.stop(APP_GRACE).await;
                    return;
                }
                () = self.attend(admin) => Err(What::StoppedForRebuild),
                revision = another(&mut along, self.revision) => {
                    Err(What::StoppedForRevision(revision))
                }
            };
            match end {
                Ok(how) => {
                    if !self.ended(since, how).await {
                        return;
                    }
                }
                Err(what) => {
                    self.tell(what);
                    let _ = running.stop(APP_GRACE).await;
                }
            }
        }
    }

    /// An app starts on a port that its predecessor has left, and from nothing or from the files that
    /// the sidecar has seen to.
    async fn prepare(&mut self, admin: SocketAddr) -> Result<(), String> {
        let port = self.member.app.port();
        let end = Instant::now() + APP_GRACE * 2;
        while somebody_listens(port) {
            if Instant::now() > end {
                return Err(format!(
                    "another program listens on port {port}, which was free before; end it and start again"
                ));
            }
            sleep(RETRY).await;
        }
        let revision = self.choose(admin).await?;
        if self.member.state == StateType::Volume {
            self.until_it_may_start(admin, revision).await;
            return Ok(());
        }
        self.member.folder.empty_app_data().map_err(|error| {
            format!(
                "cannot empty {}: {error}",
                self.member.folder.app_data().display()
            )
        })
    }

    /// Which revision of the app is due, whose command is run then. The sidecar finds that in a file.
    async fn choose(&mut self, admin: SocketAddr) -> Result<u64, String> {
        let revision = self.due(admin).await;
        self.revision = revision;
        let folder = &self.member.folder;
        let commands = Commands::read(folder.group()).map_err(|error| error.to_string())?;
        let Some(command) = commands.of(revision) else {
            return Err(format!(
                "revision {revision} of the app is due, and {} has no command for it: was it changed from \
                 another folder?",
                folder.group().display()
            ));
        };
        self.program = self.member.app(&self.context.own, own(command));
        let path = folder.revision();
        replace(&path, format!("{revision}\n").as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(revision)
    }

    /// A sidecar that does not answer knows nothing. What may not run along is asked for once.
    async fn due(&mut self, admin: SocketAddr) -> u64 {
        let along = *self.along.borrow_and_update();
        let hook = along.map_or_else(
            || "/lifecycle/app-revision".to_owned(),
            |along| format!("/lifecycle/app-revision?revision={along}"),
        );
        loop {
            let answer = call(admin, Method::GET, &hook, CALL_LIMIT).await;
            if let Ok((StatusCode::OK, body)) = answer
                && let Ok(revision) = plain(&body).parse()
            {
                return revision;
            }
            sleep(RETRY).await;
        }
    }

    /// Returns when the sidecar says that the app's files are as they must be. Nothing of the last
    /// start runs any more, so nobody writes to them. A sidecar that does not answer allows nothing.
    async fn until_it_may_start(&self, admin: SocketAddr, revision: u64) {
        let hook = format!("/lifecycle/app-may-start?revision={revision}");
        let begun = Instant::now();
        let mut told = None;
        loop {
            let answer = call(admin, Method::GET, &hook, CALL_LIMIT).await;
            let reason = match answer {
                Ok((StatusCode::OK, _)) => return,
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) => plain(&body),
                Ok((status, _)) => format!("its sidecar answers {status}"),
                // It is being started again, which is told besides.
                Err(_) => {
                    sleep(RETRY).await;
                    continue;
                }
            };
            if begun.elapsed() >= HELD_BACK && told.as_ref() != Some(&reason) {
                self.tell(What::HeldBack(reason.clone()));
                told = Some(reason);
            }
            sleep(LIVENESS_PERIOD).await;
        }
    }

    /// What is done while an app runs; returns when the sidecar wants it to be stopped.
    async fn attend(&self, admin: SocketAddr) {
        let signal = start_signal(admin);
        let slow = async {
            let listens = async {
                while !somebody_listens(self.member.app.port()) {
                    sleep(LIVENESS_PERIOD).await;
                }
            };
            if timeout(self.context.app_timeout, listens).await.is_err() {
                self.tell(What::NotListening(self.context.app_timeout));
            }
        };
        let liveness = until_not_live(admin);
        tokio::pin!(liveness);
        let others = async {
            tokio::join!(signal, slow);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = &mut liveness => {}
            () = others => {}
        }
    }

    /// The error has been told.
    fn start(&self) -> Result<(Running, Instant), ()> {
        match self.program.start(&self.context.own, &self.context.guard) {
            Ok(running) => {
                self.tell(What::Started { pid: running.pid() });
                Ok((running, Instant::now()))
            }
            Err(error) => {
                self.tell(What::CannotStart(error.to_string()));
                Err(())
            }
        }
    }

    /// Reports an end and waits until it is time for the next start; false when there is none.
    async fn ended(&mut self, since: Instant, how: String) -> bool {
        let again_in = self.backoff.after(since.elapsed());
        self.tell(What::Ended {
            how,
            again_in,
            quick_deaths: self.backoff.quick_deaths(),
        });
        self.wait(again_in).await
    }

    /// As [`Keep::ended`], after a start that came to nothing.
    async fn pause(&mut self) -> bool {
        let again_in = self.backoff.after(Duration::ZERO);
        self.wait(again_in).await
    }

    async fn wait(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = sleep(time) => true,
            () = stopped(&mut self.stop) => false,
        }
    }

    fn tell(&self, what: What) {
        // Nobody listens any more only when everything is being stopped.
        let _ = self.context.events.send(Event {
            member: self.member.number,
            part: self.part,
            what,
        });
    }
}

/// A sidecar's reason as a line.
fn plain(body: &[u8]) -> String {
    const LONGEST: usize = 500;
    let text = String::from_utf8_lossy(body);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(LONGEST).collect()
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|it| *it).await;
}

/// Returns when another revision than this one is to run along.
async fn another(along: &mut watch::Receiver<Option<u64>>, than: u64) -> u64 {
    loop {
        if along.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(revision) = along.borrow_and_update().filter(|it| *it != than) {
            return revision;
        }
    }
}

/// Returns when the sidecar's process is up.
async fn until_up(admin: SocketAddr) {
    loop {
        if let Ok((StatusCode::OK, _)) = call(admin, Method::GET, "/live", CALL_LIMIT).await {
            return;
        }
        sleep(RETRY).await;
    }
}

/// Tells the sidecar that the app was started. A sidecar that is just being started hears it later.
async fn start_signal(admin: SocketAddr) {
    while call(admin, Method::POST, "/lifecycle/app-started", CALL_LIMIT)
        .await
        .is_err()
    {
        sleep(RETRY).await;
    }
}

/// Returns when the sidecar says that the app must go. A sidecar that does not answer says nothing.
async fn until_not_live(admin: SocketAddr) {
    loop {
        sleep(LIVENESS_PERIOD).await;
        let answer = call(admin, Method::GET, "/app-health/app/livez", CALL_LIMIT).await;
        if let Ok((StatusCode::SERVICE_UNAVAILABLE, _)) = answer {
            return;
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
