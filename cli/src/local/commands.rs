//! What each revision of the app is: `commands.json` in the group's folder, written by `synod app`, and
//! read at each start of an app, since a member that was away may need an older one first.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::folder::{replace, trouble};
use crate::exit::Failure;

/// By revision, from 0; one without a word stands for the bundled example.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub(crate) struct Commands(BTreeMap<u64, Vec<String>>);

// === impl Commands ===

impl Commands {
    /// Of the group in a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Failure::usage(format!("{} is damaged: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(trouble("read", &path, &error)),
        }
    }

    /// At the start of a group: what the last revision is, which may have been given again. Until there is
    /// a second one, the first is whatever is given.
    pub(super) fn begin(
        folder: &Path,
        given: Option<Vec<String>>,
    ) -> Result<Option<Vec<String>>, Failure> {
        let mut commands = Self::read(folder)?;
        if let Some((number @ 1.., last)) = commands.0.last_key_value() {
            if given.as_ref().is_some_and(|given| given != last) {
                return Err(Failure::usage(format!(
                    "the app of the group in {} is at revision {number}, which is `{}`: leave the command \
                     out, and change it with `synod app switch` while the group runs",
                    folder.display(),
                    words(last)
                )));
            }
            return Ok(own(last).map(<[String]>::to_vec));
        }
        commands.0.insert(0, given.clone().unwrap_or_default());
        commands.write(folder)?;
        Ok(given)
    }

    /// There was another one than the first.
    pub(super) fn is_revised(&self) -> bool {
        self.0.keys().any(|number| *number > 0)
    }

    /// The command of a revision, see [`own`].
    pub(crate) fn of(&self, revision: u64) -> Option<&[String]> {
        self.0.get(&revision).map(Vec::as_slice)
    }

    /// Notes what a revision will be; whatever was noted for later ones came to nothing.
    pub(crate) fn note(
        mut self,
        folder: &Path,
        revision: u64,
        command: Vec<String>,
    ) -> Result<Self, Failure> {
        self.0.retain(|number, _| *number < revision);
        self.0.insert(revision, command);
        self.write(folder)?;
        Ok(self)
    }

    /// The revision was refused.
    pub(crate) fn forget(mut self, folder: &Path, revision: u64) -> Result<(), Failure> {
        self.0.remove(&revision);
        self.write(folder)
    }

    fn write(&self, folder: &Path) -> Result<(), Failure> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec_pretty(self).expect("text and numbers");
        replace(&path, &text).map_err(|error| trouble("write", &path, &error))
    }
}

const FILE: &str = "commands.json";

/// A command that is not the bundled example.
pub(super) fn own(command: &[String]) -> Option<&[String]> {
    (!command.is_empty()).then_some(command)
}

/// A command as it is typed.
pub(crate) fn words(command: &[String]) -> String {
    if command.is_empty() {
        return "the bundled example".to_owned();
    }
    let quoted = command.iter().map(|word| {
        let plain = |it: char| it.is_ascii_alphanumeric() || "/._-=:,{}@%+".contains(it);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_first_command_is_what_is_given_until_there_is_another_revision() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let several = [None, Some(command("notes --port {port}")), None];
        for given in several.into_iter().chain([Some(command("notes"))]) {
            assert_eq!(Commands::begin(path, given.clone()).expect("it may"), given);
        }
        let commands = Commands::read(path).expect("written");
        assert!(!commands.is_revised());
        let commands = commands.note(path, 1, command("new")).expect("written");
        assert!(commands.is_revised());
        for given in [None, Some(command("new"))] {
            let last = Commands::begin(path, given).expect("the last");
            assert_eq!(last, Some(command("new")));
        }
        let refused = Commands::begin(path, Some(command("notes"))).expect_err("another");
        assert!(
            refused.to_string().contains("synod app switch"),
            "{refused}"
        );
        let commands = Commands::read(path).expect("written");
        assert_eq!(commands.of(0), Some(&command("notes")[..]));
        assert_eq!(commands.of(2), None);
    }

    #[test]
    fn a_change_that_came_to_nothing_leaves_no_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let commands = Commands::default();
        let commands = commands.note(path, 1, Vec::new()).expect("written");
        assert_eq!(commands.of(1).and_then(own), None);
        let commands = commands.note(path, 2, command("b")).expect("written");
        let commands = commands.note(path, 1, command("a")).expect("written");
        assert_eq!(commands.of(1).and_then(own), Some(&command("a")[..]));
        assert_eq!(commands.of(2), None);
        assert_eq!(Commands::read(path).expect("written"), commands);
        commands.forget(path, 1).expect("written");
        assert_eq!(Commands::read(path).expect("written").of(1), None);
        std::fs::write(path.join(FILE), "{").expect("written");
        assert!(Commands::read(path).is_err());
    }

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        assert_eq!(words(&[]), "the bundled example");
        let it = ["sh", "-c", "it's here", ""].map(str::to_owned);
        assert_eq!(words(&it), "sh -c 'it'\\''s here' ''");
    }
}
