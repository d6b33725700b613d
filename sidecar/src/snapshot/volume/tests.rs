//! Real trees, there and back.

mod restores;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::snapshot::testing::{self, head, noise};
use crate::snapshot::{Snapshot, Store};

/// A volume, its work folder, and a store.
struct Place {
    folder: TempDir,
    volume: Volume,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        Self {
            volume: Self::open(folder.path()),
            store: testing::store(&folder.path().join("snapshots")),
            folder,
        }
    }

    fn open(folder: &Path) -> Volume {
        let mount = folder.join("volume");
        Volume::open(&mount, &mount.join(".synod")).unwrap()
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.mount().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn save(&self, slot: u64) -> Snapshot {
        self.keep(self.volume.stage().unwrap(), slot)
    }

    fn keep(&self, staged: Staged, slot: u64) -> Snapshot {
        let bytes = staged.totals().tar_bytes;
        let mut draft = self.store.begin(head(slot), b"", bytes).unwrap();
        staged.pack(&mut draft).unwrap();
        draft.commit().unwrap()
    }

    /// Any state at all as a snapshot.
    fn put(&self, slot: u64, state: &[u8]) -> Snapshot {
        testing::save(&self.store, slot, state)
    }

    fn restore(&self, snapshot: &Snapshot) -> Result<(), VolumeError> {
        let reader = self.store.read(snapshot.id).unwrap();
        self.volume.restore(reader)
    }
}

/// All that a restore must bring back of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    /// Content, or target.
    content: Vec<u8>,
    attributes: meta::Attributes,
    /// The first path of the same file.
    same_as: Option<PathBuf>,
}

/// Everything below a folder, without looking at what is ours.
fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut first = BTreeMap::new();
    look(root, root, &mut all, &mut first);
    all
}

fn look(
    root: &Path,
    folder: &Path,
    all: &mut BTreeMap<PathBuf, Seen>,
    first: &mut BTreeMap<u64, PathBuf>,
) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let short = path.strip_prefix(root).unwrap().to_owned();
        if short == Path::new(".synod") || short == Path::new("lost+found") {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let attributes = if kind.is_symlink() {
            Vec::new()
        } else {
            meta::attributes(File::open(&path).unwrap()).unwrap()
        };
        let content = if kind.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else if kind.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let same_as = (kind.is_file() && metadata.nlink() > 1)
            .then(|| first.entry(metadata.ino()).or_insert(short.clone()).clone());
        let seen = Seen {
            kind: if kind.is_symlink() {
                'l'
            } else if kind.is_dir() {
                'd'
            } else {
                'f'
            },
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            content,
            attributes,
            same_as,
        };
        all.insert(short, seen);
        if kind.is_dir() {
            look(root, &path, all, first);
        }
    }
}

fn assert_same(one: &BTreeMap<PathBuf, Seen>, two: &BTreeMap<PathBuf, Seen>) {
    let paths = |it: &BTreeMap<PathBuf, Seen>| it.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(one), paths(two));
    for (path, seen) in one {
        assert_eq!(*seen, two[path], "{}", path.display());
    }
}

fn set_mtime(path: &Path, nanos: u64) {
    let time = UNIX_EPOCH + Duration::from_nanos(nanos);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// One of each kind, with everything that belongs to it.
fn furnish(place: &Place) {
    let mount = place.mount();
    place.file("a/b/deep.txt", "deep");
    place.file("a/empty", "");
    place.file("a.txt", "sorts between a and a/");
    place.file("large", noise(1, (3 << 20) + 5));
    fs::create_dir(mount.join("empty folder")).unwrap();
    symlink("a/b/deep.txt", mount.join("inside")).unwrap();
    symlink("/etc/passwd", mount.join("outside")).unwrap();
    symlink("..//./a/", mount.join("a/odd target")).unwrap();
    symlink("x".repeat(300), mount.join("long target")).unwrap();
    fs::hard_link(mount.join("large"), mount.join("a/b/also large")).unwrap();
    let long = format!("{}/{}", "l".repeat(255), "m".repeat(255));
    place.file(&long, "long");
    fs::hard_link(mount.join(&long), mount.join("short")).unwrap();
    let attributes = [
        ("user.note", b"line one\nline two=\0".as_slice()),
        ("user.a", b""),
    ];
    for (name, value) in attributes {
        for path in ["a.txt", "a/b"] {
            let file = File::open(mount.join(path)).unwrap();
            let set = rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty());
            set.unwrap();
        }
    }
    for (path, mode) in [
        ("a.txt", 0o604),
        ("large", 0o4755),
        ("a/b", 0o1777),
        ("a/empty", 0o400),
    ] {
        fs::set_permissions(mount.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    set_mtime(&mount.join("a.txt"), 1_234_567_890_123_456_789);
    set_mtime(&mount.join("a"), 1);
    let read_only = mount.join("read only");
    place.file("read only/inner/file", "x");
    for path in [read_only.join("inner"), read_only] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    }
}

/// What file systems that share blocks do in moments.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let copied = open(from).and_then(|mut from| io::copy(&mut from, &mut open(to)?));
    copied.map(|_| ()).map_err(|_| Errno::IO)
}

