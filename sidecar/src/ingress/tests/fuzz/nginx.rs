//! The same bytes for nginx, which may stand before a member: where both take a request for one, it has to be
//! the same one. What one of them takes for two and the other for one can be smuggled past the first.

use std::process::{Child, Command, Stdio};

use tokio::net::UnixStream;

use super::*;

/// Some 10 seconds of them.
const CASES: u32 = 2_500;

struct Nginx {
    process: Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// It answers every request that it understands with its first line. `None` where there is no nginx.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let parts = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = parts
            .map(|it| format!("{it}_temp_path {path}/{it};\n"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/errors crit;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n{temporary}access_log off; client_max_body_size 0; keepalive_requests 1000000;\n\
             server {{ listen unix:{path}/socket; return 200 \"$request_method $request_uri\"; }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg(folder.path().join("errors"))
            .arg("-c")
            .arg(file);
        let mut process = match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("nginx: {error}"),
        };
        for _ in 0..1_000 {
            if std::os::unix::net::UnixStream::connect(folder.path().join("socket")).is_ok() {
                return Some(Self { process, folder });
            }
            let ended = process.try_wait().unwrap();
            assert_eq!(
                ended,
                None,
                "nginx ends: {:?}",
                std::fs::read_to_string(folder.path().join("errors"))
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nginx does not begin");
    }

    /// What it answers to these bytes until it ends the connection.
    async fn ask(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let socket = self.folder.path().join("socket");
        let stream = UnixStream::connect(socket).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let writing = async {
            // It may have had enough.
            let _ = to.write_all(bytes).await;
            let _ = to.shutdown().await;
        };
        let mut came = Vec::new();
        let reading = async {
            // Closing with bytes unread, it resets the connection.
            let _ = from.read_to_end(&mut came).await;
        };
        let both = timeout(TOO_LONG, async { tokio::join!(writing, reading) }).await;
        both.map_err(|_| "nginx hangs")?;
        Ok(came)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first lines of the requests that it understood, in order; `None`: it refused one.
fn understood(mut bytes: &[u8]) -> Vec<Option<String>> {
    let mut requests = Vec::new();
    while let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        if head.starts_with("HTTP/1.1 100") {
            continue;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        if !head.starts_with("HTTP/1.1 200") {
            requests.push(None);
            bytes = bytes.get(length.unwrap_or(0)..).unwrap_or_default();
            continue;
        }
        let length = length.unwrap_or(0).min(bytes.len());
        // The answer to HEAD has a length and no body.
        if length == 0 || bytes.starts_with(b"HTTP/1.1 ") {
            requests.push(Some("HEAD".to_owned()));
            continue;
        }
        // It passes on what has no path (RFC 9112, 3.2.1 asks for a slash).
        let request = String::from_utf8_lossy(&bytes[..length]).replacen(" ?", " /?", 1);
        requests.push(Some(request));
        bytes = &bytes[length..];
    }
    requests
}

/// What a member takes: as [`super::check`] has found.
fn taken(reading: &Reading) -> Vec<Option<String>> {
    let requests = reading.messages.iter().map(|message| match &message.fate {
        Fate::Forwarded(expected) if expected.method == "HEAD" => Some("HEAD".to_owned()),
        Fate::Forwarded(expected) => Some(format!("{} {}", expected.method, expected.target)),
        Fate::Answered(_) => None,
    });
    requests.collect()
}

async fn check_both(bench: &Bench, nginx: &Nginx, sent: &Sent) -> Result<(), String> {
    check(bench, sent).await?;
    let ours = taken(&reference::read(&sent.bytes));
    let theirs = understood(&nginx.ask(&sent.bytes).await?);
    for (at, pair) in ours.iter().zip(&theirs).enumerate() {
        if let (Some(our), Some(their)) = pair
            && our != their
        {
            return Err(format!(
                "request {at} is {our:?} here and {their:?} for nginx: {ours:?} {theirs:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn nginx_and_a_member_never_part_the_same_bytes_differently() {
    let Some(nginx) = Nginx::start() else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "nginx is missing: install nginx-light"
        );
        eprintln!("skipped: install nginx-light");
        return;
    };
    let runtime = runtime();
    let bench = runtime.block_on(bench());
    for (name, text) in corpus(folder()) {
        let sent = Sent {
            bytes: read_bytes(&text),
            parts: vec![],
        };
        let checked = runtime.block_on(check_both(&bench, &nginx, &sent));
        checked.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    fuzz(
        CASES,
        &sent(),
        |it| write_bytes(&it.bytes),
        |sent| runtime.block_on(check_both(&bench, &nginx, &sent)),
    );
}
