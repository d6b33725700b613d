//! `synod local` as people use it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Settings;
use crate::client::{Client, request};
use crate::group::{self, Group, MARKER, MEMBERS, Options};
use crate::process::{self, Process, eventually};
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);

/// Output of a command that ended.
struct Ended {
    code: Option<i32>,
    said: String,
}

/// A command of ours with a temporary folder of its own.
struct Running {
    child: Child,
    mark: String,
    folder: tempfile::TempDir,
}

impl Running {
    fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary)?;
        let output = File::create(folder.path().join("output"))?;
        let mark = folder.path().display().to_string();
        let child = Command::new(group::synod()?)
            .args(arguments)
            .env(MARKER, &mark)
            .env("NO_COLOR", "1")
            .env("TMPDIR", &temporary)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            mark,
            folder,
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    fn processes(&self) -> Vec<Process> {
        process::belonging_to(MARKER, &self.mark, self.folder.path())
    }

    async fn says(&mut self, wanted: &str, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !self.said().contains(wanted) {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "ended ({status}) without saying {wanted:?}, but: {}",
                    self.said()
                );
            }
            ensure!(
                Instant::now() < end,
                "not said in {limit:?}: {wanted:?}, but: {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits for its end; nothing that it started may outlive it.
    async fn ended(&mut self, limit: Duration) -> anyhow::Result<Ended> {
        let status = timeout(limit, self.child.wait()).await;
        let status = status.with_context(|| format!("still runs; it said: {}", self.said()))??;
        let gone = eventually(2 * SECOND, Duration::from_millis(20), async || {
            self.processes().is_empty()
        });
        if !gone.await {
            let left: Vec<_> = self.processes().iter().map(|p| p.command_line()).collect();
            bail!("left running: {left:?}");
        }
        Ok(Ended {
            code: status.code(),
            said: self.said(),
        })
    }

    fn interrupt(&self) -> anyhow::Result<()> {
        let pid = self.child.id().context("it has ended")?;
        Process::of(pid.cast_signed())
            .context("it has ended")?
            .signal(Signal::INT)?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = process.signal(Signal::KILL);
        }
    }
}

/// The first command anybody gives.
pub(super) async fn example_app(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let first = group::free_ports(MEMBERS as u16)?;
    let listen = format!("127.0.0.1:{first}");
    let begun = Instant::now();
    let mut running = Running::start(&["local", "--listen", &listen])?;
    for port in (first..).take(MEMBERS as usize) {
        running
            .says(&format!("http://127.0.0.1:{port}"), 60 * SECOND)
            .await?;
    }
    report.say(format!(
        "the URLs were there after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    for port in (first..).take(MEMBERS as usize) {
        let client = Client::new((Ipv4Addr::LOCALHOST, port).into());
        let answer = client.send(request("GET", "/", ""), 15 * SECOND).await?;
        let html = answer
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"));
        report.expect(
            answer.status == 200 && html,
            format!(
                "port {port} answered {} {:?} to GET /",
                answer.status, answer.headers
            ),
        );
    }
    let said = running.said();
    report.say(&said);
    for word in ["curl", "kill -9"] {
        report.expect(
            said.contains(word),
            format!("no line to paste with {word}: {said}"),
        );
    }
    ensure!(
        running.processes().len() > 6,
        "supervisor, sidecars and apps are not all there"
    );
    running.interrupt()?;
    let ended = running.ended(30 * SECOND).await?;
    report.expect(
        matches!(ended.code, Some(0 | 130)),
        format!("exit {:?} after Ctrl-C", ended.code),
    );
    let left: Vec<_> = fs::read_dir(running.folder.path().join("tmp"))?
        .flatten()
        .collect();
    report.expect(
        left.is_empty(),
        format!("left in the temporary folder: {left:?}"),
    );
    Ok(())
}

/// Who has the port is not known, but which one it is.
pub(super) async fn port_taken(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let first = group::free_ports(MEMBERS as u16)?;
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 1))?;
    let listen = format!("127.0.0.1:{first}");
    let mut running = Running::start(&["local", "--listen", &listen])?;
    let ended = running.ended(20 * SECOND).await?;
    must_name(&ended, &(first + 1).to_string(), report);
    Ok(())
}

pub(super) async fn command_missing(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let listen = format!("127.0.0.1:{}", group::free_ports(MEMBERS as u16)?);
    let arguments = [
        "local",
        "--listen",
        &listen,
        "--",
        "no-such-program-anywhere",
        "--port",
    ];
    let mut running = Running::start(&arguments)?;
    let ended = running.ended(20 * SECOND).await?;
    must_name(&ended, "no-such-program-anywhere", report);
    Ok(())
}

/// Two groups in one folder would be the end of both.
pub(super) async fn data_in_use(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let data = group.data().display().to_string();
    let listen = format!("127.0.0.1:{}", group::free_ports(MEMBERS as u16)?);
    let mut running = Running::start(&["local", "--data", &data, "--listen", &listen])?;
    let ended = running.ended(20 * SECOND).await?;
    must_name(&ended, &data, report);
    group.wait_until_all_serve(10 * SECOND).await?;
    group.stop().await?;
    Ok(())
}

fn must_name(ended: &Ended, name: &str, report: &mut Report) {
    report.say(&ended.said);
    let failed = ended.code.is_some_and(|code| code != 0);
    report.expect(failed, format!("exit {:?}", ended.code));
    report.expect(
        ended.said.contains(name),
        format!("{name} is not named in: {}", ended.said),
    );
    report.expect(!ended.said.contains("panicked"), "it panicked");
}