/// Writes to a file of the volume while that is packed.
struct Writer<'a>(&'a Place, &'a str, u64);
impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Behind the head of the file, that is before or while it is read.
        self.2 += bytes.len() as u64;
        if self.2 >= 2560 {
            self.0.file("file", self.1);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_restored_volume_equals_the_one_that_was_saved() {
    let from = Place::new();
    furnish(&from);
    let before = seen(&from.mount());
    assert_eq!(before.len(), 18, "{:?}", before.keys());
    let snapshot = from.save(1);
    assert_same(&seen(&from.mount()), &before);
    // Into an empty volume.
    let mut to = Place::new();
    to.store = from.store.clone();
    to.restore(&snapshot).unwrap();
    assert_same(&seen(&to.mount()), &before);
    assert!(!to.mount().join(".synod").exists());
    // And into one that is in use, by the app and by the file system.
    fs::create_dir(to.mount().join("lost+found")).unwrap();
    to.file("lost+found/#1", "found");
    to.file("a.txt", "something else");
    to.file("not in the snapshot/x", "y");
    fs::remove_dir_all(to.mount().join("empty folder")).unwrap();
    to.file("empty folder", "not a folder");
    to.restore(&snapshot).unwrap();
    assert_same(&seen(&to.mount()), &before);
    assert_eq!(
        fs::read(to.mount().join("lost+found/#1")).unwrap(),
        b"found"
    );
    assert_eq!(to.volume.interrupted().unwrap(), None);
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let one = Place::new();
    furnish(&one);
    let first = one.save(1);
    assert_eq!(one.save(2).state_digest, first.state_digest);
    let mut two = Place::new();
    two.store = one.store.clone();
    two.restore(&first).unwrap();
    assert_eq!(two.save(3).state_digest, first.state_digest);
    set_mtime(&two.mount().join("a.txt"), 1_234_567_890_123_456_788);
    assert_ne!(two.save(4).state_digest, first.state_digest);
}

#[test]
fn a_copy_that_was_made_in_moments_is_not_touched_by_what_the_app_writes_then() {
    // File systems that share blocks are rare where tests run, so blocks are copied here.
    let place = Place::new();
    furnish(&place);
    let direct = place.save(1);
    let mut staged = place.volume.stage().unwrap();
    if !staged.frozen() {
        staged.freeze(copy).unwrap();
    }
    place.file("a.txt", "written later");
    place.file("new", "written later");
    fs::remove_file(place.mount().join("inside")).unwrap();
    assert_eq!(place.keep(staged, 2).state_digest, direct.state_digest);
    assert!(!place.mount().join(".synod").exists());
}

#[test]
fn other_programs_read_what_was_packed() {
    let place = Place::new();
    furnish(&place);
    let mut tar = Vec::new();
    place.volume.stage().unwrap().pack(&mut tar).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("volume.tar");
    fs::write(&file, tar).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut command = std::process::Command::new("tar");
    command.args(["--extract", "--xattrs", "--same-permissions", "--file"]);
    let done = command.arg(&file).arg("--directory").arg(&out).output();
    let Ok(done) = done else {
        // No `tar` on this machine.
        return;
    };
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_same(&seen(&out), &seen(&place.mount()));
}

#[test]
fn twenty_thousand_small_files_come_back() {
    let place = Place::new();
    for folder in 0..200 {
        for file in 0..100 {
            place.file(&format!("{folder}/{file}"), format!("{folder} {file}"));
        }
    }
    let before = seen(&place.mount());
    assert_eq!(before.len(), 20_200);
    let snapshot = place.save(1);
    place.restore(&snapshot).unwrap();
    assert_same(&seen(&place.mount()), &before);
}

#[test]
fn a_large_file_comes_back() {
    let place = Place::new();
    let content = noise(1, 64 << 20);
    place.file("large", &content);
    let snapshot = place.save(1);
    place.file("large", "gone");
    place.restore(&snapshot).unwrap();
    assert!(fs::read(place.mount().join("large")).unwrap() == content);
}

#[test]
fn sockets_and_pipes_are_left_out_and_devices_refused() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.mount().join("socket")).unwrap();
    let mknod = |name: &str, kind, device| {
        let root = File::open(place.mount()).unwrap();
        rustix::fs::mknodat(root, name, kind, rustix::fs::Mode::RUSR, device)
    };
    mknod("pipe", rustix::fs::FileType::Fifo, 0).unwrap();
    place.file("file", "x");
    let staged = place.volume.stage().unwrap();
    assert_eq!(staged.totals().left_out, 2);
    assert_eq!(staged.totals().entries, 1);
    let snapshot = place.keep(staged, 1);
    place.restore(&snapshot).unwrap();
    assert_eq!(seen(&place.mount()).len(), 1);
    // The null device; only the superuser may make one.
    if mknod("device", rustix::fs::FileType::CharacterDevice, 0x103).is_ok() {
        let error = place.volume.stage().unwrap_err();
        assert!(matches!(error, VolumeError::Device { .. }), "{error}");
    }
}

