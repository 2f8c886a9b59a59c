//! The mesh as a picture, in the language of Graphviz.

use std::fmt::Write as _;

use crate::{LeaderRole, Location, LocationName, Mesh};

/// Returns the mesh in the `dot` language: `dot -Tsvg`. Locations are boxes, active leaders are filled, standby leaders
/// dashed; a line between two active leaders is drawn through where their locations are established.
#[must_use]
pub fn dot(mesh: &Mesh) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = draw(mesh, &mut text);
    text
}

fn draw(mesh: &Mesh, out: &mut String) -> std::fmt::Result {
    writeln!(out, "graph mesh {{")?;
    writeln!(out, "  node [shape=box fontname=\"sans-serif\"];")?;
    for (name, location) in &mesh.locations {
        draw_location(name, location, out)?;
    }
    for (index, (name, location)) in mesh.locations.iter().enumerate() {
        for (other_name, other) in mesh.locations.iter().skip(index + 1) {
            let style = style(location.established.contains(other_name));
            for (from, to) in pairs(location, other) {
                writeln!(out, "  \"node {from}\" -- \"node {to}\" [style={style}];")?;
            }
        }
        if location.settings.mode == crate::MeshMode::Nodes {
            let style = style(location.established.contains(name));
            for (from, to) in pairs(location, location).filter(|(from, to)| from < to) {
                writeln!(out, "  \"node {from}\" -- \"node {to}\" [style={style}];")?;
            }
        }
    }
    for (name, peer) in &mesh.peers {
        writeln!(out, "  \"peer {name}\" [label=\"{name}\" shape=ellipse];")?;
        let attached = peer
            .attachments
            .iter()
            .filter_map(|at| mesh.locations.get(at)?.active().next());
        for leader in attached {
            writeln!(out, "  \"peer {name}\" -- \"node {leader}\";")?;
        }
    }
    writeln!(out, "}}")
}

fn style(established: bool) -> &'static str {
    if established { "solid" } else { "dotted" }
}

fn pairs<'a>(
    location: &'a Location,
    other: &'a Location,
) -> impl Iterator<Item = (&'a crate::NodeName, &'a crate::NodeName)> {
    location
        .active()
        .flat_map(move |from| other.active().map(move |to| (from, to)))
}

fn draw_location(name: &LocationName, location: &Location, out: &mut String) -> std::fmt::Result {
    writeln!(out, "  subgraph \"cluster {name}\" {{")?;
    writeln!(out, "    label=\"{name}\";")?;
    for node in location.members.keys() {
        let style = match location.role(node) {
            Some(LeaderRole::Active) => " style=filled",
            Some(LeaderRole::Standby) => " style=dashed",
            None => "",
        };
        writeln!(out, "    \"node {node}\" [label=\"{node}\"{style}];")?;
    }
    writeln!(out, "  }}")
}
