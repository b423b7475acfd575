//! Whether the manual page and the completion scripts have all that a program takes.

use clap::ValueEnum;

use crate::{Program, Shell};

/// What the texts lack that are generated for `program`: `--flag in the completion for bash`.
pub(crate) fn undocumented(program: &Program, command: &clap::Command) -> Vec<String> {
    let words = words(command);
    let page = program.man(command.clone()).unwrap_or_default();
    let mut lacking = lacking(&words, "the manual page", |word| man_has(&text(&page), word));
    for shell in Shell::value_variants() {
        let script = text(&program.completion(command.clone(), *shell));
        let place = format!("the completion for {shell}");
        lacking.extend(self::lacking(&words, &place, |word| {
            script_has(*shell, &script, word)
        }));
    }
    lacking
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lacking(words: &[String], place: &str, has: impl Fn(&str) -> bool) -> Vec<String> {
    let lacking = words.iter().filter(|word| !has(word));
    lacking.map(|word| format!("{word} in {place}")).collect()
}

/// Every flag, long and short, and every command, as users write them.
fn words(command: &clap::Command) -> Vec<String> {
    let mut command = command.clone();
    // Which adds `help`.
    command.build();
    let mut words = Vec::new();
    for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
        words.extend(flag.get_short().map(|short| format!("-{short}")));
        words.extend(flag.get_long().map(|long| format!("--{long}")));
    }
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    words.extend(commands.map(|command| command.get_name().to_owned()));
    words
}

fn man_has(page: &str, word: &str) -> bool {
    // In bold, where `-` is escaped.
    page.contains(&format!("\\fB{}\\fR", word.replace('-', "\\-")))
}

/// Where a word is offered as what comes next, not where a description has it.
fn script_has(shell: Shell, script: &str, word: &str) -> bool {
    let mut lines = script.lines();
    match shell {
        // The first list that is not empty is that of the program itself.
        Shell::Bash => lines
            .filter_map(|line| line.trim().strip_prefix("opts=\""))
            .find(|list| *list != "\"")
            .is_some_and(|list| list.split([' ', '"']).any(|offered| offered == word)),
        Shell::Elvish => script.contains(&format!("cand {word} '")),
        Shell::Fish => {
            let offer = match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(long), _) => format!(" -l {long} "),
                (None, Some(short)) => format!(" -s {short} "),
                (None, None) => format!(" -a \"{word}\" "),
            };
            lines.any(|line| format!("{line} ").contains(&offer))
        }
        // A space tells an upper-case letter from the lower-case one.
        Shell::PowerShell => ["", " "]
            .iter()
            .any(|space| script.contains(&format!("'{word}', '{word}{space}'"))),
        // A star stands before what may be repeated; a value or the description follows.
        Shell::Zsh => lines.any(|line| {
            let rest = line.trim_start_matches(['\'', '*']).strip_prefix(word);
            rest.is_some_and(|rest| rest.starts_with(['=', '+', '[', ':']))
        }),
        // Of which nothing is known here.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, Command};

    use super::*;

    const PROGRAM: Program = Program {
        name: "test",
        usage: "test [options]",
        manual: crate::Manual {
            phrase: "test",
            exit_status: &[],
            environment: &[],
            files: &[],
            examples: &[],
        },
    };

    fn full() -> Command {
        Command::new("test")
            .arg(
                Arg::new("max-ttl")
                    .short('m')
                    .long("max-ttl")
                    .help("With --max and -x"),
            )
            .arg(
                Arg::new("verbose")
                    .short('V')
                    .long("verbose")
                    .action(ArgAction::SetTrue),
            )
            .arg(Arg::new("deny").long("deny").action(ArgAction::Append))
            .subcommand(Command::new("version").about("Print version, doctor and --max"))
            .subcommand(Command::new("man"))
    }

    #[test]
    fn all_that_is_there_is_found() {
        let expected = [
            "-m",
            "--max-ttl",
            "-V",
            "--verbose",
            "--deny",
            "-h",
            "--help",
            "version",
            "man",
            "help",
        ];
        assert_eq!(words(&full()), expected);
        assert_eq!(undocumented(&PROGRAM, &full()), [""; 0]);
    }

    /// Words that begin others, are part of them, or stand in descriptions.
    #[test]
    fn what_is_missing_is_missed() {
        let page = text(&PROGRAM.man(full()).unwrap());
        for word in ["--max", "-x", "-M", "-v", "--ttl", "--verb", "doctor", "vers"] {
            assert!(!man_has(&page, word), "{word} in {page}");
            for shell in Shell::value_variants() {
                let script = text(&PROGRAM.completion(full(), *shell));
                assert!(!script_has(*shell, &script, word), "{word} in {script}");
            }
        }
    }
}
