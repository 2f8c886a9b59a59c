//! docs/tour.md, typed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use spanwire_e2e::{Lab, expect::by_role, plugin_says};

/// What each command says has the shape of what the page shows. With `UPDATE=1` the page is written again with what they say.
pub(crate) fn typed(lab: &Lab) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tour.md");
    let page = fs::read_to_string(&file)?;
    let cast = cast(lab)?;
    let updates = std::env::var_os("UPDATE").is_some();
    ensure!(
        !updates || cast.iter().all(|(name, plays)| name == plays),
        "on the page a1, b1 and c1 are active, and here other leaders are: {cast:?}"
    );
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
        let words: Vec<&str> = words
            .split(' ')
            .map(|word| cast.get(word).map_or(word, String::as_str))
            .collect();
        let said = plugin_says(lab, 0, &words)?;
        let words = words.join(" ");
        let said = said.trim_end();
        written += &format!("{before}```sh\n{command}```\n{between}```text\n{said}\n```\n");
        if !updates {
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
    if updates {
        fs::write(&file, written + rest)?;
    }
    Ok(())
}

/// Which node is asked where the page names one: on the page the first node of each location is active and the second one stands by.
/// Of two leaders that start at the same time any may become active.
fn cast(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let locations: BTreeSet<&str> = lab.layout().nodes().map(|node| node.location.as_str()).collect();
    let mut cast = BTreeMap::new();
    for location in locations {
        let names = by_role(lab, location)?;
        let of_page = (1..=names.len()).map(|number| format!("{location}{number}"));
        cast.extend(of_page.zip(names));
    }
    Ok(cast)
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
