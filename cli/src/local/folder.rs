//! The data folder of a local group: who may use it, and what is where. Comes in: settings. Goes
//! out: a [`Folder`] that is locked for as long as it lives, or a message with the way out.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use synod_api::{State, StateType};
use tempfile::TempDir;

use crate::exit::Failure;

const FORMAT: u32 = 2;
/// Before it, nothing was said of the state: it was in the app's process.
const OLDEST_FORMAT: u32 = 1;
/// How long a lock is tried for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What `group.json` says: which group this folder belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Group {
    /// Version of the folder's layout.
    pub(crate) format: u32,
    /// Name of the service.
    pub(crate) service: String,
    /// Names of the members that it should have, in order: the service's with a number behind it.
    pub(crate) members: Vec<String>,
    /// Those of them that have no vote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) observers: Vec<String>,
    /// Those of them that vote and run no app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) witnesses: Vec<String>,
    /// Where the app keeps its state, as a manifest or arguments said last; `None`: nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<State>,
}

/// A folder that this process owns.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    group: Group,
    /// Held, not read: the lock ends with it.
    _lock: File,
    temporary: Option<TempDir>,
}

/// Where the parts of one member are.
#[derive(Clone, Debug)]
pub(crate) struct MemberFolder(PathBuf);

impl Group {
    /// The group of `members` copies of a service.
    pub(crate) fn new(service: &str, members: u32, state: Option<State>) -> Self {
        Self {
            format: FORMAT,
            service: service.to_owned(),
            members: (1..=members).map(|it| name(service, it)).collect(),
            observers: Vec::new(),
            witnesses: Vec::new(),
            state,
        }
    }

    /// The last so many of them are witnesses.
    pub(super) fn with_witnesses(mut self, witnesses: u32) -> Self {
        let first = self.members.len().saturating_sub(witnesses as usize);
        self.witnesses = self.members[first..].to_vec();
        self
    }

    fn state_type(&self) -> StateType {
        self.state
            .as_ref()
            .map_or(StateType::Ephemeral, |it| it.kind)
    }

    /// The group that has members in a folder; `None` when none has.
    pub(super) fn recorded(folder: &Path) -> Result<Option<Self>, Failure> {
        // A start that failed before it made any member has left nothing to keep.
        Ok(Self::read(folder)?.filter(|_| !numbers(folder).is_empty()))
    }

    /// The number of a member, from 1.
    pub(crate) fn number(&self, member: &str) -> Option<u32> {
        let number = member.strip_prefix(&self.service)?.strip_prefix('-')?;
        number.parse().ok().filter(|it| *it > 0)
    }

    /// The number of members that it should have.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// The group that a folder belongs to; `None` when it belongs to none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        refuse_file(folder)?;
        let path = folder.join("group.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble("read", &path, &error)),
        };
        let group: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::usage(format!("{} is damaged: {error}", path.display())))?;
        if !(OLDEST_FORMAT..=FORMAT).contains(&group.format) {
            return Err(Failure::usage(format!(
                "{} was written by another version of synod (layout {}, this one knows {FORMAT}): use that version, or another folder",
                folder.display(),
                group.format
            )));
        }
        Ok(Some(group))
    }

    /// Changes who should be in a running group; nobody else does so meanwhile.
    pub(crate) fn edit(
        folder: &Path,
        change: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let path = folder.join("group.lock");
        let lock = File::create(&path).map_err(|error| trouble("write", &path, &error))?;
        lock.lock()
            .map_err(|error| trouble("lock", &path, &error))?;
        let mut group = Self::read(folder)?
            .ok_or_else(|| Failure::failed("the group's folder was removed meanwhile"))?;
        change(&mut group)?;
        write(&folder.join("group.json"), &group)?;
        Ok(group)
    }
}

/// What a member is called.
pub(crate) fn name(service: &str, number: u32) -> String {
    format!("{service}-{number}")
}

