//! What shells offer with the completion scripts. PowerShell and Elvish complete on terminals only.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::path::Path;
use std::process::Command;

use traceroute_testbed::not_run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_datadog-traceroute");

/// What follows the program's name, what is offered then, and a word that is not.
const CASES: [(&str, &[&str], &str); 7] = [
    ("--format ", &["csv", "dot", "json", "table", "wide"], "svg"),
    ("-P ", &["icmp", "tcp", "udp"], "sack"),
    ("paths --format ", &["dot", "json", "svg", "table"], "csv"),
    (
        "completion ",
        &["bash", "elvish", "fish", "powershell", "zsh"],
        "doctor",
    ),
    ("192.0.2.1 --form", &["--format"], "--first-ttl"),
    ("--json --form", &["--format"], "--first-ttl"),
    ("paths --conf", &["--confidence"], "--format"),
];

/// Asks for what stands in `$2` after the program's name. The script is in `$1`.
const ASK_BASH: &str = r#"source "$1"
    line="datadog-traceroute $2"
    read -ra COMP_WORDS <<< "$line"
    [[ $line != *" " ]] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    function=$(complete -p datadog-traceroute | sed 's/.*-F \([^ ]*\).*/\1/')
    $function datadog-traceroute "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}""#;
const ASK_FISH: &str = r#"source $argv[1]; complete -C "datadog-traceroute $argv[2]" | cut -f1"#;
/// Waits for the pattern `$3`.
const ASK_ZSH: &str = r#"zmodload zsh/zpty
    zpty shell zsh -f -i
    zpty -w shell "autoload -U compinit; compinit -u -D; source $1; compdef _datadog-traceroute datadog-traceroute"
    zpty -w -n shell "datadog-traceroute $2"$'\t\t'
    zpty -r -m shell shown "$3" && print -r -- $shown"#;

/// What `shell` says to a question, one candidate for each line.
fn ask(shell: &str, question: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["30", shell]).args((shell == "zsh").then_some("-f"));
    // Fish has no name in front.
    let name = (shell != "fish").then_some(shell);
    command.args(["-c", question]).args(name).args(arguments);
    let output = command.env("TERM", "dumb").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shell} {arguments:?}: {said}{output:?}");
    said
}

/// The script for a shell in a file; `None` where there is no such shell, after saying so.
fn script(shell: &str) -> Option<String> {
    if !Path::new("/usr/bin").join(shell).exists() {
        not_run(&format!("there is no {shell}"));
        return None;
    }
    let output = Command::new(PROGRAM)
        .args(["completion", shell])
        .output()
        .unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("completion.{shell}"));
    std::fs::write(&path, output.stdout).unwrap();
    Some(path.to_str().unwrap().to_owned())
}

#[test]
fn bash_and_fish_offer_flags_and_values_of_the_command() {
    for (shell, question) in [("bash", ASK_BASH), ("fish", ASK_FISH)] {
        let Some(script) = script(shell) else { continue };
        for (line, expected, wrong) in CASES {
            let offered = ask(shell, question, &[&script, line]);
            let offered: Vec<&str> = offered.lines().collect();
            for word in expected {
                assert!(offered.contains(word), "{shell}: {line}: {offered:?}");
            }
            assert!(!offered.contains(&wrong), "{shell}: {line}: {offered:?}");
        }
    }
}

#[test]
fn zsh_offers_values_of_the_command() {
    let Some(script) = script("zsh") else { return };
    // Of several it shows a list; a single one it writes.
    for (line, expected, _) in CASES.iter().filter(|(_, expected, _)| expected.len() > 1) {
        let pattern = format!("*{}*", expected.join("*"));
        ask("zsh", ASK_ZSH, &[&script, line, &pattern]);
    }
}
