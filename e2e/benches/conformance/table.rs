//! What is printed in the end.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::Result;

/// Whose failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It did not pass when it was tried again, and is not known to fail in one location without Spanwire.
    Ours,
    /// It fails in one location without Spanwire, too.
    WithoutSpanwire,
    /// It passed when it was tried again.
    SecondTry,
}

/// What became of a set of tests on a CNI.
#[derive(Debug)]
pub(crate) struct Row {
    /// The CNI.
    pub(crate) cni: String,
    /// The set.
    pub(crate) set: &'static str,
    /// Whether it is the one that every cluster has to pass.
    pub(crate) is_conformance: bool,
    /// How many passed at once.
    pub(crate) passed: usize,
    /// How long it took.
    pub(crate) took: Duration,
    /// What did not, why, and whose failure it is.
    pub(crate) failed: Vec<(String, String, Verdict)>,
    /// What found that it cannot be run here, and why.
    pub(crate) declined: BTreeMap<String, String>,
    /// Why not all of the set has been run, if that is so.
    pub(crate) unfinished: Vec<String>,
}

impl Row {
    /// Returns how many failures are Spanwire's.
    pub(crate) fn ours(&self) -> usize {
        self.count(Verdict::Ours)
    }

    fn count(&self, wanted: Verdict) -> usize {
        self.failed
            .iter()
            .filter(|(_, _, verdict)| *verdict == wanted)
            .count()
    }
}

const HEAD: &str = "| CNI | set | passed | on a second try | failed without Spanwire too | ours | declined | time |\n\
                    |---|---|---|---|---|---|---|---|\n";

/// Prints a Markdown table, and lists of what did not pass.
pub(crate) fn print(rows: &[Row], skipped: &str) -> Result<()> {
    let table: String = rows.iter().map(line).collect();
    let lists: String = rows.iter().map(list).collect();
    let text = format!("\n{HEAD}{table}\n{lists}Left out of the wider set:\n\n{skipped}");
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn line(row: &Row) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} s |\n",
        row.cni,
        row.set,
        row.passed,
        row.count(Verdict::SecondTry),
        row.count(Verdict::WithoutSpanwire),
        row.ours(),
        row.declined.len(),
        row.took.as_secs()
    )
}

fn list(row: &Row) -> String {
    let mut text = String::new();
    for (verdict, what) in [
        (
            Verdict::Ours,
            "fail, and did not in one location without Spanwire",
        ),
        (
            Verdict::WithoutSpanwire,
            "fail in one location without Spanwire, too",
        ),
        (Verdict::SecondTry, "passed on a second try"),
    ] {
        let those = row.failed.iter().filter(|(_, _, of)| *of == verdict);
        let lines: String = those
            .map(|(name, why, _)| format!("* {name}\n  {why}\n"))
            .collect();
        if !lines.is_empty() {
            text += &format!("{}, {}: these {what}:\n\n{lines}\n", row.cni, row.set);
        }
    }
    for why in &row.unfinished {
        text += &format!("{}, {}: not all tests were run: {why}\n\n", row.cni, row.set);
    }
    let lines: String = row
        .declined
        .iter()
        .map(|(name, why)| format!("* {name}\n  {why}\n"))
        .collect();
    if !lines.is_empty() {
        text += &format!("{}, {}: these declined to run:\n\n{lines}\n", row.cni, row.set);
    }
    text
}