/// The members that have something in a folder, in order.
pub(crate) fn numbers(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |it: fs::DirEntry| {
        it.file_name()
            .to_str()?
            .strip_prefix("member-")?
            .parse()
            .ok()
    };
    let mut numbers: Vec<u32> = entries.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

// === impl Folder ===

impl Folder {
    /// Makes or takes over the folder for `group`; without a path, a temporary one.
    pub(super) fn open(path: Option<&Path>, mut group: Group) -> Result<Self, Failure> {
        let (path, temporary) = if let Some(path) = path {
            let path = std::path::absolute(path).map_err(|error| trouble("use", path, &error))?;
            (path, None)
        } else {
            let folder = tempfile::Builder::new()
                .prefix("synod-")
                .tempdir()
                .map_err(|error| trouble("make a folder in", &std::env::temp_dir(), &error))?;
            (folder.path().to_owned(), Some(folder))
        };
        refuse_file(&path)?;
        fs::create_dir_all(&path).map_err(|error| trouble("make", &path, &error))?;
        if temporary.is_some() {
            // Apps may give up root and still have to reach their own folder in it.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
                .map_err(|error| trouble("use", &path, &error))?;
        }
        refuse_foreign(&path)?;
        let lock = lock(&path)?;
        match Group::recorded(&path)? {
            Some(found) => {
                check(&path, &found, &group)?;
                group.members.clone_from(&found.members);
                group.observers.clone_from(&found.observers);
                group.witnesses.clone_from(&found.witnesses);
                if group.state.is_some() && found.state != group.state {
                    write(&path.join("group.json"), &group)?;
                }
            }
            None => write(&path.join("group.json"), &group)?,
        }
        Ok(Self {
            path,
            group,
            _lock: lock,
            temporary,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// Looks again who should be in the group; true when that has changed.
    pub(super) fn look_again(&mut self) -> Result<bool, Failure> {
        let Some(found) = Group::read(&self.path)? else {
            return Ok(false);
        };
        let changed = found != self.group;
        self.group = found;
        Ok(changed)
    }

    /// Notes where the app keeps its state.
    pub(super) fn keep_state(&self, state: State) -> Result<(), Failure> {
        let group = Group {
            state: Some(state),
            ..self.group.clone()
        };
        write(&self.path.join("group.json"), &group)
    }

    /// All that should be in the group, or still have something here, in order.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let wanted = self
            .group
            .members
            .iter()
            .filter_map(|it| self.group.number(it));
        let mut numbers: Vec<u32> = wanted.chain(numbers(&self.path)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// The file that the group begins from.
    pub(super) fn genesis(&self) -> PathBuf {
        self.path.join("genesis.json")
    }

    /// The policy that the group was last asked to take.
    pub(super) fn policy(&self) -> PathBuf {
        self.path.join("policy")
    }

    /// Certificates and their authority.
    pub(super) fn ca(&self) -> PathBuf {
        self.path.join("ca")
    }

    /// The folder of a member, counted from 1; it is made.
    pub(super) fn member(&self, number: u32) -> Result<MemberFolder, Failure> {
        let folder = MemberFolder::of(&self.path, number);
        for path in [&folder.0, &folder.app_data()] {
            fs::create_dir_all(path).map_err(|error| trouble("make", path, &error))?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.sidecar_data())
            .map_err(|error| trouble("make", &folder.sidecar_data(), &error))?;
        Ok(folder)
    }

    /// Removes a temporary folder; one that was asked for stays.
    pub(super) fn close(self) -> Result<(), Failure> {
        match self.temporary {
            Some(folder) => match folder.close() {
                // The guard may have been first.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(trouble("remove", &self.path, &error))
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }
}

// === impl MemberFolder ===

impl MemberFolder {
    /// Member `number` of the group in `folder`.
    pub(crate) fn of(folder: &Path, number: u32) -> Self {
        Self(folder.join(format!("member-{number}")))
    }

    /// The sidecar's configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("sidecar.yaml")
    }

    /// The file by which it gets into a group that runs.
    pub(super) fn join(&self) -> PathBuf {
        self.0.join("join.json")
    }

    /// The revision of the app that is started, or was last.
    pub(super) fn revision(&self) -> PathBuf {
        self.0.join("revision")
    }

    /// The folder of the group.
    pub(super) fn group(&self) -> &Path {
        self.0
            .parent()
            .expect("a member's folder is in its group's")
    }

    /// While it is there, what the member has is to be thrown away before its next start. It has the
    /// incarnation that a person gives up.
    pub(crate) fn replace_mark(&self) -> PathBuf {
        self.0.join("replace")
    }

    /// Has all that the member has thrown away, soon: a person gives up this life of its log.
    pub(crate) fn mark_for_replacement(&self, incarnation: &str) -> Result<(), Failure> {
        let path = self.replace_mark();
        replace(&path, incarnation.as_bytes()).map_err(|error| trouble("write", &path, &error))
    }

    /// The incarnation that was thrown away last.
    pub(crate) fn read_given_up(&self) -> Option<String> {
        fs::read_to_string(self.given_up()).ok()
    }

    fn given_up(&self) -> PathBuf {
        self.0.join("given-up")
    }

    /// Throws away what the member has, and then the mark that says so.
    pub(super) fn empty(&self) -> std::io::Result<()> {
        let given_up = fs::read(self.replace_mark()).unwrap_or_default();
        if !given_up.is_empty() {
            replace(&self.given_up(), &given_up)?;
        }
        for path in [self.sidecar_data(), self.app_data(), self.work()] {
            remove(fs::remove_dir_all(path))?;
        }
        for path in [self.join(), self.revision(), self.replace_mark()] {
            remove(fs::remove_file(path))?;
        }
        Ok(())
    }

    /// Nobody needs the member any more.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        remove(fs::remove_dir_all(&self.0))
    }

    pub(super) fn peers(&self) -> PathBuf {
        self.0.join("peers.json")
    }

    pub(super) fn sidecar_data(&self) -> PathBuf {
        self.0.join("sidecar")
    }

    pub(super) fn app_data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What is needed while the app's volume is saved or put back: on the same file system.
    pub(super) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The file with the process id of `part`.
    pub(super) fn pid(&self, part: &str) -> PathBuf {
        self.0.join(format!("{part}.pid"))
    }

    /// The file with what `part` prints.
    pub(super) fn log(&self, part: &str) -> PathBuf {
        self.0.join(format!("{part}.log"))
    }

    /// Empties the app's folder: an app whose state goes with its process starts from nothing.
    pub(super) fn empty_app_data(&self) -> std::io::Result<()> {
        let path = self.app_data();
        remove(fs::remove_dir_all(&path))?;
        fs::create_dir_all(path)
    }
}

/// What is not there need not be removed.
fn remove(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refuse_file(path: &Path) -> Result<(), Failure> {
    if !path.exists() || path.is_dir() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--data {}: this is a file, and a folder is needed: give an empty one, one that `synod local` made, or a name that does not exist yet",
        path.display()
    )))
}

/// A folder with something else in it is not ours to fill.
fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    if path.join("group.json").exists() {
        return Ok(());
    }
    let entries = fs::read_dir(path).map_err(|error| trouble("read", path, &error))?;
    let foreign = entries
        .filter_map(Result::ok)
        .map(|it| it.file_name())
        .find(|it| it != "lock");
    match foreign {
        None => Ok(()),
        Some(name) => Err(Failure::usage(format!(
            "{} holds other things ({}): give an empty folder, or one that `synod local` made",
            path.display(),
            name.to_string_lossy()
        ))),
    }
}

fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| trouble("write", &path, &error))?;
    // An owner that was killed just now may take a moment to be gone.
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(PATIENCE / 20);
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(folder, &mut file)),
            Err(TryLockError::Error(error)) => return Err(trouble("lock", &path, &error)),
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| trouble("write", &path, &error))?;
    Ok(file)
}

