//! Cutting an option string at its separators, with respect for quotes and brackets.

/// The pieces of `text` between commas that stand outside quotes and brackets; `None` if either is
/// unbalanced.
pub(crate) fn at_commas(text: &str) -> Option<Vec<&str>> {
    let mut pieces = Vec::new();
    let mut quoted = false;
    let mut depth = 0usize;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => depth = depth.checked_add(1)?,
            ']' if !quoted => depth = depth.checked_sub(1)?,
            ',' if !quoted && depth == 0 => {
                pieces.push(text.get(start..at)?);
                start = at.checked_add(1)?;
            }
            _ => {}
        }
    }
    pieces.push(text.get(start..)?);
    (!quoted && depth == 0).then_some(pieces)
}

/// `text` without its quotes; a doubled quote inside a quoted run stands for one.
pub(crate) fn dequote(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '"' {
            plain.push(c);
        } else if quoted && chars.next_if_eq(&'"').is_some() {
            plain.push('"');
        } else {
            quoted = !quoted;
        }
    }
    plain
}

/// The inside of `[...]` and true, or `text` itself and false.
pub(crate) fn unbracket(text: &str) -> (&str, bool) {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => (inner, true),
        None => (text, false),
    }
}
