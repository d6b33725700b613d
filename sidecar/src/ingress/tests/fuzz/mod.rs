//! Bytes of clients by chance, over real sockets, against a strict reading of them.

mod grammar;
mod nginx;
mod reference;

use std::path::PathBuf;

use synod_fuzz::{corpus, fuzz, read_bytes, write_bytes};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Runtime;

use self::grammar::{Sent, sent};
use self::reference::{Closes, End, Expected, Fate, Field, MAX_BODY_BYTES, Reading};
use super::*;

/// Some 15 seconds of them.
const CASES: u32 = 4_000;
/// Longer than any answer takes.
const HANGS: Duration = Duration::from_secs(5);
/// For what was sent before a part to be looked at.
const BETWEEN_PARTS: Duration = Duration::from_millis(1);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/ingress/testdata/requests")
}

/// A member that has every request ordered, so that all of them are recorded.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    let policy = Policy {
        routes: vec![],
        default_consistency: Consistency::Ordered.into(),
        max_body_bytes: MAX_BODY_BYTES as u64,
        ..policy()
    };
    bench.double.policy.send_replace(Arc::new(policy));
    bench
}

/// A client's connection, with what came back.
struct Client {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    came: Vec<u8>,
    ended: bool,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (from, to) = stream.into_split();
        Self {
            from,
            to,
            came: Vec::new(),
            ended: false,
        }
    }

    /// Whatever the other side still takes of it. Answers are read meanwhile.
    async fn write(&mut self, mut bytes: &[u8]) {
        let mut buffer = [0; 4096];
        while !bytes.is_empty() {
            tokio::select! {
                biased;
                written = self.to.write(bytes) => match written {
                    Ok(written) => bytes = &bytes[written..],
                    Err(_) => return,
                },
                read = self.from.read(&mut buffer), if !self.ended => self.take(read, &buffer),
            }
        }
    }

    fn take(&mut self, read: std::io::Result<usize>, buffer: &[u8]) {
        match read {
            Ok(0) | Err(_) => self.ended = true,
            Ok(length) => self.came.extend_from_slice(&buffer[..length]),
        }
    }

    /// Until the other side ends the connection, or `enough`.
    async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        let mut buffer = [0; 4096];
        let reading = async {
            while !self.ended && !enough(&self.came) {
                let read = self.from.read(&mut buffer).await;
                self.take(read, &buffer);
            }
        };
        let read = timeout(HANGS, reading).await;
        read.map_err(|_| format!("it hangs after {:?}", String::from_utf8_lossy(&self.came)))
    }
}

/// Statuses of the final responses in `bytes`, each to a request with this method.
fn statuses(mut bytes: &[u8], methods: &[String]) -> Result<Vec<u16>, String> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
            return Err("half a response".to_owned());
        };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|it| it.to_string())?;
        let status: Option<u16> = head.get(9..12).and_then(|it| it.parse().ok());
        let status =
            status.filter(|_| head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "));
        let status = status.ok_or_else(|| format!("no response: {head:?}"))?;
        bytes = &bytes[end + 4..];
        if status == 100 {
            continue;
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().ok())?
        });
        let method = methods.get(statuses.len());
        let head_only = method.is_some_and(|it| it == "HEAD");
        let length = if head_only { 0 } else { length.unwrap_or(0) };
        bytes = match bytes.get(length..) {
            Some(rest) => rest,
            // Behind the end of the connection nobody knows what it is an answer to.
            None if method.is_none() && bytes.is_empty() => bytes,
            None => return Err("half a body of a response".to_owned()),
        };
        statuses.push(status);
    }
    Ok(statuses)
}

/// Sends it, and compares what becomes of it with the reading.
async fn check(bench: &Bench, Sent { bytes, parts }: &Sent) -> Result<(), String> {
    let reading = reference::read(bytes);
    bench.double.state().proposed.clear();
    let mut client = Client::connect(bench.address).await;
    let mut from = 0;
    for part in parts {
        client.write(&bytes[from..*part]).await;
        tokio::time::sleep(BETWEEN_PARTS).await;
        from = *part;
    }
    client.write(&bytes[from..]).await;
    let methods = reading.messages.iter().map(|it| it.method.clone());
    let methods: Vec<String> = methods.chain(reading.last.clone()).collect();
    let count = reading.messages.len() + usize::from(matches!(reading.end, End::Refused(_)));
    let complete = |came: &[u8]| statuses(came, &methods).is_ok_and(|it| it.len() >= count);
    client.read_until(complete).await?;
    let waits = reading.end == End::Clean || matches!(reading.end, End::Broken(_));
    if waits {
        // The client leaves.
        let _ = client.to.shutdown().await;
    }
    client.read_until(|_| false).await?;
    let statuses = statuses(&client.came, &methods)
        .map_err(|why| format!("{why}: {:?}", String::from_utf8_lossy(&client.came)))?;
    let requests = bench.double.requests();
    compare(&reading, &statuses, &requests).map_err(|why| {
        format!("{why}\nanswered {statuses:?}\nrecorded {requests:#?}\nread as {reading:#?}")
    })
}

