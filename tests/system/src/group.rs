//! A group of members on this machine, as `synod local` runs it, and what tests need to know of it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::join_all;
use rand::RngExt;
use rustix::process::Signal;
use serde_json::Value;
use synod_sidecar::config::Config;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::client::Client;
use crate::process::{self, Process, eventually};

/// Put into the environment of what a test starts, so that what is left of it can be found.
pub const MARKER: &str = "SYNOD_TEST_GROUP";
/// Members of a group of tests, as it starts.
pub const MEMBERS: u32 = 3;
/// And most of them, when members are added.
const MOST: u16 = 16;

/// One of a member's two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Ours.
    Sidecar,
    /// The user's.
    App,
}

/// How to start a group.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The app; empty: the bundled example.
    pub command: Vec<String>,
    /// Manifest given by `-f`.
    pub manifest: Option<String>,
    /// More arguments of `synod local`.
    pub arguments: Vec<String>,
    /// So many of the members, the last ones, are witnesses.
    pub witnesses: u32,
    /// `synod` itself; `None`: the one under test.
    pub program: Option<PathBuf>,
    /// Variables besides the inherited ones.
    pub environment: Vec<(String, String)>,
    /// How long until all serve; `None`: a minute.
    pub patience: Option<Duration>,
    /// In which folder its files are made; `None`: where temporary files are.
    pub place: Option<PathBuf>,
}

/// What one member says of itself.
#[derive(Clone, Debug, Default)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its log counts and it takes requests.
    pub ready: bool,
    /// Its own copy answers.
    pub serving: bool,
    /// The name of the leader it follows.
    pub leader: Option<String>,
    /// Last slot its app has executed.
    pub applied: u64,
    /// Last slot it knows to be chosen.
    pub commit: u64,
    /// Number of the sidecar's start.
    pub boot: u64,
    /// Its log begins behind this slot.
    pub base: u64,
    /// Slot of its newest snapshot; 0: it has none.
    pub snapshot: u64,
    /// Its slots were compared with those of other copies, so that it may be used.
    pub verified: bool,
    /// `CaughtUp`, `Rebuilding` and so on.
    pub state: String,
    /// It runs no app.
    pub is_witness: bool,
}

/// A running group.
#[derive(Debug)]
pub struct Group {
    supervisor: Child,
    mark: String,
    data: PathBuf,
    log: PathBuf,
    first_port: u16,
    folder: TempDir,
}

// === impl Options ===

impl Options {
    fn patience(&self) -> Duration {
        self.patience.unwrap_or(Duration::from_secs(60))
    }

    /// With the sample app.
    pub fn sample_app() -> anyhow::Result<Self> {
        Ok(Self {
            command: vec![
                binary("synod-test-app", "SYNOD_TEST_APP_BIN")?
                    .display()
                    .to_string(),
            ],
            ..Self::default()
        })
    }

    /// With the sample app, which is given these arguments, and a manifest with this `spec.state`.
    pub fn with_state(arguments: &[&str], state: &str) -> anyhow::Result<Self> {
        Self::with_spec(arguments, &format!("state: {state}"))
    }

    /// The same with more lines of a `spec`, indented by two.
    pub fn with_spec(arguments: &[&str], spec: &str) -> anyhow::Result<Self> {
        let mut options = Self::sample_app()?;
        options
            .command
            .extend(arguments.iter().map(|it| (*it).to_owned()));
        options.manifest = Some(format!(
            "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {{name: registers}}\n\
             spec:\n  template: {{spec: {{containers: [{{name: app, ports: [{{containerPort: 80}}]}}]}}}}\n  \
             {spec}\n"
        ));
        Ok(options)
    }
}

// === impl Group ===

