//! Which cluster may replace pods: one at a time, so that what goes wrong goes wrong in one place.
//! Pure: comes in what is known of each cluster, goes out who holds the token next.

use std::collections::BTreeMap;

/// One cluster as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its name.
    pub(crate) cluster: String,
    /// Its group is told that it may.
    pub(crate) holds: bool,
    /// Its operator has seen the last that it was told.
    pub(crate) settled: bool,
    /// A pod there should be replaced.
    pub(crate) needs: bool,
    /// It answers, all its members are ready, and those that are new have caught up.
    pub(crate) healthy: bool,
    /// The leader is there.
    pub(crate) leads: bool,
}

/// Who may, from now on. `formed`: there is something to lose.
///
/// A pod that is replaced is a vote away for a while, so nobody may while another cluster has votes
/// away already, or does not say. And nobody may without work: an operator that finds some later asks
/// for it when it is known how the others are.
///
/// The token goes from one to another in two steps: first nobody has it, and only when every
/// operator has seen that, the next one gets it.
pub(crate) fn grant(candidates: &[Candidate], formed: bool) -> BTreeMap<&str, bool> {
    let all = |it: bool| candidates.iter().map(move |one| (one.cluster.as_str(), it));
    if !formed || candidates.len() < 2 {
        return all(true).collect();
    }
    let mut granted: BTreeMap<&str, bool> = all(false).collect();
    let mut holders = candidates.iter().filter(|it| it.holds);
    match (holders.next(), holders.next()) {
        (Some(holder), None) => {
            let busy = holder.needs || !holder.healthy || !holder.settled;
            if busy && sick(candidates, holder).next().is_none() {
                granted.insert(&holder.cluster, true);
            }
        }
        (None, _) if candidates.iter().all(|it| it.settled) => {
            // The leader's cluster last: each earlier one leaves it where it is.
            let next = candidates
                .iter()
                .filter(|it| it.needs && sick(candidates, it).next().is_none())
                .min_by_key(|it| it.leads);
            if let Some(next) = next {
                granted.insert(&next.cluster, true);
            }
        }
        (None, _) | (Some(_), Some(_)) => {}
    }
    assert!(
        granted.values().filter(|it| **it).count() <= 1,
        "one cluster at a time"
    );
    granted
}

/// For whom those that have work wait, apart from one another.
pub(crate) fn waits_for(candidates: &[Candidate]) -> Vec<&str> {
    let mut names: Vec<&str> = candidates
        .iter()
        .filter(|it| it.needs)
        .flat_map(|it| sick(candidates, it))
        .map(|it| it.cluster.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The others that have no vote to spare.
fn sick<'a>(
    candidates: &'a [Candidate],
    but: &'a Candidate,
) -> impl Iterator<Item = &'a Candidate> {
    candidates
        .iter()
        .filter(|it| it.cluster != but.cluster && !it.healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `h`olds, `u`nsettled, `n`eeds, `s`ick, `l`eads.
    fn candidates(texts: [&str; 3]) -> Vec<Candidate> {
        let one = |(cluster, text): (&str, &str)| Candidate {
            cluster: cluster.to_owned(),
            holds: text.contains('h'),
            settled: !text.contains('u'),
            needs: text.contains('n'),
            healthy: !text.contains('s'),
            leads: text.contains('l'),
        };
        ["a", "b", "c"].into_iter().zip(texts).map(one).collect()
    }

    #[test]
    fn the_token_goes_to_one_cluster_at_a_time_and_to_the_leaders_last() {
        for (seen, wanted) in [
            // Nothing to do: nobody needs it.
            (["", "", ""], None),
            (["l", "n", "n"], Some("b")),
            (["nl", "n", "n"], Some("b")),
            (["nl", "", "n"], Some("c")),
            (["nl", "", ""], Some("a")),
            // Kept while there is work, or while what was done is not well yet.
            (["n", "hn", "n"], Some("b")),
            (["n", "hs", "n"], Some("b")),
            (["n", "hu", "n"], Some("b")),
            // Given back without work, and before another gets it.
            (["", "h", ""], None),
            (["n", "h", ""], None),
            // Not given while another cluster has a vote away, or does not answer.
            (["nl", "ns", "n"], Some("b")),
            (["nl", "s", "n"], None),
            (["nl", "ns", "ns"], None),
            (["n", "", "sl"], None),
            // Taken back when that happens on the way.
            (["", "hn", "s"], None),
            (["s", "hns", ""], None),
            (["s", "hu", ""], None),
            // Not given on before everybody has seen that.
            (["n", "u", ""], None),
            (["nu", "", ""], None),
            // Two at once, as after forming: nobody, then one.
            (["hn", "hn", "hn"], None),
        ] {
            let list = candidates(seen);
            let granted = grant(&list, true);
            let holder: Vec<_> = granted.iter().filter(|it| *it.1).map(|it| *it.0).collect();
            assert_eq!(holder.first().copied(), wanted, "{seen:?}");
            assert!(holder.len() <= 1);
        }
    }

    #[test]
    fn those_with_work_wait_for_the_sick_and_for_nobody_without() {
        assert_eq!(waits_for(&candidates(["n", "s", "s"])), ["b", "c"]);
        assert_eq!(waits_for(&candidates(["ns", "", ""])), [""; 0]);
        assert_eq!(waits_for(&candidates(["", "s", ""])), [""; 0]);
    }

    #[test]
    fn all_may_while_there_is_nothing_to_lose_and_one_alone_always_may() {
        assert!(
            grant(&candidates(["", "n", "l"]), false)
                .values()
                .all(|it| *it)
        );
        let alone = &candidates(["nl", "", ""])[..1];
        assert_eq!(grant(alone, true), BTreeMap::from([("a", true)]));
    }
}
