//! Completion scripts: those of `clap_complete`, mended where they complete less than they could.
//! What is replaced in them is found again by the tests, which ask the shells.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::{Arg, Command};
use clap_complete::Shell;

/// The script for `shell` of the program `name`.
pub(crate) fn script(name: &str, mut command: Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let Ok(script) = String::from_utf8(script) else {
        return Vec::new();
    };
    let mended = match shell {
        Shell::Bash => bash(name, &script),
        Shell::Fish => fish(name, &command, &script),
        Shell::Zsh => zsh(&command, &script),
        Shell::Elvish => elvish(name, &command, &script),
        Shell::PowerShell => power_shell(name, &command, &script),
        _ => script,
    };
    mended.into_bytes()
}

/// The labels of commands are not those that are looked for when the name has a hyphen. And Bash
/// takes `--flag=value` for three words.
fn bash(name: &str, script: &str) -> String {
    let labels = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    let split = r#"    prev="$3"
    if [[ ${cur} == "=" ]]; then
        cur=""
    elif [[ ${prev} == "=" ]]; then
        prev="${COMP_WORDS[COMP_CWORD-2]}"
    fi
"#;
    let script = script.replace(&labels.0, &labels.1);
    script.replace("    prev=\"$3\"\n", split)
}

/// A switch takes no value from the word after it. A target is no command, and a flag that still
/// lacks its value no reason to offer nothing.
fn fish(name: &str, command: &Command, script: &str) -> String {
    let switches: BTreeSet<&str> = arguments(command)
        .filter(|(_, flag)| is_switch(flag))
        .filter_map(|(_, flag)| flag.get_long())
        .collect();
    let is_of_switch = |line: &str| {
        let long = line.split(" -l ").nth(1).and_then(|rest| rest.split(' ').next());
        long.is_some_and(|long| switches.contains(long))
    };
    let spec = |word: &str| {
        let long = word
            .strip_suffix('=')
            .map(|word| word.rsplit('/').next().unwrap_or(word));
        let optional = long.is_some_and(|long| switches.contains(long));
        // Unquoted, it would be a wildcard.
        if optional {
            format!("'{word}?'")
        } else {
            word.to_owned()
        }
    };
    let mut mended = String::new();
    for line in script.lines() {
        if let Some(specs) = line.trim_start().strip_prefix(r"string join \n ") {
            let specs: Vec<String> = specs.split(' ').map(spec).collect();
            let _ = writeln!(mended, r"    string join \n {}", specs.join(" "));
        } else if line.starts_with("complete ") && is_of_switch(line) {
            let _ = writeln!(mended, "{}", line.strip_suffix(" -r").unwrap_or(line));
        } else if line == "    if set -q argv[1]" {
            let _ = writeln!(
                mended,
                "    if contains -- \"$argv[1]\" {}",
                commands(command).join(" ")
            );
        } else {
            let _ = writeln!(mended, "{line}");
            if let Some(parse) = line.trim_start().strip_prefix("argparse ") {
                let _ = writeln!(mended, "    or argparse {}", parse.replace("$cmd", "$cmd ''"));
            }
        }
    }
    let function = name.replace('-', "_");
    for (of, argument) in arguments(command) {
        if let Some(of) = of.filter(|_| argument.is_positional() && !possible(argument).is_empty()) {
            let condition = format!("__fish_{function}_using_subcommand {of}");
            let values = possible(argument).join(" ");
            let _ = writeln!(mended, "complete -c {name} -n \"{condition}\" -f -a \"{values}\"");
        }
    }
    mended
}

/// Where a target may stand, a command is taken for one, and its flags for the program's.
fn zsh(command: &Command, script: &str) -> String {
    let targets = command.get_positionals().count();
    if targets == 0 {
        return script.to_owned();
    }
    let found = format!(
        "    if (( CURRENT > 2 )) && [[ \" {} \" == *\" $words[2] \"* ]]; then
        state={} line=({}$words[2])
        words=(\"${{(@)words[3,-1]}}\")
        (( CURRENT -= 2 ))
    fi
    [[ -n $state ]] || _arguments ",
        commands(command).join(" "),
        command.get_name(),
        "- ".repeat(targets)
    );
    script.replacen("    _arguments ", &found, 1)
}

/// Values are missing, and everything after a target.
fn elvish(name: &str, command: &Command, script: &str) -> String {
    let mut end = format!(
        "    if (not (has-key $completions $command)) {{
        set command = '{name}'
    }}
    var values = [
"
    );
    for (place, values) in values(name, command) {
        let _ = writeln!(end, "        &'{place}'= [{}]", values.join(" "));
    }
    end += "    ]
    var flag = $command' '$words[-2]
    if (has-key $values $flag) {
        all $values[$flag]
    } else {
        $completions[$command]
    }
";
    script.replace("    $completions[$command]\n", &end)
}

/// As in Elvish.
fn power_shell(name: &str, command: &Command, script: &str) -> String {
    let of_commands = commands(command)
        .into_iter()
        .map(|command| format!("'{name};{command}'"));
    let mut begin = format!(
        "    if ($command -notin {}) {{
        $command = '{name}'
    }}
    $flag = \"$($commandElements.Where{{ $_.Extent.EndOffset -lt $cursorPosition }}[-1])\"
    $values = @(switch -CaseSensitive (\"$command $flag\") {{
",
        of_commands.collect::<Vec<_>>().join(", ")
    );
    for (place, values) in values(name, command) {
        let _ = writeln!(begin, "        '{place}' {{ '{}' }}", values.join("', '"));
    }
    begin += "    })
    if ($values) {
        return $values.Where{ $_ -like \"$wordToComplete*\" }.ForEach{ [CompletionResult]::new($_) }
    }

    $completions = @(";
    script.replace("    $completions = @(", &begin)
}

fn commands(command: &Command) -> Vec<&str> {
    command.get_subcommands().map(Command::get_name).collect()
}

/// Whether a flag needs no value.
fn is_switch(flag: &Arg) -> bool {
    flag.get_num_args().is_some_and(|count| count.min_values() == 0)
}

/// The values that may be given.
fn possible(argument: &Arg) -> Vec<String> {
    let values = argument.get_possible_values().into_iter();
    let offered = values.filter(|value| !value.is_hide_set());
    offered.map(|value| value.get_name().to_owned()).collect()
}

/// All flags and other arguments, with the command that has them, if it is not the program itself.
fn arguments(command: &Command) -> impl Iterator<Item = (Option<&str>, &Arg)> {
    let own = command.get_arguments().map(|argument| (None, argument));
    own.chain(command.get_subcommands().flat_map(|command| {
        let arguments = command.get_arguments();
        arguments.map(|argument| (Some(command.get_name()), argument))
    }))
}

/// What may be given, by the command and the word that stands before it: a flag, or the command.
fn values(name: &str, command: &Command) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for (command, argument) in arguments(command) {
        let values = possible(argument);
        if values.is_empty() || is_switch(argument) {
            continue;
        }
        let long = argument.get_long().map(|long| format!("--{long}"));
        let short = argument.get_short().map(|short| format!("-{short}"));
        let itself = argument
            .is_positional()
            .then(|| command.unwrap_or(name).to_owned());
        let place = command.map_or(name.to_owned(), |command| format!("{name};{command}"));
        for word in [long, short, itself].into_iter().flatten() {
            all.push((format!("{place} {word}"), values.clone()));
        }
    }
    all
}
