//! Where the app keeps its state, and how that is saved. Comes in: arguments, a manifest's section, or
//! what a folder was used with before. Goes out: the section of a sidecar's configuration.

use synod_api::{
    Endpoint, HttpSnapshot, OnUncleanCrash, Quantity, Snapshot, SnapshotType, State, StateType,
};
use synod_sidecar::config::state as config;

use super::folder::MemberFolder;
use crate::exit::Failure;

/// What stands for a manifest's `spec.state` on the command line.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "State of the app, without a manifest")]
pub(crate) struct StateArgs {
    /// Where the app keeps its state. `ephemeral` (default): in memory, or in files that go with the
    /// process; {data} is emptied at each start. `volume`: in {data}, which is kept
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with = "file")]
    state: Option<Kind>,
    /// With `--state volume`: the app stores the header Synod-Slot with its data, and answers this
    /// request with it. Without, a copy whose app was killed goes back to its last snapshot
    #[arg(long, value_name = "'GET /PATH'", value_parser = endpoint, conflicts_with = "file")]
    applied: Option<Endpoint>,
    /// How the state is saved, so that the log can be cut. `volume`: by a copy of {data}; the default
    /// with `--state volume`. `none`: never, and the whole log is kept
    #[arg(
        long,
        value_enum,
        value_name = "METHOD",
        conflicts_with_all = ["file", "snapshot_save"]
    )]
    snapshot: Option<Method>,
    /// The request that the app answers with its whole state, for snapshots that the app itself makes
    #[arg(
        long,
        value_name = "'GET /PATH'",
        value_parser = endpoint,
        requires = "snapshot_restore",
        conflicts_with = "file"
    )]
    snapshot_save: Option<Endpoint>,
    /// The request that puts the state back
    #[arg(
        long,
        value_name = "'PUT /PATH'",
        value_parser = endpoint,
        requires = "snapshot_save"
    )]
    snapshot_restore: Option<Endpoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Ephemeral,
    Volume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    None,
    Volume,
}

// === impl StateArgs ===

impl StateArgs {
    /// What was asked for; `None` when nothing was.
    pub(super) fn state(self) -> Result<Option<State>, Failure> {
        let Self {
            state,
            applied,
            snapshot,
            snapshot_save,
            snapshot_restore,
        } = self;
        let http = snapshot_save.zip(snapshot_restore);
        if state.is_none() && applied.is_none() && snapshot.is_none() && http.is_none() {
            return Ok(None);
        }
        let volume = state == Some(Kind::Volume);
        if !volume && applied.is_some() {
            return Err(Failure::usage(
                "--applied: an app whose state goes with its process starts from nothing and has no slot to tell: add --state volume, or leave it out",
            ));
        }
        if !volume && snapshot == Some(Method::Volume) {
            return Err(Failure::usage(
                "--snapshot volume: there is no volume to copy: add --state volume, or use --snapshot-save and --snapshot-restore",
            ));
        }
        let snapshot = match (http, snapshot) {
            (Some((save, restore)), _) => by_http(save, restore),
            (None, Some(Method::None)) => Snapshot::default(),
            (None, None) if !volume => Snapshot::default(),
            (None, _) => Snapshot {
                kind: SnapshotType::Volume,
                ..Snapshot::default()
            },
        };
        Ok(Some(State {
            kind: if volume {
                StateType::Volume
            } else {
                StateType::Ephemeral
            },
            on_unclean_crash: applied.is_some().then_some(OnUncleanCrash::AppliedHeader),
            applied,
            snapshot,
            ..State::default()
        }))
    }
}

/// A request, as `GET /path`.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    const ALLOWED: &str = "give a method and a path, such as 'GET /backup'";
    let (method, path) = text.trim().split_once(' ').ok_or(ALLOWED)?;
    let path = path.trim();
    let call = config::Call {
        method: method.to_owned(),
        path: path.to_owned(),
    };
    let is_upper = !method.bytes().any(|it| it.is_ascii_lowercase());
    match call.endpoint("") {
        Ok(_) if is_upper => Ok(Endpoint {
            method: call.method,
            path: call.path,
        }),
        _ => Err(ALLOWED.to_owned()),
    }
}

/// The app itself saves and restores its state.
pub(super) fn by_http(save: Endpoint, restore: Endpoint) -> Snapshot {
    Snapshot {
        kind: SnapshotType::Http,
        http: Some(HttpSnapshot {
            save,
            restore,
            settle: None,
        }),
        every: None,
        transfer_rate: None,
    }
}

/// For the sidecar of the member with this folder: the app's folder is its volume, and what is
/// needed while that is saved or put back is beside it.
pub(super) fn of_member(state: &State, folder: &MemberFolder) -> config::State {
    let is_volume = state.kind == StateType::Volume;
    config::State {
        kind: if is_volume {
            config::StateKind::Volume
        } else {
            config::StateKind::Ephemeral
        },
        on_unclean_crash: match state.on_unclean_crash {
            None | Some(OnUncleanCrash::Rollback) => config::OnUncleanCrash::Rollback,
            Some(OnUncleanCrash::AppliedHeader) => config::OnUncleanCrash::AppliedHeader,
            Some(OnUncleanCrash::AtLeastOnce) => config::OnUncleanCrash::AtLeastOnce,
        },
        applied: state.applied.as_ref().map(call),
        volume: is_volume.then(|| config::Volume {
            path: folder.app_data(),
            work: folder.work(),
            // It asks before each start.
            started: None,
        }),
        snapshot: snapshot(&state.snapshot),
    }
}

