//! The links between locations, both ways of each together, and how they are.

use serde::Serialize;
use spanwire_topology::{LocationName, Mesh};

use crate::{
    graph::pairs,
    status::{LinkRow, Report},
};

/// From this share of lost requests on a link is impaired.
const LOSSY: f64 = 0.01;

/// How a link is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Health {
    /// At least one side says that the other answers, and no side that it does not.
    Up,
    /// No agent of either side says anything.
    Unknown,
    /// The other side answers, but requests are lost, or another leader than the first one is in use.
    Impaired,
    /// What goes between the two goes as it did without Spanwire.
    NotEstablished,
    /// A side gets no answer from the other one, or has no leader.
    Down,
}

/// Two locations, and what is between them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Link {
    /// One location.
    a: String,
    /// The other one, whose name is the later one.
    b: String,
    health: Health,
    /// Why it is so, where it is not up.
    why: Vec<String>,
    /// From one to the other, and back.
    ways: Vec<LinkRow>,
}

/// What of a link is shown at once when it changes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outline {
    health: Health,
    parties: [String; 2],
    by: Vec<(Option<String>, Option<bool>, Option<u64>)>,
}

impl Link {
    pub(super) fn outline(&self) -> Outline {
        let by = self.ways.iter();
        Outline {
            health: self.health,
            parties: [self.a.clone(), self.b.clone()],
            by: by
                .map(|way| (way.far_leader.clone(), way.up, way.failovers))
                .collect(),
        }
    }
}

/// Returns the link of every pair of locations.
pub(super) fn links(mesh: &Mesh, report: &Report) -> Vec<Link> {
    // By both names, as they are sorted.
    let way = |from: &LocationName, to: &LocationName| {
        let key = (from.as_str(), to.as_str());
        let rows = &report.links;
        let found = rows.binary_search_by(|row| (row.from.as_str(), row.to.as_str()).cmp(&key));
        found.ok().map(|index| rows[index].clone())
    };
    let link = |(a, b, established): (&LocationName, &LocationName, bool)| {
        let ways: Vec<LinkRow> = [way(a, b), way(b, a)].into_iter().flatten().collect();
        let (health, why) = judge(mesh, [a, b], established, &ways);
        Link {
            a: a.to_string(),
            b: b.to_string(),
            health,
            why,
            ways,
        }
    };
    pairs(mesh).map(link).collect()
}

/// Returns how a link is, and what shows it.
fn judge(
    mesh: &Mesh,
    pair: [&LocationName; 2],
    established: bool,
    ways: &[LinkRow],
) -> (Health, Vec<String>) {
    let mut said = Vec::new();
    for name in pair {
        let location = mesh.locations.get(name);
        if location.is_none_or(|location| location.leaders.is_empty()) {
            said.push((Health::Down, format!("{name} has no leader")));
        }
    }
    if !established {
        let text = "not established: no tunnel between them is proven yet";
        said.push((Health::NotEstablished, text.to_owned()));
    }
    for way in ways {
        said.extend(of_way(mesh, way));
    }
    if said.is_empty() && ways.iter().all(|way| way.up.is_none()) {
        let leaders: Vec<_> = ways.iter().map(|way| way.leader.as_str()).collect();
        let text = format!("no answer from the agents of {}", leaders.join(" and "));
        said.push((Health::Unknown, text));
    }
    let worst = said.iter().map(|(health, _)| *health).max();
    let health = worst.unwrap_or(Health::Up);
    (health, said.into_iter().map(|(_, text)| text).collect())
}

fn of_way(mesh: &Mesh, way: &LinkRow) -> Vec<(Health, String)> {
    let mut said = Vec::new();
    let LinkRow { from, to, leader, .. } = way;
    if way.up == Some(false) {
        said.push((
            Health::Down,
            format!("no leader of {to} answers {leader} of {from}"),
        ));
    }
    let far = mesh.locations.iter().find(|(name, _)| name.as_str() == to);
    let first = far.and_then(|(_, far)| far.active().next());
    if let (Some(used), Some(first)) = (&way.far_leader, first)
        && used != first.as_str()
    {
        let text = format!("{leader} of {from} goes around {first}, the first leader of {to}, by {used}");
        said.push((Health::Impaired, text));
    }
    if let Some(loss) = way.loss.filter(|loss| *loss >= LOSSY) {
        let percent = loss * 100.0;
        let text = format!("{percent:.1} % of what {leader} of {from} asks {to} is not answered in time");
        said.push((Health::Impaired, text));
    }
    said
}
