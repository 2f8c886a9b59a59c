//! docs/tour.md, typed.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, plugin_says};

/// What each command says has the shape of what the page shows. With `UPDATE=1` the page is written again with what they say.
pub(crate) fn typed(lab: &Lab) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tour.md");
    let page = fs::read_to_string(&file)?;
    let mut written = String::new();
    let (mut rest, mut typed) = (page.as_str(), 0);
    while let Some((before, after)) = rest.split_once("```sh\n") {
        let (command, after) = after.split_once("```\n").context("a command without an end")?;
        let (between, after) = after
            .split_once("```text\n")
            .context("a command without an answer")?;
        let (shown, after) = after.split_once("```\n").context("an answer without an end")?;
        let words = command.trim().strip_prefix("kubectl spanwire ");
        let words = words.with_context(|| format!("{command} is another command"))?;
        let said = plugin_says(lab, 0, &words.split(' ').collect::<Vec<_>>())?;
        let said = said.trim_end();
        written += &format!("{before}```sh\n{command}```\n{between}```text\n{said}\n```\n");
        if std::env::var_os("UPDATE").is_none() {
            let (expected, found) = (shape(shown), shape(said));
            ensure!(
                expected == found,
                "kubectl spanwire {words} says\n{said}\nof the shape\n{}\nand not\n{}",
                found.join("\n"),
                expected.join("\n")
            );
        }
        (rest, typed) = (after, typed + 1);
    }
    ensure!(typed > 0, "{} has no commands", file.display());
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, written + rest)?;
    }
    Ok(())
}

/// Its lines, without what differs from time to time and from leader to leader: words with digits in them, units, and gaps. Of lines
/// of one shape that follow each other one is left.
fn shape(text: &str) -> Vec<String> {
    const UNITS: [&str; 14] = [
        "-", "B", "kB", "MB", "GB", "ms", "s", "min", "h", "%", "none", "kbit/s", "Mbit/s", "Gbit/s",
    ];
    let word = |word: &str| {
        let differs = word.chars().any(|letter| letter.is_ascii_digit()) || UNITS.contains(&word);
        if differs { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(word).collect();
        words.dedup_by(|one, other| one == "#" && other == "#");
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(line).filter(|line| !line.is_empty()).collect();
    lines.dedup();
    lines
}
