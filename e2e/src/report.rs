//! What was measured, with its goal beside it.

use std::{io::Write, time::Duration};

/// The rows of the table that is printed in the end.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
}

impl Report {
    /// Adds a figure that has no goal.
    pub fn figure(&mut self, what: &str, value: impl std::fmt::Display) {
        self.rows
            .push([what.to_owned(), value.to_string(), String::new()]);
    }

    /// Adds a figure and whether it meets its goal.
    pub fn goal(&mut self, what: &str, value: impl std::fmt::Display, goal: &str, met: bool) {
        let verdict = if met { "met" } else { "MISSED" };
        let goal = format!("{goal}: {verdict}");
        self.rows.push([what.to_owned(), value.to_string(), goal]);
    }

    /// Prints a Markdown table.
    pub fn print(&self) {
        let head = ["measure", "figure", "goal"].map(str::to_owned);
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&head]);
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2)];
        let line = |row: &[String; 3]| {
            format!(
                "| {:a$} | {:b$} | {:c$} |\n",
                row[0],
                row[1],
                row[2],
                a = widths[0],
                b = widths[1],
                c = widths[2]
            )
        };
        let rule = widths.map(|width| "-".repeat(width));
        let rows = self.rows.iter().map(line).collect::<String>();
        let table = format!("\n{}{}{rows}", line(&head), line(&rule));
        // A reader that has gone away, as `head` does, is no error.
        let _ = std::io::stdout().write_all(table.as_bytes());
    }
}

/// Smallest, middle and largest of some durations, in milliseconds.
pub fn spread(times: &[Duration]) -> String {
    let ms = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
    format!(
        "median {:.0} ms (min {:.0}, max {:.0})",
        ms(Some(median(times))),
        ms(times.iter().min().copied()),
        ms(times.iter().max().copied())
    )
}

/// Returns the middle one of some durations.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
