//! What crosses between a client and the app, and what does not.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use synod_proto::v1::Header;

/// Fields that belong to one connection (RFC 9110, section 7.6.1). `Expect` is answered by us.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Fields with this prefix are ours alone, both ways.
const OURS: &str = "synod-";

/// Removes what must not cross.
pub(super) fn keep_end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let crosses = |name: &HeaderName| {
        !HOP_BY_HOP.contains(name) && !name.as_str().starts_with(OURS) && !named.contains(name)
    };
    if headers.keys().all(crosses) {
        return;
    }
    // Not `remove`, which would change the order of those that stay.
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in &*headers {
        if crosses(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    *headers = kept;
}

/// The fields of an ordered request, in the order given. `None` if one of them cannot be sent.
pub(super) fn from_request(fields: &[Header]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 4);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(field.value.clone()).ok()?;
        headers.try_append(name, value).ok()?;
    }
    keep_end_to_end(&mut headers);
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    fn fields(list: &[(&str, &'static str)]) -> Vec<Header> {
        list.iter()
            .map(|(name, value)| Header {
                name: (*name).to_string(),
                value: (*value).into(),
            })
            .collect()
    }

    #[test]
    fn what_belongs_to_the_connection_or_to_us_does_not_cross() {
        let headers = from_request(&fields(&[
            ("host", "notes.example"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("synod-slot", "99"),
            ("synod-anything", "1"),
            ("accept", "*/*"),
            ("cookie", "a=1"),
        ]))
        .unwrap();
        assert_eq!(names(&headers), ["host", "accept", "cookie"]);
    }

    #[test]
    fn the_order_and_all_values_are_kept() {
        let headers = from_request(&fields(&[
            ("b", "1"),
            ("upgrade", "x"),
            ("a", "2"),
            ("c", "3"),
            ("a", "4"),
        ]))
        .unwrap();
        assert_eq!(names(&headers), ["b", "a", "c"]);
        let values: Vec<_> = headers.get_all("a").iter().collect();
        assert_eq!(values, ["2", "4"]);
    }

    #[test]
    fn a_field_that_would_break_the_message_is_refused() {
        assert!(from_request(&fields(&[("a b", "1")])).is_none());
        assert!(from_request(&fields(&[("a", "1\r\nb: 2")])).is_none());
    }
}
