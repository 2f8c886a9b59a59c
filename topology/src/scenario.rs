//! The language of scenarios: one line, one fact or one command. What tests of decisions are written in, and
//! `kubectl spanwire plan` reads.
//!
//! ```text
//! overlay 10.4.0.0/16                  # also: automatic POOLS, listen-port N, api-server ADDRESS:PORT, services NETWORKS,
//!                                      # pod-ranges NETWORKS, default-location NAME, hop vxlan
//! location paris mode=nodes active=2 standby=0 cidrs=192.168.10.0/24 endpoint=vpn.example.com:51820
//! node a1 region=paris addresses=192.168.10.1 pods=10.244.1.0/24 key=1 up=berlin
//! node a1 dead                         # the same node again: only what is named changes; `pods=` empties
//! node a1 former=192.168.10.7          # what it had until a short while ago
//! node a1 doubtful                     # its Lease as a leader is not renewed; `trusted` ends that
//! node a1 cloud carried                # of a cloud, with a CNI that has a device between nodes; `carried=no` ends that
//! peer laptop key=100 allowed=10.99.0.1/32 location=paris preshared=SECRET/KEY
//! remove node a1                       # or location, or peer
//! decide                               # prints what was rejected, and who is leaving; `node a1 released` lets it go
//! restart                              # the operator: it knows what it has published, and what there is now
//! show                                 # the mesh;  also: plan NODE, lint, dot, carriers LOCATION
//! trace 10.244.1.5 10.245.1.5          # the way of a packet, node by node
//! ```
//!
//! Lists are separated by commas. `key=7` is the key of 32 bytes 7, and is printed so.

mod objects;

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use crate::{
    Facts, Leaving, Mesh, NodeName, Reachability, Rejected, carrier, decide, dot, lint, plan,
    trace::{GroundTruth, plans, trace},
};

/// What a scenario has come to.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// What its lines have said so far.
    pub facts: Facts,
    /// The last decision.
    pub mesh: Mesh,
    /// What the last decision did not grant.
    pub rejected: Vec<Rejected>,
    /// Who is leaving by the last decision.
    pub leaving: BTreeMap<NodeName, Leaving>,
}

/// Runs a scenario. Returns its lines, each command marked and followed by what it prints, and what it has come to. `more`
/// answers commands that are not of this language.
///
/// # Errors
/// The first line that cannot be read, and why.
pub fn run(
    script: &str,
    more: impl Fn(&World, &[&str]) -> Option<String>,
) -> Result<(String, World), String> {
    let mut world = World::default();
    let mut out = String::new();
    for (index, line) in script.lines().enumerate() {
        let printed = match more(&world, &words(line)) {
            Some(printed) => Some(printed),
            None => world
                .line(line)
                .map_err(|error| format!("line {}: {line}: {error}", index + 1))?,
        };
        let _ = match printed {
            Some(printed) => writeln!(out, "> {}\n{}", line.trim(), tidy(&printed)),
            None => writeln!(out, "{line}"),
        };
    }
    Ok((out, world))
}

/// Returns the words of a line without its comment.
fn words(line: &str) -> Vec<&str> {
    let line = line.split_once('#').map_or(line, |(line, _)| line);
    line.split_whitespace().collect()
}

/// Returns keys by their number, as scenarios write them.
fn tidy(text: &str) -> String {
    let mut text = text.to_owned();
    for number in 1..=255 {
        text = text.replace(&objects::key(number).to_string(), &number.to_string());
    }
    text
}

fn lines<T: ToString>(items: &[T], none: &str) -> String {
    match items {
        [] => format!("{none}\n"),
        _ => items.iter().map(|item| item.to_string() + "\n").collect(),
    }
}

impl World {
    /// Does what one line says. Commands answer what is to be printed.
    ///
    /// # Errors
    /// Where the line cannot be read, and why.
    pub fn line(&mut self, line: &str) -> Result<Option<String>, String> {
        let words = words(line);
        let printed = match words[..] {
            [] => return Ok(None),
            ["decide"] => {
                let decision = decide(&self.facts, &self.mesh);
                let moved = decision.mesh != self.mesh;
                self.mesh = decision.mesh;
                self.rejected = decision.rejected;
                self.leaving = decision.leaving;
                let news = if moved { "changed" } else { "as before" };
                format!(
                    "generation {}, {news}\n{}",
                    self.mesh.generation.0,
                    self.rejections()
                )
            }
            ["restart"] => {
                self.facts.remember(&self.mesh);
                "what cannot be read is as it was published".to_owned()
            }
            ["show"] => self.mesh.to_string(),
            ["show", location] => self.location(location)?,
            ["plan", node] => {
                plan(&self.mesh, &parse::<NodeName>(node)?, &Reachability::default()).to_string()
            }
            ["lint"] => lines(&lint(&self.mesh), "nothing found"),
            ["dot"] => dot(&self.mesh),
            ["carriers", location] => self.carriers(location)?,
            ["trace", from, to] => self.trace(parse(from)?, parse(to)?)?,
            _ => return self.object(&words).map(|()| None),
        };
        Ok(Some(printed))
    }

    fn rejections(&self) -> String {
        let rejected = self
            .rejected
            .iter()
            .map(|rejected| format!("rejected {rejected}\n"));
        let leaving = self.leaving.iter().map(|(node, state)| match state {
            Leaving::InUse => format!("leaving {node}, in use\n"),
            Leaving::Replaced => format!("leaving {node}, replaced\n"),
        });
        rejected.chain(leaving).collect()
    }

    fn location(&self, name: &str) -> Result<String, String> {
        let text = self.mesh.to_string();
        let head = format!("location {name} ");
        let mut wanted = text.lines().skip_while(|line| !line.starts_with(&head));
        let head = wanted.next().ok_or("there is no such location")?;
        let body = wanted.take_while(|line| line.starts_with(' '));
        Ok([head]
            .into_iter()
            .chain(body)
            .map(|line| line.to_owned() + "\n")
            .collect())
    }

    fn trace(&self, from: IpAddr, to: IpAddr) -> Result<String, String> {
        let ground = GroundTruth::new([&self.mesh]);
        let from = ground.spot(from).ok_or("the mesh does not know the source")?;
        Ok(trace(&ground, &plans(&self.mesh), &from, to).to_string())
    }

    fn carriers(&self, name: &str) -> Result<String, String> {
        let location = self
            .mesh
            .locations
            .get(&parse(name)?)
            .ok_or("there is no such location")?;
        let line = |node| {
            let carrier = carrier(location, node).map_or("no leader".to_owned(), ToString::to_string);
            format!("{node} by {carrier}\n")
        };
        Ok(location.members.keys().map(line).collect())
    }
}

/// Reads a value; the message names the text.
fn parse<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: T::Err| format!("{text:?} {}", error.to_string()))
}
