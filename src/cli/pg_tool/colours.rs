//! Colours of messages: `PG_COLOR` and `PG_COLORS`, as PostgreSQL's `pg_logging_init` reads them.

use std::ffi::OsStr;

/// What a part of a message is, for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Error,
    Warning,
    /// A detail or a hint.
    Note,
    /// The program's name.
    Locus,
}

/// What each part is painted with (the numbers of an "SGR" sequence); empty: nothing is painted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Colours {
    error: Option<String>,
    warning: Option<String>,
    note: Option<String>,
    locus: Option<String>,
}

impl Colours {
    /// From the values of the two variables, and whether messages go to a terminal.
    pub(super) fn new(when: Option<&OsStr>, colours: Option<&OsStr>, on_terminal: bool) -> Self {
        let wanted = when.is_some_and(|when| when == "always" || (when == "auto" && on_terminal));
        if !wanted {
            return Colours::default();
        }
        let Some(list) = colours else {
            let colour = |numbers: &str| Some(numbers.to_owned());
            return Colours {
                error: colour("01;31"),
                warning: colour("01;35"),
                note: colour("01;36"),
                locus: colour("01"),
            };
        };
        let mut chosen = Colours::default();
        let list = list.to_string_lossy();
        for (name, numbers) in list.split(':').filter_map(|item| item.split_once('=')) {
            let part = match name {
                "error" => &mut chosen.error,
                "warning" => &mut chosen.warning,
                "note" => &mut chosen.note,
                "locus" => &mut chosen.locus,
                _ => continue,
            };
            *part = Some(numbers.to_owned());
        }
        chosen
    }

    /// `text` in the colour of `part`, if it has one.
    pub(super) fn paint(&self, part: Part, text: &str) -> String {
        let numbers = match part {
            Part::Error => &self.error,
            Part::Warning => &self.warning,
            Part::Note => &self.note,
            Part::Locus => &self.locus,
        };
        match numbers {
            Some(numbers) if !text.is_empty() => format!("\x1b[{numbers}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(when: &str, colours: Option<&str>, on_terminal: bool) -> String {
        let colours = Colours::new(Some(OsStr::new(when)), colours.map(OsStr::new), on_terminal);
        colours.paint(Part::Locus, "l") + &colours.paint(Part::Error, "e")
    }

    #[test]
    fn colours_are_chosen_as_the_original_chooses_them() {
        assert_eq!(painted("always", None, false), "\x1b[01ml\x1b[0m\x1b[01;31me\x1b[0m");
        assert_eq!(painted("auto", None, true), painted("always", None, false));
        for (when, on_terminal) in [("auto", false), ("never", true), ("", true)] {
            assert_eq!(painted(when, None, on_terminal), "le", "{when}");
        }
        assert_eq!(painted("always", Some("error=7:x=1:note"), false), "l\x1b[7me\x1b[0m");
    }
}
