//! A whole group by the real program: three members, written to through one and read from another,
//! while processes are killed; stopped, started again with a changed manifest, and killed itself.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use common::{LONG, is_alive, three_ports, until};

/// A running `synod local`.
struct Local {
    child: Child,
    data: PathBuf,
    port: u16,
    said: Arc<Mutex<String>>,
}

impl Local {
    fn start(data: &Path, port: u16, manifest: Option<&Path>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_synod"))
            .args(["local", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .args(manifest.iter().flat_map(|it| [Path::new("-f"), it]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let said = Arc::new(Mutex::new(String::new()));
        let (output, lines) = (child.stdout.take().expect("piped"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut lines = lines.lock().expect("no panic");
                lines.push_str(&line);
                lines.push('\n');
            }
        });
        let local = Self {
            child,
            data: data.to_owned(),
            port,
            said,
        };
        until("a quorum", || local.has_said("try it:"));
        local
    }

    fn has_said(&self, words: &str) -> bool {
        self.said.lock().expect("no panic").contains(words)
    }

    fn kill(&self, file: &str) {
        let pid = fs::read_to_string(self.data.join(file)).expect("a pid file");
        let pid = pid
            .trim()
            .parse()
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, Signal::KILL).expect("it was there");
    }

    /// Asks member `member`, from 1, until it answers with `status`; returns the body.
    fn ask(
        &self,
        member: u16,
        status: u16,
        method: &str,
        target: &str,
        key: &str,
        body: &str,
    ) -> String {
        let mut answer = (0, String::new());
        let end = Instant::now() + LONG;
        while answer.0 != status {
            assert!(Instant::now() < end, "{method} {target}: {answer:?}");
            answer = request(self.port + member - 1, method, target, key, body)
                .unwrap_or_else(|error| (0, error.to_string()));
        }
        answer.1
    }

    fn pids(&self) -> Vec<String> {
        (1..=3)
            .flat_map(|it| {
                [
                    format!("member-{it}/sidecar.pid"),
                    format!("member-{it}/app.pid"),
                ]
            })
            .map(|it| {
                fs::read_to_string(self.data.join(it))
                    .expect("a pid")
                    .trim()
                    .to_owned()
            })
            .collect()
    }

    fn end(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it was there");
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.success(), signal == Signal::TERM);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Its guard ends the members.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(
    port: u16,
    method: &str,
    target: &str,
    key: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let key = if key.is_empty() {
        String::new()
    } else {
        format!("idempotency-key: {key}\r\n")
    };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: board\r\nconnection: close\r\n{key}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.get(9..12).and_then(|it| it.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |it| it.1);
    Ok((status, body.to_owned()))
}

fn manifest(folder: &Path, max_body: &str) -> PathBuf {
    let path = folder.join("manifest.yaml");
    let text = format!(
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {{name: board}}\nspec:\n  template: {{spec: {{containers: [{{name: a, ports: [{{containerPort: 80}}]}}]}}}}\n  ordering: {{maxBodySize: {max_body}}}\n"
    );
    fs::write(&path, text).expect("write");
    path
}

#[test]
fn a_group_outlives_its_processes_and_takes_over_a_changed_manifest() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let port = three_ports();
    let mut local = Local::start(&data, port, Some(&manifest(folder.path(), "1Ki")));
    assert!(
        local.has_said("spec.template"),
        "fields without a meaning are listed"
    );
    let note = |text: &str| format!("{{\"text\":\"{text}\"}}");
    let long = note(&"x".repeat(1500));

    local.ask(1, 201, "POST", "/notes", "a", &note("one"));
    assert!(local.ask(3, 200, "GET", "/notes", "", "").contains("one"));
    local.ask(2, 413, "POST", "/notes", "", &long);

    local.kill("member-1/sidecar.pid");
    local.ask(2, 201, "POST", "/notes", "b", &note("two"));
    local.kill("member-2/app.pid");
    local.ask(3, 201, "POST", "/notes", "c", &note("three"));
    // Repeats through other members, whatever was killed, are answered and not executed.
    for (member, key, text) in [(1, "b", "two"), (2, "a", "one"), (1, "c", "three")] {
        local.ask(member, 201, "POST", "/notes", key, &note(text));
    }
    for member in 1..=3 {
        let page = local.ask(member, 200, "GET", "/notes", "", "");
        assert!(page.starts_with("{\"count\":3,"), "member {member}: {page}");
    }

    let other = Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["local", "--data"])
        .arg(&data)
        .arg("-f")
        .arg(folder.path().join("manifest.yaml"))
        .output()
        .expect("it runs");
    assert_eq!(other.status.code(), Some(64));
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(text.contains(&local.child.id().to_string()), "{text}");

    let pids = local.pids();
    local.end(Signal::TERM);
    assert!(!pids.iter().any(|it| is_alive(it)));
    drop(local);

    let mut local = Local::start(&data, port, Some(&manifest(folder.path(), "2Ki")));
    until("the new policy", || local.has_said("in force as policy 2"));
    local.ask(2, 201, "POST", "/notes", "d", &long);
    let page = local.ask(3, 200, "GET", "/notes", "", "");
    assert!(page.starts_with("{\"count\":4,"), "{page}");

    local.end(Signal::TERM);
    drop(local);

    // Whose folder it is, and by which rules it goes, is known without the manifest.
    let mut local = Local::start(&data, port, None);
    assert!(local.has_said("members of board"));
    assert!(local.has_said("the policy that this group agreed on last stays in force"));
    local.ask(1, 201, "POST", "/notes", "e", &long);

    let pids = local.pids();
    local.end(Signal::KILL);
    until("the members' end", || !pids.iter().any(|it| is_alive(it)));
}
