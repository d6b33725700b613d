//! A first state is made once, and never beside somebody's log.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use synod_paxos::Recovered;

use super::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("sub")).expect("made");
        fs::write(source.join("a"), "one").expect("written");
        fs::write(source.join("sub/b"), "two").expect("written");
        fs::create_dir(folder.path().join("data")).expect("made");
        Self { folder }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn config(&self, member: &str) -> Config {
        let at = self.folder.path().display();
        let text = format!(
            "{{service: notes, member: {member}, trustDomain: synod.local, namespace: default, \
             data: {at}/data, genesis: {at}/genesis.json, peers: {at}/peers.json, \
             tls: {{ca: a, cert: b, key: c}}, log: {{maxBytes: 268435456, segmentBytes: 1048576}}, \
             listen: {{http: '127.0.0.1:0', peer: '127.0.0.1:0', admin: '127.0.0.1:0'}}, \
             app: {{address: '127.0.0.1:8080'}}, \
             founding: {{member: notes-0, import: {{volume: {at}/source, policy: '0801'}}}}}}"
        );
        Config::parse(Path::new("test"), &text, &BTreeMap::new()).expect("good")
    }

    fn recovered(&self) -> Recovered {
        let (_, recovered) = super::super::log::open(&self.config("notes-0")).expect("opens");
        recovered
    }
}

#[test]
fn a_volume_becomes_the_first_state_once_and_nothing_in_it_is_changed() {
    let place = Place::new();
    let closed = fs::Permissions::from_mode(0o555);
    fs::set_permissions(place.source(), closed).expect("closed");
    let config = place.config("notes-0");
    begin(&config).expect("begins");
    let first = place.recovered();
    let genesis = first.genesis.expect("a group");
    assert_eq!(genesis.initial_state.len(), 32, "the digest of the state");
    assert_eq!(genesis.configuration.members.len(), 1);
    begin(&config).expect("nothing to do");
    let again = place.recovered();
    assert_eq!(again.identity.incarnation, first.identity.incarnation);
    let names: Vec<_> = fs::read_dir(place.source())
        .expect("there")
        .map(|it| it.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(fs::read(place.source().join("a")).expect("there"), b"one");
    // Whoever tidies the volume up afterwards changes nothing.
    fs::set_permissions(place.source(), fs::Permissions::from_mode(0o755)).expect("opened");
    fs::remove_dir_all(place.source()).expect("removed");
    begin(&config).expect("nothing to do");
}

#[test]
fn what_an_earlier_start_did_not_finish_is_thrown_away_and_done_again() {
    let place = Place::new();
    let config = place.config("notes-0");
    begin(&config).expect("begins");
    let first = place.recovered().identity.incarnation;
    fs::write(config.data.join(MARK), "").expect("as if it had been killed");
    begin(&config).expect("again");
    assert_ne!(place.recovered().identity.incarnation, first);
    assert!(!config.data.join(MARK).exists());
    // Also where it was killed before it had begun with the log.
    fs::remove_dir_all(config.data.join("log")).expect("removed");
    fs::write(config.data.join(MARK), "").expect("marked");
    begin(&config).expect("again");
    assert!(place.recovered().genesis.is_some());
}

#[test]
fn other_members_and_logs_that_are_there_are_left_alone() {
    let place = Place::new();
    begin(&place.config("notes-1")).expect("nothing to do");
    assert!(!place.config("notes-1").data.join("log").exists());
    // One that reported an empty log already is in no group, and stays the same.
    let before = place.recovered();
    begin(&place.config("notes-0")).expect("nothing to do");
    let after = place.recovered();
    assert_eq!(after.identity.incarnation, before.identity.incarnation);
    assert!(after.genesis.is_none());
}

#[test]
fn an_empty_volume_and_one_that_is_not_there_are_told_and_leave_nothing_that_looks_whole() {
    let place = Place::new();
    let config = place.config("notes-0");
    let source = place.source();
    let kept = place.folder.path().join("kept");
    fs::rename(&source, &kept).expect("moved");
    fs::create_dir_all(source.join("lost+found")).expect("made");
    let error = begin(&config).expect_err("empty").to_string();
    assert!(error.contains("nothing in"), "{error}");
    fs::remove_dir_all(&source).expect("removed");
    let error = begin(&config).expect_err("not there").to_string();
    assert!(error.contains("source"), "{error}");
    fs::rename(&kept, &source).expect("back");
    begin(&config).expect("begins");
    assert!(place.recovered().genesis.is_some());
}
