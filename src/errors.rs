//! Errors of the system in a sentence for an operator.

/// The text of a system error without its number: `Permission denied (os error 13)` says it twice.
pub(crate) fn plain(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let end = text.rfind(" (os error ").filter(|_| text.ends_with(')'));
    text[..end.unwrap_or(text.len())].to_owned()
}
