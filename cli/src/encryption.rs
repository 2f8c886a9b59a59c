//! Whether what goes between locations is encrypted, by the packets that agents count on the devices to other machines.
//!
//! Each location has a row for each other one, of what its own agents saw. Of a pair that is established a single packet in plaintext
//! is an error; that nothing else was seen is said only where something was, and all of it was looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use spanwire_topology::{Location, Mesh, MeshMode};

use crate::{
    answer::Verdict,
    status::bytes,
    table::{few, joined, table},
};

/// What an agent answers at `/debug/encryption`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Counted {
    /// The devices that it looked at.
    pub devices: Vec<String>,
    /// From which location to which.
    pub pairs: Vec<Pair>,
    /// Packets between locations that are cut off before they say what they are.
    pub unreadable: u64,
    /// Packets that were not looked at, because there were too many.
    pub missed: Missed,
    /// Why a device could not be looked at to the end.
    pub troubles: Vec<String>,
}

/// What went from one location to another.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Pair {
    /// The location of the source.
    pub from: String,
    /// That of the destination.
    pub to: String,
    /// In WireGuard.
    pub wireguard: Amount,
    /// In plaintext.
    pub plaintext: Amount,
    /// The first packet in plaintext.
    pub sample: Option<String>,
}

/// Packets.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub packets: u64,
    /// How many bytes in all.
    pub bytes: u64,
}

/// How many packets were not looked at.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Missed {
    /// To and from the port of WireGuard.
    pub wireguard: u64,
    /// Others.
    pub rest: u64,
}

/// What agents counted, by node; an error says why there is no answer.
pub type Counts = BTreeMap<String, Result<Counted, String>>;

/// Packets in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// From the location whose agents saw them.
    pub out: Amount,
    /// To it.
    #[serde(rename = "in")]
    pub come: Amount,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// All that was seen was in WireGuard.
    Encrypted,
    /// Some of it was not.
    Plaintext,
    /// The two are not established: what goes between them goes as it did without the mesh.
    NotEstablished,
    /// No packet was seen, which proves nothing.
    NothingSeen,
    /// In what was looked at nothing was wrong, but that was not all.
    Incomplete,
    /// No agent answered.
    Unknown,
}

/// What the agents of one location saw of what goes to and from another.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The location whose agents counted.
    pub from: String,
    /// The other one.
    pub to: String,
    /// The nodes whose agents answered.
    pub by: Vec<String>,
    /// The devices that they looked at.
    pub devices: Vec<String>,
    /// In WireGuard.
    pub wireguard: Flow,
    /// There were more of these, which were not looked at.
    pub more: bool,
    /// In plaintext.
    pub plaintext: Flow,
    /// The first packet in plaintext on each node.
    pub samples: Vec<String>,
    /// What comes of it.
    pub result: Outcome,
}

impl Outcome {
    const fn words(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Plaintext => "PLAINTEXT",
            Self::NotEstablished => "not established",
            Self::NothingSeen => "nothing seen",
            Self::Incomplete => "incomplete",
            Self::Unknown => "unknown",
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::Encrypted => Verdict::Clean,
            Self::Plaintext => Verdict::Errors,
            Self::NotEstablished | Self::NothingSeen | Self::Incomplete | Self::Unknown => Verdict::Warnings,
        }
    }
}

