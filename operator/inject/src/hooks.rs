//! Probes and hooks of the app's container, as they come to the sidecar.
//!
//! Paths on the admin port: `/app-health/<container>/{startupz,readyz,livez}`,
//! `/lifecycle/app-started?of=app` and `/lifecycle/drain?of=app`. A hook of the user's own that is an
//! HTTP request is made by the sidecar: its port and path are parameters of ours
//! (`&port=8080&path=%2Fwarm`, and `&host=` when it sets that header), its headers stand beside ours.
//! It goes to the pod's loopback.

use serde_json::{Map, Value, json};

use super::error::InjectProblem;
use super::injection::{AppState, Injection};
use super::json::{has, list, object, text};

/// Header that carries the token.
pub(super) const TOKEN_HEADER: &str = "Synod-App-Token";

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// At each start of the app.
    PostStart,
    /// Before it is ended.
    PreStop,
}

/// A request of the user's own that the sidecar makes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    port: u16,
    path: String,
    host: Option<String>,
    headers: Vec<Value>,
}

// === impl Hook ===

impl Hook {
    /// Its name in `lifecycle`.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::PostStart => "/lifecycle/app-started?of=app",
            // The app's container may be ended alone, and the member goes on: the sidecar's own hook
            // takes the whole member out, this one only lets another lead.
            Self::PreStop => "/lifecycle/drain?of=app",
        }
    }

    /// Ours, in the place of `own`; `None` when that must stay.
    pub(super) fn rendered(
        self,
        container: &Value,
        own: Option<&Value>,
        injection: &Injection,
    ) -> Option<Value> {
        let Some(own) = own else {
            return Some(request(self.path(), Vec::new(), injection));
        };
        let call = call(container, own.get("httpGet")?).ok()?;
        let Call {
            port,
            path,
            host,
            headers,
        } = call;
        let mut target = format!("{}&port={port}&path={}", self.path(), escaped(&path));
        if let Some(host) = host {
            target = format!("{target}&host={}", escaped(&host));
        }
        Some(request(&target, headers, injection))
    }
}

/// What is wrong with the hooks of the app's container at `path`.
pub(super) fn problems(path: &str, container: &Value) -> Vec<InjectProblem> {
    let mut problems = Vec::new();
    for hook in [Hook::PostStart, Hook::PreStop] {
        let own = own(container, hook).and_then(|it| it.get("httpGet"));
        if let Some(Err((field, message))) = own.map(|own| call(container, own)) {
            problems.push(InjectProblem {
                path: format!("{path}.lifecycle.{}.httpGet.{field}", hook.field()),
                message,
            });
        }
    }
    problems
}

/// The user's own hook.
pub(super) fn own(container: &Value, hook: Hook) -> Option<&Value> {
    let lifecycle = container.get("lifecycle")?;
    lifecycle.get(hook.field()).filter(|it| !it.is_null())
}

/// A probe that kubelet runs inside the container: it stays.
pub(super) fn stays(probe: &Value) -> bool {
    has(probe, "exec")
}

/// The user's probe, with its own times, asked of us.
pub(super) fn probe(own: &Value, container: &str, last: &str, injection: &Injection) -> Value {
    let mut probe: Map<String, Value> = own
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !["httpGet", "tcpSocket", "grpc"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let target = format!("/app-health/{container}/{last}");
    probe.extend(
        object(&request(&target, Vec::new(), injection), "httpGet")
            .map(|it| ("httpGet".to_owned(), Value::Object(it.clone()))),
    );
    Value::Object(probe)
}

/// How the sidecar has the app started anew. One failure must not do: a sidecar that is itself being
/// started answers nobody for a moment.
pub(super) fn liveness(container: &str, injection: &Injection) -> Value {
    let target = format!("/app-health/{container}/livez");
    let mut probe = request(&target, Vec::new(), injection);
    let map = probe.as_object_mut().expect("made as one");
    map.insert("periodSeconds".into(), json!(1));
    map.insert("failureThreshold".into(), json!(5));
    map.insert("timeoutSeconds".into(), json!(3));
    if injection.state == AppState::Ephemeral {
        // What it holds is not known any more: there is nothing to be saved.
        map.insert("terminationGracePeriodSeconds".into(), json!(1));
    }
    probe
}

/// `httpGet` to our admin port: by number, since names do not resolve across containers, and without
/// a host, which restricted pod security refuses.
pub(super) fn request(target: &str, mut headers: Vec<Value>, injection: &Injection) -> Value {
    headers.push(json!({"name": TOKEN_HEADER, "value": injection.token}));
    json!({"httpGet": {
        "path": target,
        "port": injection.ports.admin,
        "httpHeaders": headers,
    }})
}

/// What a hook asks for; an error names the field.
fn call(container: &Value, http: &Value) -> Result<Call, (&'static str, String)> {
    if let Some(host) = text(http, "host").filter(|it| !it.is_empty()) {
        return Err((
            "host",
            format!(
                "the sidecar calls this hook at the pod itself, not at `{host}`: remove it, or use exec"
            ),
        ));
    }
    if text(http, "scheme").is_some_and(|it| it != "HTTP") {
        return Err((
            "scheme",
            "the sidecar calls this hook, and does so without TLS: use HTTP or exec".to_owned(),
        ));
    }
    let port = port(container, http.get("port"))?;
    let path = text(http, "path")
        .filter(|it| !it.is_empty())
        .unwrap_or("/");
    let mut host = None;
    let mut headers = Vec::new();
    for header in list(http, "httpHeaders") {
        match text(header, "name").map(str::to_ascii_lowercase).as_deref() {
            Some("host") => host = text(header, "value").map(str::to_owned),
            Some("synod-app-token") => {}
            _ => headers.push(header.clone()),
        }
    }
    Ok(Call {
        port,
        path: if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        },
        host,
        headers,
    })
}

fn port(container: &Value, port: Option<&Value>) -> Result<u16, (&'static str, String)> {
    let number = match port {
        Some(Value::String(name)) => list(container, "ports")
            .iter()
            .find(|it| text(it, "name") == Some(name))
            .and_then(|it| it.get("containerPort"))
            .and_then(Value::as_u64),
        Some(port) => port.as_u64(),
        None => None,
    };
    number
        .and_then(|it| u16::try_from(it).ok())
        .filter(|it| *it != 0)
        .ok_or_else(|| {
            let shown = port.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let message = format!(
                "{shown} is neither a number from 1 to 65535 nor a port's name of this container"
            );
            ("port", message)
        })
}

/// Percent-encoded, all but RFC 3986's unreserved characters.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => write!(escaped, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    escaped
}
