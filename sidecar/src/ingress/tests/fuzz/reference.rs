//! What the bytes of a client mean by RFC 9110 and 9112, read strictly, at once and from the whole: for
//! comparison with what [`super::super::super`] makes of them as they come.
//!
//! In: all bytes of a connection. Out: its requests, and how it ends. Calls nothing of ours.

/// The policy's and the ingress' limits.
pub(super) const MAX_BODY_BYTES: usize = 100_000;
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_FIELDS: usize = 100;
const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Trailers of less than that are taken, and of more than [`MAX_HEAD_BYTES`] refused.
const SURE_TRAILER_BYTES: usize = 8 << 10;

/// The requests of a connection, in order.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) messages: Vec<Message>,
    /// Behind the last of them.
    pub(super) end: End,
    /// Method of the one that it ends in, if it got as far.
    pub(super) last: Option<String>,
}

/// A request whose head is sound, with all of its body.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) fate: Fate,
    /// It is not quite as it should be, and may be refused as well.
    pub(super) leeway: bool,
    /// The connection ends behind it.
    pub(super) closes: Closes,
}

#[derive(Debug)]
pub(super) enum Fate {
    Forwarded(Box<Expected>),
    /// Ours to answer, with one of these.
    Answered(Vec<u16>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    No,
    Perhaps,
    Yes,
}

/// As the app is to see it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<Field>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<Field>,
}

/// Name in lower case, and value.
pub(super) type Field = (String, Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Between two requests.
    Clean,
    /// In the middle of one: it is not to be acted on. With which answers, if any.
    Broken(Vec<u16>),
    /// It must not be acted on, and one of these says so.
    Refused(Vec<u16>),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Method of the message whose body comes.
    last: Option<String>,
}

/// What a line came to.
enum Line<'a> {
    Is(&'a [u8]),
    /// It does not end.
    Open,
    Bad,
}

#[derive(Default)]
struct Head {
    method: Vec<u8>,
    target: Vec<u8>,
    http_10: bool,
    fields: Vec<Field>,
    leeway: bool,
}

enum Framed {
    Length(u64),
    Chunked,
}

enum Body {
    Whole(Vec<u8>, Vec<Field>),
    Open,
    Bad,
}

