//! Which consistency a request gets: a pure function of its method, its path and the policy.
//!
//! In: the replicated policy, a method and a path. Out: a [`Class`], or why there is none. Calls
//! nothing.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use synod_proto::v1::route_match::Path;
use synod_proto::v1::{Consistency, Policy};

/// How a request is served, from the strongest to the weakest: `a < b` means a is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// It takes a slot of its own in the agreed log.
    Ordered,
    /// A read that sees every write that was answered before it began.
    Linearizable,
    /// A read that sees what the client has seen, by its token.
    Session,
    /// A read of a state whose age is bounded.
    BoundedStale,
    /// A read of whatever state this member's copy has.
    Local,
    /// Passed to this member's app as it is.
    Bypass,
}

/// What the policy says about one request.
#[derive(Clone, Debug)]
pub struct Class {
    /// How it is served.
    pub level: Level,
    /// Name of the route that matched; empty: none did.
    pub route: Arc<str>,
    /// For [`Level::BoundedStale`].
    pub max_staleness: Duration,
    /// Event streams and upgrades are allowed.
    pub streaming: bool,
}

/// Why a request has no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `CONNECT` makes no sense here (501).
    #[error("CONNECT is not supported: this is not a proxy to elsewhere")]
    Connect,
    /// `TRACE` would echo what proxies added (405).
    #[error("TRACE is not allowed")]
    Trace,
    /// The app might take the path for another one than the routes do (400).
    #[error(
        "the path has `..`, `%2e`, `%2f`, `%5c`, `//` or a backslash, which the app may read as \
         another path than the route that relaxes consistency here; send the plain path"
    )]
    AmbiguousPath,
}

/// A policy made ready for matching.
#[derive(Debug)]
pub struct Routes {
    policy: Arc<Policy>,
    in_order: Vec<CompiledRoute>,
    default_ordered: bool,
    unrouted: Arc<str>,
}

#[derive(Debug)]
struct CompiledRoute {
    name: Arc<str>,
    matches: Vec<CompiledMatch>,
    /// `None`: the default of the method.
    level: Option<Level>,
    max_staleness: Duration,
    streaming: bool,
}

#[derive(Debug)]
struct CompiledMatch {
    /// `None`: any method.
    method: Option<Method>,
    path: PathMatch,
}

#[derive(Debug)]
enum PathMatch {
    Any,
    Exact(String),
    /// Without a slash at its end.
    Prefix(String),
    /// A value that no request can have.
    Never,
}

// === impl Level ===

impl Level {
    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Linearizable => "linearizable",
            Self::Session => "session",
            Self::BoundedStale => "bounded_stale",
            Self::Local => "local",
            Self::Bypass => "bypass",
        }
    }

    fn of(consistency: i32) -> Option<Self> {
        match Consistency::try_from(consistency) {
            Ok(Consistency::Unspecified) => None,
            // A level that this build does not know may be anything; ordering is never wrong.
            Ok(Consistency::Ordered) | Err(_) => Some(Self::Ordered),
            Ok(Consistency::Linearizable) => Some(Self::Linearizable),
            Ok(Consistency::Session) => Some(Self::Session),
            Ok(Consistency::BoundedStale) => Some(Self::BoundedStale),
            Ok(Consistency::Local) => Some(Self::Local),
            Ok(Consistency::Bypass) => Some(Self::Bypass),
        }
    }
}

// === impl Routes ===

impl Routes {
    /// Makes a policy ready for matching.
    pub fn compile(policy: Arc<Policy>) -> Self {
        let routes = policy
            .routes
            .iter()
            .map(|route| CompiledRoute {
                name: route.name.as_str().into(),
                matches: route.matches.iter().map(compile_match).collect(),
                level: Level::of(route.consistency),
                max_staleness: Duration::from_millis(route.max_staleness_ms),
                streaming: route.streaming,
            })
            .collect();
        Self {
            default_ordered: Level::of(policy.default_consistency) == Some(Level::Ordered),
            in_order: routes,
            policy,
            unrouted: "".into(),
        }
    }

    /// The policy that these routes were compiled from.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Classifies a request. `path` is the path of its target as received, without the query.
    pub fn classify(&self, method: &Method, path: &str) -> Result<Class, Refusal> {
        match *method {
            Method::CONNECT => return Err(Refusal::Connect),
            Method::TRACE => return Err(Refusal::Trace),
            _ => {}
        }
        let default = self.default_level(method);
        let plain = decode_unreserved(path);
        let Some(route) = self.in_order.iter().find(|r| r.matches(method, &plain)) else {
            return Ok(Class {
                level: default,
                route: self.unrouted.clone(),
                max_staleness: Duration::ZERO,
                streaming: false,
            });
        };
        let level = route.level.unwrap_or(default);
        if level > default && is_ambiguous(path) {
            return Err(Refusal::AmbiguousPath);
        }
        Ok(Class {
            level,
            route: route.name.clone(),
            max_staleness: route.max_staleness,
            streaming: route.streaming,
        })
    }

