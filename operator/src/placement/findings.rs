//! What a service's members have found out about requests and copies, from all clusters. Comes in: what
//! they report, and what was told before. Goes out: what is told of it now. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use synod_api::{DivergedCopies, Findings, SkippedRequest, UndecidedRequest};

use super::view::View;

/// Requests that are told: what the schema allows.
const TOLD: usize = 16;
/// A request that was skipped makes its service less than it should be for so long: nothing can be
/// done about it any more but to read of it.
const NEWS: SignedDuration = SignedDuration::from_hours(1);

/// Of clusters that answer: what others said may not be so any more.
fn all<'a>(views: &'a [View], uid: &str) -> impl Iterator<Item = &'a Findings> {
    let open = views.iter().filter(|it| it.is_open());
    open.filter_map(move |it| Some(&it.own(uid)?.status.as_ref()?.findings))
}

/// The request that no copy gets past, as a leader says.
pub(crate) fn undecided<'a>(views: &'a [View], uid: &str) -> Option<&'a UndecidedRequest> {
    all(views, uid).find_map(|it| it.undecided.as_ref())
}

/// Copies that differ, as a leader says; `None`: no leader is heard.
pub(crate) fn diverged<'a>(views: &'a [View], uid: &str) -> Option<Vec<&'a DivergedCopies>> {
    let open = views.iter().filter(|it| it.is_open());
    let mut led = open.filter(|it| {
        let status = it.own(uid).and_then(|it| it.status.as_ref());
        status.is_some_and(|it| it.membership.is_some())
    });
    led.next()?;
    Some(all(views, uid).flat_map(|it| &it.diverged).collect())
}

/// Names of members whose copies are kept from clients.
pub(crate) fn quarantined<'a>(views: &'a [View], uid: &str) -> Vec<&'a str> {
    let found = diverged(views, uid).unwrap_or_default();
    let out = found.into_iter().filter(|it| it.is_out());
    out.flat_map(|it| &it.members).map(String::as_str).collect()
}

/// Requests that nobody executes, with when that was first seen; the latest ones.
pub(crate) fn skipped(
    before: &[SkippedRequest],
    views: &[View],
    uid: &str,
    now: Timestamp,
) -> Vec<SkippedRequest> {
    let mut list: BTreeMap<u64, SkippedRequest> =
        before.iter().map(|it| (it.slot, it.clone())).collect();
    for it in all(views, uid).flat_map(|it| &it.skipped) {
        let known = list.entry(it.slot).or_insert_with(|| SkippedRequest {
            seen: Some(now.to_string()),
            ..it.clone()
        });
        if known.method.is_empty() {
            known.method.clone_from(&it.method);
            known.path.clone_from(&it.path);
        }
        // A later word of a person's may come to light on another member.
        known.may_have_been_acknowledged |= it.may_have_been_acknowledged;
    }
    // Of those that are left out here all later looks leave out the same.
    let surplus = list.len().saturating_sub(TOLD);
    list.into_values().skip(surplus).collect()
}

/// The latest of them, while it is news.
pub(crate) fn lately(skipped: &[SkippedRequest], now: Timestamp) -> Option<&SkippedRequest> {
    let is_new = |it: &&SkippedRequest| {
        let seen = it.seen.as_ref().and_then(|it| it.parse::<Timestamp>().ok());
        seen.is_some_and(|seen| now.duration_since(seen) < NEWS)
    };
    skipped.iter().rev().find(is_new)
}

/// In words.
pub(crate) fn words_of_skip(it: &SkippedRequest) -> String {
    let what = if it.method.is_empty() {
        "a request that no log has any more".to_owned()
    } else {
        format!("{} {}", it.method, it.path)
    };
    let told = if it.may_have_been_acknowledged {
        "a client may have been told that it was executed: it may have been acknowledged"
    } else {
        "nobody was told that it was executed"
    };
    format!(
        "slot {}: {what} failed on every copy and is skipped; {told}",
        it.slot
    )
}

/// In words.
pub(crate) fn words_of_undecided(it: &UndecidedRequest) -> String {
    let UndecidedRequest {
        slot, method, path, ..
    } = it;
    let waits = if it.waits_for.is_empty() {
        "the copies are being asked".to_owned()
    } else {
        it.waits_for.join("; ")
    };
    format!("no copy gets past slot {slot}, {method} {path}: {waits}")
}

/// In words.
pub(crate) fn words_of_diverged(list: &[&DivergedCopies]) -> String {
    let words = list.iter().map(|it| {
        let route = if it.route.is_empty() {
            "a request that no route matches".to_owned()
        } else {
            format!("a request of route {}", it.route)
        };
        let who = it.members.join(", ");
        let (slot, part) = (it.slot, &it.part);
        if it.is_tie() {
            format!("{who} answered {route} at slot {slot} in different ways ({part}), none of them a majority's")
        } else {
            let measure = &it.measure;
            format!("{who} answered {route} at slot {slot} differently from the others ({part}): {measure}")
        }
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(slot: u64, seen: Option<&str>) -> SkippedRequest {
        SkippedRequest {
            slot,
            method: "POST".to_owned(),
            path: "/notes".to_owned(),
            may_have_been_acknowledged: false,
            seen: seen.map(str::to_owned),
        }
    }

    #[test]
    fn a_skip_is_news_for_an_hour() {
        let seen: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let list = [skip(4, None), skip(9, Some("2026-01-01T00:00:00Z"))];
        let soon = seen + SignedDuration::from_mins(59);
        assert_eq!(lately(&list, soon).map(|it| it.slot), Some(9));
        assert_eq!(lately(&list, seen + NEWS), None);
    }

    #[test]
    fn words_name_slot_method_and_path_and_what_a_client_may_have_been_told() {
        let mut it = skip(7, None);
        let words = words_of_skip(&it);
        assert!(words.contains("slot 7: POST /notes"), "{words}");
        assert!(words.contains("nobody was told"), "{words}");
        it.may_have_been_acknowledged = true;
        assert!(words_of_skip(&it).contains("may have been acknowledged"));
        it.method.clear();
        assert!(words_of_skip(&it).contains("no log has"));
    }
}
