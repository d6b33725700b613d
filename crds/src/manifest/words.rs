//! What the YAML library says, as a user who knows no Rust understands it. Comes in: a field's path
//! and the library's message about it. Goes out: what was found, what is allowed, and the line.

/// Bytes of a message, about.
const LENGTH: usize = 1_000;

/// Its beginning and its end.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= LENGTH {
        return text.to_owned();
    }
    let half = LENGTH / 2;
    let characters = || text.char_indices().map(|(at, _)| at);
    let begins = characters().take_while(|at| *at <= half).last();
    let ends = characters().rfind(|at| *at + half <= text.len());
    let (begins, ends) = (begins.unwrap_or(0), ends.unwrap_or(text.len()));
    format!("{} … {}", &text[..begins], &text[ends..])
}

/// The message without the path, which is told besides.
pub(super) fn plain(path: &str, message: &str) -> String {
    let (message, line) = split_line(without_path(path, message));
    let text = type_error(message)
        .or_else(|| unknown(message))
        .or_else(|| missing(message))
        .unwrap_or_else(|| message.to_owned());
    match line {
        Some(line) => format!("{text} (line {line})"),
        None => text,
    }
}

/// The field that a mapping holds twice, and the rest of the message, if that is what it says.
pub(super) fn duplicate(message: &str) -> Option<(String, String)> {
    let (parent, rest) = match message.split_once(": duplicate entry with key ") {
        Some((parent, rest)) => (format!("{parent}."), rest),
        None => (
            String::new(),
            message.strip_prefix("duplicate entry with key ")?,
        ),
    };
    let (key, line) = split_line(rest);
    let path = format!("{parent}{}", key.trim_matches('"'));
    let line = line.map_or_else(String::new, |it| {
        format!(" (in the mapping that begins on line {it})")
    });
    Some((path, format!("it is given twice: keep one{line}")))
}

/// The library puts the path of the field, or of what holds it, in front of some messages.
fn without_path<'a>(path: &str, message: &'a str) -> &'a str {
    let is_above = |head: &str| {
        let rest = path.strip_prefix(head);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match message.split_once(": ") {
        Some((head, rest)) if is_above(head) => rest,
        _ => message,
    }
}

fn split_line(message: &str) -> (&str, Option<&str>) {
    let Some((text, place)) = message.rsplit_once(" at line ") else {
        return (message, None);
    };
    match place.split_once(" column ") {
        Some((line, _)) => (text, Some(line)),
        None => (message, None),
    }
}

fn type_error(message: &str) -> Option<String> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, allowed) = rest.split_once(", expected ")?;
    let allowed = match (found.split_once(' '), allowed) {
        (Some(("integer" | "floating" | "boolean", _)), "a string") => "text, in quotes",
        _ => allowed_here(allowed),
    };
    Some(format!("found {}: give {allowed}", found_here(found)))
}

fn found_here(found: &str) -> String {
    let quoted = |text: &str| format!("`{}`", text.trim_matches('`'));
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text `{}`", text.trim_matches('"')),
        Some(("integer" | "boolean", value)) => quoted(value),
        Some(("floating", rest)) => quoted(rest.trim_start_matches("point ")),
        Some(("unit", _)) => "nothing".to_owned(),
        _ => match found {
            "null" => "nothing",
            "map" => "an object",
            "sequence" => "a list",
            other => other,
        }
        .to_owned(),
    }
}

fn allowed_here(allowed: &str) -> &str {
    match allowed {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "an object",
        it if it.starts_with("struct ") => "an object",
        it => it,
    }
}