fn compare(reading: &Reading, statuses: &[u16], requests: &[Request]) -> Result<(), String> {
    let mut statuses = statuses.iter().copied();
    let mut requests = requests.iter();
    let mut may_end = false;
    let mut ended = false;
    for (at, message) in reading.messages.iter().enumerate() {
        let status = match statuses.next() {
            Some(400 | 431) if may_end && statuses.len() == 0 => return nothing_more(requests),
            Some(status) => status,
            None if may_end => return nothing_more(requests),
            None => return Err(format!("request {at} is not answered")),
        };
        match &message.fate {
            Fate::Forwarded(expected) if status == 201 => {
                let request = requests.next().ok_or("an answer without a request")?;
                same(request, expected).map_err(|why| format!("request {at}: {why}"))?;
            }
            Fate::Forwarded(_) if message.leeway && status == 400 => {}
            Fate::Answered(answers)
                if answers.contains(&status) || (message.leeway && status == 400) => {}
            fate => return Err(format!("request {at} got {status}: {fate:?}")),
        }
        // Some of our refusals end the connection, others do not; with a body they may.
        may_end |= status != 201 || message.closes == Closes::Perhaps;
        ended = message.closes == Closes::Yes;
    }
    let last: Vec<u16> = statuses.collect();
    match (&reading.end, &last[..]) {
        // Perhaps read further, and refused, when the connection had ended.
        (_, [] | [400 | 431]) if may_end => {}
        (End::Clean | End::Broken(_), []) => {}
        // What comes behind the end of a connection is not looked at, but it may be refused.
        (End::Clean, [400 | 431]) if ended => {}
        (End::Broken(answers) | End::Refused(answers), [status]) if answers.contains(status) => {}
        (end, last) => return Err(format!("{end:?} got {last:?}")),
    }
    nothing_more(requests)
}

fn nothing_more<'a>(mut requests: impl Iterator<Item = &'a Request>) -> Result<(), String> {
    match requests.next() {
        None => Ok(()),
        Some(request) => Err(format!("nobody sent {request:?}")),
    }
}

fn same(request: &Request, expected: &Expected) -> Result<(), String> {
    let fields = |fields: &[synod_proto::v1::Header]| {
        let mut fields: Vec<Field> = fields
            .iter()
            .map(|it| (it.name.clone(), it.value.to_vec()))
            .collect();
        fields.retain(|(name, _)| name != "forwarded" && !name.starts_with("x-forwarded-"));
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    let found = Expected {
        method: request.method.clone(),
        target: request.target.clone(),
        headers: fields(&request.headers),
        body: request.body.to_vec(),
        trailers: fields(&request.trailers),
    };
    if found == *expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn what_was_found_before_is_read_as_it_is_meant() {
    let runtime = runtime();
    let bench = runtime.block_on(bench());
    for (name, text) in corpus(folder()) {
        let bytes = read_bytes(&text);
        let whole = Sent {
            bytes: bytes.clone(),
            parts: vec![],
        };
        let checked = runtime.block_on(check(&bench, &whole));
        checked.unwrap_or_else(|why| panic!("{name}: {why}"));
        // And parted at each byte, where it is short.
        for part in 1..if bytes.len() < 400 { bytes.len() } else { 0 } {
            let parted = Sent {
                bytes: bytes.clone(),
                parts: vec![part],
            };
            let checked = runtime.block_on(check(&bench, &parted));
            checked.unwrap_or_else(|why| panic!("{name} at {part}: {why}"));
        }
    }
}

#[test]
fn bytes_by_chance_are_refused_or_reach_the_app_as_they_are_meant() {
    let runtime = runtime();
    let bench = runtime.block_on(bench());
    fuzz(
        CASES,
        &sent(),
        |it| write_bytes(&it.bytes),
        |sent| runtime.block_on(check(&bench, &sent)),
    );
}
