//! The published mesh as a picture: for a terminal, for Graphviz, for Mermaid, or as SVG.

use std::{collections::BTreeMap, f64::consts::TAU, fmt::Write as _};

use spanwire_topology::{LeaderRole, Location, LocationName, Mesh, NodeName, dot};

use crate::table::joined;

/// In what the picture is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Picture {
    /// Lines for a terminal
    #[default]
    Text,
    /// For Graphviz: `dot -Tsvg`
    Dot,
    /// For Mermaid, as Markdown has it
    Mermaid,
    /// A picture for browsers
    Svg,
}

/// Returns the picture of a mesh.
#[must_use]
pub fn draw(mesh: &Mesh, picture: Picture) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match picture {
        Picture::Text => text(mesh, &mut out),
        Picture::Dot => write!(out, "{}", dot(mesh)),
        Picture::Mermaid => mermaid(mesh, &mut out),
        Picture::Svg => svg(mesh, &mut out),
    };
    out
}

fn part(location: &Location, node: &NodeName) -> &'static str {
    match location.role(node) {
        Some(LeaderRole::Active) => "active leader",
        Some(LeaderRole::Standby) => "standby leader",
        None => "follower",
    }
}

/// Returns the nodes of a location: its leaders as they are published, active ones first, then its followers by name.
fn nodes(location: &Location) -> impl Iterator<Item = &NodeName> {
    let leaders = location.leaders.iter().map(|leader| &leader.node);
    let followers = location.members.keys();
    leaders.chain(followers.filter(|node| location.role(node).is_none()))
}

/// Returns every pair of locations once, and whether its traffic is in the tunnel or nowhere.
pub(crate) fn pairs(mesh: &Mesh) -> impl Iterator<Item = (&LocationName, &LocationName, bool)> {
    mesh.locations
        .iter()
        .enumerate()
        .flat_map(move |(index, (name, location))| {
            let others = mesh.locations.keys().skip(index + 1);
            others.map(move |other| (name, other, location.established.contains(other)))
        })
}

fn text(mesh: &Mesh, out: &mut String) -> std::fmt::Result {
    for (name, location) in &mesh.locations {
        writeln!(out, "{name}")?;
        let count = nodes(location).count();
        for (index, node) in nodes(location).enumerate() {
            let corner = if index + 1 == count {
                "└──"
            } else {
                "├──"
            };
            writeln!(out, "{corner} {node}  {}", part(location, node))?;
        }
    }
    let (through, not): (Vec<_>, Vec<_>) = pairs(mesh).partition(|(_, _, established)| *established);
    if !through.is_empty() || !not.is_empty() {
        writeln!(out)?;
    }
    for (a, b, _) in through {
        writeln!(out, "{a} ═══ {b}")?;
    }
    for (a, b, _) in not {
        writeln!(
            out,
            "{a} ··· {b}  not established: no tunnel between them is proven yet"
        )?;
    }
    for (name, peer) in &mesh.peers {
        writeln!(out, "peer {name} ─── {}", joined(&peer.attachments))?;
    }
    Ok(())
}

fn mermaid(mesh: &Mesh, out: &mut String) -> std::fmt::Result {
    let places: BTreeMap<&LocationName, usize> = mesh.locations.keys().zip(0..).collect();
    writeln!(out, "graph LR")?;
    for (index, (name, location)) in mesh.locations.iter().enumerate() {
        writeln!(out, "  subgraph L{index}[\"{name}\"]")?;
        for (node, member) in nodes(location).enumerate() {
            let role = part(location, member);
            writeln!(out, "    L{index}N{node}[\"{member}<br/>{role}\"]")?;
        }
        writeln!(out, "  end")?;
    }
    for (a, b, established) in pairs(mesh) {
        let line = if established { "===" } else { "-.-" };
        writeln!(out, "  L{} {line} L{}", places[a], places[b])?;
    }
    for (index, (name, peer)) in mesh.peers.iter().enumerate() {
        writeln!(out, "  P{index}([\"{name}\"])")?;
        for place in peer.attachments.iter().filter_map(|at| places.get(at)) {
            writeln!(out, "  P{index} --- L{place}")?;
        }
    }
    Ok(())
}

const WIDTH: f64 = 180.0;
const HEIGHT: f64 = 64.0;
const GAP: f64 = 40.0;

