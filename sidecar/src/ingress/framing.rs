//! Where HTTP/1 messages of a client begin and end, read strictly.
//!
//! In: the bytes of a connection, in any pieces. Out: whether they may be passed on to the HTTP
//! library. Calls nothing.
//!
//! What the library would refuse is refused here, too: its own refusal has no words.
//!
//! The library follows the letter of RFC 9112 where it lets a server repair what is doubtful: it
//! takes `Transfer-Encoding` over `Content-Length` when both are there, and line ends without CR.
//! A proxy in front of us may have taken the other way, and then the two of us disagree on where
//! the next request begins: request smuggling (RFC 9112, 11.2). So whatever can be read in two ways
//! is refused here, before anybody acts on it.

/// Why a connection's bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// 400.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// 431.
    #[error("the header section is too large")]
    TooLarge,
}

/// Limits of one header section.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) fields: usize,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    limits: HeadLimits,
    phase: Phase,
    /// The beginning of a line that came in an earlier piece.
    partial: Vec<u8>,
    /// Bytes of the header or trailer section so far.
    section_bytes: usize,
    head: Head,
    heads: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    RequestLine,
    Fields,
    Sized(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// What the fields of the current header section say about its message.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// The method is HEAD: what is answered has no body.
    bodiless: bool,
    http_10: bool,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

/// Bytes that extensions of one chunk may have; nobody uses them.
const MAX_CHUNK_LINE_BYTES: usize = 256;

// === impl Framing ===

impl Framing {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            phase: Phase::Idle,
            partial: Vec::new(),
            section_bytes: 0,
            head: Head::default(),
            heads: 0,
        }
    }

    /// No byte of the next request has come.
    pub(super) fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// A header section has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.phase, Phase::RequestLine | Phase::Fields)
    }

    /// What is answered to the request that has begun last has no body (RFC 9110, 9.3.2).
    pub(super) fn is_bodiless(&self) -> bool {
        self.head.bodiless
    }

    /// Header sections completed so far.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Takes the next bytes. When they are refused, also says how many of them come before the
    /// message that is at fault, or before the fault when it lies in a body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let mut at = 0;
        let mut message_start = 0;
        while at < bytes.len() {
            match self.phase {
                Phase::Idle => {
                    message_start = at;
                    self.head = Head::default();
                    self.section_bytes = 0;
                    self.phase = Phase::RequestLine;
                }
                Phase::Sized(left) | Phase::ChunkData(left) => {
                    let step = left.min((bytes.len() - at) as u64);
                    at += step as usize;
                    self.skip(left - step);
                }
                _ => {
                    let in_head = self.in_head();
                    let start = at;
                    let fault_at = |at| if in_head { message_start } else { at };
                    let Some(end) = bytes[at..].iter().position(|b| *b == b'\n') else {
                        self.partial.extend_from_slice(&bytes[at..]);
                        self.count(bytes.len() - at)
                            .map_err(|violation| (fault_at(start), violation))?;
                        return Ok(());
                    };
                    at += end + 1;
                    self.count(end + 1)
                        .and_then(|()| self.take_line(&bytes[start..at]))
                        .map_err(|violation| (fault_at(start), violation))?;
                }
            }
        }
        Ok(())
    }

    /// Part of a body went by.
    fn skip(&mut self, left: u64) {
        self.phase = match self.phase {
            Phase::Sized(_) if left == 0 => Phase::Idle,
            Phase::Sized(_) => Phase::Sized(left),
            _ if left == 0 => Phase::ChunkEnd,
            _ => Phase::ChunkData(left),
        };
    }

    fn count(&mut self, bytes: usize) -> Result<(), Violation> {
        self.section_bytes += bytes;
        match self.phase {
            Phase::ChunkSize | Phase::ChunkEnd if self.section_bytes > MAX_CHUNK_LINE_BYTES => {
                Err(Violation::Malformed("a chunk has too many extensions"))
            }
            _ if self.section_bytes > self.limits.bytes => Err(Violation::TooLarge),
            _ => Ok(()),
        }
    }

    fn take_line(&mut self, end: &[u8]) -> Result<(), Violation> {
        if self.partial.is_empty() {
            return self.line(end);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(end);
        let result = self.line(&whole);
        whole.clear();
        self.partial = whole;
        result
    }

    /// One line with its end.
    fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Violation::Malformed(
                "a line ends without a carriage return",
            ));
        };
        if line.iter().any(|b| matches!(b, b'\r' | 0)) {
            return Err(Violation::Malformed("a line has a control character in it"));
        }
        match self.phase {
            Phase::RequestLine => self.request_line(line),
            Phase::Fields if line.is_empty() => self.end_of_head(),
            Phase::Fields => self.field(line),
            Phase::ChunkSize => self.chunk_size(line),
            Phase::ChunkEnd if line.is_empty() => {
                self.section_bytes = 0;
                self.phase = Phase::ChunkSize;
                Ok(())
            }
            Phase::ChunkEnd => Err(Violation::Malformed("a chunk is longer than its size")),
            Phase::Trailers if line.is_empty() => {
                self.phase = Phase::Idle;
                Ok(())
            }
            Phase::Trailers => self
                .count_field()
                .and_then(|()| split_field(line).map(|_| ())),
            Phase::Idle | Phase::Sized(_) | Phase::ChunkData(_) => {
                unreachable!("these phases have no lines")
            }
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.is_empty() {
            // RFC 9112, 2.2: an empty line before a request is to be ignored.
            self.phase = Phase::Idle;
            return Ok(());
        }
        self.head.bodiless = line.starts_with(b"HEAD ");
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Violation::Malformed(
                "the request line is not `METHOD TARGET HTTP/1.1`",
            ));
        };
        if method.is_empty() || target.is_empty() {
            return Err(Violation::Malformed(
                "the request line has no method or no target",
            ));
        }
        if !is_token(method) {
            return Err(Violation::Malformed("the method is not a token"));
        }
        if !is_target(target) {
            return Err(Violation::Malformed(
                "the target is not a URI: percent-encode what may not stand in one",
            ));
        }
        self.head.http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => {
                return Err(Violation::Malformed(
                    "the version is not HTTP/1.1 or HTTP/1.0",
                ));
            }
        };
        self.phase = Phase::Fields;
        Ok(())
    }

    fn count_field(&mut self) -> Result<(), Violation> {
        self.head.fields += 1;
        if self.head.fields > self.limits.fields {
            return Err(Violation::TooLarge);
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.count_field()?;
        let (name, value) = split_field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            self.head.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse_length(value)?;
            if self.head.length.is_some_and(|earlier| earlier != length) {
                return Err(Violation::Malformed("Content-Length fields differ"));
            }
            self.head.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::Malformed(
                    "the only Transfer-Encoding taken is `chunked`, once",
                ));
            }
            self.head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") && !is_list_of_tokens(value) {
            return Err(Violation::Malformed(
                "Connection is not a list of options: what it names cannot be told",
            ));
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        let head = self.head;
        if head.hosts > 1 || (head.hosts == 0 && !head.http_10) {
            return Err(Violation::Malformed("there must be exactly one Host field"));
        }
        if head.chunked && head.length.is_some() {
            return Err(Violation::Malformed(
                "Content-Length and Transfer-Encoding exclude each other",
            ));
        }
        if head.chunked && head.http_10 {
            return Err(Violation::Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        self.heads += 1;
        self.section_bytes = 0;
        self.phase = match head.length {
            _ if head.chunked => Phase::ChunkSize,
            Some(length) if length > 0 => Phase::Sized(length),
            _ => Phase::Idle,
        };
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        let size = (1..=15)
            .contains(&digits)
            .then(|| std::str::from_utf8(size).ok())
            .flatten()
            .and_then(|size| u64::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|_| matches!(extension.first(), None | Some(b';'))) else {
            return Err(Violation::Malformed(
                "the size of a chunk is not a hexadecimal number",
            ));
        };
        if has_control(extension) {
            return Err(Violation::Malformed(
                "the extension of a chunk has a control character in it",
            ));
        }
        self.section_bytes = 0;
        self.phase = match size {
            0 => Phase::Trailers,
            size => Phase::ChunkData(size),
        };
        Ok(())
    }
}