fn snapshot(snapshot: &Snapshot) -> config::Snapshot {
    let http = snapshot.http.as_ref().map(|it| config::HttpSnapshot {
        settle: it.settle.as_ref().map(call),
        ..config::HttpSnapshot::new(call(&it.save), call(&it.restore))
    });
    let every = snapshot.every.as_ref().map(|it| config::Every {
        slots: it.slots,
        log_bytes: it.log_size.bytes(),
    });
    config::Snapshot {
        kind: match snapshot.kind {
            SnapshotType::None => config::SnapshotKind::None,
            SnapshotType::Http => config::SnapshotKind::Http,
            SnapshotType::Volume => config::SnapshotKind::Volume,
        },
        http,
        every: every.unwrap_or_default(),
        transfer_bytes_per_second: snapshot.transfer_rate.as_ref().map_or(0, Quantity::bytes),
    }
}

fn call(endpoint: &Endpoint) -> config::Call {
    config::Call {
        method: endpoint.method.clone(),
        path: endpoint.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use synod_sidecar::config::Config;

    use super::*;

    const REST: &str = "
service: notes
member: notes-1
trustDomain: synod.local
namespace: local
data: /tmp/data
genesis: /tmp/genesis.json
peers: /tmp/peers.json
tls: {ca: ca.pem, cert: cert.pem, key: key.pem}
listen: {http: '127.0.0.1:7480', peer: '127.0.0.1:7443', admin: '127.0.0.1:7420'}
app: {address: '127.0.0.1:8080'}
";

    /// As the sidecar reads it.
    fn read(state: &State) -> config::State {
        let folder = MemberFolder::of(Path::new("/tmp/group"), 2);
        let text = serde_yaml::to_string(&of_member(state, &folder)).expect("YAML");
        let text = text.replace('\n', "\n  ");
        let text = format!("{REST}state:\n  {text}\n");
        let config = Config::parse(Path::new("-"), &text, &BTreeMap::new());
        config.expect("a good configuration").state
    }

    fn get(path: &str) -> Endpoint {
        endpoint(&format!("GET {path}")).expect("an endpoint")
    }

    #[test]
    fn a_sidecar_takes_every_state_as_it_was_meant() {
        let plain = read(&State::default());
        assert_eq!(plain.kind, config::StateKind::Ephemeral);
        assert_eq!(plain.snapshot, config::Snapshot::default());

        let mut snapshot = by_http(get("/save"), get("/restore"));
        let http = snapshot.http.as_mut().expect("given");
        http.settle = Some(get("/settled"));
        snapshot.every = Some(synod_api::Every {
            slots: 9,
            ..synod_api::Every::default()
        });
        snapshot.transfer_rate = Some(Quantity::gibibytes(2));
        let read_back = read(&State {
            snapshot,
            ..State::default()
        });
        let http = read_back.snapshot.http.expect("given");
        let settle = http.settle.expect("given");
        let paths = [http.save, http.restore, settle].map(|it| it.path);
        assert_eq!(paths, ["/save", "/restore", "/settled"]);
        let every = &read_back.snapshot.every;
        assert_eq!((every.slots, every.log_bytes), (9, 1 << 30));
        assert_eq!(read_back.snapshot.transfer_bytes_per_second, 2 << 30);

        let volume = State {
            kind: StateType::Volume,
            on_unclean_crash: Some(OnUncleanCrash::AppliedHeader),
            applied: Some(get("/slot")),
            snapshot: Snapshot {
                kind: SnapshotType::Volume,
                ..Snapshot::default()
            },
            ..State::default()
        };
        let read_back = read(&volume);
        let files = read_back.volume.expect("given");
        assert_eq!(files.path, Path::new("/tmp/group/member-2/data"));
        assert_eq!(files.work, Path::new("/tmp/group/member-2/work"));
        let crash = read_back.on_unclean_crash;
        assert_eq!(crash, config::OnUncleanCrash::AppliedHeader);
        assert_eq!(read_back.snapshot.kind, config::SnapshotKind::Volume);
        let other = State {
            on_unclean_crash: Some(OnUncleanCrash::AtLeastOnce),
            applied: None,
            ..volume
        };
        let crash = read(&other).on_unclean_crash;
        assert_eq!(crash, config::OnUncleanCrash::AtLeastOnce);
    }

    #[test]
    fn a_request_is_a_method_and_a_path() {
        assert_eq!(get("/a?b=c").path, "/a?b=c");
        for bad in ["", "GET", "/a", "GET a", "get /a", "G(T /a", "GET /a b"] {
            let error = endpoint(bad).expect_err(bad);
            assert!(error.contains("'GET /backup'"), "{error}");
        }
    }
}
