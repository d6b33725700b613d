//! Two versions of the sidecar in one group: the build of an earlier commit beside this one, and the
//! step that both agree on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::{RaiseProtocolRequest, TransferLeadershipRequest};
use synod_sidecar::config::{Config, Tls};
use synod_sidecar::identity::{Who, connect};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Settings;
use crate::client::{Client, request};
use crate::group::{self, Group, MEMBERS, Options};
use crate::process::{Process, eventually};
use crate::report::Report;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// What a sidecar ends with that does not speak the group's protocol.
const WRONG_VERSION: i32 = 76;

/// The members of a group whose folder `synod local` has made; each process is started by the test.
struct Members {
    folder: tempfile::TempDir,
    data: PathBuf,
    running: BTreeMap<u32, [Child; 2]>,
}

impl Members {
    fn config(&self, number: u32) -> anyhow::Result<Config> {
        let path = self.sidecar_file(number);
        let text = fs::read_to_string(&path)?;
        Ok(Config::parse(&path, &text, &BTreeMap::new())?)
    }

    fn sidecar_file(&self, number: u32) -> PathBuf {
        let member = self.data.join(format!("member-{number}"));
        member.join("sidecar.yaml")
    }

    fn spawn(&self, program: &Path, log: &str) -> anyhow::Result<Command> {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.folder.path().join(log))?;
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    fn sidecar(&self, number: u32, program: &Path) -> anyhow::Result<Child> {
        let mut command = self.spawn(program, &format!("sidecar-{number}.log"))?;
        command.arg("sidecar").arg("--config");
        Ok(command.arg(self.sidecar_file(number)).spawn()?)
    }

    /// Its sidecar is of this build, its app of ours.
    fn start(&mut self, number: u32, program: &Path) -> anyhow::Result<()> {
        let sidecar = self.sidecar(number, program)?;
        let port = self.config(number)?.app.address.port();
        let mut app = self.spawn(&group::synod()?, &format!("app-{number}.log"))?;
        app.arg("example-app").env("PORT", port.to_string());
        let data = self.folder.path().join(format!("app-{number}"));
        // Ephemeral: it begins with nothing.
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(&data)?;
        app.env("DATA_DIR", data);
        self.running.insert(number, [sidecar, app.spawn()?]);
        Ok(())
    }

    /// Both of its processes, at once.
    async fn kill(&mut self, number: u32) -> anyhow::Result<()> {
        let children = self.running.remove(&number).context("it does not run")?;
        for mut child in children {
            child.kill().await?;
        }
        Ok(())
    }

