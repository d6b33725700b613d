//! Header fields on their way through: what never crosses, what is ours, what we add, and what
//! clients tell us by them.
//!
//! In: header maps. Out: header maps, keys and tokens. Calls nothing.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Parser};
use synod_paxos::{GroupId, Slot};
use synod_proto::v1::{Header, IdempotencyPolicy};

use super::problem::Problem;

/// On every response: the slot that it reflects.
pub(super) static SYNOD_SLOT: HeaderName = HeaderName::from_static("synod-slot");
/// On every response: whose copy made it.
pub(super) static SYNOD_MEMBER: HeaderName = HeaderName::from_static("synod-member");
/// On every ordered response: what became of the request.
pub(super) static SYNOD_OUTCOME: HeaderName = HeaderName::from_static("synod-outcome");
/// On a read: a state older than this slot will not do.
pub(super) static SYNOD_MIN_SLOT: HeaderName = HeaderName::from_static("synod-min-slot");
/// The cookie that means the same as [`SYNOD_MIN_SLOT`].
const SLOT_COOKIE: &str = "synod-slot";

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const DEFAULT_KEY_HEADER: &str = "idempotency-key";
const MAX_KEY_BYTES: usize = 255;

/// A client's session token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) slot: Slot,
    /// The group it comes from, where it says so.
    pub(super) group: Option<String>,
}

/// Takes out what concerns one connection only (RFC 9110, 7.6.1): the fields that `Connection`
/// names and those that are always so. Framing fields and `Host` cannot be named away.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| {
            name != header::HOST
                && name != header::CONTENT_LENGTH
                && name != "close"
                && name != "keep-alive"
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Takes out what says where a message ends or goes: behind it, it must not be said (RFC 9110, 6.5.1), and
/// an app that merges both sections would believe it.
pub(super) fn strip_from_trailers(trailers: &mut HeaderMap) {
    for name in [header::CONTENT_LENGTH, header::HOST, header::EXPECT] {
        trailers.remove(name);
    }
}

/// Takes out every field of our names, also in the spelling that CGI-like apps cannot tell apart.
pub(super) fn strip_reserved(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("synod-") || name.starts_with("synod_")
    };
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Says who the client is and what it asked for (RFC 7239, and the fields that came before it).
/// What an earlier proxy said is kept.
pub(super) fn add_forwarded(headers: &mut HeaderMap, client: IpAddr) {
    let host = headers.get(header::HOST).cloned();
    let node = match client.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("\"[{v6}]\""),
    };
    let address = client.to_canonical().to_string();
    let proto = HeaderValue::from_static("http");
    let mut element = format!("for={node}").into_bytes();
    if let Some(host) = &host {
        element.extend_from_slice(b";host=\"");
        element.extend(
            host.as_bytes()
                .iter()
                .filter(|b| !matches!(b, b'"' | b'\\')),
        );
        element.push(b'"');
    }
    element.extend_from_slice(b";proto=http");
    append_to_list(headers, header::FORWARDED, &element);
    append_to_list(headers, X_FORWARDED_FOR.clone(), address.as_bytes());
    headers.entry(X_FORWARDED_PROTO.clone()).or_insert(proto);
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST.clone()).or_insert(host);
    }
}

fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: &[u8]) {
    let mut list = Vec::with_capacity(element.len());
    for earlier in headers.get_all(&name) {
        list.extend_from_slice(earlier.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element);
    // Header values joined by visible characters are a header value.
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, value);
    }
}

/// The `Idempotency-Key`, without quotes where it has them: quoted or bare is one key.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    policy: Option<&IdempotencyPolicy>,
) -> Result<Option<Bytes>, Problem> {
    let name = policy
        .map(|policy| policy.header.as_str())
        .filter(|name| !name.is_empty())
        .unwrap_or(DEFAULT_KEY_HEADER);
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::invalid_key("there is more than one key"));
    }
    let bare = value.as_bytes().trim_ascii();
    let key = if bare.starts_with(b"\"") {
        match Parser::new(bare).parse::<sfv::Item>() {
            Ok(sfv::Item {
                bare_item: BareItem::String(key),
                ..
            }) => Bytes::copy_from_slice(key.as_str().as_bytes()),
            _ => {
                return Err(Problem::invalid_key(
                    "it begins with a quote but is no string",
                ));
            }
        }
    } else {
        Bytes::copy_from_slice(bare)
    };
    match key.len() {
        0 => Err(Problem::invalid_key("it is empty")),
        1..=MAX_KEY_BYTES => Ok(Some(key)),
        _ => Err(Problem::invalid_key("it has more than 255 bytes")),
    }
}

