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
    whom: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Myself,
    Process(Pid),
}

/// A text that arms nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct BadText(String);

impl std::fmt::Display for BadText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} arms no failpoint: it must be NAME=[HITS*]kill or NAME=[HITS*]kill(PID)",
            self.0
        )
    }
}

impl std::error::Error for BadText {}

/// This step is reached: if it was armed, and was reached often enough, this may never return.
pub fn hit(point: Point) {
    let left = &LEFT[point as usize];
    if left.load(Ordering::Relaxed) == 0 {
        return;
    }
    let before = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |it| it.checked_sub(1));
    if before == Ok(1) {
        fire(point);
    }
}

/// Arms what the text says, in place of all that was armed.
pub fn arm(text: &str) -> Result<(), BadText> {
    let orders = parse(text)?;
    set(orders, None);
    Ok(())
}

/// Arms what the file says, now, and whenever it is another file or has another content; nothing while
/// there is none. When this process is to die, or all is done that was to be, the file is first given the
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

fn fire(point: Point) {
    let mut armed = armed();
    // Whoever arms anew counts anew.
    let Some(at) = armed.orders.iter().position(|it| it.point == point) else {
        return;
    };
    let (pid, myself) = match armed.orders.remove(at).whom {
        Whom::Myself => (getpid(), true),
        Whom::Process(pid) => (pid, false),
    };
    if let Some(file) = &armed.file
        && (myself || armed.orders.is_empty())
    {
        // If it cannot be told, it is seen all the same.
        let _ = fs::rename(file, file.with_extension("fired"));
    }
    // A process that is gone already is as dead as it was to be.
    let _ = kill_process(pid, Signal::KILL);
    if myself {
        loop {
            std::thread::park();
        }
    }
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
    let whom = match action {
        "kill" => Whom::Myself,
        other => {
            let pid = other.strip_prefix("kill(")?.strip_suffix(')')?;
            Whom::Process(Pid::from_raw(pid.parse().ok().filter(|it| *it > 1)?)?)
        }
    };
    Some(Order {
        point: *point,
        hits,
        whom,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_at_which_hit_of_which_point_who_dies() {
        let orders = parse("wal-before-sync=3*kill; app-connected=kill(77)\n").expect("good");
        let order = |point, hits, whom| Order { point, hits, whom };
        assert_eq!(
            orders,
            [
                order(Point::WalBeforeSync, 3, Whom::Myself),
                order(
                    Point::AppConnected,
                    1,
                    Whom::Process(Pid::from_raw(77).expect("a pid"))
                ),
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
        ] {
            assert_eq!(parse(bad), Err(BadText(bad.to_owned())));
        }
    }

    #[test]
    fn the_process_that_is_named_dies_at_the_hit_that_is_named_and_at_no_other() {
        use std::os::unix::process::ExitStatusExt as _;

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
