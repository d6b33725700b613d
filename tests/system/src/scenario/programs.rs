//! Programs that nobody here wrote: the same requests against the program alone and against three
//! members get the same answers, whichever member is asked.
//!
//! Not compared, since they are each copy's own in the program itself: `Date`; with nginx
//! `Last-Modified` and `ETag` (made of the file's time on that copy's disk) and, in the answers to
//! `PROPFIND`, the same two and the creation date. `Connection` and `Keep-Alive` belong to one hop.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::HeaderValue;
use rustix::process::Signal;
use tokio::process::{Child, Command};

use super::Settings;
use crate::client::{Answer, Client, request};
use crate::group::{self, Group, MARKER, Options, Part};
use crate::process::{self, Process, eventually};
use crate::report::Report;

const LIMIT: Duration = Duration::from_secs(20);
/// What clients call the service, alone and replicated.
const HOST: &str = "app.example";

/// One request of a script.
struct Step {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// A program and what to ask of it.
struct Program {
    command: Vec<String>,
    script: Vec<Step>,
    /// Asked again at the end, of each member, after a copy was killed and rebuilt.
    at_the_end: Vec<Step>,
    /// Response headers that are each copy's own.
    ignored: &'static [&'static str],
    /// XML elements whose content is each copy's own.
    ignored_elements: &'static [&'static str],
}

/// nginx of Debian, as a WebDAV server.
pub(super) async fn nginx(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let run = settings.apps.join("nginx/run");
    let program = Program {
        command: vec![run.display().to_string()],
        script: (0..4).flat_map(webdav_script).collect(),
        at_the_end: (0..4)
            .flat_map(|round| {
                let listing = step("PROPFIND", format!("/dir-{round}/"), "");
                let files = ["again.txt", "copy.txt", "gone.txt", "big.bin"];
                let files = files.map(|file| step("GET", format!("/dir-{round}/{file}"), ""));
                [vec![listing.with("depth", "1")], files.into()]
                    .into_iter()
                    .flatten()
            })
            .collect(),
        ignored: &["last-modified", "etag"],
        ignored_elements: &["getlastmodified", "creationdate", "getetag"],
    };
    compare(program, report).await
}

/// json-server of npm, on its file.
pub(super) async fn json_server(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let modules = settings.cache.join("json-server/node_modules");
    ensure!(
        modules.is_dir(),
        "json-server is not installed in {}: tests/run does that",
        modules.display()
    );
    let run = settings.apps.join("json-server/run");
    let program = Program {
        command: vec![run.display().to_string(), modules.display().to_string()],
        script: (0..4).flat_map(json_script).collect(),
        at_the_end: ["/posts", "/comments", "/profile", "/db"]
            .map(|target| step("GET", target.to_owned(), ""))
            .into(),
        ignored: &[],
        ignored_elements: &[],
    };
    compare(program, report).await
}

fn step(method: &'static str, target: String, body: &str) -> Step {
    Step {
        method,
        target,
        headers: Vec::new(),
        body: body.to_owned(),
    }
}

impl Step {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn is_read(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PROPFIND")
    }
}

fn webdav_script(round: u32) -> Vec<Step> {
    let dir = format!("/dir-{round}");
    let at = |file: &str| format!("{dir}/{file}");
    let to = |file: &str| format!("http://{HOST}{dir}/{file}");
    let big = "0123456789abcdef".repeat(20_000);
    vec![
        step("GET", at("one.txt"), ""),
        step("PUT", at("one.txt"), "before its folder is there"),
        step("MKCOL", format!("{dir}/"), ""),
        step("MKCOL", format!("{dir}/"), ""),
        step("PUT", at("one.txt"), "one"),
        step("GET", at("one.txt"), ""),
        step("PUT", at("one.txt"), "one, changed"),
        step("GET", at("one.txt"), ""),
        step("HEAD", at("one.txt"), ""),
        step("GET", at("one.txt"), "").with("range", "bytes=2-5"),
        step("GET", at("one.txt"), "").with("range", "bytes=900-"),
        step("PUT", at("big.bin"), &big),
        step("GET", at("big.bin"), ""),
        step("PUT", at("with%20space.txt"), "a name with a space"),
        step("GET", at("with%20space.txt"), ""),
        step("OPTIONS", at("one.txt"), ""),
        step("COPY", at("one.txt"), "").with("destination", &to("copy.txt")),
        step("COPY", at("one.txt"), "")
            .with("destination", &to("copy.txt"))
            .with("overwrite", "F"),
        step("GET", at("copy.txt"), ""),
        step("MOVE", at("one.txt"), "").with("destination", &to("again.txt")),
        step("GET", at("one.txt"), ""),
        step("GET", at("again.txt"), ""),
        step("PROPFIND", format!("{dir}/"), "").with("depth", "1"),
        step("PROPFIND", at("again.txt"), "").with("depth", "0"),
        step("PROPFIND", at("nothing.txt"), "").with("depth", "0"),
        step("PUT", at("gone.txt"), "soon gone"),
        step("DELETE", at("gone.txt"), ""),
        step("DELETE", at("gone.txt"), ""),
        step("GET", at("gone.txt"), ""),
        step("MKCOL", at("inner/"), ""),
        step("PUT", at("inner/file.txt"), "inside"),
        step("DELETE", at("inner/"), ""),
        step("GET", at("inner/file.txt"), ""),
        step("POST", at("again.txt"), "nginx does not take this"),
        step("PATCH", at("again.txt"), "nor this"),
        step("MOVE", at("again.txt"), ""),
    ]
}

