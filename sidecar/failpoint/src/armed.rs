//! What is to happen at which point.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::Point;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Hits left until something happens; 0: nothing does.
static LEFT: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];
static ARMED: Mutex<Armed> = Mutex::new(Armed {
    orders: Vec::new(),
    file: None,
});

struct Armed {
    orders: Vec<Order>,
    /// Where they came from.
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    point: Point,
    hits: u64,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// This process is killed.
    Kill,
    /// Another one is.
    KillOther(Pid),
    Delay(Duration),
    Fail,
}

/// A text that arms nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct BadText(String);

impl std::fmt::Display for BadText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} arms no failpoint: it must be NAME=[HITS*]ACTION, and ACTION kill, kill(PID), delay(MS), \
             or fail where the step can fail",
            self.0
        )
    }
}

impl std::error::Error for BadText {}

/// This step is reached: if it was armed, and was reached often enough, this may take long or never return.
pub fn hit(point: Point) {
    check(point).expect("a point that cannot fail is not armed to");
}

/// The same where the step may fail, with its error if it is to.
pub fn check(point: Point) -> io::Result<()> {
    let left = &LEFT[point as usize];
    if left.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let before = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |it| it.checked_sub(1));
    match before {
        Ok(1) => fire(point),
        _ => Ok(()),
    }
}

/// Arms what the text says, in place of all that was armed.
pub fn arm(text: &str) -> Result<(), BadText> {
    let orders = parse(text)?;
    set(orders, None);
    Ok(())
}

/// Arms what the file says, now, and whenever it is another file or has another content; nothing while
/// there is none. When this process is to die, or the last of it happens, the file is first given the
/// extension `fired`: the next process finds nothing armed, and whoever has armed it knows.
pub fn watch(file: PathBuf) -> io::Result<()> {
    let mut seen = None;
    look(&file, &mut seen);
    let watching = move || {
        loop {
            std::thread::sleep(LOOK);
            look(&file, &mut seen);
        }
    };
    let thread = std::thread::Builder::new().name("failpoints".to_owned());
    thread.spawn(watching).map(drop)
}

fn look(file: &Path, seen: &mut Option<String>) {
    let text = fs::read_to_string(file).ok();
    if text == *seen {
        return;
    }
    match parse(text.as_deref().unwrap_or("")) {
        Ok(orders) => set(orders, Some(file)),
        // It may be half-written.
        Err(error) => eprintln!("{}: {error}", file.display()),
    }
    *seen = text;
}

fn set(orders: Vec<Order>, file: Option<&Path>) {
    let mut armed = armed();
    for left in &LEFT {
        left.store(0, Ordering::Release);
    }
    for order in &orders {
        LEFT[order.point as usize].store(order.hits, Ordering::Release);
    }
    armed.orders = orders;
    armed.file = file.map(Path::to_owned);
}

fn armed() -> MutexGuard<'static, Armed> {
    ARMED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fire(point: Point) -> io::Result<()> {
    let mut armed = armed();
    // Whoever arms anew counts anew.
    let Some(at) = armed.orders.iter().position(|it| it.point == point) else {
        return Ok(());
    };
    let action = armed.orders.remove(at).action;
    if let Some(file) = &armed.file
        && (action == Action::Kill || armed.orders.is_empty())
    {
        // If it cannot be told, it is seen all the same.
        let _ = fs::rename(file, file.with_extension("fired"));
    }
    if action == Action::Kill {
        // Nobody else comes past a point any more.
        kill(getpid());
        loop {
            std::thread::park();
        }
    }
    drop(armed);
    match action {
        Action::Kill => unreachable!("the process has ended"),
        Action::KillOther(pid) => kill(pid),
        // Whoever came here stands still; other tasks go on in other threads.
        Action::Delay(time) => tokio::task::block_in_place(|| std::thread::sleep(time)),
        Action::Fail => {
            let error = point.error().expect("only what can fail is armed to");
            return Err(io::Error::from_raw_os_error(error));
        }
    }
    Ok(())
}

fn kill(pid: Pid) {
    // A process that is gone already is as dead as it was to be.
    let _ = kill_process(pid, Signal::KILL);
}

fn parse(text: &str) -> Result<Vec<Order>, BadText> {
    let parts = text.split([';', '\n']).map(str::trim);
    let parts = parts.filter(|it| !it.is_empty());
    parts
        .map(|it| order(it).ok_or_else(|| BadText(it.to_owned())))
        .collect()
}