/// A field line as name and value without the white space around it.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Malformed(
            "a header field is folded over several lines",
        ));
    }
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return Err(Violation::Malformed("a header field has no colon"));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Violation::Malformed(
            "the name of a header field is not a token",
        ));
    }
    if has_control(value) {
        return Err(Violation::Malformed(
            "the value of a header field has a control character in it",
        ));
    }
    Ok((name, value.trim_ascii()))
}

/// Of a line, what may only be between others.
fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|b| b.is_ascii_control() && *b != b'\t')
}

/// RFC 9110, 5.6.1 and 7.6.1.
fn is_list_of_tokens(value: &[u8]) -> bool {
    let mut parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    parts.all(|part| part.is_empty() || is_token(part))
}

/// RFC 9110, 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    let in_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(in_token)
}

/// Whether the library takes it. A fragment, which it would drop without a word, is none of a
/// target (RFC 9112, 3.2).
fn is_target(bytes: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(b);
    if bytes.starts_with(b"/") && bytes.iter().all(plain) {
        return true;
    }
    !bytes.contains(&b'#') && http::Uri::try_from(bytes).is_ok()
}

/// Digits and nothing else: no sign, no list, no white space inside.
fn parse_length(value: &[u8]) -> Result<u64, Violation> {
    let digits = (!value.is_empty() && value.iter().all(u8::is_ascii_digit))
        .then(|| std::str::from_utf8(value).ok())
        .flatten();
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(Violation::Malformed("Content-Length is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 1024,
        fields: 10,
    };

    /// The vectors: each must be refused, whatever the pieces it comes in.
    const SMUGGLING: &[(&str, &str)] = &[
        (
            "both lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "both lengths, the other way round",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "lengths that differ",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
        ),
        (
            "a negative length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        ),
        (
            "an empty length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        ),
        (
            "a hexadecimal length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
        ),
        (
            "a length beyond all numbers",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        (
            "an unknown coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "chunked and something behind it",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        ),
        (
            "a vertical tab before chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        ),
        (
            "chunked in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "a folded field",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Content-Length: 5\r\n\r\n",
        ),
        (
            "a fold by tab",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tY: 5\r\n\r\n",
        ),
        (
            "a space before the first field",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        ),
        (
            "a space before the colon",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
        ),
        (
            "a line without colon",
            "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
        ),
        ("an empty name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\nX: a\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n"),
        (
            "one bare line feed",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        ),
        (
            "a bare carriage return",
            "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        ),
        ("a null", "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
        ("a space too many", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "a space in the target",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "a fragment in the target",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("HTTP/0.9", "GET /\r\n\r\n"),
        ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        (
            "a chunk size with a sign",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk size with 0x",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "an empty chunk size",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk size with a space",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk size beyond all numbers",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk longer than its size",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk line that ends in a line feed only",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        ),
        (
            "a chunk that ends in a line feed only",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
        ),
        (
            "a folded trailer",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n",
        ),
    ];

    const GOOD: &[(&str, &str)] = &[
        ("a plain request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "an empty line before it",
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n"),
        ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        (
            "the same length twice, then another request",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\nhello\
             GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "chunks with an extension and a trailer, then another request",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
             5;x=y\r\nhello\r\n00A\r\n0123456789\r\n0\r\nSum: 1\r\n\r\n\
             GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "a body that looks like a bad request",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nGET / HTTP/9.9\n\n\0\r\r\r",
        ),
    ];

    fn in_pieces(bytes: &str, step: usize) -> Result<Framing, Violation> {
        let mut framing = Framing::new(LIMITS);
        for piece in bytes.as_bytes().chunks(step) {
            framing.take(piece).map_err(|(_, violation)| violation)?;
        }
        Ok(framing)
    }

    #[test]
    fn whatever_can_be_read_in_two_ways_is_refused_in_any_pieces() {
        for (name, bytes) in SMUGGLING {
            for step in [1, 2, 3, 7, 4096] {
                let result = in_pieces(bytes, step);
                assert!(
                    matches!(result, Err(Violation::Malformed(_))),
                    "{name} in steps of {step}: {result:?}"
                );
            }
        }
    }

    #[test]
    fn good_requests_pass_in_any_pieces_and_leave_the_connection_idle() {
        for (name, bytes) in GOOD {
            for step in [1, 2, 3, 7, 4096] {
                let framing = in_pieces(bytes, step).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(framing.is_idle(), "{name} in steps of {step}: {framing:?}");
            }
        }
    }

    #[test]
    fn only_the_bytes_before_the_bad_message_are_passed_on() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        let mut framing = Framing::new(LIMITS);
        let (passed, _) = framing.take(format!("{good}{bad}").as_bytes()).unwrap_err();
        assert_eq!(passed, good.len());
    }

    #[test]
    fn a_header_section_over_the_limits_is_too_large() {
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(1024)
        );
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10));
        let fits = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(9));
        for step in [1, 5, 4096] {
            assert_eq!(in_pieces(&long, step).unwrap_err(), Violation::TooLarge);
            assert_eq!(in_pieces(&many, step).unwrap_err(), Violation::TooLarge);
            assert!(in_pieces(&fits, step).is_ok());
        }
    }
}
