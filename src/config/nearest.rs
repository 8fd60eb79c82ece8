//! Words from outside in messages: quoted, and with the known word that was probably meant.

/// Longer words are cut for messages, and are no near miss of anything.
const LONGEST: usize = 60;

/// `; did you mean "…"?` where one of `known` is near `word`, otherwise nothing.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    if word.len() > LONGEST {
        return None;
    }
    let plain = |word: &str| word.to_lowercase().replace(['_', ' '], "-");
    let word = plain(word);
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), known))
        .min()
        // A third of the letters may be wrong: more, and the suggestion would be a guess.
        .filter(|(distance, known)| distance * 3 <= known.len().max(3))
        .map(|(_, known)| format!("; did you mean \"{known}\"?"))
}

/// `text` in quotes, escaped and cut to what a line of a log can bear.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_is_not() {
        let known = ["proxy_command", "path", "type"];
        let suggestion = |word| did_you_mean(word, known);
        assert_eq!(
            suggestion("proxy_comand").as_deref(),
            Some("; did you mean \"proxy_command\"?")
        );
        assert_eq!(
            suggestion("Proxy-Command").as_deref(),
            Some("; did you mean \"proxy_command\"?")
        );
        assert_eq!(
            suggestion("tpye").as_deref(),
            Some("; did you mean \"type\"?")
        );
        assert_eq!(suggestion("kubernetes"), None);
        assert_eq!(suggestion(""), None);
        assert_eq!(suggestion(&"path".repeat(1000)), None);
    }

    #[test]
    fn quoted_text_is_escaped_and_cut() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert!(quoted(&"ü".repeat(100_000)).len() < 200);
    }
}