fn order(text: &str) -> Option<Order> {
    let (name, what) = text.split_once('=')?;
    let (hits, action) = what.split_once('*').unwrap_or(("1", what));
    let hits = hits.parse().ok().filter(|it| *it > 0)?;
    let point = Point::ALL.iter().find(|it| it.name() == name)?;
    let action = match action {
        "kill" => Action::Kill,
        "fail" => point.can_fail().then_some(Action::Fail)?,
        other => {
            let (what, number) = other.strip_suffix(')')?.split_once('(')?;
            match what {
                "kill" => {
                    let pid = number.parse().ok().filter(|it| *it > 1)?;
                    Action::KillOther(Pid::from_raw(pid)?)
                }
                "delay" => Action::Delay(Duration::from_millis(number.parse().ok()?)),
                _ => return None,
            }
        }
    };
    Some(Order {
        point: *point,
        hits,
        action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_what_happens_at_which_hit_of_which_point() {
        let orders = parse(
            "wal-before-sync=3*kill; app-connected=kill(77)\nnode-before-chosen=2*delay(150)\n\
             wal-before-spare=fail",
        );
        let order = |point, hits, action| Order {
            point,
            hits,
            action,
        };
        let other = Pid::from_raw(77).expect("a pid");
        let time = Duration::from_millis(150);
        assert_eq!(
            orders.expect("good"),
            [
                order(Point::WalBeforeSync, 3, Action::Kill),
                order(Point::AppConnected, 1, Action::KillOther(other)),
                order(Point::NodeBeforeChosen, 2, Action::Delay(time)),
                order(Point::WalBeforeSpare, 1, Action::Fail),
            ]
        );
        assert_eq!(parse(" \n"), Ok(Vec::new()));
        for bad in [
            "wal-before-sync",
            "no-such-point=kill",
            "wal-before-sync=0*kill",
            "wal-before-sync=x*kill",
            "wal-before-sync=panic",
            "wal-before-sync=kill(1)",
            "wal-before-sync=kill(-7)",
            "wal-before-sync=delay",
            "wal-before-sync=delay(1s)",
            "wal-before-sync=wait(1)",
            "node-before-chosen=fail",
        ] {
            assert_eq!(parse(bad), Err(BadText(bad.to_owned())));
        }
    }

    /// What is armed is the process's, and tests share one.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[test]
    fn a_step_is_slow_or_fails_once_and_whoever_armed_it_is_told() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = std::env::temp_dir().join(format!("synod-slow-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let file = folder.join("sidecar.failpoints");
        fs::write(&file, "promise-saved=delay(80); promise-written=2*fail").expect("written");
        watch(file.clone()).expect("watched");
        let begun = std::time::Instant::now();
        hit(Point::PromiseSaved);
        assert!(begun.elapsed() >= Duration::from_millis(80));
        check(Point::PromiseWritten).expect("not yet");
        assert!(file.exists(), "one is left");
        let error = check(Point::PromiseWritten).expect_err("now");
        assert_eq!(error.raw_os_error(), Point::PromiseWritten.error());
        assert!(!file.exists() && folder.join("sidecar.fired").exists());
        let begun = std::time::Instant::now();
        hit(Point::PromiseSaved);
        check(Point::PromiseWritten).expect("once");
        assert!(begun.elapsed() < Duration::from_millis(80));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn where_a_task_stands_still_others_go_on() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        arm("node-frame-taken=delay(300)").expect("armed");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .expect("a runtime");
        let begun = std::time::Instant::now();
        let slow = runtime.spawn(async { hit(Point::NodeFrameTaken) });
        std::thread::sleep(Duration::from_millis(50));
        let other = runtime.spawn(async move { begun.elapsed() });
        let other = runtime.block_on(other).expect("it ends");
        assert!(other < Duration::from_millis(300), "{other:?}");
        runtime.block_on(slow).expect("it ends");
        assert!(begun.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn the_process_that_is_named_dies_at_the_hit_that_is_named_and_at_no_other() {
        use std::os::unix::process::ExitStatusExt as _;

        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleeps");
        let folder = std::env::temp_dir().join(format!("synod-failpoint-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let file = folder.join("sidecar.failpoints");
        fs::write(&file, format!("promise-made=3*kill({})", child.id())).expect("written");
        watch(file.clone()).expect("watched");
        hit(Point::PromiseMade);
        hit(Point::PromiseSaved);
        hit(Point::PromiseMade);
        assert!(file.exists() && child.try_wait().expect("a child").is_none());
        hit(Point::PromiseMade);
        assert_eq!(child.wait().expect("a child").signal(), Some(9));
        assert!(!file.exists() && folder.join("sidecar.fired").exists());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