/// What was written before Ctrl-C is there after the next start.
pub(super) async fn data_is_kept(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let app = Options::sample_app()?.command.remove(0);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data").display().to_string();
    let first = group::free_ports(MEMBERS as u16)?;
    let listen = format!("127.0.0.1:{first}");
    let arguments = ["local", "--data", &data, "--listen", &listen, "--", &app];
    for start in 1..=3_u64 {
        let mut running = Running::start(&arguments)?;
        running
            .says(&format!("http://127.0.0.1:{first}"), 60 * SECOND)
            .await?;
        let client = Client::new((Ipv4Addr::LOCALHOST, first).into());
        let write = request("POST", "/l/starts", start.to_string());
        let answer = client.send(write, 15 * SECOND).await?;
        let version = format!("{{\"version\":{start}}}");
        report.expect(
            answer.text() == version,
            format!("at start {start}: {} {}", answer.status, answer.text()),
        );
        running.interrupt()?;
        running.ended(30 * SECOND).await?;
    }
    ensure!(
        Path::new(&data).is_dir(),
        "a data folder that was asked for is gone"
    );
    Ok(())
}

/// Runs the lines of the README's tour as they stand, but for the ports.
pub(super) async fn tour(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let readme = fs::read_to_string(&settings.readme);
    let readme = readme.with_context(|| settings.readme.display().to_string())?;
    let lines = tour_lines(&readme)?;
    let first = group::free_ports(MEMBERS as u16)?;
    let place = tempfile::tempdir()?;
    let moved = |line: &str| {
        let mut line = line.replace("/tmp/", &format!("{}/", place.path().display()));
        for member in 0..MEMBERS as u16 {
            let said = format!("127.0.0.1:{}", 8_080 + member);
            line = line.replace(&said, &format!("127.0.0.1:{}", first + member));
        }
        line
    };
    let mut running: Option<Running> = None;
    let mut given = 0;
    let mut replayed = false;
    for line in &lines {
        if let Some(arguments) = line.strip_prefix("cargo run --release -- ") {
            if !arguments.starts_with("local") {
                continue;
            }
            let mut arguments = moved(arguments);
            if !arguments.contains("--listen") {
                arguments =
                    arguments.replacen("local", &format!("local --listen 127.0.0.1:{first}"), 1);
            }
            let arguments: Vec<_> = arguments.split_whitespace().collect();
            let mut started = Running::start(&arguments)?;
            started
                .says(&format!("http://127.0.0.1:{}", first + 2), 60 * SECOND)
                .await?;
            running = Some(started);
            continue;
        }
        let group = running
            .as_ref()
            .context("the tour gives a command before it starts a group")?;
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &moved(line)])
            .env("PATH", path_with_synod()?)
            .env("TMPDIR", group.folder.path().join("tmp"))
            .env(MARKER, &group.mark)
            .current_dir(group.folder.path())
            .kill_on_drop(true)
            .output();
        let output = timeout(30 * SECOND, output)
            .await
            .with_context(|| line.clone())??;
        given += 1;
        let said = String::from_utf8_lossy(&output.stdout);
        report.say(format!("$ {line}\n{}", said.trim_end()));
        let error = String::from_utf8_lossy(&output.stderr);
        report.expect(
            output.status.success(),
            format!("`{line}` ended with {}: {said}{error}", output.status),
        );
        report.expect(
            !line.starts_with("curl -i") || said.starts_with("HTTP/1.1 2"),
            format!("`{line}` was answered {said}"),
        );
        replayed |= said.contains("synod-outcome: replayed");
        report.expect(
            !line.starts_with("curl") || said.starts_with("HTTP/1.1 2"),
            format!("`{line}` was not answered with success: {said}"),
        );
    }
    report.expect(given >= 4, format!("only {given} commands in the tour"));
    report.expect(replayed, "no second answer of the tour was replayed");
    let mut running = running.context("the tour starts no group")?;
    running.interrupt()?;
    running.ended(30 * SECOND).await?;
    Ok(())
}

fn path_with_synod() -> anyhow::Result<String> {
    let synod = group::synod()?;
    let folder = synod.parent().context("a program lies in a folder")?;
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH")?))
}

/// Commands in the fenced blocks of the section whose heading names the tour. Lines that end in a
/// backslash go on; what is after `$ ` is a command, and without any `$ ` in a block all of it is.
fn tour_lines(readme: &str) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut block: Option<Vec<String>> = None;
    for line in readme.lines() {
        if line.starts_with("```") {
            match block.take() {
                None => block = Some(Vec::new()),
                Some(done) if inside => {
                    let prompts = done.iter().any(|line| line.starts_with("$ "));
                    let commands = done
                        .iter()
                        .filter_map(|line| match line.strip_prefix("$ ") {
                            Some(command) => Some(command.to_owned()),
                            None => (!prompts).then(|| line.clone()),
                        });
                    lines.extend(commands);
                }
                Some(_) => {}
            }
        } else if let Some(block) = &mut block {
            block.push(line.to_owned());
        } else if line.starts_with('#') {
            inside = line.to_lowercase().contains("tour");
        }
    }
    let lines = join_continued(lines);
    let commands: Vec<String> = lines
        .into_iter()
        .map(|line| line.split(" # ").next().unwrap_or("").trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    ensure!(
        !commands.is_empty(),
        "the README has no section with a tour"
    );
    Ok(commands)
}

fn join_continued(lines: Vec<String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    let mut open = false;
    for line in lines {
        let (text, goes_on) = match line.strip_suffix('\\') {
            Some(text) => (text.to_owned(), true),
            None => (line, false),
        };
        match joined.last_mut() {
            Some(last) if open => last.push_str(text.trim_start()),
            _ => joined.push(text),
        }
        open = goes_on;
    }
    joined
}
