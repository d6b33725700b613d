//! The real program: exit codes, messages, and how processes are tied together.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use common::{is_alive, three_ports, until};

const SYNOD: &str = env!("CARGO_BIN_EXE_synod");

fn synod(arguments: &[&str]) -> Output {
    Command::new(SYNOD)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// The message of a refusal.
fn refusal(code: i32, arguments: &[&str]) -> String {
    let output = synod(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

#[test]
fn what_is_asked_for_is_printed_and_what_is_wrong_ends_with_64() {
    let output = synod(&["version"]);
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"synod 0."));
    assert!(synod(&["--help"]).status.success());
    assert!(synod(&["local", "--help"]).status.success());
    let script = synod(&["completion", "bash"]);
    assert!(String::from_utf8_lossy(&script.stdout).contains("_synod"));
    refusal(64, &[]);
    refusal(64, &["nonsense"]);
    refusal(64, &["local", "--replicas", "many"]);
    assert!(refusal(64, &["local", "--replicas", "4"]).contains("odd"));
    assert!(refusal(64, &["local", "--", "no-such-program"]).contains("no-such-program"));
    let text = refusal(64, &["status", "--data", "/nonexistent"]);
    assert!(
        text.contains("/nonexistent: there is no such folder"),
        "{text}"
    );
    let text = refusal(64, &["status", "--data", "/dev/null"]);
    assert!(text.contains("/dev/null: this is a file"), "{text}");
    let text = refusal(64, &["local", "--listen", "8080"]);
    assert!(text.contains("localhost:8080"), "{text}");
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("kubeconfig");
    let path = path.to_str().expect("text");
    let join = |cluster: &str, user: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: x, clusters: [{{name: c, cluster: {{{cluster}}}}}], users: [{{name: u, user: {{{user}}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}]}}"
        );
        fs::write(path, text).expect("write");
        let line = ["cluster", "join", "--name", "eu", "--region", "eu-1"];
        let output = synod(&[&line[..], &["--kubeconfig", path]].concat());
        assert!(output.stdout.is_empty(), "no Secret is printed");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let server = "server: 'https://127.0.0.1:1'";
    for (cluster, user, code, word) in [
        (
            "server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true",
            "token: s3cret",
            64,
            "insecure-skip-tls-verify",
        ),
        (server, "tokenFile: /nonexistent", 64, "/nonexistent"),
        (
            server,
            "exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-program, interactiveMode: Never}",
            64,
            "no-such-program",
        ),
        (server, "token: s3cret", 1, "refused"),
    ] {
        let (ended, text) = join(cluster, user);
        assert!(text.contains(word), "{word}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(ended, Some(code), "{text}");
    }
    let line = ["cluster", "list", "--kubeconfig", "/nonexistent"];
    assert!(refusal(64, &line).contains("/nonexistent"));
    let line = ["cluster", "join", "--name", "E_U", "--region", "eu-1"];
    assert!(refusal(64, &line).contains("lower-case"));
}

#[test]
fn the_account_of_a_hub_is_printed_without_a_cluster() {
    let line = ["cluster", "join", "--name", "eu", "--region", "eu-1"];
    let output = synod(&[&line[..], &["--print-account"]].concat());
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("kind: ClusterRole") && text.contains("- replicagroups\n"),
        "{text}"
    );
}

#[test]
fn manifests_come_with_the_sidecar_from_a_file_and_from_the_standard_input() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("all.yaml");
    let all = include_str!("../src/inject/testdata/stream.in.yaml");
    fs::write(&path, all).expect("write");
    let output = synod(&["inject", "-f", path.to_str().expect("text")]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("name: SYNOD_APP_TOKEN"), "{text}");
    let mut child = Command::new(SYNOD)
        .args(["inject", "-f", "-", "--token", "3f9a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"kind: ConfigMap\n").expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"kind: ConfigMap\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was changed"));
    fs::write(&path, all.replace("Parallel", "OrderedReady")).expect("write");
    let text = refusal(64, &["inject", "-f", path.to_str().expect("text")]);
    assert!(
        text.contains("StatefulSet web): spec.podManagementPolicy"),
        "{text}"
    );
    assert!(refusal(64, &["inject", "-f", "/nonexistent"]).contains("/nonexistent"));
    refusal(64, &["inject"]);
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused_with_every_field() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("manifest.yaml");
    fs::write(
        &path,
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: a}\nspec:\n  replicas: 2\n  template: {spec: {containers: [{name: a, ports: [{containerPort: 1}]}]}}\n  routes: [{name: a, consistency: Bypass}]\n",
    )
    .expect("write");
    let text = refusal(64, &["local", "-f", path.to_str().expect("text")]);
    for field in ["spec.replicas: ", "spec.routes[0].consistency: "] {
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn a_taken_port_and_a_foreign_folder_are_named_and_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free");
    let address = listener.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("folder");
    let temporary = folder.path().to_str().expect("text");
    let output = Command::new(SYNOD)
        .args(["local", "--replicas", "1", "--listen", &address])
        .env("TMPDIR", temporary)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&address) && text.contains("notes-1"),
        "{text}"
    );
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0);

    fs::write(folder.path().join("letter"), "x").expect("write");
    assert!(refusal(64, &["local", "--data", temporary]).contains("letter"));
}

