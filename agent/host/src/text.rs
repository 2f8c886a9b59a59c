//! A machine and its steps as text: sorted, one object a line, in the words of `ip`, `wg` and `nft`.

use std::{collections::BTreeSet, fmt};

use spanwire_topology::{Family, Keepalive, Prefix};

use crate::{Host, Link, Route, RouteKey, RouteKind, Rule, RuleAction, RuleSelector, Step, WireGuard};

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(link) = &self.link {
            writeln!(f, "{link}")?;
            for address in &link.addresses {
                writeln!(f, "address {address} dev {}", link.name)?;
            }
        }
        if let Some(wireguard) = &self.wireguard {
            write!(f, "{wireguard}")?;
        }
        for rule in &self.rules {
            writeln!(f, "rule {rule}")?;
        }
        for (key, route) in &self.routes {
            writeln!(f, "route {}", RouteText(key, route))?;
        }
        for (sysctl, value) in &self.sysctls {
            writeln!(f, "sysctl {} = {value}", sysctl.0)?;
        }
        match &self.nft {
            Some(nft) => writeln!(f, "nft\n{}", nft.text.trim_end()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = if self.up { "up" } else { "down" };
        write!(f, "link {} mtu {} {up}", self.name, self.mtu)
    }
}

impl fmt::Display for WireGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = OrDash(self.public_key.as_ref());
        let (port, mark) = (self.listen_port, self.mark);
        writeln!(
            f,
            "wireguard public-key {key} listen-port {port} fwmark {mark:#x}"
        )?;
        for (key, peer) in &self.peers {
            let endpoint = OrDash(peer.endpoint.as_ref());
            let keepalive = Every(peer.keepalive);
            write!(
                f,
                "peer {key} endpoint {endpoint} persistent-keepalive {keepalive}"
            )?;
            if let Some(group) = &peer.group {
                write!(f, " group {group}")?;
            }
            writeln!(f, " allowed-ips {}", List(&peer.allowed_ips))?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        write!(f, "-{family} priority {}{}", self.priority, self.selector)?;
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {}", table.0),
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Nop => f.write_str(" nop"),
        }
    }
}

/// Each word with a space before it.
impl fmt::Display for RuleSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.mark, Some((_, _, true))) {
            f.write_str(" not")?;
        }
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = &self.to {
            write!(f, " to {to}")?;
        }
        if let Some((value, mask, _)) = self.mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, " ipproto {protocol}")?;
        }
        if let Some(port) = self.sport {
            write!(f, " sport {port}")?;
        }
        if let Some(port) = self.dport {
            write!(f, " dport {port}")?;
        }
        Ok(())
    }
}

struct RouteText<'a>(&'a RouteKey, &'a Route);

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, route) = self;
        match &route.kind {
            RouteKind::Unicast { .. } => {}
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
        }
        write!(f, "{}", key.prefix)?;
        if let RouteKind::Unicast {
            dev,
            via,
            onlink,
            src,
        } = &route.kind
        {
            if let Some(via) = via {
                write!(f, " via {via}")?;
            }
            write!(f, " dev {dev}")?;
            if *onlink {
                f.write_str(" onlink")?;
            }
            if let Some(src) = src {
                write!(f, " src {src}")?;
            }
        }
        write!(f, " table {} metric {}", key.table.0, key.metric)?;
        match route.mtu {
            Some(mtu) => write!(f, " mtu {mtu}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink {
                mtu,
                public_key,
                listen_port,
                mark,
            } => write!(
                f,
                "link add mtu {mtu} public-key {public_key} listen-port {listen_port} fwmark {mark:#x}"
            ),
            Self::DeleteLink => f.write_str("link delete"),
            Self::SetMtu(mtu) => write!(f, "link set mtu {mtu}"),
            Self::SetUp(true) => f.write_str("link set up"),
            Self::SetUp(false) => f.write_str("link set down"),
            Self::AddAddress(address) => write!(f, "address add {address}"),
            Self::DeleteAddress(address) => write!(f, "address delete {address}"),
            Self::SetDevice {
                public_key,
                listen_port,
                mark,
            } => write!(
                f,
                "wireguard set public-key {public_key} listen-port {listen_port} fwmark {mark:#x}"
            ),
            Self::SetPeer {
                key,
                endpoint,
                keepalive,
                group,
                add,
                remove,
            } => {
                write!(f, "peer set {key}")?;
                if let Some(endpoint) = endpoint {
                    write!(f, " endpoint {endpoint}")?;
                }
                if let Some(keepalive) = keepalive {
                    write!(f, " persistent-keepalive {}", Every(*keepalive))?;
                }
                if let Some(group) = group {
                    write!(f, " group {}", OrDash(group.as_ref()))?;
                }
                if !add.is_empty() {
                    write!(f, " add {}", List(add))?;
                }
                if !remove.is_empty() {
                    write!(f, " remove {}", List(remove))?;
                }
                Ok(())
            }
            Self::DeletePeer(key) => write!(f, "peer delete {key}"),
            Self::SetRoute(key, route) => write!(f, "route set {}", RouteText(key, route)),
            Self::DeleteRoute(key) => {
                let (table, metric) = (key.table.0, key.metric);
                write!(f, "route delete {} table {table} metric {metric}", key.prefix)
            }
            Self::AddRule(rule) => write!(f, "rule add {rule}"),
            Self::DeleteRule(rule) => write!(f, "rule delete {rule}"),
            Self::SetNft(_) => f.write_str("nft replace"),
            Self::DeleteNft => f.write_str("nft delete"),
            Self::SetSysctl(sysctl, value) => write!(f, "sysctl {} = {value}", sysctl.0),
        }
    }
}

struct OrDash<'a, T>(Option<&'a T>);

impl<T: fmt::Display> fmt::Display for OrDash<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

struct Every(Option<Keepalive>);

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Keepalive(seconds)) => write!(f, "{seconds}"),
            None => f.write_str("off"),
        }
    }
}

struct List<'a>(&'a BTreeSet<Prefix>);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (index, prefix) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{prefix}")?;
        }
        Ok(())
    }
}