fn in_use(folder: &Path, lock: &mut File) -> Failure {
    let mut owner = String::new();
    let _ = lock.read_to_string(&mut owner);
    let owner = match owner.trim() {
        "" => "unknown",
        owner => owner,
    };
    Failure::usage(format!(
        "{} is in use by a running `synod local`, process {owner}: stop it first, or use another folder",
        folder.display()
    ))
}

/// Whether a running `synod local` owns the folder.
pub(crate) fn is_in_use(folder: &Path) -> bool {
    File::open(folder.join("lock"))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn check(path: &Path, found: &Group, asked: &Group) -> Result<(), Failure> {
    if found.service != asked.service {
        return Err(Failure::usage(format!(
            "{} belongs to the service `{}`, not `{}`: use another folder, or start what it was made for",
            path.display(),
            found.service,
            asked.service
        )));
    }
    if found.members.len() != asked.members.len() {
        return Err(Failure::usage(format!(
            "{} belongs to a group of {} members, not {}: use --replicas {}, and once it runs `synod members add` or `remove`; or another folder",
            path.display(),
            found.members.len(),
            asked.members.len(),
            found.members.len()
        )));
    }
    if found.witnesses.len() != asked.witnesses.len() {
        return Err(Failure::usage(format!(
            "{} belongs to a group with {} witnesses among its members, not {}: use --replicas {} --witnesses {}, and once it runs `synod members add --role witness` or `remove`; or another folder",
            path.display(),
            found.witnesses.len(),
            asked.witnesses.len(),
            found.members.len() - found.witnesses.len(),
            found.witnesses.len()
        )));
    }
    let (kept, wanted) = (found.state_type(), asked.state_type());
    if kept != wanted {
        let way_out = match kept {
            StateType::Ephemeral => "leave out --state, or set spec.state.type to Ephemeral",
            StateType::Volume => "add --state volume, or set spec.state.type to Volume",
        };
        return Err(Failure::usage(format!(
            "{} belongs to a group whose state is of type {kept:?}, not {wanted:?}, and that cannot be changed: {way_out}; or use another folder",
            path.display()
        )));
    }
    Ok(())
}

/// Writes beside the target and renames over it: a crash leaves the old file or the new one.
fn write(path: &Path, content: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(content).expect("plain data");
    replace(path, &text).map_err(|error| trouble("write", path, &error))
}

/// Replaces a file whole.
pub(super) fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("a file is in a folder");
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(path).map_err(|it| it.error)?;
    Ok(())
}