    fn default_level(&self, method: &Method) -> Level {
        let reads = [
            "GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY",
        ];
        if !self.default_ordered && reads.contains(&method.as_str()) {
            Level::Linearizable
        } else {
            Level::Ordered
        }
    }
}

// === impl CompiledRoute ===

impl CompiledRoute {
    fn matches(&self, method: &Method, path: &str) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.matches(method, path))
    }
}

// === impl CompiledMatch ===

impl CompiledMatch {
    fn matches(&self, method: &Method, path: &str) -> bool {
        if self.method.as_ref().is_some_and(|wanted| wanted != method) {
            return false;
        }
        match &self.path {
            PathMatch::Any => true,
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathMatch::Never => false,
        }
    }
}

fn compile_match(route_match: &synod_proto::v1::RouteMatch) -> CompiledMatch {
    let path = match &route_match.path {
        None => PathMatch::Any,
        Some(Path::Exact(exact)) => PathMatch::Exact(decode_unreserved(exact).into_owned()),
        Some(Path::Prefix(prefix)) => {
            PathMatch::Prefix(decode_unreserved(prefix).trim_end_matches('/').to_owned())
        }
    };
    let method =
        (!route_match.method.is_empty()).then(|| Method::from_bytes(route_match.method.as_bytes()));
    match method {
        None => CompiledMatch { method: None, path },
        Some(Ok(method)) => CompiledMatch {
            method: Some(method),
            path,
        },
        Some(Err(_)) => CompiledMatch {
            method: None,
            path: PathMatch::Never,
        },
    }
}

/// Decodes percent-encoded unreserved characters: apps must take both spellings for the same path
/// (RFC 3986, 6.2.2.2), so routes do too.
fn decode_unreserved(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 3)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = code.filter(|b| is_unreserved(*b)) {
            plain.push(char::from(byte));
            rest = &rest[at + 3..];
        } else {
            plain.push('%');
            rest = &rest[at + 1..];
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.windows(2).any(|w| w == b".." || w == b"//")
        || bytes.contains(&b'\\')
        || bytes.windows(3).any(|w| {
            w[0] == b'%'
                && matches!(
                    (w[1], w[2]),
                    (b'2', b'e' | b'E' | b'f' | b'F') | (b'5', b'c' | b'C')
                )
        })
}

#[cfg(test)]
mod tests {
    use synod_proto::v1::{Route, RouteMatch};

    use super::*;

    fn route(name: &str, method: &str, path: Path, consistency: Consistency) -> Route {
        Route {
            name: name.into(),
            matches: vec![RouteMatch {
                method: method.into(),
                path: Some(path),
            }],
            consistency: consistency.into(),
            max_staleness_ms: 5_000,
            streaming: false,
        }
    }

    fn routes(routes: Vec<Route>) -> Routes {
        Routes::compile(Arc::new(Policy {
            version: 3,
            routes,
            ..Policy::default()
        }))
    }

    fn sample() -> Routes {
        routes(vec![
            route(
                "health",
                "GET",
                Path::Exact("/healthz".into()),
                Consistency::Bypass,
            ),
            route(
                "reports",
                "GET",
                Path::Prefix("/reports/".into()),
                Consistency::BoundedStale,
            ),
            route(
                "search",
                "POST",
                Path::Exact("/search".into()),
                Consistency::Linearizable,
            ),
            route(
                "count",
                "GET",
                Path::Prefix("/count".into()),
                Consistency::Ordered,
            ),
            route(
                "late",
                "GET",
                Path::Prefix("/reports/late".into()),
                Consistency::Local,
            ),
        ])
    }