/// Who the client is, as far as keys are concerned: a digest over the declared headers and cookies.
pub(super) fn principal(headers: &HeaderMap, policy: Option<&IdempotencyPolicy>) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    let default = [header::AUTHORIZATION.as_str().to_owned()];
    let names = policy.map_or(&default[..], |policy| &policy.principal_headers);
    for name in names {
        hash_field(&mut hasher, name.to_ascii_lowercase().as_bytes());
        let values = headers.get_all(name.as_str());
        hasher.update(&(values.iter().count() as u64).to_le_bytes());
        for value in values {
            hash_field(&mut hasher, value.as_bytes());
        }
    }
    for name in policy.map_or(&[][..], |policy| &policy.principal_cookies) {
        hash_field(&mut hasher, name.as_bytes());
        let values = cookies(headers, name);
        hasher.update(&(values.len() as u64).to_le_bytes());
        for value in values {
            hash_field(&mut hasher, value);
        }
    }
    Bytes::copy_from_slice(hasher.finalize().as_bytes())
}

/// What a request with a key is: a digest over method, target and body.
pub(super) fn request_digest(method: &str, target: &str, body: &[u8]) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    for part in [method.as_bytes(), target.as_bytes(), body] {
        hash_field(&mut hasher, part);
    }
    Bytes::copy_from_slice(hasher.finalize().as_bytes())
}

/// Each part with its length before it: two different lists never look alike.
fn hash_field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'))
        .filter_map(|pair| {
            let at = pair.iter().position(|b| *b == b'=')?;
            (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
        })
        .collect()
}

/// The session token: `Synod-Min-Slot`, or the cookie when there is no such field.
pub(super) fn session_token(
    headers: &HeaderMap,
    min_slot: Option<&HeaderValue>,
) -> Result<Option<Token>, Problem> {
    if let Some(value) = min_slot {
        return parse_token(value.as_bytes()).map(Some);
    }
    if !headers.contains_key(header::COOKIE) {
        return Ok(None);
    }
    match cookies(headers, SLOT_COOKIE).first() {
        None => Ok(None),
        Some(value) => parse_token(&decode_cookie(value)).map(Some),
    }
}

/// `1042;group="5f2c9a1b"` or a bare number.
fn parse_token(value: &[u8]) -> Result<Token, Problem> {
    let item: sfv::Item = Parser::new(value)
        .parse()
        .map_err(|_| Problem::invalid_token())?;
    let BareItem::Integer(slot) = item.bare_item else {
        return Err(Problem::invalid_token());
    };
    let slot = u64::try_from(i64::from(slot)).map_err(|_| Problem::invalid_token())?;
    let group = match item.params.get("group") {
        None => None,
        Some(BareItem::String(group)) => Some(group.as_str().to_owned()),
        Some(_) => return Err(Problem::invalid_token()),
    };
    Ok(Token {
        slot: Slot(slot),
        group,
    })
}

/// A cookie cannot hold `;` or quotes: a page stores the token percent-encoded.
fn decode_cookie(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    plain
}

/// `1042;group="5f2c9a1b"`.
pub(super) fn slot_value(slot: Slot, group: Option<GroupId>) -> HeaderValue {
    let text = match group {
        Some(group) => format!("{slot};group=\"{group}\""),
        None => slot.to_string(),
    };
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("digits and hex are a header value")
}

/// A name as a quoted string.
pub(super) fn quoted(name: &str) -> HeaderValue {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("printable ASCII is a header value")
}