/// Where the boxes of locations stand: on a circle with room for all of them, the first at the top.
fn places(count: usize) -> (f64, Vec<(f64, f64)>) {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    let many = count as f64;
    let radius = if count < 2 {
        0.0
    } else {
        ((WIDTH + GAP) * many / TAU).max(WIDTH)
    };
    let centre = radius + WIDTH;
    let angle = |index: usize| {
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let index = index as f64;
        TAU * index / many - TAU / 4.0
    };
    let place = |index| {
        (
            centre + radius * f64::cos(angle(index)),
            centre + radius * f64::sin(angle(index)),
        )
    };
    (2.0 * centre, (0..count).map(place).collect())
}

fn svg(mesh: &Mesh, out: &mut String) -> std::fmt::Result {
    let (size, places) = places(mesh.locations.len());
    let of: BTreeMap<&LocationName, (f64, f64)> = mesh.locations.keys().zip(places).collect();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    let below = mesh.peers.len() as f64 * 24.0;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size:.0} {:.0}\" font-family=\"sans-serif\" font-size=\"14\" \
         role=\"img\" aria-label=\"The locations of the mesh and their leaders\">",
        size + below
    )?;
    writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>")?;
    for (a, b, established) in pairs(mesh) {
        let ((x1, y1), (x2, y2)) = (of[a], of[b]);
        let style = if established {
            "stroke=\"#1a7f37\" stroke-width=\"2\""
        } else {
            "stroke=\"#9a6700\" stroke-dasharray=\"4 4\""
        };
        let title = if established {
            "in the tunnel"
        } else {
            "not established"
        };
        writeln!(
            out,
            "<line x1=\"{x1:.0}\" y1=\"{y1:.0}\" x2=\"{x2:.0}\" y2=\"{y2:.0}\" {style}><title>{a} and {b}: {title}</title></line>"
        )?;
    }
    for (name, location) in &mesh.locations {
        let (x, y) = of[name];
        let leaders: Vec<&NodeName> = location.active().take(2).collect();
        let led = if leaders.is_empty() {
            "no leader".to_owned()
        } else {
            joined(leaders)
        };
        writeln!(
            out,
            "<g><title>{name}: {} nodes</title><rect x=\"{:.0}\" y=\"{:.0}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\" \
             fill=\"#f6f8fa\" stroke=\"#57606a\"/>",
            location.members.len(),
            x - WIDTH / 2.0,
            y - HEIGHT / 2.0
        )?;
        let line = |out: &mut String, y: f64, weight: &str, text: &str| {
            let text = short(text);
            writeln!(
                out,
                "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\" font-weight=\"{weight}\" fill=\"#1f2328\">{text}</text>"
            )
        };
        line(out, y - 12.0, "bold", name.as_str())?;
        line(out, y + 6.0, "normal", &led)?;
        line(
            out,
            y + 24.0,
            "normal",
            &format!("{} nodes", location.members.len()),
        )?;
        writeln!(out, "</g>")?;
    }
    for (index, (name, peer)) in mesh.peers.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let y = size + 24.0 * index as f64;
        let at = joined(&peer.attachments);
        writeln!(
            out,
            "<text x=\"12\" y=\"{y:.0}\" fill=\"#1f2328\">peer {name}: {at}</text>"
        )?;
    }
    writeln!(out, "</svg>")
}

/// What fits into a box.
fn short(text: &str) -> String {
    const LONGEST: usize = 22;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_many_locations_do_not_overlap() {
        for count in [0, 1, 2, 3, 7, 50, 200] {
            let (size, places) = places(count);
            assert_eq!(places.len(), count);
            for (index, a) in places.iter().enumerate() {
                assert!(a.0 >= WIDTH / 2.0 && a.0 + WIDTH / 2.0 <= size && a.1 + HEIGHT / 2.0 <= size);
                for b in &places[..index] {
                    let apart = (a.0 - b.0).abs() >= WIDTH || (a.1 - b.1).abs() >= HEIGHT;
                    assert!(apart, "{count}: {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn a_long_name_is_cut_at_a_letter() {
        assert_eq!(short("ä".repeat(30).as_str()), format!("{}…", "ä".repeat(22)));
        assert_eq!(short("abc"), "abc");
    }
}