#[test]
fn folders_without_end_are_refused() {
    let place = Place::new();
    place.file(&format!("{}file", "d/".repeat(250)), "x");
    let error = place.volume.stage().unwrap_err();
    assert!(
        matches!(error, VolumeError::TooDeep { most: 200, .. }),
        "{error}"
    );
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_told_of() {
    for content in ["short", "as long as"] {
        let place = Place::new();
        place.file("file", "0123456789");
        let staged = place.volume.stage().unwrap();
        if staged.frozen() {
            return;
        }
        let error = staged.pack(Writer(&place, content, 0)).unwrap_err();
        assert!(
            matches!(error, VolumeError::Changed { .. }),
            "{content}: {error}"
        );
    }
}

#[test]
fn a_work_folder_elsewhere_is_refused() {
    let place = Place::new();
    let mount = place.mount();
    for work in [Path::new("/proc/synod"), &mount.join("a/work")] {
        fs::create_dir_all(mount.join("a")).unwrap();
        let error = Volume::open(&mount, work).unwrap_err();
        assert!(
            matches!(error, VolumeError::WorkElsewhere { .. }),
            "{error}"
        );
    }
    // Beside the content, it is not seen by anybody.
    let volume = Volume::open(&mount, &place.folder.path().join("work")).unwrap();
    place.file("a/x", "y");
    let before = seen(&mount);
    let snapshot = place.keep(volume.stage().unwrap(), 1);
    place.file("a/x", "z");
    volume
        .restore(place.store.read(snapshot.id).unwrap())
        .unwrap();
    assert_same(&seen(&mount), &before);
    assert!(!place.folder.path().join("work").exists());
}

// === odd names ===

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|it| if it == 0 || it == b'/' { b'\n' } else { it });
    prop_oneof![
        prop::collection::vec(byte.clone(), 1..20),
        prop::collection::vec(byte, 250..=255),
        Just(b" ".to_vec()),
        Just(b"...".to_vec()),
        Just(b"-rf".to_vec()),
        Just(b"5 path=x\n".to_vec()),
        Just(b"a\\b".to_vec()),
    ]
    .prop_filter("these are no names", |it| {
        it != b"." && it != b".." && it != b".synod"
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn names_of_any_bytes_and_any_length_come_back(
        paths in prop::collection::vec(prop::collection::vec(name(), 1..6), 1..12),
        times in prop::collection::vec(any::<u32>(), 12),
    ) {
        let place = Place::new();
        for (path, nanos) in paths.iter().zip(times) {
            let mut full = place.mount();
            for part in path {
                full.push(OsStr::from_bytes(part));
            }
            // Others may have made a file of a folder on the way, or the other way round.
            let _ = fs::create_dir_all(full.parent().unwrap());
            if fs::write(&full, path.concat()).is_ok() {
                set_mtime(&full, u64::from(nanos) * 1_000_003);
            }
        }
        let before = seen(&place.mount());
        let snapshot = place.save(1);
        let mut to = Place::new();
        to.store = place.store.clone();
        to.restore(&snapshot).unwrap();
        assert_same(&seen(&to.mount()), &before);
        prop_assert_eq!(to.save(2).state_digest, snapshot.state_digest);
    }
}
