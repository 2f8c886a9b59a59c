//! What an agent answers at its admin endpoint, as far as it is shown: `/metrics` and `/debug/links`
//! (`docs/operations/links.md`). What is not known is `None`, and what cannot be read is passed over: the agent may be of
//! another version.

use std::collections::BTreeMap;

use spanwire_topology::{Advice, Doubt, LocationName, NodeName, Reachability};

/// What one agent knows of its links.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The version of the agent, where it says.
    pub version: Option<String>,
    /// By the other location.
    pub links: BTreeMap<String, LinkFigures>,
    /// The tunnels to leaders, in the order of the answer.
    pub tunnels: Vec<TunnelFigures>,
    /// The tunnels to Peers that are attached to its location, by name.
    pub peers: BTreeMap<String, PeerFigures>,
    /// The locations of which nothing answers any more.
    pub unreached: Vec<String>,
    /// The locations to which packets are refused for that.
    pub refused: Vec<String>,
    /// Leaders of its own location that it does not use, each with the location towards which.
    pub lost: Vec<(String, String)>,
    /// Leaders of other locations that it does not use, each with its location.
    pub forsaken: Vec<(String, String)>,
    /// Those of them that answer all the same.
    pub answering: Vec<((String, String), Doubt)>,
    /// What leaders of other locations say that changes what it does, each with its location.
    pub advice: Vec<((String, String), Advice)>,
    /// Nodes of its own location that it reaches by another leader alone.
    pub cut: Vec<String>,
}

/// What an agent measures towards a location, of the leader in use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkFigures {
    /// A leader of it answers in the tunnel.
    pub up: Option<bool>,
    /// Round-trip time in seconds.
    pub rtt: Option<f64>,
    /// The share of requests that were not answered in time.
    pub loss: Option<f64>,
    /// Leaders that were given up for another.
    pub failovers: Option<u64>,
}

/// What WireGuard counts of a tunnel to a leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelFigures {
    /// The location of the leader.
    pub location: String,
    /// The leader.
    pub leader: String,
    /// How many seconds ago the last handshake was; `None`: there was none.
    pub handshake: Option<u64>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// What WireGuard counts of a tunnel to a Peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFigures {
    /// How many seconds ago the last handshake was; `None`: there was none.
    pub handshake: Option<u64>,
    /// Where it was heard last.
    pub at: Option<String>,
}

impl Figures {
    /// Reads the two answers.
    #[must_use]
    pub fn read(metrics: &str, links: &str) -> Self {
        let mut figures = Self::default();
        for line in metrics.lines() {
            figures.metric(line);
        }
        for line in links.lines() {
            if let Some((name, peer)) = peer(line) {
                figures.peers.insert(name, peer);
            } else if let Some(tunnel) = tunnel(line) {
                figures.tunnels.push(tunnel);
            } else if let Some(location) = line.strip_prefix("reached by no way: ") {
                figures.unreached.push(location.to_owned());
            } else if let Some(location) = line.strip_prefix("refused: ") {
                figures.refused.push(location.to_owned());
            } else if let Some(node) = line.strip_prefix("reached by another leader: ") {
                figures.cut.push(node.to_owned());
            } else if let Some(not_used) = line.strip_prefix("not used: ") {
                let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
                figures.lost.extend(not_used.split_once(" towards ").map(pair));
                figures.forsaken.extend(not_used.split_once(" of ").map(pair));
            } else if let Some(doubt) = doubt(line) {
                figures.answering.push(doubt);
            } else {
                figures.advice.extend(advice(line));
            }
        }
        figures
    }

