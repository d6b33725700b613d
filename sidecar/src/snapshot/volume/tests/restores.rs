//! What goes wrong with a restore.

use super::*;

/// Packs a folder as a link, and then what is in it.
struct Liar<'a>(pack::Packer<'a, &'a mut Vec<u8>>, &'a Path);
impl tree::Visitor for Liar<'_> {
    fn enter(&mut self, node: &tree::Node<'_>) -> Result<(), VolumeError> {
        if matches!(node.kind, tree::Kind::Folder) {
            let path = self.1.join("volume/folder");
            fs::rename(&path, self.1.join("moved")).unwrap();
            symlink(self.1.join("target"), &path).unwrap();
            let stat = rustix::fs::lstat(&path).unwrap();
            let link = tree::Node {
                stat,
                kind: tree::Kind::SymbolicLink,
                ..*node
            };
            self.0.enter(&link)?;
            fs::remove_file(&path).unwrap();
            fs::rename(self.1.join("moved"), &path).unwrap();
            return Ok(());
        }
        self.0.enter(node)
    }
}

#[test]
fn a_snapshot_that_is_larger_than_the_free_space_changes_nothing() {
    let place = Place::new();
    place.file("old", "content");
    let before = seen(&place.mount());
    for (entries, bytes) in [(1, 1 << 60), (1 << 60, 1)] {
        if bytes == 1 && space::free_inodes(&place.mount()).unwrap().is_none() {
            // This file system makes as many files as there is room for.
            continue;
        }
        let totals = Totals {
            entries,
            disk_bytes: bytes,
            ..Totals::default()
        };
        let root = Root::open(&place.mount()).unwrap();
        let mut tar = Vec::new();
        pack::Packer::new(&root, &mut tar, totals)
            .unwrap()
            .finish()
            .unwrap();
        let error = place.restore(&place.put(1, &tar)).unwrap_err();
        assert!(matches!(error, VolumeError::NoRoom { .. }), "{error}");
        assert_same(&seen(&place.mount()), &before);
        assert!(!place.mount().join(".synod").exists());
    }
}

#[test]
fn a_snapshot_that_is_damaged_at_its_very_end_changes_nothing() {
    let place = Place::new();
    furnish(&place);
    let snapshot = place.save(1);
    place.file("a.txt", "newer");
    let before = seen(&place.mount());
    let path = place
        .folder
        .path()
        .join("snapshots/0000000000000001.snapshot");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = place.restore(&snapshot).unwrap_err();
    assert!(matches!(error, VolumeError::Snapshot(_)), "{error}");
    assert_same(&seen(&place.mount()), &before);
    assert!(!place.mount().join(".synod").exists());
}

#[test]
fn a_state_that_is_no_volume_of_ours_changes_nothing() {
    let place = Place::new();
    place.file("old", "content");
    let before = seen(&place.mount());
    let foreign = |path: &str, kind, link: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let comment = pack::comment(Totals {
            entries: 1,
            ..Totals::default()
        });
        let record = format!("{} comment={comment}\n", comment.len() + 12);
        let mut head = tar::Header::new_ustar();
        head.set_entry_type(tar::EntryType::XGlobalHeader);
        head.set_size(record.len() as u64);
        head.set_cksum();
        tar.append(&head, record.as_bytes()).unwrap();
        let times: [(&str, &[u8]); 1] = [("mtime", b"0.000000000")];
        tar.append_pax_extensions(times).unwrap();
        let mut head = tar::Header::new_ustar();
        head.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        head.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        head.set_entry_type(kind);
        head.set_mode(0o644);
        head.set_uid(rustix::process::getuid().as_raw().into());
        head.set_gid(rustix::process::getgid().as_raw().into());
        head.set_size(0);
        head.set_cksum();
        tar.append(&head, io::empty()).unwrap();
        tar.into_inner().unwrap()
    };
    let regular = tar::EntryType::Regular;
    let good = foreign("good", regular, "");
    let bad = [
        b"not a tar at all, and shorter than one".to_vec(),
        noise(1, 5000),
        Vec::new(),
        good[..1200].to_vec(),
        good[1024..].to_vec(),
        foreign("../escaped", regular, ""),
        foreign("/tmp/synod-escaped", regular, ""),
        foreign("..", tar::EntryType::Directory, ""),
        foreign("a/b", regular, ""),
        foreign("device", tar::EntryType::Char, ""),
        foreign(
            "link",
            tar::EntryType::Link,
            "../../../snapshots/0000000000000001.snapshot",
        ),
        foreign("link", tar::EntryType::Link, "nothing"),
    ];
    for (number, state) in bad.iter().enumerate() {
        let error = place.restore(&place.put(1, state)).unwrap_err();
        assert_same(&seen(&place.mount()), &before);
        assert!(!place.mount().join(".synod").exists(), "{number}: {error}");
    }
    place.restore(&place.put(1, &good)).unwrap();
    assert_eq!(seen(&place.mount()).len(), 1);
}

#[test]
fn a_link_in_a_snapshot_is_never_followed() {
    // A folder that has become a link, then something in it.
    let place = Place::new();
    let target = place.folder.path().join("target");
    fs::create_dir(&target).unwrap();
    place.file("folder/file", "x");
    let root = Root::open(&place.mount()).unwrap();
    let mut tar = Vec::new();
    let totals = Totals {
        entries: 2,
        ..Totals::default()
    };
    {
        let packer = pack::Packer::new(&root, &mut tar, totals).unwrap();
        let mut liar = Liar(packer, place.folder.path());
        root.visit(&[], &mut liar).unwrap();
        liar.0.finish().unwrap();
    }
    let before = seen(&place.mount());
    let error = place.restore(&place.put(1, &tar)).unwrap_err();
    assert!(matches!(error, VolumeError::NotOurs(_)), "{error}");
    assert_same(&seen(&place.mount()), &before);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_crash_at_any_step_of_a_restore_is_found_and_the_restore_done_again() {
    let from = Place::new();
    furnish(&from);
    let wanted = seen(&from.mount());
    let snapshot = from.save(7);
    for crash_at in 0.. {
        let mut place = Place::new();
        place.store = from.store.clone();
        place.file("a.txt", "old");
        place.file("old/x", "old");
        let before = seen(&place.mount());
        // As `restore` begins.
        place.volume.make_work().unwrap();
        let new = place.volume.work.join(swap::NEW);
        make_folder(&new).unwrap();
        let reader = place.store.read(snapshot.id).unwrap();
        unpack::unpack(reader, &new, |_| Ok(())).unwrap();
        let mut steps = 0;
        let ended = swap::swap_by_steps(&place.volume, Slot(7), &mut || {
            steps += 1;
            if steps > crash_at {
                return Err(VolumeError::NotOurs("the power went"));
            }
            Ok(())
        });
        // The next process.
        place.volume = Place::open(place.folder.path());
        let now = seen(&place.mount());
        let interrupted = place.volume.interrupted().unwrap();
        match interrupted {
            Some(slot) => {
                assert_eq!(slot, Slot(7));
                let error = place.volume.stage().unwrap_err();
                assert!(matches!(error, VolumeError::Interrupted { .. }), "{error}");
            }
            None => assert!(now == before || now == wanted, "after {crash_at} steps"),
        }
        if ended.is_ok() {
            assert_same(&now, &wanted);
            assert!(crash_at > 15, "all steps were gone through");
            break;
        }
        place.restore(&snapshot).unwrap();
        assert_same(&seen(&place.mount()), &wanted);
        assert_eq!(place.volume.interrupted().unwrap(), None);
        assert!(!place.mount().join(".synod").exists());
    }
}
