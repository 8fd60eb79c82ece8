//! `TBOT_LOG`: which lines of the log are written, by their level and by the part of the program they are of.

use tracing::level_filters::LevelFilter;

use super::{did_you_mean, quoted};

const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// The parts that have lines: `connection` those about one connection each, the others modules of the library.
const PARTS: [&str; 7] = [
    "tbot::bot",
    "tbot::connection",
    "tbot::diagnostics",
    "tbot::identity",
    "tbot::logging",
    "tbot::multiplexer",
    "tbot::task",
];

/// The finest level that is logged, of each part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLevels {
    /// Of what is not in `parts`; `None`: as `debug` says.
    rest: Option<LevelFilter>,
    parts: Vec<(String, LevelFilter)>,
}

impl LogLevels {
    /// Reads `LEVEL`, or `PART=LEVEL`, or several of these behind commas. The error is what is wrong, and what is
    /// allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut levels = Self::default();
        for word in text.split(',').map(str::trim) {
            let Some((part, level)) = word.split_once('=') else {
                if levels.rest.replace(level_of(word)?).is_some() {
                    return Err(
                        "two levels are for everything; name the part of one, as in \
                                info,tbot::connection=warn"
                            .into(),
                    );
                }
                continue;
            };
            let part = part.trim().to_ascii_lowercase();
            if !PARTS.iter().any(|known| is_in(&part, known)) {
                return Err(format!(
                    "unknown part {}{} (allowed: {})",
                    quoted(&part),
                    did_you_mean(&part, PARTS).unwrap_or_default(),
                    PARTS.join(", ")
                ));
            }
            let level = level_of(level.trim())?;
            if levels.parts.iter().any(|(other, _)| *other == part) {
                return Err(format!("{} is there twice", quoted(&part)));
            }
            levels.parts.push((part, level));
        }
        Ok(levels)
    }

    /// The same, with a level for what is not named.
    pub(crate) fn or(mut self, rest: LevelFilter) -> Self {
        self.rest.get_or_insert(rest);
        self
    }

    /// That of the lines of `target`, by the longest part that it is in.
    pub(crate) fn of(&self, target: &str) -> LevelFilter {
        let parts = self.parts.iter().filter(|(part, _)| is_in(target, part));
        let nearest = parts.max_by_key(|(part, _)| part.len());
        let level = nearest.map(|(_, level)| *level).or(self.rest);
        level.unwrap_or(LevelFilter::INFO)
    }

    /// The finest of all.
    pub(crate) fn finest(&self) -> LevelFilter {
        let parts = self.parts.iter().map(|(_, level)| *level);
        parts.chain([self.of("")]).max().unwrap_or(LevelFilter::OFF)
    }
}

fn level_of(word: &str) -> Result<LevelFilter, String> {
    let found = LEVELS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, level)| *level).ok_or_else(|| {
        let names = LEVELS.map(|(name, _)| name);
        format!(
            "unknown level {}{} (allowed: {}, and PART=LEVEL, as in info,tbot::connection=warn)",
            quoted(word),
            did_you_mean(word, names).unwrap_or_default(),
            names.join(", ")
        )
    })
}

/// Whether a module is `part`, or in it.
fn is_in(module: &str, part: &str) -> bool {
    let rest = module.strip_prefix(part);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> LogLevels {
        LogLevels::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn the_longest_part_counts() {
        let levels = levels(
            "warn, tbot::multiplexer=debug,tbot::multiplexer::upstream=ERROR,tbot::bot=info",
        );
        for (target, level) in [
            ("tbot::task", LevelFilter::WARN),
            ("tbot::bot::service", LevelFilter::INFO),
            ("tbot::bottom", LevelFilter::WARN),
            ("tbot::multiplexer::setup", LevelFilter::DEBUG),
            ("tbot::multiplexer::upstream::openssh", LevelFilter::ERROR),
        ] {
            assert_eq!(levels.of(target), level, "{target}");
        }
        assert_eq!(levels.finest(), LevelFilter::DEBUG);
    }

    #[test]
    fn what_is_not_named_is_left_to_debug() {
        let levels = levels("tbot::connection=warn").or(LevelFilter::DEBUG);
        assert_eq!(levels.of("tbot::bot"), LevelFilter::DEBUG);
        assert_eq!(levels.of("tbot::connection"), LevelFilter::WARN);
        let levels = LogLevels::parse("trace").expect("a level");
        assert_eq!(levels.or(LevelFilter::INFO).finest(), LevelFilter::TRACE);
    }

    #[test]
    fn a_mistake_is_told_with_what_is_allowed() {
        for (text, why) in [
            (
                "",
                "unknown level \"\" (allowed: error, warn, info, debug, trace, ",
            ),
            ("inof", "unknown level \"inof\"; did you mean \"info\"? ("),
            ("tbot::bot", "unknown level \"tbot::bot\" ("),
            ("info,", "unknown level \"\" ("),
            ("off", "unknown level \"off\" ("),
            ("tbot::bot=5", "unknown level \"5\" ("),
            ("info,warn", "two levels are for everything"),
            (
                "tbot::connections=warn",
                "unknown part \"tbot::connections\"; did you mean \"tbot::connection\"? (allowed: tbot::bot, ",
            ),
            ("tbot=info", "unknown part \"tbot\""),
            ("hyper=info", "unknown part \"hyper\" ("),
            (
                "tbot::bot=info,tbot::bot=warn",
                "\"tbot::bot\" is there twice",
            ),
        ] {
            let error = LogLevels::parse(text).expect_err(text);
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn every_part_that_has_lines_can_be_named_and_no_other() {
        let mut found = vec!["tbot::connection".to_owned()];
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for entry in std::fs::read_dir(&source).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if logs(&path) {
                let name = path.file_stem().and_then(|name| name.to_str());
                found.push(format!("tbot::{}", name.expect("UTF-8")));
            }
        }
        found.sort();
        assert_eq!(found, PARTS);
    }

    /// Whether there is such a line in the file or, of a directory, in any.
    fn logs(path: &std::path::Path) -> bool {
        if let Ok(entries) = std::fs::read_dir(path) {
            return entries.flatten().any(|entry| logs(&entry.path()));
        }
        let text = std::fs::read_to_string(path).expect("UTF-8");
        // Not those of tests, nor this text.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        ["error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| text.contains(&format!("tracing::{level}!(")))
    }
}
