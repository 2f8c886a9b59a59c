//! How long the way between two nodes is, leg by leg and from end to end, as their agents measure it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use spanwire_topology::{Mesh, NodeName};

use crate::{answer::Verdict, explain::Way, table::table};

/// What the agent of a node is asked: to send echo requests from one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leg {
    /// The node that asks.
    pub from: String,
    /// Who answers.
    pub to: String,
    /// By what the packets go: `lan`, `tunnel`, or `mesh` for all of the way.
    pub by: &'static str,
    /// Its address.
    pub source: IpAddr,
    /// The address that answers.
    pub destination: IpAddr,
}

/// What an agent answers at `/debug/ping`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measured {
    /// How many requests were sent.
    pub sent: usize,
    /// The round-trip times of those that were answered, in seconds.
    pub rtts: Vec<f64>,
}

/// What agents measured, by leg; an error says why there is no answer.
pub type Measurements = BTreeMap<Leg, Result<Measured, String>>;

/// A leg with what was measured of it.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredLeg {
    /// The leg.
    #[serde(flatten)]
    pub leg: Leg,
    /// What was measured; `None`: that is not known.
    #[serde(flatten)]
    pub measured: Option<Measured>,
}

impl Leg {
    /// Returns the path at which the agent's admin endpoint measures it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/debug/ping/{}/{}", self.source, self.destination)
    }
}

/// Returns the node that has this address.
#[must_use]
pub fn node_of(mesh: &Mesh, address: IpAddr) -> Option<&NodeName> {
    let members = mesh
        .locations
        .values()
        .flat_map(|location| location.members.iter());
    let mut holding = members
        .filter(|(_, member)| member.addresses.contains(&address) || member.overlay.contains(&address));
    holding.next().map(|(node, _)| node)
}

/// Returns the legs of a way between nodes, and the whole of it at the end. A leg for which the nodes have no addresses of
/// one family is left out.
#[must_use]
pub fn legs(mesh: &Mesh, way: &Way, from: IpAddr, to: IpAddr) -> Vec<Leg> {
    let member = |name: &str| {
        let name: NodeName = name.parse().ok()?;
        mesh.locations
            .values()
            .find_map(|location| location.members.get(&name))
    };
    let mut legs: Vec<Leg> = way
        .hops
        .windows(2)
        .filter_map(|pair| {
            let (near, far) = (member(&pair[0].node)?, member(&pair[1].node)?);
            let encrypted = pair[0].encrypted == Some(true);
            let (near, far) = if encrypted {
                (&near.overlay, &far.overlay)
            } else {
                (&near.addresses, &far.addresses)
            };
            let of = |addresses: &BTreeSet<IpAddr>, v6: bool| {
                addresses.iter().copied().find(|address| address.is_ipv6() == v6)
            };
            // Of the packet's own family, where they have it.
            let mut families = [from.is_ipv6(), !from.is_ipv6()].into_iter();
            let (source, destination) = families.find_map(|v6| Some((of(near, v6)?, of(far, v6)?)))?;
            Some(Leg {
                from: pair[0].node.clone(),
                to: pair[1].node.clone(),
                by: if encrypted { "tunnel" } else { "lan" },
                source,
                destination,
            })
        })
        .collect();
    if let Some(first) = way.hops.first() {
        legs.push(Leg {
            from: first.node.clone(),
            to: way.to.clone(),
            by: "mesh",
            source: from,
            destination: to,
        });
    }
    legs
}

/// Returns the legs with what was measured, why some of it is not known, and how bad it is: that of the whole way counts.
#[must_use]
pub fn report(legs: &[Leg], measurements: &Measurements) -> (Vec<MeasuredLeg>, Vec<String>, Verdict) {
    let mut notes = Vec::new();
    let mut verdict = Verdict::Clean;
    let rows = legs.iter().map(|leg| {
        let measured = match measurements.get(leg) {
            Some(Ok(measured)) => Some(measured.clone()),
            Some(Err(why)) => {
                notes.push(format!("{} to {}: {why}", leg.from, leg.destination));
                None
            }
            None => None,
        };
        let bad = match &measured {
            Some(measured) if measured.rtts.is_empty() && leg.by == "mesh" => Verdict::Errors,
            Some(measured) if measured.rtts.len() == measured.sent => Verdict::Clean,
            _ => Verdict::Warnings,
        };
        verdict = verdict.max(bad);
        MeasuredLeg {
            leg: leg.clone(),
            measured,
        }
    });
    (rows.collect(), notes, verdict)
}

/// Returns the table for people.
#[must_use]
pub fn text(rows: &[MeasuredLeg]) -> String {
    let heading = ["FROM", "TO", "BY", "LOST", "MIN", "MEDIAN", "MAX"];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let leg = [row.leg.from.clone(), row.leg.to.clone(), row.leg.by.to_owned()];
            leg.into_iter().chain(figures(row.measured.as_ref())).collect()
        })
        .collect();
    table(&heading, &rows)
}

fn figures(measured: Option<&Measured>) -> [String; 4] {
    let unknown = || "?".to_owned();
    let Some(measured) = measured else {
        return [(); 4].map(|()| unknown());
    };
    let lost = format!(
        "{} of {}",
        measured.sent.saturating_sub(measured.rtts.len()),
        measured.sent
    );
    let mut rtts = measured.rtts.clone();
    rtts.sort_by(f64::total_cmp);
    let at = |index: usize| {
        rtts.get(index)
            .map_or_else(unknown, |rtt| format!("{:.2} ms", rtt * 1e3))
    };
    [lost, at(0), at(rtts.len() / 2), at(rtts.len().saturating_sub(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(by: &'static str) -> Leg {
        Leg {
            from: "a1".to_owned(),
            to: "b1".to_owned(),
            by,
            source: "10.4.0.1".parse().unwrap(),
            destination: "10.4.0.2".parse().unwrap(),
        }
    }

    fn judged(by: &'static str, measured: Result<Measured, String>) -> (String, Vec<String>, Verdict) {
        let (rows, notes, verdict) = report(&[leg(by)], &[(leg(by), measured)].into());
        (text(&rows), notes, verdict)
    }

    fn measured(rtts: &[f64]) -> Result<Measured, String> {
        Ok(Measured {
            sent: 5,
            rtts: rtts.to_vec(),
        })
    }

    #[test]
    fn what_is_lost_and_how_long_it_takes_is_shown() {
        let (text, notes, verdict) = judged("mesh", measured(&[0.003, 0.001, 0.002, 0.005, 0.004]));
        assert!(
            text.ends_with("a1     b1   mesh   0 of 5   1.00 ms   3.00 ms   5.00 ms\n"),
            "{text}"
        );
        assert_eq!((notes, verdict), (vec![], Verdict::Clean));
        let (text, _, verdict) = judged("mesh", measured(&[0.001]));
        assert!(text.contains("4 of 5   1.00 ms   1.00 ms   1.00 ms"), "{text}");
        assert_eq!(verdict, Verdict::Warnings);
    }

    #[test]
    fn the_whole_way_decides_what_is_wrong() {
        assert_eq!(judged("mesh", measured(&[])).2, Verdict::Errors);
        assert_eq!(
            judged("tunnel", measured(&[])).2,
            Verdict::Warnings,
            "a host may not answer"
        );
        let (text, notes, verdict) = judged("lan", Err("it has no running pod".to_owned()));
        assert!(text.contains("lan   ?      ?     ?        ?"), "{text}");
        assert_eq!(notes, ["a1 to 10.4.0.2: it has no running pod"]);
        assert_eq!(verdict, Verdict::Warnings);
    }
}
