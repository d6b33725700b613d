//! Requests that the sample app does not survive. A file says which, so that it can be changed from
//! outside, and outlives the process.

use std::path::Path;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process ends.
    Dies,
    /// The request is never answered.
    Hangs,
}

impl Fate {
    /// What the file says of a path: a line of a word and the path for each.
    pub fn told_by(file: &Path, path: &str) -> Option<Self> {
        let text = std::fs::read_to_string(file).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (word, _) = lines.find(|(_, of)| *of == path)?;
        match word {
            "dies" => Some(Self::Dies),
            "hangs" => Some(Self::Hangs),
            _ => None,
        }
    }

    /// As the file says it.
    pub fn line(self, path: &str) -> String {
        match self {
            Self::Dies => format!("dies {path}\n"),
            Self::Hangs => format!("hangs {path}\n"),
        }
    }

    /// Returns if nothing is said of this path.
    pub(super) async fn meet(file: &Path, path: &str) {
        match Self::told_by(file, path) {
            None => {}
            Some(Self::Dies) => std::process::abort(),
            Some(Self::Hangs) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_becomes_of_which_request() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("fates");
        assert_eq!(Fate::told_by(&file, "/r/a"), None);
        let text = [Fate::Dies.line("/r/a"), Fate::Hangs.line("/r/b")].concat();
        std::fs::write(&file, text).expect("written");
        assert_eq!(Fate::told_by(&file, "/r/a"), Some(Fate::Dies));
        assert_eq!(Fate::told_by(&file, "/r/b"), Some(Fate::Hangs));
        assert_eq!(Fate::told_by(&file, "/r"), None);
    }
}
