//! A trace as text, one node a line.

use std::fmt::{self, Display, Formatter};

use super::{Action, Arrival, Trace, TraceStep, Verdict};
use crate::Party;

impl Display for Trace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "{}", self.verdict)
    }
}

impl Display for TraceStep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({}): {}",
            self.role, self.node, self.arrival, self.action
        )
    }
}

impl Display for Arrival {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Origin => "origin",
            Self::Lan => "from its LAN",
            Self::Hop => "from a hop",
            Self::Tunnel => "from the tunnel",
        })
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let to = |f: &mut Formatter<'_>, party: &Option<Party>| match party {
            Some(party) => write!(f, " to {party}"),
            None => Ok(()),
        };
        match self {
            Self::Deliver => f.write_str("has the destination"),
            Self::Local => f.write_str("local, by the CNI or the LAN"),
            Self::Route(prefix, via, party) => {
                write!(f, "route {prefix} {via}")?;
                to(f, party)
            }
            Self::Return(via) => write!(f, "return {via}"),
            Self::Relay(party) => {
                f.write_str("relay into its own tunnel")?;
                to(f, party)
            }
            Self::NoRoute => f.write_str("no route of the mesh"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived(1) => f.write_str("arrives after 1 hop"),
            Self::Arrived(hops) => write!(f, "arrives after {hops} hops"),
            Self::Underlay(node) => write!(f, "leaves by the own routes of {node}"),
            Self::Dropped(Some(node), reason) => write!(f, "dropped at {node}: {reason}"),
            Self::Dropped(None, reason) => write!(f, "dropped: {reason}"),
            Self::Misdelivered(node, peer) => {
                write!(
                    f,
                    "misdelivered by {node} to peer {peer}, which does not have the destination"
                )
            }
            Self::Loop => f.write_str("goes round in a loop"),
        }
    }
}
