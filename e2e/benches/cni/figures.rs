//! What pods get of the network on one CNI.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;
use spanwire_e2e::{
    Lab, Progress,
    expect::{SOON, all_reach_all, by_role},
    load::{Load, Used, memory},
    scenario::Cni,
    size, wait_until,
};

/// Echo requests of one round.
const REQUESTS: u32 = 100;
/// How long the lab is looked at while nothing is sent.
const REST: Duration = Duration::from_secs(3);
/// The programs of the mesh.
pub(crate) const PROGRAMS: [&str; 3] = ["spanwire-agent", "spanwire-tunnel", "spanwire-operator"];

/// A way between two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Between two locations, and not inside of one.
    pub(crate) across: bool,
    /// Every node leads itself.
    pub(crate) nodes: bool,
}

/// The plain one first, with which the others are compared.
pub(crate) const WAYS: [Way; 4] = [
    Way {
        across: false,
        nodes: false,
    },
    Way {
        across: true,
        nodes: false,
    },
    Way {
        across: false,
        nodes: true,
    },
    Way {
        across: true,
        nodes: true,
    },
];

impl Way {
    /// Returns what it is called in tables.
    pub(crate) fn name(self) -> &'static str {
        match (self.across, self.nodes) {
            (false, false) => "inside a location, plain",
            (true, false) => "across locations",
            (false, true) => "inside a location, `mesh: Nodes`",
            (true, true) => "across locations, `mesh: Nodes`",
        }
    }
}

/// What one round gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// One stream of TCP, in Gb/s.
    pub(crate) stream: f64,
    /// A flood of datagrams, what arrived of it, in Gb/s.
    pub(crate) flood: f64,
    /// The mean round trip of an idle ping, in milliseconds.
    pub(crate) ping: f64,
    /// Processor time of the whole lab for 10⁹ bytes of the stream, in seconds.
    pub(crate) cost: f64,
    /// The share of the machine that others used during the stream, in percent.
    pub(crate) foreign: f64,
}

/// What was measured on one way.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) way: Way,
    pub(crate) rounds: Vec<Round>,
    /// The largest unfragmented packet, as the sender's kernel found it.
    pub(crate) mtu: u32,
    /// The largest segment of TCP.
    pub(crate) segment: u32,
}

/// What was measured on one CNI.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) cni: Cni,
    pub(crate) ways: Vec<Measured>,
    /// The largest resident memory of each of [`PROGRAMS`], in MB, with `mesh: Leaders` and with `mesh: Nodes`.
    pub(crate) memory: [[f64; 3]; 2],
}

/// Returns the name of a CNI as it is typed.
pub(crate) fn name(cni: Cni) -> String {
    let value = cni.to_possible_value();
    value.map_or(String::new(), |value| value.get_name().to_owned())
}

/// Measures all ways.
pub(crate) fn measure(lab: &Lab, cni: Cni, rounds: u32, seconds: u32) -> Result<Figures> {
    let progress = Progress::shown();
    let title = name(cni);
    let leaders = progress.stage(&format!("{title}: leaders carry"), || {
        all_reach_all(lab)?;
        modes(lab, false, rounds, seconds)
    })?;
    let first = largest(lab)?;
    progress.stage(&format!("{title}: every node leads"), || every_node_leads(lab))?;
    let nodes = progress.stage(&format!("{title}: every node carries"), || {
        modes(lab, true, rounds, seconds)
    })?;
    let ways = [leaders, nodes].concat();
    Ok(Figures {
        cni,
        ways,
        memory: [first, largest(lab)?],
    })
}