#[test]
fn an_app_that_does_not_come_up_is_shown_with_what_it_said_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("free");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let output = Command::new(SYNOD)
        .args(["local", "--replicas", "1", "--listen", &address, "--"])
        .args(["sh", "-c", "echo no configuration >&2; exit 3"])
        .env("TMPDIR", folder.path())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "app does not come up",
        "exit code 3",
        "no configuration",
        "{port}",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0);
}

#[test]
fn apps_that_never_listen_end_the_start_with_their_port_and_what_they_said() {
    let folder = tempfile::tempdir().expect("folder");
    let output = Command::new(SYNOD)
        .args(["local", "--app-timeout", "1s", "--listen"])
        .arg(format!("localhost:{}", three_ports()))
        .args(["--", "sh", "-c", "echo listens elsewhere; sleep 1000"])
        .env("TMPDIR", folder.path())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in [
        "does not listen on port ",
        "listens elsewhere",
        "app.log",
        "--app-timeout",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0);
}

#[test]
fn a_child_dies_with_its_supervisor() {
    let script = format!("{SYNOD} exec-child --supervisor $$ -- sleep 1000 & echo $!; wait");
    let mut supervisor = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut pid = String::new();
    BufReader::new(supervisor.stdout.take().expect("piped"))
        .read_line(&mut pid)
        .expect("a pid");
    let pid = pid.trim();
    let command = format!("/proc/{pid}/cmdline");
    until("the child", || {
        fs::read(&command).is_ok_and(|it| it.starts_with(b"sleep"))
    });
    supervisor.kill().expect("killed");
    supervisor.wait().expect("gone");
    until("the child's end", || !is_alive(pid));
}

#[test]
fn a_child_of_a_supervisor_that_is_gone_does_not_begin() {
    let output = synod(&["exec-child", "--supervisor", "1", "--", "echo", "begun"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(output.stdout.is_empty());
}

#[test]
fn the_guard_ends_whole_groups_and_removes_a_folder_when_its_input_ends() {
    let folder = tempfile::tempdir().expect("folder");
    let temporary = folder.path().join("temporary");
    fs::create_dir(&temporary).expect("made");
    let group = |name: &str| {
        let file = folder.path().join(name);
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let child = Command::new("sh")
            .args(["-c", &script])
            .process_group(0)
            .spawn()
            .expect("it runs");
        until("the worker", || {
            fs::read_to_string(&file).is_ok_and(|it| it.ends_with('\n'))
        });
        let worker = fs::read_to_string(&file).expect("there").trim().to_owned();
        (child, worker)
    };
    let (mut ended, ended_worker) = group("ended");
    let (mut spared, spared_worker) = group("spared");
    let mut guard = Command::new(SYNOD)
        .args(["guard", "--remove"])
        .arg(&temporary)
        .stdin(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = guard.stdin.take().expect("piped");
    let (a, b) = (ended.id(), spared.id());
    writeln!(input, "+{a}\n+{b}\nnonsense\n-{b}").expect("told");
    drop(input);
    assert!(guard.wait().expect("it ends").success());
    ended.wait().expect("gone");
    until("the worker's end", || !is_alive(&ended_worker));
    assert!(is_alive(&spared_worker));
    assert!(!Path::new(&temporary).exists());
    let group = i32::try_from(b)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid");
    kill_process_group(group, Signal::KILL).expect("it was there");
    spared.wait().expect("gone");
}