pub(super) fn read(bytes: &[u8]) -> Reading {
    let mut reader = Reader {
        bytes,
        at: 0,
        last: None,
    };
    let mut messages: Vec<Message> = Vec::new();
    loop {
        match reader.message(&mut messages) {
            None if messages.last().is_none_or(|it| it.closes != Closes::Yes) => {}
            None => {
                return Reading {
                    messages,
                    end: End::Clean,
                    last: None,
                };
            }
            Some(end) => {
                return Reading {
                    messages,
                    end,
                    last: reader.last,
                };
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn line(&mut self) -> Line<'a> {
        let rest = self.rest();
        let Some(end) = rest.iter().position(|it| *it == b'\n') else {
            return Line::Open;
        };
        self.at += end + 1;
        match rest[..end].split_last() {
            Some((b'\r', line)) if !line.iter().any(|it| matches!(it, b'\r' | 0)) => Line::Is(line),
            _ => Line::Bad,
        }
    }

    /// One request; `Some`: there is no further one.
    fn message(&mut self, messages: &mut Vec<Message>) -> Option<End> {
        // RFC 9112, 2.2.
        while self.rest().starts_with(b"\r\n") {
            self.at += 2;
        }
        self.last = None;
        if self.rest().is_empty() {
            return Some(End::Clean);
        }
        let head = match self.head() {
            Ok(head) => head,
            Err(end) => return Some(end),
        };
        let Some(framed) = head.framed() else {
            return Some(End::Refused(vec![400]));
        };
        let (fate, leeway) = head.meaning();
        let too_long = matches!(framed, Framed::Length(it) if it > MAX_BODY_BYTES as u64);
        let method = String::from_utf8(head.method.clone()).expect("a token is ASCII");
        self.last = Some(method.clone());
        let body = match framed {
            Framed::Length(length) => self.sized(length),
            Framed::Chunked => self.chunked(head.fields.len()),
        };
        // Of a body that is not read, nobody knows whether it is sound.
        let mut answers = match &fate {
            Ok(_) => vec![],
            Err(answers) => answers.clone(),
        };
        if too_long && fate.is_ok() {
            answers = vec![413];
        }
        let (body, trailers) = match body {
            Body::Whole(body, trailers) => (body, trailers),
            Body::Open => {
                answers.extend([400, 413]);
                return Some(End::Broken(answers));
            }
            Body::Bad => {
                answers.extend([400, 413]);
                return Some(End::Refused(answers));
            }
        };
        if body.len() > MAX_BODY_BYTES && fate.is_ok() {
            answers = vec![413];
        }
        let closes = head.closes();
        let fate = match fate {
            Ok((target, host)) if answers.is_empty() => Fate::Forwarded(Box::new(Expected {
                method: method.clone(),
                target,
                headers: crossing(&head.fields, host, &["content-length", "expect"]),
                body,
                trailers: crossing(&trailers, None, &["content-length", "host", "expect"]),
            })),
            _ => Fate::Answered(answers),
        };
        messages.push(Message {
            method,
            fate,
            leeway: leeway || head.leeway,
            closes,
        });
        None
    }

    fn head(&mut self) -> Result<Head, End> {
        let start = self.at;
        let mut head = Head::default();
        let mut first = true;
        loop {
            let line = self.line();
            let end = if matches!(line, Line::Open) {
                self.bytes.len()
            } else {
                self.at
            };
            if end - start > MAX_HEAD_BYTES {
                return Err(End::Refused(vec![431, 400]));
            }
            let line = match line {
                Line::Is(line) => line,
                Line::Open => return Err(End::Broken(vec![400, 408])),
                Line::Bad => return Err(End::Refused(vec![400])),
            };
            if std::mem::take(&mut first) {
                self.last = line.starts_with(b"HEAD ").then(|| "HEAD".to_owned());
                head.request_line(line).ok_or(End::Refused(vec![400]))?;
            } else if line.is_empty() {
                return Ok(head);
            } else if head.fields.len() == MAX_FIELDS {
                return Err(End::Refused(vec![431, 400]));
            } else {
                head.fields
                    .push(field(line).ok_or(End::Refused(vec![400]))?);
            }
        }
    }

    fn sized(&mut self, length: u64) -> Body {
        let rest = self.rest();
        match usize::try_from(length).ok().filter(|it| *it <= rest.len()) {
            None => Body::Open,
            Some(length) => {
                self.at += length;
                Body::Whole(rest[..length].to_vec(), Vec::new())
            }
        }
    }

    fn chunked(&mut self, fields: usize) -> Body {
        let mut body = Vec::new();
        loop {
            let before = self.at;
            let line = match self.line() {
                Line::Is(line) => line,
                Line::Open if self.rest().len() > MAX_CHUNK_LINE_BYTES => return Body::Bad,
                Line::Open => return Body::Open,
                Line::Bad => return Body::Bad,
            };
            if self.at - before > MAX_CHUNK_LINE_BYTES {
                return Body::Bad;
            }
            let Some(size) = chunk_size(line) else {
                return Body::Bad;
            };
            if size == 0 {
                break;
            }
            let Body::Whole(data, _) = self.sized(size) else {
                return Body::Open;
            };
            body.extend(data);
            match self.line() {
                Line::Is(b"") => {}
                Line::Open if self.rest().len() <= MAX_CHUNK_LINE_BYTES => return Body::Open,
                _ => return Body::Bad,
            }
        }
        let start = self.at;
        let mut trailers = Vec::new();
        loop {
            let line = match self.line() {
                Line::Is(line) => line,
                Line::Open if self.bytes.len() - start <= SURE_TRAILER_BYTES => return Body::Open,
                Line::Open | Line::Bad => return Body::Bad,
            };
            if line.is_empty() {
                return Body::Whole(body, trailers);
            }
            let field = field(line).filter(|_| fields + trailers.len() < MAX_FIELDS);
            let Some(field) = field else {
                return Body::Bad;
            };
            trailers.push(field);
        }
    }
}

impl Head {
    fn request_line(&mut self, line: &[u8]) -> Option<()> {
        let parts: Vec<&[u8]> = line.split(|it| *it == b' ').collect();
        let [method, target, version] = parts[..] else {
            return None;
        };
        self.http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return None,
        };
        if !is_token(method) || target.is_empty() {
            return None;
        }
        self.method = method.to_vec();
        self.target = target.to_vec();
        // Beside what may stand in a URI (RFC 3986, 2) there is what many send as it is.
        let well = |it: &u8| it.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(it);
        let often = |it: &u8| b"\"<>\\^`{|}".contains(it) || *it >= 0x80;
        if !target.iter().all(|it| well(it) || often(it)) || std::str::from_utf8(target).is_err() {
            return None;
        }
        let percents = target.split(|it| *it == b'%').skip(1);
        let escapes = percents
            .into_iter()
            .all(|it| it.len() >= 2 && it[..2].iter().all(u8::is_ascii_hexdigit));
        let brackets = target.iter().any(|it| b"[]".contains(it));
        self.leeway = !escapes || brackets || target.iter().any(often);
        Some(())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let of_name = self.fields.iter().filter(move |it| it.0 == name);
        of_name.map(|it| &it.1[..])
    }

    /// RFC 9112, 6; `None`: it can be read in two ways.
    fn framed(&self) -> Option<Framed> {
        let hosts = self.values("host").count();
        if hosts > 1 || (hosts == 0 && !self.http_10) {
            return None;
        }
        for value in self.values("connection") {
            let mut options = value.split(|it| *it == b',').map(<[u8]>::trim_ascii);
            if !options.all(|it| it.is_empty() || is_token(it)) {
                return None;
            }
        }
        let codings: Vec<&[u8]> = self.values("transfer-encoding").collect();
        let lengths: Vec<&[u8]> = self.values("content-length").collect();
        match (&codings[..], &lengths[..]) {
            ([], []) => Some(Framed::Length(0)),
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && !self.http_10 => {
                Some(Framed::Chunked)
            }
            ([], lengths) => {
                let mut lengths = lengths.iter().map(|it| decimal(it));
                let first = lengths.next()??;
                let same = lengths.all(|it| it == Some(first));
                same.then_some(Framed::Length(first))
            }
            _ => None,
        }
    }

    /// Target and the host it names, or which answers of ours; and whether it may be refused as well.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn meaning(&self) -> (Result<(String, Option<Vec<u8>>), Vec<u16>>, bool) {
        let bad = |answers: &[u16]| (Err(answers.to_vec()), false);
        let target = std::str::from_utf8(&self.target).expect("the line was checked");
        if self.method == b"CONNECT" {
            return bad(&[501, 400]);
        }
        let mut leeway = false;
        let (target, host) = if target.starts_with('/') {
            (target.to_owned(), None)
        } else if target == "*" {
            if self.method != b"OPTIONS" {
                return bad(&[400]);
            }
            (target.to_owned(), None)
        } else {
            let Some((scheme, rest)) = target.split_once("://") else {
                return bad(&[400]);
            };
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                return bad(&[400]);
            }
            leeway |= !matches!(scheme, "http" | "https");
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if authority.is_empty() {
                return bad(&[400]);
            }
            let path = match path.chars().next() {
                Some('/') => path.to_owned(),
                Some(_) => format!("/{path}"),
                None => {
                    // RFC 9112, 3.2.4: it may stand for the server as a whole.
                    leeway |= self.method == b"OPTIONS";
                    "/".to_owned()
                }
            };
            (path, Some(authority.as_bytes().to_vec()))
        };
        let own = self.values("host").next();
        let host = host.or_else(|| own.is_none().then(|| b"localhost".to_vec()));
        match is_host(host.as_deref().or(own).expect("one of them is there")) {
            Some(strict) => leeway |= !strict,
            None => return bad(&[400]),
        }
        let path = target.split('?').next().expect("there is always a first");
        if path.starts_with("/.well-known/synod/") {
            return bad(&[400, 404, 405, 417]);
        }
        if self.method == b"TRACE" {
            return bad(&[405]);
        }
        let mut expectations = self.values("expect");
        if let Some(first) = expectations.next() {
            if !first.eq_ignore_ascii_case(b"100-continue") {
                return bad(&[417, 400]);
            }
            if expectations.any(|it| !it.eq_ignore_ascii_case(b"100-continue")) {
                return bad(&[417, 400]);
            }
        }
        let upgrades = self.options().iter().any(|it| it == "upgrade");
        let protocol = self
            .values("upgrade")
            .next()
            .filter(|_| upgrades && !self.http_10);
        if protocol.is_some_and(|it| !it.eq_ignore_ascii_case(b"h2c")) {
            return bad(&[501, 400]);
        }
        (Ok((target, host)), leeway)
    }

    fn options(&self) -> Vec<String> {
        options(&self.fields)
    }

    fn closes(&self) -> Closes {
        let options = self.options();
        let has = |wanted: &str| options.iter().any(|it| it == wanted);
        match (has("close"), has("keep-alive")) {
            (true, true) => Closes::Perhaps,
            (true, false) => Closes::Yes,
            (false, keeps) if self.http_10 && !keeps => Closes::Yes,
            (false, _) if self.http_10 => Closes::Perhaps,
            (false, _) => Closes::No,
        }
    }
}

