//! Where the app keeps its state, and how that is saved and put back.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::apply::{StateType, UncleanCrash};
use crate::snapshot::http::{Endpoint, HttpLimits};

/// Where the app keeps its state. The same for all members of a service, or they answer
/// differently after a crash.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct State {
    /// `Ephemeral`: in its process; an app that starts has an empty state. `Volume`: in the folder
    /// `volume.path`.
    #[serde(rename = "type")]
    pub kind: StateKind,
    /// For `Volume`: what is done when the folder is not surely the state of a known slot.
    pub on_unclean_crash: OnUncleanCrash,
    /// For `AppliedHeader`: the request that the app answers with the slot that its state contains, a
    /// decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Call>,
    /// For `Volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// How the state is saved, so that the log can be cut.
    pub snapshot: Snapshot,
}

/// See [`State::kind`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum StateKind {
    /// Gone with the process.
    #[default]
    Ephemeral,
    /// On a volume.
    Volume,
}

/// See [`State::on_unclean_crash`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum OnUncleanCrash {
    /// Back to the last snapshot, and replay.
    #[default]
    Rollback,
    /// The app is asked.
    AppliedHeader,
    /// What was in flight is sent again.
    AtLeastOnce,
}

/// The folder that holds the app's state.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Where this sidecar finds it.
    pub path: PathBuf,
    /// What is needed while it is saved or put back; on the same file system, best outside of
    /// `path`.
    pub work: PathBuf,
    /// A file that lives as long as the pod, made once the app may be started: for where that is asked
    /// once, before the first start. From then on nothing is put back, and the pod must be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<PathBuf>,
}

/// How the state is saved.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Snapshot {
    /// `None`: never; the whole log is kept. `HTTP`: by requests to the app. `Volume`: by a copy of
    /// the app's volume.
    #[serde(rename = "type")]
    pub kind: SnapshotKind,
    /// For `HTTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSnapshot>,
    /// When the next one is due.
    pub every: Every,
    /// How fast a snapshot is sent to another member at most, in bytes a second; 0: as fast as it
    /// goes.
    pub transfer_bytes_per_second: u64,
}

/// See [`Snapshot::kind`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Never.
    #[default]
    None,
    /// By requests to the app.
    #[serde(rename = "HTTP")]
    Http,
    /// By a copy of its volume.
    Volume,
}

/// The requests that save and restore the app's state.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSnapshot {
    /// Answered with the whole state.
    pub save: Call,
    /// Takes it back.
    pub restore: Call,
    /// Answered 200 once the app does nothing more behind its last response, 503 before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Call>,
    /// Longest time for one of them, in milliseconds.
    #[serde(default = "HttpSnapshot::timeout_ms")]
    pub timeout_ms: u64,
    /// Largest state, in bytes.
    #[serde(default = "HttpSnapshot::max_bytes")]
    pub max_bytes: u64,
}

/// A request to the app.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Call {
    /// HTTP method.
    pub method: String,
    /// From `/`.
    pub path: String,
}

/// When a snapshot is due: whichever comes first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Every {
    /// Slots since the last one.
    pub slots: u64,
    /// Bytes of log since the last one.
    pub log_bytes: u64,
}

// === impl State ===

impl State {
    /// Everything that can be wrong with the values themselves.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refused = |field, value: &str, allowed: &str| {
            Err(ConfigError::Value {
                field,
                value: value.to_owned(),
                allowed: allowed.to_owned(),
            })
        };
        let has_volume = self.kind == StateKind::Volume;
        if has_volume != self.volume.is_some() {
            return refused("state.volume", "", "given with type Volume, and only then");
        }
        if let Some(volume) = &self.volume {
            for (field, path) in [
                ("state.volume.path", &volume.path),
                ("state.volume.work", &volume.work),
            ] {
                if !path.is_absolute() {
                    return refused(field, &path.display().to_string(), "a path from /");
                }
            }
        }
        let asks = has_volume && self.on_unclean_crash == OnUncleanCrash::AppliedHeader;
        if asks != self.applied.is_some() {
            let allowed = "given with onUncleanCrash AppliedHeader, and only then";
            return refused("state.applied", "", allowed);
        }
        if let Some(call) = &self.applied {
            call.endpoint("state.applied")?;
        }
        let snapshot = &self.snapshot;
        if snapshot.kind == SnapshotKind::Volume && !has_volume {
            return refused("state.snapshot.type", "Volume", "with state.type Volume");
        }
        if (snapshot.kind == SnapshotKind::Http) != snapshot.http.is_some() {
            return refused(
                "state.snapshot.http",
                "",
                "given with type HTTP, and only then",
            );
        }
        if let Some(http) = &snapshot.http {
            http.save.endpoint("state.snapshot.http.save")?;
            http.restore.endpoint("state.snapshot.http.restore")?;
            if let Some(settle) = &http.settle {
                settle.endpoint("state.snapshot.http.settle")?;
            }
            if http.timeout_ms == 0 {
                return refused("state.snapshot.http.timeoutMs", "0", "1 or more");
            }
        }
        if snapshot.every.slots == 0 || snapshot.every.log_bytes == 0 {
            return refused("state.snapshot.every", "0", "1 or more");
        }
        Ok(())
    }

    /// As the apply machine has it.
    pub fn state_type(&self) -> StateType {
        match self.kind {
            StateKind::Ephemeral => StateType::Ephemeral,
            StateKind::Volume => StateType::Volume(match self.on_unclean_crash {
                OnUncleanCrash::Rollback => UncleanCrash::Rollback,
                OnUncleanCrash::AppliedHeader => UncleanCrash::AppliedHeader,
                OnUncleanCrash::AtLeastOnce => UncleanCrash::AtLeastOnce,
            }),
        }
    }
}

