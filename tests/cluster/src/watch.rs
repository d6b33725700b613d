//! What a service's conditions say over time. Comes in: a service. Goes out: each change of each
//! condition, none left out that the API server has told. It calls `kubectl get --watch`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::service::Service;

/// A watch that has ended is begun again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// A condition's status and reason, such as `True AsDesired`.
pub type Said = String;

/// Conditions of one service, watched until this is dropped.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Vec<(String, Said)>>>,
    task: JoinHandle<()>,
}

/// A moment of a [`Watch`].
#[derive(Clone, Copy, Debug)]
pub struct Moment(usize);

// === impl Watch ===

impl Watch {
    /// Begins to watch.
    pub fn start(service: Service<'_>) -> Result<Self> {
        let (kubeconfig, name) = (service.hub.kubeconfig.clone(), service.name.to_owned());
        let begin = move || {
            let mut command = Command::new("kubectl");
            command
                .arg("--kubeconfig")
                .arg(&kubeconfig)
                .args(["get", "rsvc", &name, "--watch", "--output=json"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .kill_on_drop(true);
            command.spawn().context("starting kubectl")
        };
        let mut child = begin()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                follow(&mut child, &noted).await;
                tokio::time::sleep(AGAIN).await;
                if let Ok(next) = begin() {
                    child = next;
                }
            }
        });
        Ok(Self { seen, task })
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(lock(&self.seen).len())
    }

    /// What each condition has said since then, in order, beginning with what it said at that time.
    pub fn since(&self, moment: Moment) -> BTreeMap<String, Vec<Said>> {
        let seen = lock(&self.seen);
        let (before, after) = seen.split_at(moment.0);
        let mut all: BTreeMap<String, Vec<Said>> = BTreeMap::new();
        for (kind, said) in before {
            all.insert(kind.clone(), vec![said.clone()]);
        }
        for (kind, said) in after {
            all.entry(kind.clone()).or_default().push(said.clone());
        }
        all
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what one watch tells, until it ends.
async fn follow(child: &mut Child, seen: &Mutex<Vec<(String, Said)>>) {
    let Some(mut output) = child.stdout.take() else {
        return;
    };
    let mut bytes = Vec::new();
    while output.read_buf(&mut bytes).await.is_ok_and(|it| it > 0) {
        let mut objects = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        while let Some(Ok(object)) = objects.next() {
            note(&object, &mut lock(seen));
        }
        let whole = objects.byte_offset();
        bytes.drain(..whole);
    }
}

/// Adds what is new in an object's conditions.
fn note(object: &Value, seen: &mut Vec<(String, Said)>) {
    let conditions = object["status"]["conditions"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for condition in conditions.into_iter().flatten() {
        let kind = text(&condition["type"]);
        let said = format!(
            "{} {}",
            text(&condition["status"]),
            text(&condition["reason"])
        );
        let last = seen.iter().rev().find(|(it, _)| *it == kind);
        if last.is_none_or(|(_, it)| *it != said) {
            seen.push((kind, said));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(ready: &str, reason: &str) -> Value {
        json!({"status": {"conditions": [
            {"type": "Available", "status": "True", "reason": "QuorumCommits"},
            {"type": "Ready", "status": ready, "reason": reason},
        ]}})
    }

    #[test]
    fn each_change_of_a_condition_is_noted_once() {
        let mut seen = Vec::new();
        for (ready, reason) in [
            ("True", "AsDesired"),
            ("False", "RollingOut"),
            ("False", "RollingOut"),
            ("True", "AsDesired"),
        ] {
            note(&object(ready, reason), &mut seen);
        }
        let ready: Vec<_> = seen.iter().filter(|(kind, _)| kind == "Ready").collect();
        let said: Vec<_> = ready.iter().map(|(_, said)| said.as_str()).collect();
        assert_eq!(
            said,
            ["True AsDesired", "False RollingOut", "True AsDesired"]
        );
        assert_eq!(seen.len(), 4, "the other condition never changed");
    }
}