impl Row {
    /// Returns the two locations, in order.
    fn pair(&self) -> [String; 2] {
        let mut pair = [self.from.clone(), self.to.clone()];
        pair.sort();
        pair
    }
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Returns the nodes whose agents are asked, by location: the leaders, or `all` of them.
#[must_use]
pub fn asked(mesh: &Mesh, all: bool) -> BTreeMap<String, Vec<String>> {
    let of = |location: &Location| {
        if all {
            location.members.keys().map(ToString::to_string).collect()
        } else {
            let leaders = location.leaders.iter();
            leaders.map(|leader| leader.node.to_string()).collect()
        }
    };
    let locations = mesh
        .locations
        .iter()
        .filter(|(_, location)| !location.members.is_empty());
    locations
        .map(|(name, location)| (name.to_string(), of(location)))
        .collect()
}

/// Returns a row for each location and each other one, why something is not known, and how bad it is.
#[must_use]
pub fn report(
    mesh: &Mesh,
    asked: &BTreeMap<String, Vec<String>>,
    counts: &Counts,
) -> (Vec<Row>, Vec<String>, Verdict) {
    let mut notes: Vec<String> = Vec::new();
    for (node, answer) in counts {
        match answer {
            Err(why) => notes.push(format!("{node}: what it counts is not known: {why}")),
            Ok(counted) => notes.extend(gaps(counted).into_iter().map(|gap| format!("{node}: {gap}"))),
        }
    }
    let mut rows = Vec::new();
    for (from, location) in &mesh.locations {
        let Some(nodes) = asked.get(from.as_str()) else {
            continue;
        };
        let itself = location.settings.mode == MeshMode::Nodes;
        for to in mesh.locations.keys().filter(|to| asked.contains_key(to.as_str())) {
            let established = location.established.contains(to);
            if to != from || (itself && established) {
                rows.push(row([from.as_str(), to.as_str()], established, nodes, counts));
            }
        }
    }
    spread(&mut rows, asked, counts);
    let verdict = rows
        .iter()
        .map(|row| row.result.verdict())
        .max()
        .unwrap_or_default();
    (rows, notes, verdict)
}

/// What anyone has seen in plaintext counts for both sides of the pair, also what passed another location.
fn spread(rows: &mut [Row], asked: &BTreeMap<String, Vec<String>>, counts: &Counts) {
    let is_of = |node: &String, location: &String| {
        let nodes = asked.get(location);
        nodes.is_some_and(|nodes| nodes.contains(node))
    };
    for (node, counted) in counts
        .iter()
        .filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)))
    {
        for seen in counted.pairs.iter().filter(|pair| pair.plaintext.packets > 0) {
            let of_pair = |row: &&mut Row| {
                let (ends, back) = ((&seen.from, &seen.to), (&seen.to, &seen.from));
                let row_ends = (&row.from, &row.to);
                row.result != Outcome::NotEstablished && (row_ends == ends || row_ends == back)
            };
            let passed_by = !is_of(node, &seen.from) && !is_of(node, &seen.to);
            for row in rows.iter_mut().filter(of_pair) {
                row.result = Outcome::Plaintext;
                if passed_by && row.from == seen.from {
                    let sample = seen.sample.iter();
                    row.samples
                        .extend(sample.map(|sample| format!("{node}: {sample}")));
                }
            }
        }
    }
}

fn row([from, to]: [&str; 2], established: bool, nodes: &[String], counts: &Counts) -> Row {
    let answer = |node: &String| Some((node.clone(), counts.get(node)?.as_ref().ok()?));
    let answers: Vec<(String, &Counted)> = nodes.iter().filter_map(answer).collect();
    let mut row = Row {
        from: from.to_owned(),
        to: to.to_owned(),
        by: answers.iter().map(|(node, _)| node.clone()).collect(),
        devices: answers
            .iter()
            .flat_map(|(_, counted)| counted.devices.clone())
            .collect(),
        wireguard: Flow::default(),
        more: answers.iter().any(|(_, counted)| counted.missed.wireguard > 0),
        plaintext: Flow::default(),
        samples: Vec::new(),
        result: Outcome::Unknown,
    };
    row.devices.sort();
    row.devices.dedup();
    for (node, counted) in &answers {
        for pair in &counted.pairs {
            let (wireguard, plaintext) = if (pair.from.as_str(), pair.to.as_str()) == (from, to) {
                (&mut row.wireguard.out, &mut row.plaintext.out)
            } else if (pair.from.as_str(), pair.to.as_str()) == (to, from) {
                (&mut row.wireguard.come, &mut row.plaintext.come)
            } else {
                continue;
            };
            wireguard.add(pair.wireguard);
            plaintext.add(pair.plaintext);
            row.samples
                .extend(pair.sample.iter().map(|sample| format!("{node}: {sample}")));
        }
    }
    let whole = answers.len() == nodes.len() && answers.iter().all(|(_, counted)| gaps(counted).is_empty());
    row.result = outcome(&row, established, whole);
    row
}