// === impl Call ===

impl Call {
    /// The request that it stands for.
    pub fn endpoint(&self, field: &'static str) -> Result<Endpoint, ConfigError> {
        let refused = |value: &str, allowed: &str| ConfigError::Value {
            field,
            value: value.to_owned(),
            allowed: allowed.to_owned(),
        };
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| refused(&self.method, "an HTTP method, such as GET"))?;
        let path: Option<PathAndQuery> = self.path.parse().ok();
        let path = path.filter(|_| self.path.starts_with('/'));
        let path = path.ok_or_else(|| refused(&self.path, "a path from /"))?;
        Ok(Endpoint { method, path })
    }
}

// === impl HttpSnapshot ===

impl HttpSnapshot {
    /// With the usual limits.
    pub fn new(save: Call, restore: Call) -> Self {
        Self {
            save,
            restore,
            settle: None,
            timeout_ms: Self::timeout_ms(),
            max_bytes: Self::max_bytes(),
        }
    }

    /// Half an hour: as slow as 1 MiB/s for the largest of the usual states.
    fn timeout_ms() -> u64 {
        30 * 60 * 1_000
    }

    fn max_bytes() -> u64 {
        1 << 40
    }

    /// What is too much of an answer.
    pub fn limits(&self) -> HttpLimits {
        /// Nothing moves for so long: it hangs.
        const SILENCE: Duration = Duration::from_secs(30);
        let whole = Duration::from_millis(self.timeout_ms);
        HttpLimits {
            state_bytes: self.max_bytes,
            silence: SILENCE.min(whole),
            whole,
        }
    }
}

impl Default for Every {
    fn default() -> Self {
        Self {
            slots: 100_000,
            log_bytes: 1 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> State {
        serde_yaml::from_str(text).expect("of this shape")
    }

    #[test]
    fn nothing_said_means_a_state_that_goes_with_the_process_and_no_snapshots() {
        let state = parse("{}");
        state.check().expect("good");
        assert_eq!(state.state_type(), StateType::Ephemeral);
        assert_eq!(state.snapshot.kind, SnapshotKind::None);
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        let volume = "type: Volume, volume: {path: /data, work: /work}";
        let call = "{method: GET, path: /slot}";
        for (good, text) in [
            (true, format!("{{{volume}}}")),
            (false, "{type: Volume}".to_owned()),
            (false, "{volume: {path: /data, work: /work}}".to_owned()),
            (false, "{type: Volume, volume: {path: data, work: /work}}".to_owned()),
            (true, format!("{{{volume}, onUncleanCrash: AppliedHeader, applied: {call}}}")),
            (false, format!("{{{volume}, onUncleanCrash: AppliedHeader}}")),
            (false, format!("{{{volume}, applied: {call}}}")),
            (true, format!("{{{volume}, snapshot: {{type: Volume}}}}")),
            (false, "{snapshot: {type: Volume}}".to_owned()),
            (true, format!("{{snapshot: {{type: HTTP, http: {{save: {call}, restore: {call}}}}}}}")),
            (false, "{snapshot: {type: HTTP}}".to_owned()),
            (false, format!("{{snapshot: {{http: {{save: {call}, restore: {call}}}}}}}")),
            (false, "{snapshot: {type: HTTP, http: {save: {method: GET, path: x}, restore: {method: PUT, path: /}}}}".to_owned()),
            (false, "{snapshot: {type: HTTP, http: {save: {method: 'G T', path: /}, restore: {method: PUT, path: /}}}}".to_owned()),
            (false, "{snapshot: {every: {slots: 0}}}".to_owned()),
        ] {
            assert_eq!(parse(&text).check().is_ok(), good, "{text}");
        }
    }
}