/// A field or a value that there is not, among those that there are.
fn unknown(message: &str) -> Option<String> {
    let (what, rest) = match message.strip_prefix("unknown field ") {
        Some(rest) => ("unknown field ", rest),
        None => ("", message.strip_prefix("unknown variant ")?),
    };
    let (name, allowed) = rest.split_once(", ").unwrap_or((rest, ""));
    let allowed = allowed
        .trim_start_matches("expected ")
        .trim_start_matches("one of ");
    let names: Vec<&str> = allowed
        .split(", ")
        .flat_map(|it| it.split(" or "))
        .filter(|it| it.starts_with('`'))
        .collect();
    let what = if what.is_empty() {
        format!("{name} is not known")
    } else {
        format!("{what}{name}")
    };
    Some(match (nearest(name, &names), names.as_slice()) {
        (_, []) => format!("{what}: nothing is allowed here"),
        (_, [only]) => format!("{what}: only {only} is allowed here"),
        (Some(near), _) => format!(
            "{what}: did you mean {near}? Allowed are {}",
            names.join(", ")
        ),
        (None, _) => format!("{what}: use one of {}", names.join(", ")),
    })
}

fn missing(message: &str) -> Option<String> {
    let name = message.strip_prefix("missing field ")?;
    Some(format!("{name} is missing: add it"))
}

/// The name that was probably meant.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let near = names
        .iter()
        .map(|it| (distance(&lower, &it.to_lowercase()), *it));
    let (distance, near) = near.min_by_key(|(distance, _)| *distance)?;
    // The quotes count for nothing: a third of the letters may differ.
    (distance <= (name.len().saturating_sub(2) / 3).max(1)).then_some(near)
}

/// Letters to insert, remove or change (Levenshtein 1966), in a table of one row.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_as_users_know_them() {
        for (message, said) in [
            (
                "invalid type: string \"three\", expected u32 at line 6 column 13",
                "found the text `three`: give a whole number, 0 or more (line 6)",
            ),
            (
                "invalid value: integer `70000`, expected u16",
                "found `70000`: give a whole number from 0 to 65535",
            ),
            (
                "invalid type: floating point `1.5`, expected u32",
                "found `1.5`: give a whole number, 0 or more",
            ),
            (
                "invalid type: unit value, expected struct Ordering at line 1 column 2",
                "found nothing: give an object (line 1)",
            ),
            (
                "invalid type: map, expected a sequence",
                "found an object: give a list",
            ),
            (
                "invalid type: string \"maybe\", expected a boolean",
                "found the text `maybe`: give `true` or `false`",
            ),
        ] {
            assert_eq!(plain("spec.a", message), said);
        }
    }

    #[test]
    fn the_path_is_not_said_twice() {
        for (path, message) in [
            ("spec.a", "spec.a: it is wrong"),
            ("spec.a[0].b", "spec.a[0]: it is wrong"),
            ("spec.a[0].b", "spec.a: it is wrong"),
        ] {
            assert_eq!(plain(path, message), "it is wrong");
        }
        assert_eq!(plain("spec.ab", "spec.a: so"), "spec.a: so");
    }

    #[test]
    fn what_was_probably_meant_is_said_first() {
        let message = "unknown field `replica`, expected one of `replicas`, `placement`, `app`";
        assert_eq!(
            plain("spec.replica", message),
            "unknown field `replica`: did you mean `replicas`? Allowed are `replicas`, `placement`, `app`"
        );
        let message = "unknown variant `Strong`, expected `Local` or `Ordered`";
        assert_eq!(
            plain("spec.a", message),
            "`Strong` is not known: use one of `Local`, `Ordered`"
        );
        let message = "unknown variant `http1`, expected `HTTP1` or `H2C`";
        assert!(plain("spec.a", message).contains("did you mean `HTTP1`?"));
        let message = "unknown field `a`, expected `b`";
        assert!(plain("spec.a", message).ends_with("only `b` is allowed here"));
        let message = "unknown field `a`, there are no fields";
        assert!(plain("spec.a", message).ends_with("nothing is allowed here"));
    }

    #[test]
    fn a_field_that_is_given_twice_is_named() {
        let (path, message) =
            duplicate("spec: duplicate entry with key \"replicas\" at line 5 column 3")
                .expect("it says so");
        assert_eq!(path, "spec.replicas");
        assert_eq!(
            message,
            "it is given twice: keep one (in the mapping that begins on line 5)"
        );
        assert_eq!(duplicate("something else"), None);
    }
}
