//! The user's container and how it is spoken to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::int_or_string::IntOrString;

/// Which container of the template is the app, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct App {
    /// Name of the app's container. Default: the first container of the template. A change starts a
    /// new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub container: Option<String>,
    /// Number or name of the port on which the app takes HTTP requests. Default: the container's
    /// first port. A change starts a new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// How the app is spoken to: `HTTP1` (default), or `H2C` for HTTP/2 without TLS. A change starts
    /// a new revision.
    pub protocol: AppProtocol,
    /// How long one ordered request normally takes at most. After it the member reports itself
    /// slow; the request is not cut off. Default: 30s. A change is agreed and takes effect without
    /// a restart.
    pub apply_timeout: Duration,
    /// Further ports of the app that clients may reach directly, past the agreed order, for example
    /// for metrics. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub passthrough_ports: Vec<PassthroughPort>,
}

/// How the app is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    #[serde(rename = "H2C")]
    H2c,
}

/// A port of the app that clients reach directly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PassthroughPort {
    /// Number or name of the port.
    pub port: IntOrString,
    /// What you vouch for: `ReadOnly`, that nothing sent to this port changes the app's state.
    pub acknowledge: PassthroughAcknowledgement,
}

/// What a user vouches for on a passthrough port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PassthroughAcknowledgement {
    /// Nothing sent to this port changes the app's state.
    ReadOnly,
}

// === impl App ===

impl Default for App {
    fn default() -> Self {
        Self {
            container: None,
            port: None,
            protocol: AppProtocol::Http1,
            apply_timeout: Duration::from_secs(30),
            passthrough_ports: Vec::new(),
        }
    }
}
