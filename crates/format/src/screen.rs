//! What a table is shown on.

use anstyle::{AnsiColor, Style};

/// Titles.
pub(crate) const TITLE: Style = Style::new().bold();
/// The destination.
pub(crate) const GOAL: Style = Style::new().bold();
/// Nobody.
pub(crate) const SILENCE: Style = Style::new().dimmed();
/// Something to look at.
pub(crate) const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// Something is wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// As everything else.
pub(crate) const PLAIN: Style = Style::new();

/// What a table is shown on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// It shows colours, and the user wants them.
    pub colour: bool,
    /// Its width in columns; `None`: no terminal, any width will do.
    pub width: Option<usize>,
}

impl Screen {
    /// A file, a pipe.
    pub const NONE: Screen = Screen {
        colour: false,
        width: None,
    };

    /// `text` in `style`, as far as this can show it.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.colour && !style.is_plain() && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_end_where_they_should() {
        let screen = Screen {
            colour: true,
            width: None,
        };
        assert_eq!(screen.paint(BAD, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(screen.paint(PLAIN, "x"), "x");
        assert_eq!(screen.paint(BAD, ""), "");
        assert_eq!(Screen::NONE.paint(BAD, "x"), "x");
    }
}