impl Group {
    /// Starts three members and waits until all serve.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        Self::launch(options)?.started(options).await
    }

    /// The same on a folder that is there already.
    pub async fn start_on(options: &Options, data: &Path) -> anyhow::Result<Self> {
        Self::launch_on(options, Some(data))?.started(options).await
    }

    /// All serve, and `synod local` has seen it: apps that die from now on are no failed start.
    async fn started(mut self, options: &Options) -> anyhow::Result<Self> {
        self.wait_until_all_serve(options.patience()).await?;
        let told = eventually(
            Duration::from_secs(10),
            Duration::from_millis(20),
            async || self.said().contains(" is up:"),
        );
        ensure!(
            told.await,
            "synod local does not say that it is up:\n{}",
            self.said()
        );
        Ok(self)
    }

    /// Starts `synod local` without waiting for anything.
    pub fn launch(options: &Options) -> anyhow::Result<Self> {
        Self::launch_on(options, None)
    }

    fn launch_on(options: &Options, data: Option<&Path>) -> anyhow::Result<Self> {
        let place = options.place.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new()
            .prefix("synod-system-")
            .tempdir_in(place)?;
        let data = data.map_or_else(|| folder.path().join("data"), Path::to_owned);
        let log = folder.path().join("synod.log");
        let first_port = free_ports(MOST)?;
        let mark = format!("{}-{first_port}", std::process::id());
        Ok(Self {
            supervisor: spawn(options, folder.path(), &data, first_port, &mark)?,
            mark,
            data,
            log,
            first_port,
            folder,
        })
    }

    /// Starts it again on its folder, once it was interrupted, and waits until all serve.
    pub async fn start_again(&mut self, options: &Options) -> anyhow::Result<()> {
        let (folder, data) = (self.folder.path(), &self.data);
        self.supervisor = spawn(options, folder, data, self.first_port, &self.mark)?;
        self.wait_until_all_serve(options.patience()).await?;
        Ok(())
    }

    /// Waits until every member's copy serves clients.
    pub async fn wait_until_all_serve(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.supervisor.try_wait()? {
                bail!("synod local ended ({status}); it said:\n{}", self.said());
            }
            let status = self.status().await;
            if let Ok(members) = &status
                && members.len() == self.numbers().len().max(1)
                && members
                    .iter()
                    .all(|it| it.ready && (it.serving || it.is_witness))
            {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > limit {
                let said = self.said();
                bail!(
                    "not all members serve after {limit:?}: {status:?}; synod local said:\n{said}"
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until all members serve and both of the processes of each run. The caller has seen to it that
    /// what they say is of now.
    pub async fn whole_again(&self, limit: Duration) -> anyhow::Result<()> {
        let mut last = Vec::new();
        let whole = eventually(limit, Duration::from_millis(20), async || {
            last = self.status().await.unwrap_or_default();
            let serve = last.iter().filter(|it| it.serving && it.ready).count();
            let numbers = self.numbers();
            serve == numbers.len()
                && numbers.iter().all(|it| {
                    let runs = |part| self.process(*it, part).is_some();
                    runs(Part::Sidecar) && runs(Part::App)
                })
        });
        ensure!(whole.await, "not all are back after {limit:?}: {last:#?}");
        Ok(())
    }

    /// Waits until all copies have executed all that is chosen. The caller has ended its writes.
    pub async fn wait_until_level(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.wait_until_all_serve(limit).await?;
        let level = eventually(limit, Duration::from_millis(50), async || {
            self.status().await.is_ok_and(|members| {
                let highest = members.iter().map(|member| member.commit).max();
                let all = members.len() == self.numbers().len();
                let mut copies = members.iter().filter(|it| !it.is_witness);
                all && copies.all(|member| Some(member.applied) == highest)
            })
        });
        ensure!(level.await, "the copies are not level after {limit:?}");
        Ok(())
    }

    /// What the members that answer say of themselves, in the order of their names.
    pub async fn status(&self) -> anyhow::Result<Vec<MemberStatus>> {
        let mut members = Vec::new();
        let asked = self.numbers().into_iter().filter_map(|index| {
            let admin = self.admin(index)?;
            let request = crate::client::request("GET", "/status", "");
            Some(async move { admin.send(request, Duration::from_millis(500)).await })
        });
        for answer in join_all(asked).await.into_iter().flatten() {
            collect_members(&serde_json::from_slice(&answer.body)?, &mut members);
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// All that member `index` (from 1) says of itself.
    pub async fn tell(&self, index: u32) -> anyhow::Result<Value> {
        let admin = self.admin(index).context("its address is not known")?;
        let request = crate::client::request("GET", "/status", "");
        let answer = admin.send(request, Duration::from_millis(500)).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// What one of member `index`'s metrics, one without labels, stands at.
    pub async fn metric(&self, index: u32, name: &str) -> Option<f64> {
        let request = crate::client::request("GET", "/metrics", "");
        let limit = Duration::from_millis(500);
        let text = self.admin(index)?.send(request, limit).await.ok()?.text();
        let mut values = text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = values.find(|(it, _)| *it == name)?;
        value.parse().ok()
    }

    /// Gives a command about this group, such as `synod snapshot list`, and waits for its end.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(synod()?);
        command.args(arguments).arg("--data").arg(&self.data);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(180), output).await;
        Ok(output.with_context(|| format!("synod {arguments:?} does not end"))??)
    }

    /// Has another command run in place of the app, and waits until `synod app switch` ends.
    pub async fn switch_app(
        &self,
        arguments: &[&str],
        command: &[String],
    ) -> anyhow::Result<Output> {
        let mut switch = Command::new(synod()?);
        switch.args(["app", "switch", "--data"]).arg(&self.data);
        switch.args(arguments).arg("--").args(command);
        let output = switch.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(400), output).await;
        Ok(output.context("synod app switch does not end")??)
    }

    /// Has another command run along, or ended, or take over, and waits until `synod app roll` ends.
    pub async fn roll_app(&self, arguments: &[&str], command: &[String]) -> anyhow::Result<Output> {
        let mut roll = Command::new(synod()?);
        roll.args(["app", "roll", "--data"]).arg(&self.data);
        roll.args(arguments);
        if !command.is_empty() {
            roll.arg("--").args(command);
        }
        let output = roll.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(400), output).await;
        Ok(output.context("synod app roll does not end")??)
    }

    /// The numbers of the members that it should have, by its own record.
    pub fn numbers(&self) -> Vec<u32> {
        let text = fs::read(self.data.join("group.json")).unwrap_or_default();
        let group: Value = serde_json::from_slice(&text).unwrap_or_default();
        let names = group["members"].as_array().into_iter().flatten();
        let names = names.filter_map(Value::as_str);
        names.filter_map(number_of).collect()
    }

    /// Those of them that run the app.
    pub fn copies(&self) -> Vec<u32> {
        let text = fs::read(self.data.join("group.json")).unwrap_or_default();
        let group: Value = serde_json::from_slice(&text).unwrap_or_default();
        let names = group["witnesses"].as_array().into_iter().flatten();
        let witnesses: Vec<u32> = names.filter_map(|it| number_of(it.as_str()?)).collect();
        let mut copies = self.numbers();
        copies.retain(|it| !witnesses.contains(it));
        copies
    }

    /// Where a member tells its status; asked directly, since a test asks often.
    fn admin(&self, index: u32) -> Option<Client> {
        let config = Config::load(&self.member_folder(index).join("sidecar.yaml"));
        Some(Client::new(config.ok()?.listen.admin))
    }

    /// Where member `index` (from 1) serves clients.
    pub fn address(&self, index: u32) -> SocketAddr {
        let port = self.first_port + (index - 1) as u16;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Where all members serve clients that it starts with.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        (1..=MEMBERS).map(|index| self.address(index)).collect()
    }

    /// Where all members serve clients that it can ever have.
    pub fn all_addresses(&self) -> Vec<SocketAddr> {
        (1..=MOST.into()).map(|index| self.address(index)).collect()
    }

    /// The number of the member that most follow.
    pub async fn leader(&self) -> Option<u32> {
        let members = self.status().await.ok()?;
        let leaders = || members.iter().filter_map(|it| it.leader.as_deref());
        let most = leaders().max_by_key(|name| leaders().filter(|it| it == name).count())?;
        let votes = leaders().filter(|it| *it == most).count();
        (votes > members.len() / 2).then(|| number_of(most))?
    }

    /// The living process of a member.
    pub fn process(&self, index: u32, part: Part) -> Option<Process> {
        let file = match part {
            Part::Sidecar => "sidecar.pid",
            Part::App => "app.pid",
        };
        Process::named_by(&self.member_folder(index).join(file))
    }

    /// Where a member's app listens.
    pub fn app_address(&self, index: u32) -> anyhow::Result<SocketAddr> {
        let process = self
            .process(index, Part::App)
            .context("the app does not run")?;
        let port = process
            .variable("PORT")
            .context("the app was given no PORT")?;
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?)))
    }

    /// What every copy answers to `target`, asked of the apps themselves.
    pub async fn ask_copies(&self, target: &str) -> anyhow::Result<Vec<String>> {
        let mut answers = Vec::new();
        for index in self.copies() {
            let client = Client::new(self.app_address(index)?);
            let request = crate::client::request("GET", target, "");
            let answer = client.send(request, Duration::from_secs(10)).await?;
            answers.push(answer.text());
        }
        Ok(answers)
    }

    /// `DIR/member-i`.
    pub fn member_folder(&self, index: u32) -> PathBuf {
        self.data.join(format!("member-{index}"))
    }

    /// `DIR`.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What `synod local` has printed so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// All living processes that belong to this group.
    pub fn processes(&self) -> Vec<Process> {
        process::belonging_to(MARKER, &self.mark, self.folder.path())
    }

    /// Ends it as Ctrl-C does. Fails when anything is left running.
    pub async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.interrupt().await
    }

    /// See [`Self::stop`]; the folder stays as long as the value.
    pub async fn interrupt(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = self
            .supervisor
            .id()
            .context("synod local has ended before")?;
        let process = Process::of(pid.cast_signed()).context("synod local has ended before")?;
        process.signal(Signal::INT)?;
        let status = timeout(Duration::from_secs(30), self.supervisor.wait()).await;
        let status = status.context("synod local did not end within 30 s of Ctrl-C")??;
        let gone = eventually(
            Duration::from_secs(2),
            Duration::from_millis(20),
            async || self.processes().is_empty(),
        );
        if !gone.await {
            let left: Vec<_> = self.processes().iter().map(|p| p.command_line()).collect();
            bail!("still running after synod local ended: {left:?}");
        }
        Ok(status)
    }

    /// Whether a line of the log of any of its processes tells of a panic.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut logs = vec![self.log.clone()];
        for index in self.numbers() {
            let entries = fs::read_dir(self.member_folder(index))
                .into_iter()
                .flatten()
                .flatten();
            let paths = entries.map(|entry| entry.path());
            logs.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "log")));
        }
        for log in logs {
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            found.extend(lines.map(str::to_owned));
        }
        found
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The supervisor first: it would start the others again.
        if let Some(supervisor) = self
            .supervisor
            .id()
            .and_then(|pid| Process::of(pid.cast_signed()))
        {
            let _ = supervisor.signal(Signal::KILL);
        }
        let parts = [Part::Sidecar, Part::App];
        let all = 1..=MOST.into();
        let named = all.flat_map(|index| parts.map(|part| self.process(index, part)));
        let named: Vec<_> = named.flatten().collect();
        for process in self.processes().into_iter().chain(named) {
            let _ = process.signal(Signal::KILL);
        }
    }
}

