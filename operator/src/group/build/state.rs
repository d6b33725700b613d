//! Where the app keeps its state and how it is saved, as the sidecar's configuration has it.

use serde_json::{Value, json};
use synod_api::{Endpoint, OnUncleanCrash, SnapshotType, State, StateType};

use crate::inject::names as pod;

/// Beside the folder that the app sees, on the same volume.
const WORK_FOLDER: &str = "work";

/// The section; `None` when all in it is as usual.
pub(super) fn section(state: &State) -> Option<Value> {
    let snapshot = &state.snapshot;
    if state.kind == StateType::Ephemeral && snapshot.kind == SnapshotType::None {
        return None;
    }
    let mut saved = json!({"type": match snapshot.kind {
        SnapshotType::None => "None",
        SnapshotType::Http => "HTTP",
        SnapshotType::Volume => "Volume",
    }});
    if let Some(http) = &snapshot.http {
        saved["http"] = json!({"save": call(&http.save), "restore": call(&http.restore)});
        if let Some(settle) = &http.settle {
            saved["http"]["settle"] = call(settle);
        }
    }
    if let Some(every) = &snapshot.every {
        saved["every"] = json!({"slots": every.slots, "logBytes": every.log_size.bytes()});
    }
    if let Some(rate) = &snapshot.transfer_rate {
        saved["transferBytesPerSecond"] = json!(rate.bytes());
    }
    let mut section = json!({"snapshot": saved});
    if state.kind == StateType::Volume {
        let on_unclean_crash = match state.on_unclean_crash {
            None | Some(OnUncleanCrash::Rollback) => "Rollback",
            Some(OnUncleanCrash::AppliedHeader) => "AppliedHeader",
            Some(OnUncleanCrash::AtLeastOnce) => "AtLeastOnce",
        };
        section["type"] = json!("Volume");
        section["onUncleanCrash"] = json!(on_unclean_crash);
        section["volume"] = json!({
            "path": format!("{}/{}", pod::STATE_PATH, pod::STATE_FOLDER),
            "work": format!("{}/{WORK_FOLDER}", pod::STATE_PATH),
            "started": format!("{}/started", pod::POD_PATH),
        });
        if let Some(applied) = &state.applied {
            section["applied"] = call(applied);
        }
    }
    Some(section)
}

fn call(endpoint: &Endpoint) -> Value {
    json!({"method": endpoint.method, "path": endpoint.path})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> Option<Value> {
        section(&serde_yaml::from_str(yaml).expect("a state"))
    }

    #[test]
    fn what_is_usual_is_left_to_sidecars_which_may_not_know_the_section() {
        assert_eq!(of("{}"), None);
        assert_eq!(of("{type: Ephemeral, snapshot: {type: None}}"), None);
    }

    #[test]
    fn the_section_says_what_the_manifest_says() {
        let http = "{snapshot: {type: HTTP, every: {slots: 200, logSize: 64Mi}, transferRate: 10Mi, http: {save: \
            {method: GET, path: /s}, restore: {method: PUT, path: /s}, settle: {method: GET, path: /q}}}}";
        assert_eq!(
            of(http),
            Some(json!({"snapshot": {
                "type": "HTTP",
                "http": {
                    "save": {"method": "GET", "path": "/s"},
                    "restore": {"method": "PUT", "path": "/s"},
                    "settle": {"method": "GET", "path": "/q"},
                },
                "every": {"slots": 200, "logBytes": 64 << 20},
                "transferBytesPerSecond": 10 << 20,
            }}))
        );
        let volume = "{type: Volume, volume: {mountPath: /data}, onUncleanCrash: AppliedHeader, \
            applied: {method: GET, path: /slot}, snapshot: {type: Volume}}";
        assert_eq!(
            of(volume),
            Some(json!({
                "snapshot": {"type": "Volume"},
                "type": "Volume",
                "onUncleanCrash": "AppliedHeader",
                "volume": {
                    "path": "/var/lib/synod-app/data",
                    "work": "/var/lib/synod-app/work",
                    "started": "/var/lib/synod-pod/started",
                },
                "applied": {"method": "GET", "path": "/slot"},
            }))
        );
        let usual = of("{type: Volume, volume: {mountPath: /data}}").expect("a section");
        assert_eq!(usual["onUncleanCrash"], "Rollback");
        assert_eq!(usual["snapshot"]["type"], "None");
    }
}
