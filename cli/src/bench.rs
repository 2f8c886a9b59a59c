//! How much goes between two nodes, and what share of their processors that costs, as their agents measure it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{answer::Verdict, status::bytes, table::table};

/// One end sends to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// The node that sends.
    pub from: String,
    /// The node that receives.
    pub to: String,
    /// The address that sends.
    pub source: IpAddr,
    /// The address that receives.
    pub destination: IpAddr,
}

/// What an agent that receives answers first at `/debug/bench/receive`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Offer {
    /// Where it listens.
    pub port: u16,
    /// What the sender has to present.
    pub token: String,
}

/// How a measurement ended, as an agent answers it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Ended<T> {
    /// Nothing was measured.
    Failed {
        /// Why.
        failed: String,
    },
    /// Something was.
    Done(T),
}

/// What an agent that receives answers in the end.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Received {
    /// So many bytes came.
    pub bytes: u64,
    /// In so many seconds.
    pub seconds: f64,
}

/// What an agent that sends answers at `/debug/bench/send`: what went into its socket, of which not all has to come out.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Sent {
    /// In bytes.
    pub sent: u64,
}

/// What an agent answers at `/debug/processors`: of all processors of its node together the shares of the time, from 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Processors {
    /// How many there are.
    pub processors: u32,
    /// They worked.
    pub busy: f64,
    /// For programs.
    pub user: f64,
    /// In the kernel, but for softirq; threads of its WireGuard are in it.
    pub system: f64,
    /// In softirq, where the kernel handles packets.
    pub softirq: f64,
    /// The hypervisor gave them to others.
    pub stolen: f64,
}

/// What was measured of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What came.
    pub received: Received,
    /// The processors of nodes meanwhile; an error says why they are not known.
    pub processors: BTreeMap<String, Result<Processors, String>>,
}

/// Why nothing was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An agent does not do it, so that nothing is known.
    Unanswered(String),
    /// The network does not carry it.
    Lost(String),
}

/// What came of a stream.
pub type Outcome = Result<Measured, Failure>;

/// A stream with what was measured of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredStream {
    /// The stream.
    #[serde(flatten)]
    pub stream: Stream,
    /// What came; `None`: that is not known.
    #[serde(flatten)]
    pub received: Option<Received>,
    /// In a second; `None`: that is not known.
    pub bits_per_second: Option<f64>,
    /// The nodes on the way.
    pub nodes: Vec<NodeLoad>,
}

/// A node while a stream passes.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLoad {
    /// The node.
    pub node: String,
    /// `sends`, `receives` or `forwards`.
    pub does: &'static str,
    /// What its processors did; `None`: that is not known.
    #[serde(flatten)]
    pub processors: Option<Processors>,
}

impl Stream {
    /// Returns the path at which the agent of the receiver measures it.
    #[must_use]
    pub fn receive_path(&self, time: Duration) -> String {
        format!("/debug/bench/receive/{}/{}", self.destination, time.as_secs())
    }

    /// Returns the path at which the agent of the sender sends.
    #[must_use]
    pub fn send_path(&self, offer: &Offer, time: Duration) -> String {
        let (from, to, time) = (self.source, self.destination, time.as_secs());
        format!(
            "/debug/bench/send/{from}/{to}/{}/{}/{time}",
            offer.port, offer.token
        )
    }

    fn does(&self, node: &str) -> &'static str {
        if node == self.from {
            "sends"
        } else if node == self.to {
            "receives"
        } else {
            "forwards"
        }
    }

    fn name(&self) -> String {
        format!("{} to {}", self.from, self.to)
    }
}

/// Returns the path at which an agent watches its processors.
#[must_use]
pub fn processors_path(time: Duration) -> String {
    format!("/debug/processors/{}", time.as_secs())
}

impl Offer {
    /// Returns it where it is one: what one agent says goes into the path that another one is asked at.
    ///
    /// # Errors
    /// Where it is none.
    pub fn checked(self) -> Result<Self, String> {
        let digits = self.token.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.port == 0 || self.token.len() != 32 || !digits {
            return Err("its agent's answer has no port, or no token of 32 hexadecimal digits".to_owned());
        }
        Ok(self)
    }
}

/// Returns the streams with what was measured of them in that time, why some of it is not known, and how bad it is. The nodes are
/// those on the way, in that order.
#[must_use]
pub fn report(
    outcomes: &[(Stream, Outcome)],
    nodes: &[String],
    time: Duration,
) -> (Vec<MeasuredStream>, Vec<String>, Verdict) {
    let mut notes = Vec::new();
    let mut verdict = Verdict::Clean;
    let rows = outcomes.iter().map(|(stream, outcome)| {
        let (bad, why) = judge(stream, outcome, time);
        verdict = verdict.max(bad);
        notes.extend(why);
        let measured = outcome.as_ref().ok();
        MeasuredStream {
            stream: stream.clone(),
            received: measured.map(|measured| measured.received),
            bits_per_second: measured.and_then(|measured| rate(measured.received)),
            nodes: nodes.iter().map(|node| load(stream, node, measured)).collect(),
        }
    });
    let rows: Vec<MeasuredStream> = rows.collect();
    // What an agent does not say it says of neither direction.
    let mut known = BTreeSet::new();
    notes.retain(|note| known.insert(note.clone()));
    (rows, notes, verdict)
}