/// Returns what comes of a row where nothing was in plaintext.
fn outcome(row: &Row, established: bool, whole: bool) -> Outcome {
    let Flow { out, come } = row.wireguard;
    match () {
        () if !established => Outcome::NotEstablished,
        () if row.by.is_empty() => Outcome::Unknown,
        () if !whole => Outcome::Incomplete,
        () if out.packets + come.packets == 0 => Outcome::NothingSeen,
        () => Outcome::Encrypted,
    }
}

/// Returns what an agent has not looked at of what might be in plaintext.
fn gaps(counted: &Counted) -> Vec<String> {
    let mut gaps = Vec::new();
    if counted.missed.rest > 0 {
        gaps.push(format!(
            "{} packets were too many to be looked at",
            counted.missed.rest
        ));
    }
    if counted.unreadable > 0 {
        gaps.push(format!(
            "{} packets between locations are cut off",
            counted.unreadable
        ));
    }
    gaps.extend(counted.troubles.iter().cloned());
    gaps
}

/// Returns the table for people, and what it comes to.
#[must_use]
pub fn text(rows: &[Row], wide: bool) -> String {
    let mut heading = vec!["FROM", "TO", "BY", "WIREGUARD", "PLAINTEXT", "RESULT"];
    if wide {
        heading.extend(["BYTES IN WIREGUARD", "DEVICES"]);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, wide)).collect();
    let mut text = table(&heading, &cells);
    let plain = rows.iter().filter(|row| row.result == Outcome::Plaintext);
    for row in plain.filter(|row| !row.samples.is_empty()) {
        text += &format!(
            "ERROR: {}: packets to or from {} were in plaintext\n",
            row.from, row.to
        );
        for sample in &row.samples {
            text += &format!("  {sample}\n");
        }
        text += &format!("  next: kubectl spanwire diagnose {} {}\n", row.from, row.to);
    }
    text + &conclusion(rows)
}

/// A pair is shown to be encrypted where both sides have seen that it is.
fn conclusion(rows: &[Row]) -> String {
    let pairs: BTreeSet<[String; 2]> = rows.iter().map(Row::pair).collect();
    let others = rows.iter().filter(|row| row.result != Outcome::Encrypted);
    let others: BTreeSet<[String; 2]> = others.map(Row::pair).collect();
    match (pairs.len(), others.len()) {
        (0, _) => "There are no two locations.\n".to_owned(),
        (_, 0) => "All packets that were seen between locations were in WireGuard.\n".to_owned(),
        (all, others) => format!(
            "Of {all} pairs of locations {} are shown to be encrypted.\n",
            all - others
        ),
    }
}

fn cells(row: &Row, wide: bool) -> Vec<String> {
    let known = !row.by.is_empty();
    let both = |flow: &Flow, mark: &str| match (flow.out.packets, flow.come.packets) {
        (0, 0) => "none".to_owned(),
        (out, come) => format!("{out}{mark} out, {come}{mark} in"),
    };
    let shown = |text: String| if known { text } else { "?".to_owned() };
    let mut cells = vec![
        row.from.clone(),
        row.to.clone(),
        shown(few(&row.by)),
        shown(both(&row.wireguard, if row.more { "+" } else { "" })),
        shown(both(&row.plaintext, "")),
        row.result.words().to_owned(),
    ];
    if wide {
        let [out, come] = [row.wireguard.out, row.wireguard.come].map(|amount| bytes(amount.bytes));
        cells.push(shown(format!("{out} out, {come} in")));
        cells.push(shown(joined(&row.devices)));
    }
    cells
}

#[cfg(test)]
mod tests;