fn spawn(
    options: &Options,
    folder: &Path,
    data: &Path,
    first_port: u16,
    mark: &str,
) -> anyhow::Result<Child> {
    let program = options.program.clone().map_or_else(synod, Ok)?;
    let mut command = Command::new(program);
    command
        .arg("local")
        .args(["--replicas", &(MEMBERS - options.witnesses).to_string()])
        .args(["--listen", &format!("127.0.0.1:{first_port}")])
        .arg("--data")
        .arg(data)
        .args(&options.arguments);
    if options.witnesses > 0 {
        command.args(["--witnesses", &options.witnesses.to_string()]);
    }
    if let Some(manifest) = &options.manifest {
        let file = folder.join("manifest.yaml");
        fs::write(&file, manifest)?;
        command.arg("-f").arg(file);
    }
    if !options.command.is_empty() {
        command.arg("--").args(&options.command);
    }
    let output = File::options()
        .create(true)
        .append(true)
        .open(folder.join("synod.log"))?;
    command
        .env(MARKER, mark)
        .env("NO_COLOR", "1")
        .envs(
            options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("starting synod local")
}

/// The number, from 1, of the member with that name.
pub fn number_of(name: &str) -> Option<u32> {
    name.rsplit('-').next()?.parse().ok()
}

/// Every object in `value` that looks like a member's status.
fn collect_members(value: &Value, members: &mut Vec<MemberStatus>) {
    match value {
        Value::Array(values) => values.iter().for_each(|v| collect_members(v, members)),
        Value::Object(fields) => {
            let name = fields.get("member").and_then(Value::as_str);
            let Some(name) = name.filter(|_| fields.contains_key("applied")) else {
                fields.values().for_each(|v| collect_members(v, members));
                return;
            };
            let flag = |field| fields.get(field).and_then(Value::as_bool).unwrap_or(false);
            let number = |field| fields.get(field).and_then(Value::as_u64).unwrap_or(0);
            members.push(MemberStatus {
                name: name.to_owned(),
                ready: flag("ready"),
                serving: flag("serving"),
                leader: fields
                    .get("leader")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                applied: number("applied"),
                commit: number("commit"),
                boot: number("boot"),
                base: number("base"),
                snapshot: fields
                    .get("snapshot")
                    .and_then(|snapshot| snapshot["slot"].as_u64())
                    .unwrap_or(0),
                verified: fields
                    .get("snapshot")
                    .is_some_and(|snapshot| snapshot["verified"] == true),
                is_witness: fields.get("role").is_some_and(|it| it == "Witness"),
                state: fields
                    .get("state")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
            });
        }
        _ => {}
    }
}

/// The program under test: `SYNOD_BIN`, or the one built beside this one.
pub fn synod() -> anyhow::Result<PathBuf> {
    binary("synod", "SYNOD_BIN")
}

/// A program of the workspace: the one that `variable` names, or the one built beside this one.
pub fn binary(name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return fs::canonicalize(&path)
            .with_context(|| format!("{variable} is {}", path.display()));
    }
    let own = std::env::current_exe()?;
    // A test of cargo's lies one folder deeper than a program.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built beside {}; set {variable}",
            own.display()
        )
    })
}

/// The first of `count` ports in a row that nobody uses, below the range the system gives out.
pub fn free_ports(count: u16) -> anyhow::Result<u16> {
    for _ in 0..200 {
        let first = rand::rng().random_range(20_000..32_000 - count);
        let bound =
            (first..first + count).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if bound.collect::<Result<Vec<_>, _>>().is_ok() {
            return Ok(first);
        }
    }
    bail!("no {count} free ports in a row")
}
