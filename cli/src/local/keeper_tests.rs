//! A member kept by the real keeper, with real processes: the test itself answers for the sidecar on
//! its admin port, and a script stands for this program.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axum::Router;
use axum::routing::{get, post};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use synod_sidecar::config::Listen;

use super::*;
use crate::local::folder::{Folder, Group};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Admin {
    not_live: AtomicBool,
    /// Apps with a volume wait.
    hold: AtomicBool,
    /// How often it was asked whether an app may start.
    asked: AtomicU32,
    signals: AtomicU32,
}

struct Stage {
    keeper: Keeper,
    events: mpsc::UnboundedReceiver<Event>,
    admin: Arc<Admin>,
    member: Member,
    _folder: Folder,
    _parent: tempfile::TempDir,
}

async fn serve_admin(admin: Arc<Admin>) -> SocketAddr {
    let (liveness, start, signals) = (admin.clone(), admin.clone(), admin);
    let router = Router::new()
        .route("/live", get(|| async {}))
        .route(
            "/app-health/app/livez",
            get(move || async move {
                if liveness.not_live.swap(false, Ordering::SeqCst) {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::OK
                }
            }),
        )
        .route(
            "/lifecycle/app-may-start",
            get(move || async move {
                start.asked.fetch_add(1, Ordering::SeqCst);
                if start.hold.load(Ordering::SeqCst) {
                    (StatusCode::SERVICE_UNAVAILABLE, "its volume is\nput back\n")
                } else {
                    (StatusCode::OK, "")
                }
            }),
        )
        .route("/lifecycle/app-revision", get(|| async { "0\n" }))
        .route(
            "/lifecycle/app-started",
            post(move || async move {
                signals.signals.fetch_add(1, Ordering::SeqCst);
            }),
        );
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("free");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

impl Stage {
    async fn start(app: &str) -> Self {
        Self::with(StateType::Ephemeral, app, false).await
    }

    async fn with(state: StateType, app: &str, hold: bool) -> Self {
        let parent = tempfile::tempdir().expect("folder");
        let own = PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/local/keeper_tests.sh"
        ));
        let path = parent.path().join("data");
        let folder = Folder::open(Some(&path), Group::new("notes", 1, None)).expect("made");
        let admin = Arc::new(Admin::default());
        admin.hold.store(hold, Ordering::SeqCst);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let member = Member {
            number: 1,
            name: "notes-1".to_owned(),
            listen: Listen {
                http: nowhere,
                peer: nowhere,
                admin: serve_admin(admin.clone()).await,
            },
            app: nowhere,
            witness: false,
            state,
            folder: folder.member(1).expect("made"),
        };
        let (sender, events) = mpsc::unbounded_channel();
        let context = Context {
            guard: Guard::start(&own, None).expect("a guard"),
            own,
            app_timeout: Duration::from_secs(30),
            events: sender,
        };
        let command = ["sh", "-c", app].map(str::to_owned);
        Commands::begin(folder.path(), Some(command.to_vec())).expect("noted");
        Self {
            keeper: Keeper::start(member.clone(), Some(&command), context),
            events,
            admin,
            member,
            _folder: folder,
            _parent: parent,
        }
    }

    async fn event(&mut self) -> Event {
        timeout(LONG, self.events.recv())
            .await
            .expect("something happens")
            .expect("the keeper lives")
    }

    async fn started(&mut self, part: Part) -> i32 {
        let event = self.event().await;
        assert_eq!(event.part, part, "{event:?}");
        match event.what {
            What::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    async fn signals(&self, count: u32) {
        until(|| self.admin.signals.load(Ordering::SeqCst) == count).await;
    }

    fn data(&self, name: &str) -> std::path::PathBuf {
        self.member.folder.app_data().join(name)
    }
}

async fn until(mut it: impl FnMut() -> bool) {
    let wait = async {
        while !it() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, wait).await.expect("it comes about");
}

fn read_pid(path: &Path) -> i32 {
    std::fs::read_to_string(path)
        .expect("a pid file")
        .trim()
        .parse()
        .expect("a number")
}

fn is_alive(pid: i32) -> bool {
    // An ended process that nobody has waited for yet is still listed.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|it| {
        !it.rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it was there");
}

#[tokio::test]
async fn the_sidecar_comes_first_and_each_app_start_is_signalled() {
    let mut stage = Stage::start("exec sleep 1000").await;
    let sidecar = stage.started(Part::Sidecar).await;
    let app = stage.started(Part::App).await;
    assert_eq!(read_pid(&stage.member.folder.pid("sidecar")), sidecar);
    assert_eq!(read_pid(&stage.member.folder.pid("app")), app);
    stage.signals(1).await;

    kill(sidecar);
    let event = stage.event().await;
    assert_eq!(event.part, Part::Sidecar);
    assert!(
        matches!(&event.what, What::Ended { how, .. } if how.contains("signal 9")),
        "{event:?}"
    );
    let again = stage.started(Part::Sidecar).await;
    assert_ne!(again, sidecar);
    assert!(is_alive(app), "an app outlives its sidecar");

    let (sidecar_file, app_file) = (
        stage.member.folder.pid("sidecar"),
        stage.member.folder.pid("app"),
    );
    stage.keeper.stop().await;
    for pid in [again, app] {
        assert!(test_kill_process(Pid::from_raw(pid).expect("a pid")).is_err());
    }
    assert!(!sidecar_file.exists() && !app_file.exists());
}

#[tokio::test]
async fn an_app_that_dies_takes_its_workers_along_and_starts_with_an_empty_folder() {
    let mut stage = Stage::start(
        "test -e $DATA_DIR/worker && exit 9; sleep 1000 & echo $! > $DATA_DIR/worker; wait",
    )
    .await;
    stage.started(Part::Sidecar).await;
    let app = stage.started(Part::App).await;
    let worker_file = stage.data("worker");
    until(|| std::fs::read_to_string(&worker_file).is_ok_and(|it| it.ends_with('\n'))).await;
    let worker = read_pid(&worker_file);
    assert!(is_alive(worker));
    kill(app);
    let event = stage.event().await;
    assert!(
        matches!(&event.what, What::Ended { how, .. } if how.contains("signal 9")),
        "{event:?}"
    );
    until(|| !is_alive(worker)).await;
    stage.started(Part::App).await;
    let other = format!("{worker}\n");
    until(|| {
        std::fs::read_to_string(&worker_file).is_ok_and(|it| it.ends_with('\n') && it != other)
    })
    .await;
    stage.signals(2).await;
    stage.keeper.stop().await;
}

#[tokio::test]
async fn an_app_with_a_volume_starts_when_its_sidecar_lets_it_and_finds_its_files() {
    let app = "echo start >> $DATA_DIR/starts; exec sleep 1000";
    let mut stage = Stage::with(StateType::Volume, app, true).await;
    stage.started(Part::Sidecar).await;
    let reason = What::HeldBack("its volume is put back".to_owned());
    assert_eq!(stage.event().await.what, reason);
    assert!(!stage.data("starts").exists());
    stage.admin.hold.store(false, Ordering::SeqCst);
    let app = stage.started(Part::App).await;
    let starts = stage.data("starts");
    let lines = |count| {
        let text = std::fs::read_to_string(&starts).unwrap_or_default();
        text.lines().count() == count
    };
    until(|| lines(1)).await;
    stage.signals(1).await;

    let asked = stage.admin.asked.load(Ordering::SeqCst);
    kill(app);
    stage.event().await;
    let app = stage.started(Part::App).await;
    assert!(stage.admin.asked.load(Ordering::SeqCst) > asked);
    until(|| lines(2)).await;

    stage.admin.hold.store(true, Ordering::SeqCst);
    stage.admin.not_live.store(true, Ordering::SeqCst);
    assert_eq!(stage.event().await.what, What::StoppedForRebuild);
    assert_eq!(stage.event().await.what, reason);
    assert!(!is_alive(app), "it is gone before its sidecar is asked");
    // What is held back can be ended, too.
    timeout(LONG, stage.keeper.stop()).await.expect("it ends");
    assert!(lines(2));
}

#[tokio::test]
async fn an_app_that_does_not_keep_its_state_is_never_held_back() {
    let mut stage = Stage::with(StateType::Ephemeral, "exec sleep 1000", true).await;
    stage.started(Part::Sidecar).await;
    stage.started(Part::App).await;
    assert_eq!(stage.admin.asked.load(Ordering::SeqCst), 0);
    stage.keeper.stop().await;
}

#[tokio::test]
async fn an_app_that_is_not_live_is_ended_even_if_it_refuses_and_starts_over() {
    let mut stage =
        Stage::start("trap '' TERM; touch $DATA_DIR/ready; while :; do sleep 0.05; done").await;
    stage.started(Part::Sidecar).await;
    let app = stage.started(Part::App).await;
    let ready = stage.data("ready");
    until(|| ready.exists()).await;
    stage.admin.not_live.store(true, Ordering::SeqCst);
    assert_eq!(stage.event().await.what, What::StoppedForRebuild);
    let again = stage.started(Part::App).await;
    assert_ne!(app, again);
    assert!(!is_alive(app));
    stage.signals(2).await;
    stage.keeper.stop().await;
}

#[tokio::test]
async fn an_app_that_dies_at_once_is_reported_and_tried_again() {
    let mut stage = Stage::start("echo no luck; exit 3").await;
    stage.started(Part::Sidecar).await;
    for deaths in 1..=HOPELESS {
        stage.started(Part::App).await;
        let event = stage.event().await;
        let What::Ended {
            how, quick_deaths, ..
        } = &event.what
        else {
            panic!("{event:?}");
        };
        assert!(how.contains("exit code 3"), "{how}");
        assert_eq!(*quick_deaths, deaths);
        if deaths == HOPELESS {
            let text = crate::local::words::event(&event, &stage.member);
            assert!(
                text.contains("no luck") && text.contains("{port}"),
                "{text}"
            );
        }
    }
    stage.keeper.stop().await;
}