    fn level(routes: &Routes, method: &str, path: &str) -> Result<(Level, String), Refusal> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        routes
            .classify(&method, path)
            .map(|class| (class.level, class.route.to_string()))
    }

    #[test]
    fn methods_that_only_read_are_linearizable_and_all_others_ordered_by_default() {
        let routes = routes(vec![]);
        for read in [
            "GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY",
        ] {
            assert_eq!(
                level(&routes, read, "/x").unwrap().0,
                Level::Linearizable,
                "{read}"
            );
        }
        for write in [
            "POST", "PUT", "PATCH", "DELETE", "MKCOL", "LOCK", "get", "ANYTHING",
        ] {
            assert_eq!(
                level(&routes, write, "/x").unwrap().0,
                Level::Ordered,
                "{write}"
            );
        }
        assert_eq!(level(&routes, "CONNECT", "h:1"), Err(Refusal::Connect));
        assert_eq!(level(&routes, "TRACE", "/"), Err(Refusal::Trace));
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let is = |method, path, wanted: Level, name: &str| {
            assert_eq!(
                level(&sample(), method, path),
                Ok((wanted, name.into())),
                "{method} {path}"
            );
        };
        is("GET", "/healthz", Level::Bypass, "health");
        is("POST", "/healthz", Level::Ordered, "");
        is("GET", "/healthz/", Level::Linearizable, "");
        is("GET", "/reports/late/1", Level::BoundedStale, "reports");
        is("POST", "/search", Level::Linearizable, "search");
        is("GET", "/count/up", Level::Ordered, "count");
    }

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        let routes = sample();
        for (path, matches) in [
            ("/reports", true),
            ("/reports/", true),
            ("/reports/a/b", true),
            ("/report", false),
            ("/reportsx", false),
            ("/x/reports", false),
        ] {
            let name = level(&routes, "GET", path).unwrap().1;
            assert_eq!(name == "reports", matches, "{path}");
        }
        let all = self::routes(vec![route(
            "all",
            "",
            Path::Prefix("/".into()),
            Consistency::Local,
        )]);
        assert_eq!(level(&all, "GET", "/any/thing").unwrap().0, Level::Local);
        assert_eq!(level(&all, "DELETE", "/").unwrap().0, Level::Local);
    }

    #[test]
    fn an_encoded_spelling_of_a_path_meets_the_same_route() {
        assert_eq!(
            level(&sample(), "GET", "/%63ount").unwrap().0,
            Level::Ordered
        );
        assert_eq!(
            level(&sample(), "GET", "/c%6Funt/x%zz%").unwrap().0,
            Level::Ordered
        );
        assert_eq!(
            level(&sample(), "GET", "/count%41").unwrap().0,
            Level::Linearizable
        );
        assert_eq!(
            level(&sample(), "GET", "/count%é").unwrap().0,
            Level::Linearizable
        );
    }

    #[test]
    fn an_ambiguous_path_is_refused_where_the_route_is_weaker_than_the_method() {
        for tail in [
            "/../x",
            "/%2e%2e/x",
            "/a%2Fb",
            "//x",
            "/a\\b",
            "/..;/x",
            "/a%5cb",
            "/%2E",
        ] {
            let path = format!("/reports{tail}");
            assert_eq!(
                level(&sample(), "GET", &path),
                Err(Refusal::AmbiguousPath),
                "{path}"
            );
            let path = format!("/count{tail}");
            assert_eq!(
                level(&sample(), "GET", &path).unwrap().0,
                Level::Ordered,
                "{path}"
            );
            let path = format!("/other{tail}");
            assert_eq!(
                level(&sample(), "GET", &path).unwrap().0,
                Level::Linearizable,
                "{path}"
            );
        }
        assert!(level(&sample(), "GET", "/reports/a.b/%20/c").is_ok());
    }

    #[test]
    fn with_ordered_as_default_a_linearizable_route_is_a_weaker_one() {
        let routes = Routes::compile(Arc::new(Policy {
            default_consistency: Consistency::Ordered.into(),
            routes: vec![route(
                "r",
                "GET",
                Path::Prefix("/r".into()),
                Consistency::Linearizable,
            )],
            ..Policy::default()
        }));
        assert_eq!(level(&routes, "GET", "/x").unwrap().0, Level::Ordered);
        assert_eq!(
            level(&routes, "GET", "/r/x").unwrap().0,
            Level::Linearizable
        );
        assert_eq!(
            level(&routes, "GET", "/r/../x"),
            Err(Refusal::AmbiguousPath)
        );
    }

    #[test]
    fn a_level_that_this_build_does_not_know_is_ordered() {
        let mut odd = route("odd", "", Path::Prefix("/".into()), Consistency::Local);
        odd.consistency = 99;
        assert_eq!(
            level(&routes(vec![odd]), "GET", "/").unwrap().0,
            Level::Ordered
        );
    }

    #[test]
    fn a_route_without_a_level_of_its_own_keeps_the_default_of_the_method() {
        let plain = route(
            "plain",
            "",
            Path::Prefix("/p".into()),
            Consistency::Unspecified,
        );
        let routes = routes(vec![plain]);
        assert_eq!(
            level(&routes, "GET", "/p").unwrap(),
            (Level::Linearizable, "plain".into())
        );
        assert_eq!(
            level(&routes, "POST", "/p").unwrap(),
            (Level::Ordered, "plain".into())
        );
        assert!(level(&routes, "POST", "/p/../x").is_ok());
    }
}
