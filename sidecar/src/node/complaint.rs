//! One line in the log for a state of affairs, however often it is met again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Subjects remembered; with more, the oldest complaints may be repeated.
const SUBJECTS: usize = 1024;

/// What was last complained about, by subject. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints {
    last: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Complaints {
    /// True when this is news about the subject, and worth a line.
    pub(super) fn is_news(&self, subject: &str, text: &str) -> bool {
        let mut last = self.last.lock().expect("no holder panics");
        if last.get(subject).is_some_and(|it| it == text) {
            return false;
        }
        if last.len() >= SUBJECTS {
            last.clear();
        }
        last.insert(subject.to_owned(), text.to_owned());
        true
    }

    /// All is well with the subject; true when it was not.
    pub(super) fn settled(&self, subject: &str) -> bool {
        let mut last = self.last.lock().expect("no holder panics");
        last.remove(subject).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_complaint_is_news_once_until_it_is_settled() {
        let complaints = Complaints::default();
        assert!(complaints.is_news("a", "gone"));
        assert!(!complaints.is_news("a", "gone"));
        assert!(complaints.is_news("b", "gone"));
        assert!(complaints.is_news("a", "refused"));
        assert!(complaints.settled("a"));
        assert!(!complaints.settled("a"));
        assert!(complaints.is_news("a", "refused"));
    }
}