    async fn status(&self, number: u32) -> anyhow::Result<Value> {
        let admin = Client::new(self.config(number)?.listen.admin);
        let asked = request("GET", "/status", "");
        let answer = admin.send(asked, Duration::from_secs(1)).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    async fn until_all_serve(&self) -> anyhow::Result<()> {
        let serve = eventually(PATIENCE, LOOK, async || {
            for number in self.running.keys() {
                let status = self.status(*number).await.unwrap_or_default();
                if status["serving"] != true || status["ready"] != true {
                    return false;
                }
            }
            true
        });
        if serve.await {
            return Ok(());
        }
        let mut said = String::new();
        for number in self.running.keys() {
            let log = self.folder.path().join(format!("sidecar-{number}.log"));
            let log = fs::read_to_string(log).unwrap_or_default();
            let from = log.len().saturating_sub(2_000);
            said.push_str(log.get(from..).unwrap_or(&log));
        }
        bail!("not all members serve; their sidecars said:\n{said}")
    }

    async fn leader(&self) -> anyhow::Result<u32> {
        for number in self.running.keys() {
            let status = self.status(*number).await?;
            if !status["leader"].is_null() && status["leader"] == status["member"] {
                return Ok(*number);
            }
        }
        bail!("nobody leads")
    }

    async fn control(&self, number: u32) -> anyhow::Result<ControlClient<Channel>> {
        let config = self.config(number)?;
        let name = |file: &str| self.data.join("ca").join(file);
        let files = Tls {
            ca: config.tls.ca.clone(),
            cert: name("operator.pem"),
            key: name("operator.key"),
        };
        let address = config.listen.peer.to_string();
        let to = Who::Member(config.member.clone());
        let channel = connect(&files, &config.names(), Who::Operator, &address, to).await?;
        Ok(ControlClient::new(channel))
    }

    /// Lets this member lead.
    async fn lead(&self, number: u32) -> anyhow::Result<()> {
        let name = self.config(number)?.member;
        let led = eventually(PATIENCE, LOOK, async || {
            let Ok(leader) = self.leader().await else {
                return false;
            };
            if leader == number {
                return true;
            }
            if let Ok(mut control) = self.control(leader).await {
                let to = name.clone();
                let asked = control.transfer_leadership(TransferLeadershipRequest { to });
                let _ = timeout(Duration::from_secs(3), asked).await;
            }
            false
        });
        ensure!(led.await, "member {number} does not get to lead");
        Ok(())
    }

    async fn raise(&self, version: u32) -> anyhow::Result<Result<u32, Status>> {
        let mut control = self.control(self.leader().await?).await?;
        let raised = control.raise_protocol(RaiseProtocolRequest { version });
        let raised = timeout(PATIENCE, raised).await?;
        Ok(raised.map(|it| it.into_inner().version))
    }

    /// Writes a note through each member that runs, and reads it through the others.
    async fn write_and_read(&self, what: &str) -> anyhow::Result<()> {
        for writer in self.running.keys() {
            let text = format!("{what} by {writer}");
            let note = format!(r#"{{"text":"{text}"}}"#);
            let answer = self.ask(*writer, "POST", &note).await?;
            ensure!(answer.0.is_success(), "{writer} answers {answer:?}");
            for reader in self.running.keys() {
                let answer = self.ask(*reader, "GET", "").await?;
                ensure!(answer.1.contains(&text), "{reader} lacks {text:?}");
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        number: u32,
        method: &str,
        body: &str,
    ) -> anyhow::Result<(StatusCode, String)> {
        let address: SocketAddr = self.config(number)?.listen.http;
        let asked = request(method, "/notes", body.to_owned());
        let answer = Client::new(address).send(asked, PATIENCE).await?;
        Ok((answer.status, answer.text()))
    }
}

/// See [`super::ALL`].
pub(super) async fn two_versions(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let older = settings.older.clone().context(
        "the older program is missing: `tests/run system` builds it; or give --older PATH",
    )?;
    let this = group::synod()?;
    // The older build forms the group, so that it begins with the older protocol.
    let mut group = Group::launch(&Options {
        program: Some(older.clone()),
        ..Options::default()
    })?;
    group.wait_until_all_serve(Duration::from_secs(60)).await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let status = group.interrupt().await?;
    ensure!(status.success(), "synod local ended with {status}");
    fs::rename(group.data(), &data)?;
    move_paths(&data, group.data())?;
    let mut members = Members {
        folder,
        data,
        running: BTreeMap::new(),
    };

    for number in 1..=MEMBERS {
        let program = if number == 1 { &older } else { &this };
        members.start(number, program)?;
    }
    members.until_all_serve().await?;
    for leader in 1..=MEMBERS {
        members.lead(leader).await?;
        members.write_and_read(&format!("led by {leader}")).await?;
    }
    for number in 1..=MEMBERS {
        members.kill(number).await?;
        let program = if number == 1 { &older } else { &this };
        members.start(number, program)?;
        members.until_all_serve().await?;
        members.write_and_read(&format!("after {number}")).await?;
    }
    report.say("an older sidecar and two of this version: each led, each was killed");

    members.lead(2).await?;
    let refused = members.raise(2).await?;
    let refused = refused
        .err()
        .context("the step was taken without member 1")?;
    ensure!(
        refused.code() == Code::FailedPrecondition,
        "another refusal: {refused}"
    );
    let name = members.config(1)?.member;
    ensure!(
        refused.message().contains(&name),
        "it does not say who is in the way: {refused}"
    );

    members.kill(1).await?;
    members.start(1, &this)?;
    members.until_all_serve().await?;
    let raised = members.raise(2).await?;
    ensure!(raised.as_ref().is_ok_and(|it| *it == 2), "{raised:?}");
    let everywhere = eventually(PATIENCE, LOOK, async || {
        for number in 1..=MEMBERS {
            let status = members.status(number).await.unwrap_or_default();
            if status["protocol_in_force"] != 2 {
                return false;
            }
        }
        true
    });
    ensure!(everywhere.await, "not all members know of the step");
    members.write_and_read("behind the step").await?;
    report.say("with the last older one gone the step was taken, and all know of it");

    members.kill(1).await?;
    let mut outdated = members.sidecar(1, &older)?;
    let ended = timeout(PATIENCE, outdated.wait()).await;
    let ended = ended.context("the older one goes on behind the step")??;
    ensure!(
        ended.code() == Some(WRONG_VERSION),
        "the older one ended with {ended}"
    );
    members.write_and_read("without the older one").await?;
    members.start(1, &this)?;
    members.until_all_serve().await?;
    members.write_and_read("with all of this version").await?;
    report.say("the older one ended by itself and lost nothing");
    for [sidecar, _] in members.running.values() {
        let process = sidecar.id().and_then(|it| Process::of(it.cast_signed()));
        process.context("it does not run")?.signal(Signal::TERM)?;
    }
    for (number, [sidecar, _]) in &mut members.running {
        let ended = timeout(PATIENCE, sidecar.wait()).await??;
        ensure!(ended.success(), "sidecar {number} ended with {ended}");
    }
    Ok(())
}

/// The configurations name files in the folder where it was.
fn move_paths(data: &Path, before: &Path) -> anyhow::Result<()> {
    for number in 1..=MEMBERS {
        let file = data.join(format!("member-{number}/sidecar.yaml"));
        let text = fs::read_to_string(&file)?;
        let (before, after) = (before.display().to_string(), data.display().to_string());
        fs::write(&file, text.replace(&before, &after))?;
    }
    Ok(())
}
