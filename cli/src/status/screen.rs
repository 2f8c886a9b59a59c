//! The report on one screen of a terminal: what is wrong comes first, and how much of the rest is not shown is said.

use super::{LinkRow, LocationRow, PeerRow, Report, of_links, of_locations, of_peers};
use crate::findings::{Severity, entries};

/// From this share of lost requests on a link is shown before those that lose less.
const LOSSY: f64 = 0.01;

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its lines.
    pub rows: usize,
    /// Characters in a line.
    pub columns: usize,
}

/// A part of the screen.
struct Section {
    /// What stands above.
    heading: Vec<String>,
    /// What may be left out from its end, each with its lines.
    entries: Vec<Vec<String>>,
}

impl Report {
    /// Returns the report as it fits onto a terminal, with what could not be read besides. No line is longer than the terminal is
    /// wide, and no more are there than it has.
    #[must_use]
    pub fn screen(&self, notes: &[String], size: Size) -> String {
        let wrong = self.wrong(notes, size.columns);
        let tables = [
            of_table(&of_locations(&worst_first(&self.locations, location_rank)), size),
            of_table(&of_links(&worst_first(&self.links, link_rank)), size),
            of_table(&of_peers(&worst_first(&self.peers, peer_rank)), size),
        ];
        let sections: Vec<Section> = [wrong]
            .into_iter()
            .chain(tables)
            .filter(|section| section.lines() > 0)
            .collect();
        // An empty line between two of them, and the last line is that of the cursor.
        let between = sections.len().saturating_sub(1);
        let total = size.rows.saturating_sub(1 + between);
        let needs: Vec<usize> = sections.iter().map(Section::lines).collect();
        let shares = shares(&needs, total);
        let shown = sections.iter().zip(shares);
        let shown = shown.map(|(section, lines)| section.shown(lines, size.columns));
        let shown: Vec<Vec<String>> = shown.filter(|lines| !lines.is_empty()).collect();
        let mut lines = shown.join(&String::new());
        lines.truncate(size.rows.saturating_sub(1));
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn wrong(&self, notes: &[String], columns: usize) -> Section {
        let mut entries = entries(&self.findings, false);
        if self
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Note)
        {
            entries.push("Nothing is wrong.\n".to_owned());
        }
        entries.extend(notes.iter().map(|note| format!("note: {note}\n")));
        let wrapped = |entry: String| entry.lines().flat_map(|line| wrapped(line, columns)).collect();
        Section {
            heading: Vec::new(),
            entries: entries.into_iter().map(wrapped).collect(),
        }
    }
}

impl Section {
    /// Returns how many lines all of it has.
    fn lines(&self) -> usize {
        let of_entries: usize = self.entries.iter().map(Vec::len).sum();
        self.heading.len() + of_entries
    }

    /// Returns as much of it as so many lines take.
    fn shown(&self, lines: usize, columns: usize) -> Vec<String> {
        if self.lines() <= lines {
            return self
                .heading
                .iter()
                .chain(self.entries.iter().flatten())
                .cloned()
                .collect();
        }
        // One says how much is left out.
        let Some(mut room) = lines.checked_sub(1) else {
            return Vec::new();
        };
        let mut shown: Vec<String> = self.heading.iter().take(room).cloned().collect();
        room -= shown.len();
        let mut count = 0;
        for entry in &self.entries {
            if entry.len() > room {
                break;
            }
            room -= entry.len();
            shown.extend(entry.iter().cloned());
            count += 1;
        }
        let word = if shown.len() > self.heading.len() {
            "and "
        } else {
            ""
        };
        let rest = format!("{word}{} more; -o wide shows all", self.entries.len() - count);
        shown.push(cut(&rest, columns));
        shown
    }
}

fn of_table(text: &str, size: Size) -> Section {
    let mut lines = text.lines().map(|line| cut(line, size.columns));
    Section {
        heading: lines.next().into_iter().collect(),
        entries: lines.map(|line| vec![line]).collect(),
    }
}

/// Returns how many lines of a total each section gets: the first one half of them, if it needs these, and the others the same, but
/// none more than it needs.
fn shares(needs: &[usize], total: usize) -> Vec<usize> {
    let Some((first, others)) = needs.split_first() else {
        return Vec::new();
    };
    let needed_by_others: usize = others.iter().sum();
    let first = (*first).min((total / 2).max(total.saturating_sub(needed_by_others)));
    let mut left = total - first;
    let mut shares = vec![0; others.len()];
    let mut order: Vec<usize> = (0..others.len()).collect();
    order.sort_by_key(|index| others[*index]);
    for (done, index) in order.iter().enumerate() {
        let share = others[*index].min(left / (others.len() - done));
        shares[*index] = share;
        left -= share;
    }
    [vec![first], shares].concat()
}

fn worst_first<T>(rows: &[T], rank: fn(&T) -> u8) -> Vec<&T> {
    let mut rows: Vec<&T> = rows.iter().collect();
    rows.sort_by_key(|row| rank(row));
    rows
}

/// Returns 0 for what is wrong, and more for what is less so.
fn location_rank(row: &LocationRow) -> u8 {
    if row.ready == "False" || row.leaders.is_empty() {
        0
    } else if row.ready != "True" || row.established < row.others {
        1
    } else {
        2
    }
}

fn link_rank(row: &LinkRow) -> u8 {
    match row.up {
        Some(false) => 0,
        Some(true) if row.loss.is_some_and(|loss| loss >= LOSSY) => 1,
        None => 2,
        Some(true) => 3,
    }
}

fn peer_rank(row: &PeerRow) -> u8 {
    match row.ready.as_str() {
        "False" => 0,
        "True" => 2,
        _ => 1,
    }
}

/// Returns a line that is no longer than a terminal is wide.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept = line.chars().take(columns.saturating_sub(1));
    kept.chain((columns > 0).then_some('…')).collect()
}

/// Returns a line as several, broken between words, of which those after the first one are indented.
fn wrapped(line: &str, columns: usize) -> Vec<String> {
    const INDENT: &str = "    ";
    let mut lines: Vec<String> = Vec::new();
    let indent: String = line.chars().take_while(|character| *character == ' ').collect();
    let mut last = indent;
    let mut is_empty = true;
    for word in line.split_whitespace() {
        let gap = usize::from(!is_empty);
        if !is_empty && last.chars().count() + gap + word.chars().count() > columns {
            lines.push(cut(&last, columns));
            last = INDENT.to_owned();
            is_empty = true;
        }
        if !is_empty {
            last.push(' ');
        }
        last += word;
        is_empty = false;
    }
    lines.push(cut(&last, columns));
    lines
}

#[cfg(test)]
mod tests;