/// Header fields as they travel between members and in the log: lower case, in order.
pub(super) fn to_wire(headers: &HeaderMap) -> Vec<Header> {
    headers
        .iter()
        .map(|(name, value)| Header {
            name: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect()
}

/// What another member says are header fields; what cannot be one is left out.
pub(super) fn from_wire(fields: Vec<Header>) -> HeaderMap {
    fields
        .into_iter()
        .filter_map(|field| {
            let name = HeaderName::try_from(field.name).ok()?;
            let value = HeaderValue::from_maybe_shared(field.value).ok()?;
            Some((name, value))
        })
        .fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn fields_of_one_connection_and_those_it_names_do_not_cross_but_host_does() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "X-Drop, host, keep-alive, content-length"),
            ("x-drop", "1"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("x-keep", "2"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-keep"]);
    }

    #[test]
    fn fields_of_our_names_are_ours_alone() {
        let mut headers = map(&[
            ("synod-slot", "1"),
            ("synod_time", "x"),
            ("synod-anything", "x"),
            ("synodic", "stays"),
        ]);
        strip_reserved(&mut headers);
        assert_eq!(headers, map(&[("synodic", "stays")]));
    }

    #[test]
    fn a_quoted_and_a_bare_key_are_one_key_and_bad_ones_are_refused() {
        let key = |value: &str| idempotency_key(&map(&[("idempotency-key", value)]), None);
        assert_eq!(key("\"abc-1\"").unwrap().unwrap(), "abc-1");
        assert_eq!(key("abc-1").unwrap().unwrap(), "abc-1");
        assert_eq!(key("\"a\\\"b\"").unwrap().unwrap(), "a\"b");
        assert_eq!(key(&"x".repeat(255)).unwrap().unwrap().len(), 255);
        let long = "x".repeat(256);
        for bad in ["", "\"\"", "\"abc", "\"a\"b", long.as_str()] {
            assert!(key(bad).is_err(), "{bad}");
        }
        let two = map(&[("idempotency-key", "a"), ("idempotency-key", "a")]);
        assert!(idempotency_key(&two, None).is_err());
        assert!(idempotency_key(&HeaderMap::new(), None).unwrap().is_none());
    }

    #[test]
    fn the_principal_depends_on_what_the_policy_declares_and_nothing_else() {
        let a = map(&[("authorization", "A"), ("cookie", "x=1; sid=s1; y=2")]);
        let b = map(&[("authorization", "B"), ("cookie", "sid=s1")]);
        assert_ne!(principal(&a, None), principal(&b, None));
        let by_cookie = IdempotencyPolicy {
            principal_cookies: vec!["sid".into()],
            ..IdempotencyPolicy::default()
        };
        assert_eq!(
            principal(&a, Some(&by_cookie)),
            principal(&b, Some(&by_cookie))
        );
        let c = map(&[("cookie", "sid=s2")]);
        assert_ne!(
            principal(&a, Some(&by_cookie)),
            principal(&c, Some(&by_cookie))
        );
        let empty = map(&[("authorization", "")]);
        assert_ne!(principal(&empty, None), principal(&HeaderMap::new(), None));
    }

    #[test]
    fn a_token_is_an_echoed_slot_a_bare_number_or_a_cookie() {
        let token = |name: &str, value: &str| match name {
            "cookie" => session_token(&map(&[(name, value)]), None),
            _ => session_token(
                &HeaderMap::new(),
                Some(&HeaderValue::try_from(value).unwrap()),
            ),
        };
        let full = Token {
            slot: Slot(1042),
            group: Some("5f2c9a1b".into()),
        };
        let bare = Token {
            slot: Slot(7),
            group: None,
        };
        assert_eq!(
            token("synod-min-slot", "1042;group=\"5f2c9a1b\"").unwrap(),
            Some(full.clone())
        );
        assert_eq!(token("synod-min-slot", "7").unwrap(), Some(bare.clone()));
        assert_eq!(token("cookie", "a=b; synod-slot=7").unwrap(), Some(bare));
        assert_eq!(
            token("cookie", "synod-slot=1042%3Bgroup%3D%225f2c9a1b%22").unwrap(),
            Some(full)
        );
        assert_eq!(token("cookie", "other=7").unwrap(), None);
        for bad in ["", "x", "-1", "1.5", "7;group=5", "7,8", "\"7\""] {
            assert!(token("synod-min-slot", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_client_and_its_host_are_told_and_earlier_proxies_are_kept() {
        let mut headers = map(&[
            ("host", "notes:80"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1;proto=https"),
        ]);
        add_forwarded(&mut headers, "::1".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, ::1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "notes:80");
        assert_eq!(
            headers["forwarded"],
            "for=10.0.0.1;proto=https, for=\"[::1]\";host=\"notes:80\";proto=http"
        );
    }

    #[test]
    fn our_values_are_structured_fields() {
        let group = GroupId([0x5f, 0x2c, 0x9a, 0x1b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            slot_value(Slot(1042), Some(group)),
            "1042;group=\"5f2c9a1b\""
        );
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\"");
    }
}
