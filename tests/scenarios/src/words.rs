//! The words of a command, taken one after another.

/// A command or a claim that makes no sense, or that cannot be carried out.
pub(crate) type Wrong = String;

/// What is left of a line.
#[derive(Clone, Debug)]
pub(crate) struct Words<'a> {
    rest: Vec<&'a str>,
}

// === impl Words ===

impl<'a> Words<'a> {
    /// All of a line.
    pub(crate) fn new(line: &'a str) -> Self {
        let mut rest: Vec<&str> = line.split_whitespace().collect();
        rest.reverse();
        Self { rest }
    }

    /// The next word, which stays.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.rest.last().copied()
    }

    /// The next word.
    pub(crate) fn word(&mut self, what: &str) -> Result<&'a str, Wrong> {
        self.rest.pop().ok_or_else(|| format!("{what} is missing"))
    }

    /// Whether the next word is this one, which is taken then.
    pub(crate) fn has(&mut self, word: &str) -> bool {
        let has = self.peek() == Some(word);
        if has {
            self.rest.pop();
        }
        has
    }

    /// This word, which must come.
    pub(crate) fn must(&mut self, word: &str) -> Result<(), Wrong> {
        let next = self.word(word)?;
        (next == word)
            .then_some(())
            .ok_or_else(|| format!("`{word}` was expected, not `{next}`"))
    }

    /// What follows this word, if it comes next.
    pub(crate) fn after(&mut self, word: &str) -> Result<Option<&'a str>, Wrong> {
        if self.has(word) {
            return self.word(&format!("what comes behind `{word}`")).map(Some);
        }
        Ok(None)
    }

    /// A number.
    pub(crate) fn number(&mut self, what: &str) -> Result<u64, Wrong> {
        let word = self.word(what)?;
        word.parse()
            .map_err(|_| format!("{what} is a number, not `{word}`"))
    }

    /// The number of a member.
    pub(crate) fn member(&mut self) -> Result<u32, Wrong> {
        let word = self.word("a member")?;
        member(word)
    }

    /// The number of a member, if one comes next.
    pub(crate) fn maybe_member(&mut self) -> Option<u32> {
        let member = member(self.peek()?).ok()?;
        self.rest.pop();
        Some(member)
    }

    /// From one member to another: `1->2`; both ways: `1--2`. The ways.
    pub(crate) fn links(&mut self) -> Result<Vec<(u32, u32)>, Wrong> {
        let word = self.word("a link")?;
        if let Some((from, to)) = word.split_once("->") {
            return Ok(vec![(member(from)?, member(to)?)]);
        }
        if let Some((one, two)) = word.split_once("--") {
            let (one, two) = (member(one)?, member(two)?);
            return Ok(vec![(one, two), (two, one)]);
        }
        Err(format!("a link is `1->2` or `1--2`, not `{word}`"))
    }

    /// A length of time in nanoseconds, as `250ms` or `2s`.
    pub(crate) fn duration(&mut self) -> Result<u64, Wrong> {
        let word = self.word("a length of time")?;
        duration(word)
    }

    /// A shift of time in nanoseconds, as `+10s`.
    pub(crate) fn shift(&mut self) -> Result<i64, Wrong> {
        let word = self.word("a shift of time")?;
        let (sign, length) = match word.split_at_checked(1) {
            Some(("+", length)) => (1, length),
            Some(("-", length)) => (-1, length),
            _ => return Err(format!("a shift is as `+10s` or `-1s`, not `{word}`")),
        };
        Ok(sign * duration(length)?.cast_signed())
    }

    /// All that is left, in order.
    pub(crate) fn all(&mut self) -> Vec<&'a str> {
        let mut all = std::mem::take(&mut self.rest);
        all.reverse();
        all
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Wrong> {
        self.peek()
            .map_or(Ok(()), |word| Err(format!("`{word}` is too much")))
    }
}

fn member(word: &str) -> Result<u32, Wrong> {
    let number = word.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("a member is a number from 1, not `{word}`"))
}

fn duration(word: &str) -> Result<u64, Wrong> {
    let wrong = || format!("a length of time is as `250ms` or `2s`, not `{word}`");
    let (digits, unit) = match word.strip_suffix("ms") {
        Some(digits) => (digits, 1_000_000),
        None => (word.strip_suffix('s').ok_or_else(wrong)?, 1_000_000_000),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_in_order_and_none_is_left() {
        let mut words = Words::new("propose 2  x=1 as a");
        assert_eq!(words.word("a command"), Ok("propose"));
        assert_eq!(words.member(), Ok(2));
        assert_eq!(words.word("a request"), Ok("x=1"));
        assert!(words.end().is_err());
        assert_eq!(words.after("key"), Ok(None));
        assert_eq!(words.after("as"), Ok(Some("a")));
        assert_eq!(words.end(), Ok(()));
        assert!(words.word("more").is_err());
    }

    #[test]
    fn links_times_and_members_are_read_or_refused() {
        assert_eq!(Words::new("1->2").links(), Ok(vec![(1, 2)]));
        assert_eq!(Words::new("1--3").links(), Ok(vec![(1, 3), (3, 1)]));
        assert!(Words::new("1>2").links().is_err());
        assert!(Words::new("0->2").links().is_err());
        assert_eq!(Words::new("120ms").duration(), Ok(120_000_000));
        assert_eq!(Words::new("2s").duration(), Ok(2_000_000_000));
        assert!(Words::new("2").duration().is_err());
        assert_eq!(Words::new("-1s").shift(), Ok(-1_000_000_000));
        assert!(Words::new("1s").shift().is_err());
        assert_eq!(Words::new("all").maybe_member(), None);
        assert_eq!(Words::new("3").maybe_member(), Some(3));
    }
}