/// What the fields name as concerning this connection only.
fn options(fields: &[Field]) -> Vec<String> {
    let values = fields
        .iter()
        .filter(|it| it.0 == "connection")
        .map(|it| &it.1);
    let options = values.flat_map(|it| it.split(|it| *it == b','));
    options
        .map(|it| String::from_utf8_lossy(it.trim_ascii()).to_ascii_lowercase())
        .collect()
}

/// What goes on to the app (RFC 9110, 7.6.1), without what only this hop may say and our own names.
fn crossing(fields: &[Field], host: Option<Vec<u8>>, without: &[&str]) -> Vec<Field> {
    const HOP_BY_HOP: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let named = options(fields);
    let crosses = |(name, _): &&Field| {
        let kept = matches!(&name[..], "host" | "close" | "keep-alive");
        !(HOP_BY_HOP.contains(&&name[..])
            || without.contains(&&name[..])
            || name.starts_with("synod-")
            || name.starts_with("synod_")
            || (named.contains(name) && !kept)
            || (name == "host" && host.is_some()))
    };
    let mut fields: Vec<Field> = fields.iter().filter(crosses).cloned().collect();
    fields.extend(host.map(|host| ("host".to_owned(), host)));
    // Those of one name stay in their order.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn field(line: &[u8]) -> Option<Field> {
    let colon = line.iter().position(|it| *it == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let sound = |it: &u8| *it == b'\t' || (*it >= b' ' && *it != 0x7f);
    if !is_token(name) || !value.iter().all(sound) {
        return None;
    }
    let name = String::from_utf8(name.to_ascii_lowercase()).expect("a token is ASCII");
    Some((name, value.trim_ascii().to_vec()))
}

fn is_token(bytes: &[u8]) -> bool {
    const SEPARATORS: &[u8] = b"\"(),/:;<=>?@[\\]{}";
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|it| it.is_ascii_graphic() && !SEPARATORS.contains(it))
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, it| {
        let digit = it.is_ascii_digit().then(|| u64::from(it - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112, 7.1, without white space before the semicolon, which nobody needs.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let (size, extension) = match line.iter().position(|it| *it == b';') {
        Some(at) => line.split_at(at),
        None => (line, &b""[..]),
    };
    let digits = (1..=15).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
    let plain = extension
        .iter()
        .all(|it| *it == b'\t' || (*it >= b' ' && *it != 0x7f));
    if !digits || !plain {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

/// RFC 9110, 7.2: whether it is what a host may be; `Some(false)`: nearly.
fn is_host(host: &[u8]) -> Option<bool> {
    if host.is_empty() {
        return Some(true);
    }
    let (name, port) = if host.starts_with(b"[") {
        let end = host.iter().position(|it| *it == b']')?;
        let inside = &host[1..end];
        let address = |it: &u8| it.is_ascii_hexdigit() || b":.".contains(it);
        if inside.is_empty() || !inside.iter().all(address) {
            // A later kind of address, or a zone.
            let known = |it: &u8| it.is_ascii_alphanumeric() || b":.-_~%!$&'()*+,;=".contains(it);
            return inside.iter().all(known).then_some(false);
        }
        host.split_at(end + 1)
    } else {
        let end = host.iter().position(|it| *it == b':').unwrap_or(host.len());
        host.split_at(end)
    };
    let port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => return None,
    };
    if !port || name.is_empty() {
        return None;
    }
    let plain = |it: &u8| {
        it.is_ascii_alphanumeric()
            || b"-._".contains(it)
            || (name[0] == b'[' && b":[]".contains(it))
    };
    if name.iter().all(plain) {
        return Some(true);
    }
    let known = |it: &u8| it.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(it);
    name.iter().all(known).then_some(false)
}
