//! For zsh: a function of compsys, autoloaded as `_tbot` or sourced.

use std::fmt::Write;

use super::{Place, Value, pattern, places};
use crate::cli::flags::Flag;

pub(super) fn script() -> String {
    let mut script = format!(
        "#compdef tbot
# Completions of tbot for zsh: as _tbot in a directory of fpath, or source <(tbot completions zsh)
_tbot() {{
  local command skip word
  # _arguments has a next of its own.
  local -a tbot_next flags
  for word in \"${{(@)words[2,CURRENT-1]}}\"; do
    if [[ -n $skip ]]; then skip=; continue; fi
    case $word in
      ({all}) skip=1 ;;
      (-*) ;;
      (*) command+=\" $word\" ;;
    esac
  done
  case $command in
",
        all = pattern("|", |_| true)
    );
    for place in places() {
        script += &case(&place);
    }
    script
        + "  esac
  _arguments -s $flags '*: :_tbot_next'
}
_tbot_next() {
  (( $#tbot_next )) && _describe command tbot_next
}
if [[ $funcstack[1] == _tbot ]]; then _tbot \"$@\"; else compdef _tbot tbot; fi
"
}

fn case(place: &Place) -> String {
    let command: String = place.words.iter().map(|word| format!(" {word}")).collect();
    let mut case = format!("    ('{command}')\n      tbot_next=(\n");
    for (word, about) in &place.next {
        let _ = writeln!(case, "        {}", quoted(&format!("{word}:{about}")));
    }
    case += "      )\n      flags=(\n";
    let mut specs: Vec<String> = place.flags.iter().flat_map(|flag| specs_of(flag)).collect();
    for (short, long, about) in &place.also {
        for form in [short, long] {
            specs.push(format!("({short} {long}){form}[{about}]"));
        }
    }
    if place.file {
        specs.push("2:SOCKET:_files".to_owned());
    }
    for spec in specs {
        let _ = writeln!(case, "        {}", quoted(&spec));
    }
    case + "      ) ;;\n"
}

/// As `_arguments` has them: `(-c --config)--config=[about]:PATH:_files`.
fn specs_of(flag: &Flag) -> Vec<String> {
    let about = flag
        .help
        .replace('\\', "\\\\")
        .replace('[', "\\[")
        .replace(']', "\\]");
    let value = Value::of(flag).map(|value| {
        let action = match value {
            Value::Word => " ".to_owned(),
            Value::File => "_files".to_owned(),
            Value::Directory => "_files -/".to_owned(),
            Value::OneOf(words) => format!("({})", words.replace('|', " ")),
        };
        let name = flag.value().unwrap_or_default().replace(':', "\\:");
        format!(":{name}:{action}")
    });
    let (equals, value) = match &value {
        Some(value) => ("=", value.as_str()),
        None => ("", ""),
    };
    let long = flag.long;
    let Some(letter) = flag.short else {
        let repeats = if flag.repeats() { "*" } else { "" };
        return vec![format!("{repeats}{long}{equals}[{about}]{value}")];
    };
    vec![
        format!("(-{letter} {long})-{letter}[{about}]{value}"),
        format!("(-{letter} {long}){long}{equals}[{about}]{value}"),
    ]
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
