//! Mesh and Plan as text, one fact a line, sorted: what tests compare and `/debug` shows.

use std::fmt::{self, Display, Formatter};

use crate::{
    Family, HopMode, Leader, LeaderRole, Location, Member, Mesh, MeshMode, Party, Peer, Plan, Role, Settings,
    Tunnel, Via, Vxlan, VxlanPeer,
};

/// `name=a,b` for what is not empty.
struct List<'a, T>(&'a str, T);

impl<T> Display for List<'_, T>
where
    T: IntoIterator<Item: Display> + Clone,
{
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, item) in self.1.clone().into_iter().enumerate() {
            if index == 0 {
                write!(f, " {}=", self.0)?;
            } else {
                f.write_str(",")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Mesh {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "mesh generation={}", self.generation.0)?;
        for (name, location) in &self.locations {
            writeln!(f, "location {name}{location}")?;
            for leader in &location.leaders {
                writeln!(f, "  {leader}")?;
            }
            for (node, member) in location.members.iter() {
                writeln!(f, "  member {node}{member}")?;
            }
        }
        for (name, peer) in &self.peers {
            writeln!(f, "peer {name}{peer}")?;
        }
        Ok(())
    }
}

impl Display for Location {
    /// Returns the head, without members.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let established = List("established", &self.established);
        write!(f, "{}{established}", self.settings)
    }
}

impl Display for Settings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            MeshMode::Leaders => "leaders",
            MeshMode::Nodes => "nodes",
        };
        let keepalive = List("keepalive", self.keepalive.map(|keepalive| keepalive.0));
        let endpoint = List("endpoint", &self.endpoint);
        let masquerade = if self.masquerade { " masquerade" } else { "" };
        let hop = match self.hop {
            HopMode::Cni => "",
            HopMode::Vxlan => " hop=vxlan",
        };
        write!(
            f,
            " mode={mode}{endpoint}{}{masquerade}{hop}{keepalive}",
            List("cidrs", &self.cidrs)
        )
    }
}

impl Display for LeaderRole {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Standby => "standby",
        })
    }
}

impl Display for Leader {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "leader {} {}", self.node, self.role)
    }
}

impl Display for Member {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, " generation={}", self.generation.0)?;
        List("addresses", &self.addresses).fmt(f)?;
        List("prefixes", &self.prefixes).fmt(f)?;
        List("overlay", &self.overlay).fmt(f)?;
        List("hop", &self.hop).fmt(f)?;
        List("mtu", self.mtu).fmt(f)?;
        List("key", &self.public_key).fmt(f)?;
        List("endpoints", &self.endpoints).fmt(f)?;
        List("port", [self.listen_port]).fmt(f)?;
        List("keepalive", self.keepalive.map(|keepalive| keepalive.0)).fmt(f)
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        List("key", [self.public_key]).fmt(f)?;
        List("allowed", &self.allowed_ips).fmt(f)?;
        List("endpoint", &self.endpoint).fmt(f)?;
        List("keepalive", self.keepalive.map(|keepalive| keepalive.0)).fmt(f)?;
        List("preshared", &self.preshared).fmt(f)?;
        List("home", &self.home).fmt(f)?;
        List("attachments", &self.attachments).fmt(f)
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan {}{} {}",
            self.me,
            List("location", &self.location),
            self.role
        )?;
        if let Some(tunnel) = &self.tunnel {
            tunnel.fmt(f)?;
        }
        if let Some(vxlan) = &self.vxlan {
            vxlan.fmt(f)?;
        }
        for (location, mtu) in &self.mtus {
            writeln!(f, "  mtu {mtu} location={location}")?;
        }
        for prefix in &self.own {
            writeln!(f, "  own {prefix}")?;
        }
        for prefix in self.local.difference(&self.own) {
            let masqueraded = match self.masqueraded.contains(prefix) {
                true => " masqueraded",
                false => "",
            };
            writeln!(f, "  local {prefix}{masqueraded}")?;
        }
        for prefix in &self.lent {
            writeln!(f, "  lent {prefix}")?;
        }
        for (prefix, route) in &self.routes {
            writeln!(f, "  route {prefix} {} location={}", route.via, route.location)?;
        }
        for (prefix, barred) in &self.unsent.barred {
            writeln!(f, "  barred {prefix} location={}", barred.location)?;
        }
        for prefix in &self.unsent.spared {
            writeln!(f, "  spared {prefix}")?;
        }
        for (prefix, via) in &self.returns {
            writeln!(f, "  return {prefix} {via}")?;
        }
        Ok(())
    }
}

impl Display for Vxlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address = List("address", self.address);
        writeln!(f, "  vxlan over {}{address}", self.family)?;
        for (node, peer) in &self.peers {
            let VxlanPeer {
                address,
                overlay,
                lan,
                leads,
            } = peer;
            let leads = if *leads { " leads" } else { "" };
            let (lan, overlay) = (List("lan", lan), List("hop", overlay));
            writeln!(f, "    with {node}{leads} address={address}{lan}{overlay}")?;
        }
        Ok(())
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Follower => f.write_str("follower"),
            Self::Leader(role) => write!(f, "{role} leader"),
        }
    }
}

impl Display for Tunnel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let addresses = List("addresses", &self.addresses);
        writeln!(f, "  tunnel port={}{addresses}", self.listen_port)?;
        let mut peers: Vec<_> = self.peers.values().collect();
        peers.sort_by_key(|peer| &peer.party);
        for peer in peers {
            let endpoints = List("endpoints", &peer.endpoints);
            let keepalive = List("keepalive", peer.keepalive.map(|keepalive| keepalive.0));
            let preshared = List("preshared", &peer.preshared);
            let group = List("group", &peer.group);
            let allowed = List("allowed", &peer.allowed_ips);
            writeln!(
                f,
                "    to {}{endpoints}{keepalive}{preshared}{group}{allowed}",
                peer.party
            )?;
        }
        Ok(())
    }
}

impl Display for Party {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader(location, node) => write!(f, "leader {location}/{node}"),
            Self::Peer(name) => write!(f, "peer {name}"),
        }
    }
}

impl Display for Via {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel => f.write_str("tunnel"),
            Self::Hop { node, hop, addresses } => {
                let to = if hop.is_empty() { addresses } else { hop };
                write!(f, "hop {node}{}", List("at", to.as_ref()))
            }
            Self::Unreachable => f.write_str("unreachable"),
        }
    }
}