    fn metric(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("spanwire_agent_build_info{version=\"") {
            self.version = rest.split_once('"').map(|(version, _)| version.to_owned());
            return;
        }
        let Some((name, rest)) = line
            .strip_prefix("spanwire_agent_")
            .and_then(|line| line.split_once("{location=\""))
        else {
            return;
        };
        // Of a leader there is a label more.
        let Some((location, (_, value))) = rest
            .split_once('"')
            .and_then(|(location, rest)| Some((location, rest.split_once("} ")?)))
        else {
            return;
        };
        let Ok(value) = value.trim().parse::<f64>() else {
            return;
        };
        if !matches!(
            name,
            "link_up" | "leader_rtt_seconds" | "leader_loss" | "failovers_total"
        ) {
            return;
        }
        let link = self.links.entry(location.to_owned()).or_default();
        match name {
            "link_up" => link.up = Some(value > 0.0),
            // Of several leaders in use the worst counts.
            "leader_rtt_seconds" => link.rtt = Some(link.rtt.map_or(value, |rtt| rtt.max(value))),
            "leader_loss" => link.loss = Some(link.loss.map_or(value, |loss| loss.max(value))),
            // A counter of whole numbers.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is small and positive"
            )]
            "failovers_total" => link.failovers = Some(value as u64),
            _ => {}
        }
    }

    /// Returns the tunnel to the leader of a location that is in use: the first in the published order that is not given up.
    #[must_use]
    pub fn tunnel_in_use(&self, location: &str, leaders: &[String]) -> Option<&TunnelFigures> {
        let usable = |leader: &str| {
            let given_up = |(leader_of, of): &(String, String)| leader_of == leader && of == location;
            !self.forsaken.iter().any(given_up)
        };
        let to = |leader: &&String| {
            let is = |tunnel: &&TunnelFigures| tunnel.location == location && tunnel.leader == **leader;
            self.tunnels.iter().find(is)
        };
        let mut in_order = leaders.iter().filter(|leader| usable(leader));
        in_order.find_map(|leader| to(&leader))
    }

    /// Returns what the agent observes, as its plan is made with.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        let mut reachability = Reachability::default();
        for (leader, location) in &self.lost {
            if let (Ok(leader), Ok(location)) = (leader.parse::<NodeName>(), location.parse::<LocationName>())
            {
                reachability.observe(leader, location, false);
            }
        }
        for (leader, location) in &self.forsaken {
            if let (Ok(leader), Ok(location)) = (leader.parse::<NodeName>(), location.parse::<LocationName>())
            {
                reachability.observe_far(location, leader, false);
            }
        }
        let named = |(leader, location): &(String, String)| {
            Some((
                location.parse::<LocationName>().ok()?,
                leader.parse::<NodeName>().ok()?,
            ))
        };
        let answering = self.answering.iter();
        let answering = answering.filter_map(|(of, doubt)| Some((named(of)?, *doubt)));
        reachability.observe_answering(answering.collect());
        // What a leader that knows groups says counts besides where this one knows none, which its lines do not tell.
        let alone = |advice: &Advice| advice.draining && advice.groups;
        let advice = self.advice.iter().filter(|(_, advice)| !alone(advice));
        let advice = advice.filter_map(|(of, advice)| Some((named(of)?, advice.clone())));
        reachability.observe_advice(advice.collect());
        let draining = self.advice.iter().filter(|(_, advice)| advice.draining);
        reachability.observe_draining(draining.filter_map(|(of, _)| named(of)).collect());
        let refused = self.refused.iter().filter_map(|location| location.parse().ok());
        reachability.observe_unreached(refused.collect());
        let cut = self.cut.iter().filter_map(|node| node.parse().ok());
        reachability.observe_cut(cut.collect());
        reachability
    }
}

/// `b1 of b`
fn leader(text: &str) -> Option<(String, String)> {
    let (leader, location) = text.split_once(" of ")?;
    Some((leader.to_owned(), location.to_owned()))
}

/// `has come back: b1 of b`, `forwards nothing: b1 of b`
fn doubt(line: &str) -> Option<((String, String), Doubt)> {
    let (doubt, of) = line.split_once(": ")?;
    let doubt = match doubt {
        "has come back" => Doubt::Returning,
        "forwards nothing" => Doubt::Useless,
        _ => return None,
    };
    Some((leader(of)?, doubt))
}

/// `advice of b1 of b: uses a1, a2; takes what others send, too; its tunnels are about to end`, of which each part but the first may
/// be missing, where it does not say that it changes nothing.
fn advice(line: &str) -> Option<((String, String), Advice)> {
    let (of, said) = line.strip_prefix("advice of ")?.split_once(": uses ")?;
    let of = leader(of).filter(|(_, location)| !location.contains(','))?;
    let mut parts = said.split("; ");
    let uses = parts.next().into_iter().flat_map(|uses| uses.split(", "));
    let uses = uses.filter_map(|node| node.parse().ok()).collect();
    let more: Vec<&str> = parts.collect();
    let advice = Advice {
        uses,
        groups: more.contains(&"takes what others send, too"),
        draining: more.contains(&"its tunnels are about to end"),
    };
    Some((of, advice))
}

/// `tunnel to b1 of b: last handshake 71 s ago, 123456 bytes received, 234567 sent`
fn tunnel(line: &str) -> Option<TunnelFigures> {
    let (parties, counts) = line.strip_prefix("tunnel to ")?.split_once(": ")?;
    let (leader, location) = parties.split_once(" of ")?;
    let mut counts = counts.split(", ");
    Some(TunnelFigures {
        location: location.to_owned(),
        leader: leader.to_owned(),
        handshake: handshake(counts.next()?),
        received: number(counts.next()).unwrap_or_default(),
        sent: number(counts.next()).unwrap_or_default(),
    })
}

fn peer(line: &str) -> Option<(String, PeerFigures)> {
    let (name, counts) = line.strip_prefix("tunnel to peer ")?.split_once(": ")?;
    let mut counts = counts.split(", ");
    let figures = PeerFigures {
        handshake: handshake(counts.next()?),
        at: counts
            .find_map(|part| part.strip_prefix("at "))
            .map(str::to_owned),
    };
    Some((name.to_owned(), figures))
}

