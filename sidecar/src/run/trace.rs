//! Where log lines go: to stderr, by a thread of their own. Whoever logs never waits for a stderr
//! that nobody reads; what does not fit is dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for stderr.
const LINES: usize = 4_096;
/// How long the end of the process waits for them.
const FLUSH: Duration = Duration::from_millis(500);

/// Keeps the thread; waits a little for what is queued when it is dropped.
#[derive(Debug)]
pub struct Guard {
    lines: SyncSender<Line>,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Clone, Debug)]
struct Lines {
    sender: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

/// One event's text.
#[derive(Debug)]
struct Writer {
    lines: Lines,
    text: Vec<u8>,
}

/// Events go to stderr from now on: which, by `RUST_LOG` (default `info`); as JSON when
/// `SYNOD_LOG_FORMAT` is `json`. A second call changes nothing.
pub fn init() -> Guard {
    let (sender, receiver) = mpsc::sync_channel(LINES);
    let lost = Arc::new(AtomicU64::new(0));
    let lines = Lines {
        sender: sender.clone(),
        lost: lost.clone(),
    };
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(&receiver, &lost, io::stderr()))
        .expect("the system lets a process start a thread");
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let json = std::env::var("SYNOD_LOG_FORMAT").is_ok_and(|it| it == "json");
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && !json)
        .with_target(json)
        .with_writer(lines);
    // A test may have set one already.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
    Guard { lines: sender }
}

fn write_all(lines: &Receiver<Line>, lost: &AtomicU64, mut out: impl Write) {
    while let Ok(line) = lines.recv() {
        // Nothing can be said when stderr itself fails.
        match line {
            Line::Text(text) => drop(out.write_all(&text)),
            Line::Flush(done) => drop(done.try_send(())),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            drop(writeln!(
                out,
                "{lost} log lines were lost: stderr was not read in time"
            ));
        }
    }
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH);
        }
    }
}

// === impl Lines ===

impl MakeWriter<'_> for Lines {
    type Writer = Writer;

    fn make_writer(&self) -> Writer {
        Writer {
            lines: self.clone(),
            text: Vec::new(),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let line = Line::Text(std::mem::take(&mut self.text));
        if self.lines.sender.try_send(line).is_err() {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_logs_never_waits_and_what_was_lost_is_counted() {
        let (sender, receiver) = mpsc::sync_channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let lines = Lines {
            sender,
            lost: lost.clone(),
        };
        // Nobody reads yet: the third line does not fit, and does not block.
        for text in ["one\n", "two\n", "three\n"] {
            lines
                .make_writer()
                .write_all(text.as_bytes())
                .expect("taken");
        }
        drop(lines);
        let mut out = Vec::new();
        write_all(&receiver, &lost, &mut out);
        let out = String::from_utf8(out).expect("text");
        assert_eq!(
            out,
            "one\n1 log lines were lost: stderr was not read in time\ntwo\n"
        );
    }
}
