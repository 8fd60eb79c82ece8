//! What README.md shows, for tests that hold it to the program.

pub const README: &str = include_str!("../../README.md");

/// The content of the block of code in this language that begins so.
pub fn block(language: &str, begin: &str) -> &'static str {
    let fence = format!("\n```{language}\n");
    let mut blocks = README.split(&fence).skip(1);
    let block = blocks
        .find(|rest| rest.starts_with(begin))
        .unwrap_or_else(|| panic!("README.md has no block of {language} with {begin}"));
    let (block, _) = block.split_once("```").expect("the block has an end");
    block
}

/// The words in `text` that consist of `characters` and begin with `prefix`.
pub fn words<'t>(
    text: &'t str,
    prefix: &'t str,
    characters: fn(char) -> bool,
) -> impl Iterator<Item = &'t str> {
    text.split(move |c| !characters(c))
        .filter(move |word| word.len() > prefix.len() && word.starts_with(prefix))
}

/// For [`words`]: the characters of a metric's name.
pub fn is_of_a_name(c: char) -> bool {
    c == '_' || c.is_ascii_lowercase()
}