fn handshake(text: &str) -> Option<u64> {
    number(text.strip_prefix("last handshake "))
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer as its document shows it.
    fn documented() -> &'static str {
        let text = include_str!("../../docs/operations/links.md");
        let (_, block) = text.split_once("```text\n").unwrap();
        block.split_once("```").unwrap().0
    }

    #[test]
    fn the_documented_answer_is_read() {
        let figures = Figures::read("", documented());
        let tunnel = TunnelFigures {
            location: "b".to_owned(),
            leader: "b1".to_owned(),
            handshake: Some(71),
            received: 123_456,
            sent: 234_567,
        };
        assert_eq!(figures.tunnels, [tunnel]);
        let peer = PeerFigures {
            handshake: Some(12),
            at: Some("203.0.113.9:40112".to_owned()),
        };
        assert_eq!(figures.peers, [("laptop".to_owned(), peer)].into());
        let figures = Figures::read(
            "",
            "tunnel to peer tv: no handshake yet, 0 bytes received, 296 sent\n",
        );
        assert_eq!(figures.peers["tv"], PeerFigures::default());
    }

    #[test]
    fn metrics_are_read_by_location() {
        let metrics = "spanwire_agent_build_info{version=\"1.2.3\"} 1\n# TYPE spanwire_agent_link_up gauge\nspanwire_agent_link_up{location=\"b\"} 1\n\
                       spanwire_agent_link_up{location=\"c\"} 0\nspanwire_agent_failovers_total{location=\"b\"} 2\n\
                       spanwire_agent_leader_rtt_seconds{location=\"b\",leader=\"b1\"} 0.0213\n\
                       spanwire_agent_leader_rtt_seconds{location=\"b\",leader=\"b2\"} 0.0113\n\
                       spanwire_agent_leader_loss{location=\"b\",leader=\"b1\"} 0.5\n\
                       spanwire_agent_leader_handshake_age_seconds{location=\"b\",leader=\"b1\"} 7.0\n\
                       spanwire_agent_ready 1\nspanwire_agent_link_up{location=\"d\n# EOF\n";
        let figures = Figures::read(metrics, "");
        assert_eq!(figures.version.as_deref(), Some("1.2.3"));
        let expected = LinkFigures {
            up: Some(true),
            rtt: Some(0.0213),
            loss: Some(0.5),
            failovers: Some(2),
        };
        assert_eq!(figures.links["b"], expected);
        assert_eq!((figures.links["c"].up, figures.links.len()), (Some(false), 2));
    }

    #[test]
    fn a_leader_that_is_given_up_is_not_in_use_and_not_planned_with() {
        let links = "tunnel to b1 of b: no handshake yet, 0 bytes received, 5 sent\n\
                     tunnel to b2 of b: last handshake 3 s ago, 7 bytes received, 8 sent\n\
                     not used: b1 of b\nnot used: a2 towards c\nhas come back: b1 of b\nreached by no way: c\nrefused: c\n\
                     advice of b1 of b: uses a1, a2\nadvice of b2 of b: uses none of them; takes what others send, too\n\
                     advice of b3 of b: uses a1; takes what others send, too; its tunnels are about to end\n\
                     advice of c1 of c, which changes nothing: uses a1\nwhat is this\n";
        let figures = Figures::read("", links);
        let order = ["b1".to_owned(), "b2".to_owned()];
        assert_eq!(figures.tunnels[0].handshake, None);
        assert_eq!(figures.tunnel_in_use("b", &order).unwrap().leader, "b2");
        assert_eq!(figures.unreached, ["c"]);
        let reachability = figures.reachability();
        let name = |text: &str| text.parse().unwrap();
        assert!(!reachability.far_usable(&name("b"), &"b1".parse().unwrap()));
        assert!(!reachability.usable(&"a2".parse().unwrap(), &name("c")));
        assert!(reachability.usable(&"a2".parse().unwrap(), &name("b")));
        let leader = |text: &str| text.parse().unwrap();
        assert_eq!(
            reachability.doubt(&name("b"), &leader("b1")),
            Some(Doubt::Returning)
        );
        let advice = |of: &str| reachability.advice(&name("b"), &leader(of)).unwrap();
        let uses = ["a1", "a2"].map(leader).into();
        let expected = Advice {
            uses,
            ..Advice::default()
        };
        assert_eq!(*advice("b1"), expected);
        assert_eq!(reachability.advice(&name("b"), &leader("b3")), None);
        assert!(
            reachability.drains(&name("b"), &leader("b3")) && !reachability.drains(&name("b"), &leader("b1"))
        );
        assert_eq!((advice("b2").uses.len(), advice("b2").groups), (0, true));
        assert_eq!(reachability.advice(&name("c"), &leader("c1")), None);
        assert!(!reachability.reaches(&name("c")) && reachability.reaches(&name("b")));
    }
}