/// What the system said about the folder, as something that the user can mend.
pub(super) fn trouble(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!(
        "cannot {what} {}: {error}; choose a folder with --data that can be written to",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::new("notes", 3, None)
    }

    fn refusal(path: &Path, group: Group) -> String {
        Folder::open(Some(path), group)
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn a_folder_is_taken_over_by_the_same_group_only() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("new/data");
        drop(Folder::open(Some(&path), Group::new("failed", 1, None)).expect("made"));
        let folder = Folder::open(Some(&path), group()).expect("nothing was in it yet");
        folder.member(1).expect("made");
        drop(folder);
        drop(Folder::open(Some(&path), group()).expect("taken over"));
        let text = refusal(&path, Group::new("wiki", 3, None));
        assert!(
            text.contains("`notes`") && text.contains("`wiki`"),
            "{text}"
        );
        let text = refusal(&path, Group::new("notes", 5, None));
        assert!(text.contains("--replicas 3"), "{text}");
        fs::write(path.join("group.json"), "{").expect("write");
        assert!(refusal(&path, group()).contains("damaged"));
        let newer = Group {
            format: 3,
            ..group()
        };
        write(&path.join("group.json"), &newer).expect("write");
        assert!(refusal(&path, group()).contains("another version"));
    }

    #[test]
    fn a_group_keeps_the_type_of_its_state_and_what_was_said_of_it_last() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let with = |state: Option<State>| Group::new("notes", 1, state);
        let volume = State {
            kind: StateType::Volume,
            ..State::default()
        };
        let folder = Folder::open(Some(&path), with(Some(volume.clone()))).expect("made");
        folder.member(1).expect("made");
        drop(folder);
        let text = refusal(&path, with(None));
        assert!(text.contains("Volume, not Ephemeral"), "{text}");
        assert!(text.contains("--state volume"), "{text}");
        let other = State {
            on_unclean_crash: Some(synod_api::OnUncleanCrash::AtLeastOnce),
            ..volume
        };
        drop(Folder::open(Some(&path), with(Some(other.clone()))).expect("taken over"));
        let found = Group::recorded(&path).expect("read").expect("there");
        assert_eq!(found.state, Some(other));

        let old = r#"{"format": 1, "service": "notes", "members": ["notes-1"]}"#;
        fs::write(path.join("group.json"), old).expect("write");
        drop(Folder::open(Some(&path), with(None)).expect("taken over"));
        let text = refusal(&path, with(Some(found.state.expect("there"))));
        assert!(text.contains("Ephemeral, not Volume"), "{text}");
    }

    #[test]
    fn a_folder_in_use_names_its_owner() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        assert!(!is_in_use(&path));
        let first = Folder::open(Some(&path), group()).expect("made");
        assert!(is_in_use(&path));
        let text = refusal(&path, group());
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(first);
        // What another test starts at this moment has the lock, too, until it becomes its program.
        let end = Instant::now() + Duration::from_secs(20);
        while is_in_use(&path) {
            assert!(Instant::now() < end, "the lock outlives its owner");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_folder_with_other_things_or_no_folder_at_all_is_refused() {
        let parent = tempfile::tempdir().expect("folder");
        fs::write(parent.path().join("thesis.txt"), "x").expect("write");
        assert!(refusal(parent.path(), group()).contains("thesis.txt"));
        assert!(refusal(&parent.path().join("thesis.txt"), group()).contains("is a file"));
        assert_eq!(fs::read_dir(parent.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_temporary_folder_is_gone_afterwards_and_a_given_one_stays() {
        let folder = Folder::open(None, group()).expect("made");
        let path = folder.path().to_owned();
        assert!(folder.is_temporary() && path.is_dir());
        folder.close().expect("removed");
        assert!(!path.exists());
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        Folder::open(Some(&path), group())
            .expect("made")
            .close()
            .expect("kept");
        assert!(path.exists());
    }

    #[test]
    fn an_emptied_app_folder_is_there_and_empty() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let folder = Folder::open(Some(&path), group()).expect("made");
        let member = folder.member(2).expect("made");
        fs::create_dir(member.app_data().join("sub")).expect("made");
        fs::write(member.app_data().join("sub/file"), "x").expect("write");
        member.empty_app_data().expect("emptied");
        assert_eq!(fs::read_dir(member.app_data()).expect("list").count(), 0);
        fs::remove_dir(member.app_data()).expect("removed");
        member.empty_app_data().expect("made again");
        assert!(member.app_data().is_dir());
    }
}