fn json_script(round: u32) -> Vec<Step> {
    let json = |method, target: &str, body: &str| {
        step(method, target.to_owned(), body).with("content-type", "application/json")
    };
    let get = |target: &str| step("GET", target.to_owned(), "");
    // The file begins with two posts; each round adds two and takes one away.
    let (first, second) = (3 + 2 * round, 4 + 2 * round);
    let post = |id: u32| format!("/posts/{id}");
    vec![
        get("/posts"),
        get("/posts/1"),
        get("/posts/999"),
        get("/nothing"),
        json(
            "POST",
            "/posts",
            &format!(r#"{{"title":"round {round}","views":{round}}}"#),
        ),
        get(&post(first)),
        json(
            "POST",
            "/posts",
            r#"{"title":"second, with ümläut","tags":["a","b"]}"#,
        ),
        get(&post(second)),
        json("PUT", &post(first), r#"{"title":"replaced"}"#),
        get(&post(first)),
        json("PATCH", &post(second), r#"{"views":41}"#),
        get(&post(second)),
        json("PATCH", "/posts/999", r#"{"views":1}"#),
        json("PUT", "/posts/999", r#"{"views":1}"#),
        get("/posts?_sort=title&_order=desc"),
        get("/posts?_page=1&_limit=2"),
        get("/posts?title=replaced"),
        get("/posts?q=second"),
        get("/posts?views_gte=1"),
        json(
            "POST",
            "/comments",
            &format!(r#"{{"body":"on it","postId":{first}}}"#),
        ),
        get(&format!("{}/comments", post(first))),
        get(&format!("{}?_embed=comments", post(first))),
        get("/comments?_expand=post"),
        json(
            "PATCH",
            "/profile",
            &format!(r#"{{"name":"round {round}"}}"#),
        ),
        get("/profile"),
        json("DELETE", &post(first), ""),
        json("DELETE", &post(first), ""),
        get(&post(first)),
        get("/comments"),
        json("POST", "/posts", "this is no JSON"),
        json("OPTIONS", "/posts", ""),
        step("HEAD", "/posts".to_owned(), ""),
        get("/db"),
    ]
}

async fn compare(program: Program, report: &mut Report) -> anyhow::Result<()> {
    let alone = Alone::start(&program.command).await?;
    let single = Client::new(alone.address);
    let mut expected = Vec::new();
    for step in program.script.iter().chain(&program.at_the_end) {
        expected.push(ask(&single, step).await?);
    }
    alone.stop().await?;

    let options = Options {
        command: program.command.clone(),
        ..Options::default()
    };
    let mut group = Group::start(&options).await?;
    let clients: Vec<Client> = group.addresses().into_iter().map(Client::new).collect();
    let mut different = 0;
    let mut asked = 0;
    for (index, (step, expected)) in program.script.iter().zip(&expected).enumerate() {
        // Written through one member, read from every other in turn.
        let members: Vec<usize> = if step.is_read() {
            (0..3).collect()
        } else {
            vec![index % 3]
        };
        for member in members {
            let answer = ask(&clients[member], step).await?;
            asked += 1;
            different += u32::from(differs(&program, step, member, expected, &answer, report));
        }
    }

    // A copy that has lost everything answers the same once it is back.
    let victim = 2;
    let app = group
        .process(victim, Part::App)
        .context("the app does not run")?;
    app.signal(Signal::KILL)?;
    let died = eventually(LIMIT, Duration::from_millis(5), async || !app.lives());
    ensure!(died.await, "the app survived SIGKILL");
    let replaced = eventually(LIMIT, Duration::from_millis(20), async || {
        group.process(victim, Part::App).is_some()
    });
    ensure!(replaced.await, "the app was not started again");
    group.wait_until_level(Duration::from_secs(60)).await?;
    for (step, expected) in program
        .at_the_end
        .iter()
        .zip(&expected[program.script.len()..])
    {
        for (member, client) in clients.iter().enumerate() {
            let answer = ask(client, step).await?;
            asked += 1;
            different += u32::from(differs(&program, step, member, expected, &answer, report));
        }
    }
    report.say(format!("{asked} answers compared, {different} differ"));
    group.stop().await?;
    Ok(())
}

async fn ask(client: &Client, step: &Step) -> anyhow::Result<Answer> {
    let mut request = request(step.method, &step.target, step.body.clone());
    let headers = request.headers_mut();
    headers.insert("host", HeaderValue::from_static(HOST));
    for (name, value) in &step.headers {
        headers.insert(*name, value.parse()?);
    }
    let answer = client.send(request, LIMIT).await;
    answer.with_context(|| format!("{} {}", step.method, step.target))
}

fn differs(
    program: &Program,
    step: &Step,
    member: usize,
    expected: &Answer,
    answer: &Answer,
    report: &mut Report,
) -> bool {
    let what = format!(
        "{} {} through member {}",
        step.method,
        step.target,
        member + 1
    );
    let mut problems = Vec::new();
    if answer.status != expected.status {
        problems.push(format!("{} instead of {}", answer.status, expected.status));
    }
    let bodies = [expected, answer].map(|a| without(&a.text(), program.ignored_elements));
    if bodies[0] != bodies[1] {
        problems.push(format!(
            "body {:?} instead of {:?}",
            cut(&bodies[1]),
            cut(&bodies[0])
        ));
    }
    let headers = [expected, answer].map(|a| comparable(a, program.ignored));
    if headers[0] != headers[1] {
        problems.push(format!(
            "headers {:?} instead of {:?}",
            headers[1], headers[0]
        ));
    }
    for problem in &problems {
        report.fail(format!("{what}: {problem}"));
    }
    !problems.is_empty()
}

fn cut(text: &str) -> String {
    text.chars().take(400).collect()
}

fn comparable(answer: &Answer, ignored: &[&str]) -> Vec<(String, String)> {
    let hop = ["date", "connection", "keep-alive", "transfer-encoding"];
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .filter(|(name, _)| !name.starts_with("synod-"))
        .filter(|(name, _)| !hop.contains(&name.as_str()) && !ignored.contains(&name.as_str()))
        // Whether the length was known beforehand is each hop's matter.
        .filter(|(name, _)| name != "content-length")
        .collect();
    headers.sort();
    headers
}

/// The text with the content of these XML elements taken out.
fn without(text: &str, elements: &[&str]) -> String {
    let mut text = text.to_owned();
    for element in elements {
        let mut kept = String::new();
        let mut rest = text.as_str();
        while let Some(open) = rest.find(&format!("{element}>")) {
            let (before, after) = rest.split_at(open + element.len() + 1);
            kept.push_str(before);
            rest = after.find("</").map_or("", |end| &after[end..]);
            let end = rest.find('>').map_or(rest.len(), |end| end + 1);
            kept.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        kept.push_str(rest);
        text = kept;
    }
    text
}

/// A program without Synod.
struct Alone {
    child: Child,
    mark: String,
    address: SocketAddr,
    data: tempfile::TempDir,
}

impl Alone {
    async fn start(command: &[String]) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let port = group::free_ports(1)?;
        let mark = format!("{}-alone-{port}", std::process::id());
        let program: PathBuf = Path::new(&command[0]).to_owned();
        let child = Command::new(&program)
            .args(&command[1..])
            .env("PORT", port.to_string())
            .env("DATA_DIR", data.path())
            .env(MARKER, &mark)
            .current_dir(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut alone = Self {
            child,
            mark,
            address,
            data,
        };
        let up = eventually(LIMIT, Duration::from_millis(20), async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        });
        if !up.await {
            bail!(
                "{command:?} does not listen on {address}: {:?}",
                alone.child.try_wait()
            );
        }
        Ok(alone)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        for process in self.processes() {
            process.signal(Signal::TERM)?;
        }
        tokio::time::timeout(LIMIT, self.child.wait()).await??;
        Ok(())
    }

    fn processes(&self) -> Vec<Process> {
        process::belonging_to(MARKER, &self.mark, self.data.path())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = process.signal(Signal::KILL);
        }
    }
}
