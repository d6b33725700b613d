//! One line in the log for a state of affairs, however often it is met again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Complaints remembered; with more, they may be repeated.
const REMEMBERED: usize = 1024;

/// What was complained about, by subject, since all was well with it: several causes may take turns.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints {
    told: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Complaints {
    /// True when this is news about the subject, and worth a line.
    pub(super) fn is_news(&self, subject: &str, text: &str) -> bool {
        let mut told = self.told.lock().expect("no holder panics");
        let complaint = (subject.to_owned(), text.to_owned());
        if told.contains(&complaint) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.clear();
        }
        told.insert(complaint)
    }

    /// All is well with the subject; true when it was not.
    pub(super) fn settled(&self, subject: &str) -> bool {
        let mut told = self.told.lock().expect("no holder panics");
        let before = told.len();
        told.retain(|(of, _)| of != subject);
        told.len() < before
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
        assert!(!complaints.is_news("a", "gone"), "they take turns");
        assert!(!complaints.is_news("a", "refused"));
        assert!(complaints.settled("a"));
        assert!(!complaints.is_news("b", "gone"));
        assert!(!complaints.settled("a"));
        assert!(complaints.is_news("a", "refused"));
    }
}