/// Returns how bad it is, and why.
fn judge(stream: &Stream, outcome: &Outcome, time: Duration) -> (Verdict, Vec<String>) {
    let name = stream.name();
    let measured = match outcome {
        Ok(measured) => measured,
        Err(Failure::Unanswered(why)) => {
            return (Verdict::Warnings, vec![format!("{name} is not known: {why}")]);
        }
        Err(Failure::Lost(why)) => return (Verdict::Errors, vec![format!("{name}: {why}")]),
    };
    let mut notes = Vec::new();
    let mut verdict = Verdict::Clean;
    let Received { bytes, seconds } = measured.received;
    if bytes == 0 {
        verdict = Verdict::Errors;
        notes.push(format!(
            "{name}: they are connected, but nothing came: packets of full size may be lost; kubectl spanwire explain {} {} \
             shows the MTU",
            stream.source, stream.destination
        ));
    } else if rate(measured.received).is_none() || seconds < 0.9 * time.as_secs_f64() {
        verdict = Verdict::Warnings;
        notes.push(format!(
            "{name}: the connection ended after {seconds:.1} of {} s",
            time.as_secs()
        ));
    }
    for (node, processors) in &measured.processors {
        if let Err(why) = processors {
            verdict = verdict.max(Verdict::Warnings);
            notes.push(format!("the processors of {node} are not known: {why}"));
        }
    }
    (verdict, notes)
}

fn load(stream: &Stream, node: &str, measured: Option<&Measured>) -> NodeLoad {
    let answer = measured.and_then(|measured| measured.processors.get(node));
    NodeLoad {
        node: node.to_owned(),
        does: stream.does(node),
        processors: answer.and_then(|answer| answer.as_ref().ok()).copied(),
    }
}

/// Returns bits per second, where there was any time.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(received: Received) -> Option<f64> {
    (received.seconds > 0.0).then(|| received.bytes as f64 * 8.0 / received.seconds)
}

/// Returns the tables for people.
#[must_use]
pub fn text(rows: &[MeasuredStream], wide: bool) -> String {
    let streams: Vec<Vec<String>> = rows.iter().map(stream_cells).collect();
    let streams = table(&["FROM", "TO", "RECEIVED", "SECONDS", "THROUGHPUT"], &streams);
    let mut heading = vec!["FROM", "TO", "NODE", "DOES", "PROCESSORS", "BUSY", "SOFTIRQ"];
    if wide {
        heading.extend(["USER", "SYSTEM", "STOLEN"]);
    }
    let loads = rows
        .iter()
        .flat_map(|row| row.nodes.iter().map(move |load| load_cells(row, load)));
    let loads: Vec<Vec<String>> = loads.collect();
    format!("{streams}\n{}", table(&heading, &loads))
}

fn stream_cells(row: &MeasuredStream) -> Vec<String> {
    let unknown = || "?".to_owned();
    let received = row.received;
    vec![
        row.stream.from.clone(),
        row.stream.to.clone(),
        received.map_or_else(unknown, |received| bytes(received.bytes)),
        received.map_or_else(unknown, |received| format!("{:.1}", received.seconds)),
        row.bits_per_second.map_or_else(unknown, bits),
    ]
}

fn load_cells(row: &MeasuredStream, load: &NodeLoad) -> Vec<String> {
    let unknown = || "?".to_owned();
    let share = |of: fn(&Processors) -> f64| {
        let share = load.processors.as_ref().map(of);
        share.map_or_else(unknown, |share| format!("{:.0} %", share * 100.0))
    };
    let count = load.processors.map(|processors| processors.processors);
    let [from, to] = [&row.stream.from, &row.stream.to].map(Clone::clone);
    let mut cells = vec![from, to, load.node.clone(), load.does.to_owned()];
    cells.push(count.map_or_else(unknown, |count| count.to_string()));
    // The table leaves out those beyond its heading.
    cells.extend([
        share(|spent| spent.busy),
        share(|spent| spent.softirq),
        share(|spent| spent.user),
        share(|spent| spent.system),
        share(|spent| spent.stolen),
    ]);
    cells
}

/// Returns a rate as people read it.
fn bits(rate: f64) -> String {
    const UNITS: [&str; 4] = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
    let mut value = rate;
    let mut unit = 0;
    // What is rounded to 1000 has the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 9.995 && unit > 0 => 2,
        value if value < 99.95 && unit > 0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests;
