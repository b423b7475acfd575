//! What standard output can show.

use std::io::{self, IsTerminal};

use traceroute_format::Screen;

/// Whatever standard output is. Colours are for terminals that know them, unless `NO_COLOR` or
/// `CLICOLOR=0` is set (<https://no-color.org>, <https://bixense.com/clicolors>).
pub(crate) fn stdout() -> Screen {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Screen::NONE;
    }
    Screen {
        colour: !anstyle_query::no_color()
            && anstyle_query::clicolor() != Some(false)
            && anstyle_query::term_supports_ansi_color()
            && anstyle_query::windows::enable_ansi_colors() != Some(false),
        width: terminal_size::terminal_size_of(&stdout)
            .map(|(terminal_size::Width(width), _)| usize::from(width))
            .filter(|width| *width > 0),
    }
}
