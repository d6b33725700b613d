//! A stream of YAML documents as text: what is not changed goes out byte for byte as it came in.

/// One document with the text that it is made of, and whether a line `---` stands before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    marked: bool,
    /// Without the three dashes.
    pub(super) text: &'a str,
}

/// Cuts a stream. Three dashes at the beginning of a line are nothing else in YAML (1.2, 9.1.2).
pub(super) fn parts(stream: &str) -> Vec<Part<'_>> {
    let mut cuts = vec![(0, false)];
    let mut at = 0;
    for line in stream.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker {
            cuts.push((at, true));
        }
        at += line.len();
    }
    let ends = cuts.iter().skip(1).map(|it| it.0);
    let ends: Vec<_> = ends.chain(std::iter::once(stream.len())).collect();
    let parts = cuts.iter().zip(ends).map(|((start, marked), end)| {
        let start = if *marked { start + 3 } else { *start };
        Part {
            marked: *marked,
            text: &stream[start..end],
        }
    });
    parts
        .filter(|it| it.marked || !it.text.is_empty())
        .collect()
}

// === impl Part ===

impl Part<'_> {
    /// As it was.
    pub(super) fn keep(&self, out: &mut String) {
        if self.marked {
            out.push_str("---");
        }
        out.push_str(self.text);
    }

    /// With another text in its place.
    pub(super) fn replace(&self, text: &str, out: &mut String) {
        if self.marked {
            out.push_str("---\n");
        }
        out.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_kept_is_the_same_to_the_byte() {
        for stream in [
            "",
            "a: 1",
            "a: 1\n---\nb: 2\n",
            "# first\n---\na: 1\n--- # second\nb: |\n  --- x\n  ---\n---\n---",
            "--- {a: 1}\n---\t\n\n---x: 1\n",
            "a: 1\r\n---\r\nb: 2\r\n",
        ] {
            let mut out = String::new();
            for part in parts(stream) {
                part.keep(&mut out);
            }
            assert_eq!(out, stream);
        }
        let texts: Vec<_> = parts("a: 1\n---\nb: 2\n")
            .iter()
            .map(|it| it.text)
            .collect();
        assert_eq!(texts, ["a: 1\n", "\nb: 2\n"]);
    }
}
