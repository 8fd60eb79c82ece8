//! For fish.

use std::fmt::Write;

use super::{Value, pattern, places};

pub(super) fn script() -> String {
    let mut script = format!(
        "# Completions of tbot for fish: tbot completions fish | source
function __tbot_at
    set -l command
    set -l skip 0
    set -l words (commandline -opc)
    set -e words[1]
    for word in $words
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case {all}
                set skip 1
            case '-*'
            case '*'
                set command $command $word
        end
    end
    test \"$command\" = \"$argv\"
end
complete -c tbot -f
",
        all = pattern(" ", |_| true)
    );
    for place in places() {
        let at = format!("complete -c tbot -n '__tbot_at {}'", place.words.join(" "));
        for (word, about) in &place.next {
            let _ = writeln!(script, "{at} -a {word} -d {}", quoted(about));
        }
        if place.file {
            let _ = writeln!(script, "{at} -F");
        }
        for flag in &place.flags {
            let short = flag.short.map(|letter| format!(" -s {letter}"));
            let value = match Value::of(flag) {
                None => String::new(),
                Some(Value::Word) => " -x".to_owned(),
                Some(Value::File) => " -r -F".to_owned(),
                Some(Value::Directory) => " -x -a '(__fish_complete_directories)'".to_owned(),
                Some(Value::OneOf(words)) => format!(" -x -a '{}'", words.replace('|', " ")),
            };
            let _ = writeln!(
                script,
                "{at}{} -l {}{value} -d {}",
                short.unwrap_or_default(),
                &flag.long[2..],
                quoted(flag.help)
            );
        }
        for (short, long, about) in &place.also {
            let (short, long, about) = (&short[1..], &long[2..], quoted(about));
            let _ = writeln!(script, "{at} -s {short} -l {long} -d {about}");
        }
    }
    script
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
