//! Registry.

/// Whether a cluster may be called so.
pub fn check_name(text: &str) -> Result<(), String> {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    let good = !text.is_empty()
        && text.len() <= 40
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is not a name of a cluster: use at most 40 lower-case letters, digits and `-`"
        ))
    }
}