/// Measures inside a location and across in turn, so that what else the machine does meets both.
fn modes(lab: &Lab, nodes: bool, rounds: u32, seconds: u32) -> Result<Vec<Measured>> {
    let ways = WAYS.into_iter().filter(|way| way.nodes == nodes);
    let mut measured = ways
        .map(|way| {
            let (from, to) = ends(lab, way)?;
            let size = size::between(lab, &from, &to)?;
            let measured = Measured {
                way,
                rounds: Vec::new(),
                mtu: size.found,
                segment: 0,
            };
            Ok((measured, from, to))
        })
        .collect::<Result<Vec<_>>>()?;
    let before = Used::now(lab)?;
    thread::sleep(REST);
    let rest = Used::now(lab)?.since(before);
    for _ in 0..rounds {
        for (measured, from, to) in &mut measured {
            let load = Load::start(lab, from, to)?;
            let (round, segment) =
                one(lab, &load, rest, seconds).with_context(|| format!("{from} to {to}"))?;
            measured.rounds.push(round);
            measured.segment = segment;
        }
    }
    Ok(measured.into_iter().map(|(measured, ..)| measured).collect())
}

/// Returns between whose pods it goes: from one that does not carry for others, to such a one in the other location, or to the leader in the own one.
fn ends(lab: &Lab, way: Way) -> Result<(String, String)> {
    let last = |location| {
        let nodes = by_role(lab, location)?;
        nodes.last().cloned().context("a location without nodes")
    };
    let from = if way.nodes { "a3".to_owned() } else { last("a")? };
    let to = if way.across {
        last("b")?
    } else {
        let mut others = by_role(lab, "a")?.into_iter().filter(|node| *node != from);
        others.next().context("a location of one node")?
    };
    Ok((from, to))
}

/// Measures once; returns the largest segment of TCP, too.
fn one(lab: &Lab, load: &Load<'_>, rest: Used, seconds: u32) -> Result<(Round, u32)> {
    let ping = load.round_trip(REQUESTS)?;
    let before = Used::now(lab)?;
    let stream = load.stream(seconds)?;
    let used = Used::now(lab)?.since(before).with(stream.busy);
    let flood = load.flood(seconds)?;
    let idle = rest.lab.as_secs_f64() / REST.as_secs_f64() * stream.seconds;
    let processors = std::thread::available_parallelism()?.get();
    let whole = stream.seconds * f64::from(u32::try_from(processors)?);
    let round = Round {
        stream: stream.gigabits(),
        flood: flood.gigabits(),
        ping,
        cost: (used.lab.as_secs_f64() - idle) / (stream.bytes * 1e-9),
        foreign: used.foreign().as_secs_f64() / whole * 100.0,
    };
    Ok((round, stream.segment))
}

fn every_node_leads(lab: &Lab) -> Result<()> {
    for location in &lab.layout().locations {
        let patch = r#"{"spec":{"mesh":"Nodes"}}"#;
        lab.kubectl(["patch", "location", &location.name, "--type=merge", "-p", patch])?;
        wait_until("every node leads", SOON, || {
            let found = lab.get(&["location", &location.name])?;
            let leaders = found["status"]["leaders"].as_array().map(Vec::len);
            Ok(leaders == Some(location.nodes.len()))
        })?;
    }
    lab.wait_mesh_ready()?;
    all_reach_all(lab)?;
    wait_until("what goes between nodes of a location is encrypted", SOON, || {
        let from = lab.node("a3")?;
        let to = lab.node_layout("a1")?.addresses[0].to_string();
        Ok(from.run(["ip", "route", "get", &to])?.contains("spanwire0"))
    })
}

/// Returns the largest memory of each program on any node.
fn largest(lab: &Lab) -> Result<[f64; 3]> {
    let mut largest = [0.0_f64; 3];
    for (program, most) in PROGRAMS.iter().zip(&mut largest) {
        for node in lab.node_names() {
            match memory(lab, &node, program) {
                Ok(used) => *most = most.max(used),
                // Operators run on two nodes only.
                Err(_) if *program == "spanwire-operator" => {}
                Err(error) => return Err(error.context(format!("{program} on {node}"))),
            }
        }
    }
    Ok(largest)
}
