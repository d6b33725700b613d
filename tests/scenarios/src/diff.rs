//! Two texts as a unified diff, for people.

/// Lines shown around a change.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Same,
    Gone,
    New,
}

/// The lines that differ between what was and what is, with some around them; empty if none do.
pub fn unified(was: &str, is: &str) -> Vec<String> {
    let (was, is): (Vec<&str>, Vec<&str>) = (was.lines().collect(), is.lines().collect());
    let steps = steps(&was, &is);
    let near = |at: usize| {
        let around = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(steps.len());
        steps[around].iter().any(|(step, ..)| *step != Step::Same)
    };
    let mut lines = Vec::new();
    let mut shown = false;
    for (at, (step, from, to)) in steps.iter().enumerate() {
        if !near(at) {
            shown = false;
            continue;
        }
        if !std::mem::replace(&mut shown, true) {
            lines.push(format!("@@ line {} @@", from + 1));
        }
        lines.push(match step {
            Step::Same => format!(" {}", was[*from]),
            Step::Gone => format!("-{}", was[*from]),
            Step::New => format!("+{}", is[*to]),
        });
    }
    lines
}

/// From one text to the other over the longest common part, with the lines reached in both before each
/// step.
fn steps(was: &[&str], is: &[&str]) -> Vec<(Step, usize, usize)> {
    let width = is.len() + 1;
    let mut longest = vec![0_u32; (was.len() + 1) * width];
    for from in (0..was.len()).rev() {
        for to in (0..is.len()).rev() {
            longest[from * width + to] = if was[from] == is[to] {
                longest[(from + 1) * width + to + 1] + 1
            } else {
                longest[(from + 1) * width + to].max(longest[from * width + to + 1])
            };
        }
    }
    let (mut from, mut to) = (0, 0);
    let mut steps = Vec::new();
    while from < was.len() || to < is.len() {
        let step = if from < was.len() && to < is.len() && was[from] == is[to] {
            Step::Same
        } else if to == is.len()
            || from < was.len()
                && longest[(from + 1) * width + to] >= longest[from * width + to + 1]
        {
            Step::Gone
        } else {
            Step::New
        };
        steps.push((step, from, to));
        from += usize::from(step != Step::New);
        to += usize::from(step != Step::Gone);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_do_not_differ() {
        assert!(unified("a\nb\n", "a\nb\n").is_empty());
    }

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        let was = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let is = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n";
        let expected = [
            "@@ line 2 @@",
            " 2",
            " 3",
            " 4",
            "-5",
            "+five",
            " 6",
            " 7",
            " 8",
        ];
        assert_eq!(unified(was, is), expected);
    }

    #[test]
    fn what_is_far_apart_is_shown_apart() {
        let was = "a\n2\n3\n4\n5\n6\n7\n8\n9\nb\n";
        let is = "2\n3\n4\n5\n6\n7\n8\n9\nb\nc\n";
        let shown = unified(was, is);
        assert_eq!(shown[..5], ["@@ line 1 @@", "-a", " 2", " 3", " 4"]);
        assert_eq!(shown[5..], ["@@ line 8 @@", " 8", " 9", " b", "+c"]);
    }
}
