//! Colours, on a terminal alone, and not where `NO_COLOR` is set (<https://no-color.org>).

use std::ffi::OsStr;

/// How lines begin that have a colour, and the colour.
const COLOURS: [(&str, &str); 3] = [("ERROR", "31"), ("WARNING", "33"), ("Nothing is wrong.", "32")];

/// Returns whether colours are wanted.
#[must_use]
pub fn is_wanted(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Returns the text of a report with its marks coloured. Neither JSON nor YAML nor a table has such lines.
#[must_use]
pub fn coloured(text: &str) -> String {
    let line = |line: &str| {
        let colour = COLOURS.iter().find(|(mark, _)| line.starts_with(mark));
        match colour {
            Some((mark, colour)) => format!("\x1b[{colour}m{mark}\x1b[0m{}", &line[mark.len()..]),
            None => line.to_owned(),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_where_they_are_not_unwanted() {
        assert!(is_wanted(true, None) && is_wanted(true, Some(OsStr::new(""))));
        assert!(!is_wanted(false, None) && !is_wanted(true, Some(OsStr::new("1"))));
    }

    #[test]
    fn marks_at_the_beginning_of_a_line_have_a_colour_and_the_text_stays() {
        let text = "A   B\nERROR: x\n  ERROR\nWARNING: y\nNothing is wrong.\n";
        let with = coloured(text);
        assert_eq!(with.matches("\x1b[0m").count(), 3);
        assert!(with.contains("\x1b[31mERROR\x1b[0m: x\n  ERROR\n"), "{with}");
        let colours = COLOURS.map(|(_, colour)| format!("\x1b[{colour}m"));
        let plain = colours.iter().fold(with.replace("\x1b[0m", ""), |text, colour| {
            text.replace(colour, "")
        });
        assert_eq!(plain, text);
    }
}
