//! For bash, without the package bash-completion.

use std::fmt::Write;

use super::{Place, Value, pattern, places};
use crate::cli::flags::FLAGS;

pub(super) fn script() -> String {
    let mut script = format!(
        "# Completions of tbot for bash: source <(tbot completions bash)
_tbot() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    local command= skip= words= flags= word
    # --flag=value comes as three words.
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && prev=${{COMP_WORDS[COMP_CWORD-2]}}
    case $prev in
        {files}) compopt -o default; return ;;
        {directories}) compopt -o dirnames; return ;;
",
        files = pattern("|", |value| matches!(value, Value::File)),
        directories = pattern("|", |value| matches!(value, Value::Directory)),
    );
    for flag in FLAGS {
        if let Some(Value::OneOf(words)) = Value::of(flag) {
            let _ = writeln!(
                script,
                "        {}) COMPREPLY=($(compgen -W '{}' -- \"$cur\")); return ;;",
                flag.long,
                words.replace('|', " ")
            );
        }
    }
    let _ = write!(
        script,
        "        {words}) return ;;
    esac
    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        case $word in
            # What stands behind is the rest of a word.
            [:=]*) skip=1; continue ;;
        esac
        if [[ $skip ]]; then skip=; continue; fi
        case $word in
            {all}) skip=1 ;;
            -*) ;;
            *) command+=\" $word\" ;;
        esac
    done
    case $command in
",
        words = pattern("|", |value| matches!(value, Value::Word)),
        all = pattern("|", |_| true),
    );
    for place in places() {
        script += &case(&place);
    }
    script
        + "    esac
    [[ $cur == -* ]] && words=$flags
    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))
}
complete -F _tbot tbot
"
}

fn case(place: &Place) -> String {
    let words: Vec<&str> = place.next.iter().map(|(word, _)| *word).collect();
    let mut flags: Vec<&str> = place.flags.iter().map(|flag| flag.long).collect();
    flags.extend(place.also.iter().map(|(_, long, _)| *long));
    let file = match place.file {
        true => " [[ $cur == -* ]] || compopt -o default;",
        false => "",
    };
    let command: String = place.words.iter().map(|word| format!(" {word}")).collect();
    format!(
        "        '{command}') words='{}' flags='{}';{file} ;;\n",
        words.join(" "),
        flags.join(" ")
    )
}
