//! A machine and its steps as text: sorted, one object a line, in the words of `ip`, `wg` and `nft`.

use std::{collections::BTreeSet, fmt};

use spanwire_topology::{Family, Keepalive, Prefix};

use crate::{
    Device, DeviceKind, Host, LinkName, NftTable, Passage, PeerChange, Route, RouteKey, RouteKind, Rule,
    RuleAction, RuleSelector, Step, Vxlan, VxlanSettings, WireGuard, WireGuardSettings,
};

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, device) in &self.devices {
            write!(f, "{}", DeviceText(name, device))?;
        }
        for rule in &self.rules {
            writeln!(f, "rule {rule}")?;
        }
        for (key, route) in self.routes.iter() {
            writeln!(f, "route {}", RouteText(key, route))?;
        }
        for (chain, passage) in &self.passages {
            writeln!(f, "chain {chain} accept{}", Passes(passage))?;
        }
        for (sysctl, value) in &self.sysctls {
            writeln!(f, "sysctl {} = {value}", sysctl.0)?;
        }
        match &self.nft {
            Some(nft) => write!(f, "nft\n{nft}"),
            None => Ok(()),
        }
    }
}

struct DeviceText<'a>(&'a LinkName, &'a Device);

impl fmt::Display for DeviceText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, device) = self;
        let up = if device.up { "up" } else { "down" };
        writeln!(f, "link {name} mtu {} {up}", device.mtu)?;
        for address in &device.addresses {
            writeln!(f, "address {address} dev {name}")?;
        }
        match &device.kind {
            DeviceKind::WireGuard(wireguard) => write!(f, "{wireguard}"),
            DeviceKind::Vxlan(vxlan) => write!(f, "{vxlan}"),
        }
    }
}

impl fmt::Display for VxlanSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vni,
            port,
            local,
            address,
        } = self;
        write!(f, "id {vni} dstport {port} local {local} address {address}")
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "vxlan {}", OrDash(self.settings.as_ref()))?;
        for (address, to) in &self.forwarding {
            writeln!(f, "fdb {address} dst {to}")?;
        }
        for (neighbour, address) in &self.neighbours {
            writeln!(f, "neighbour {neighbour} lladdr {address}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WireGuardSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            public_key,
            listen_port,
            mark,
        } = self;
        write!(
            f,
            "public-key {public_key} listen-port {listen_port} fwmark {mark:#x}"
        )
    }
}

/// As a script for `nft -f` that replaces a table of that name, whether there is one or not, in one transaction.
impl fmt::Display for NftTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sets, chains } = self;
        write!(
            f,
            "table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{\n"
        )?;
        sets.iter().try_for_each(|set| write!(f, "{set}"))?;
        writeln!(f, "{chains}}}")
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
            if peer.preshared.is_some() {
                f.write_str(" preshared-key (hidden)")?;
            }
            writeln!(f, " allowed-ips {}", List(peer.allowed_ips.as_ref()))?;
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
            RouteKind::Blackhole => f.write_str("blackhole ")?,
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
            Self::AddWireGuard(name, mtu, settings) => write!(f, "link add {name} mtu {mtu} {settings}"),
            Self::AddVxlan(name, mtu, settings) => {
                write!(f, "link add {name} mtu {mtu} type vxlan {settings}")
            }
            Self::DeleteDevice(name) => write!(f, "link delete {name}"),
            Self::SetMtu(name, mtu) => write!(f, "link set {name} mtu {mtu}"),
            Self::SetUp(name, true) => write!(f, "link set {name} up"),
            Self::SetUp(name, false) => write!(f, "link set {name} down"),
            Self::AddAddress(name, address) => write!(f, "address add {address} dev {name}"),
            Self::DeleteAddress(name, address) => write!(f, "address delete {address} dev {name}"),
            Self::SetWireGuard(name, settings) => write!(f, "wireguard set {name} {settings}"),
            Self::SetPeer(name, key, change) => write!(f, "peer set {key} dev {name}{change}"),
            Self::DeletePeer(name, key) => write!(f, "peer delete {key} dev {name}"),
            Self::SetForwarding(name, address, to) => write!(f, "fdb replace {address} dev {name} dst {to}"),
            Self::DeleteForwarding(name, address) => write!(f, "fdb delete {address} dev {name}"),
            Self::SetNeighbour(name, neighbour, address) => {
                write!(f, "neighbour replace {neighbour} dev {name} lladdr {address}")
            }
            Self::DeleteNeighbour(name, neighbour) => write!(f, "neighbour delete {neighbour} dev {name}"),
            Self::SetRoute(key, route) => write!(f, "route set {}", RouteText(key, route)),
            Self::DeleteRoute(key) => {
                let (table, metric) = (key.table.0, key.metric);
                write!(f, "route delete {} table {table} metric {metric}", key.prefix)
            }
            Self::AddRule(rule) => write!(f, "rule add {rule}"),
            Self::DeleteRule(rule) => write!(f, "rule delete {rule}"),
            Self::SetNft(_) => f.write_str("nft replace"),
            Self::DeleteNft => f.write_str("nft delete"),
            Self::SetPassage(chain, passage) => write!(f, "accept{} in the chain {chain}", Passes(passage)),
            Self::DeletePassage(chain) => write!(f, "accept nothing more in the chain {chain}"),
            Self::SetSysctl(sysctl, value) => write!(f, "sysctl {} = {value}", sysctl.0),
        }
    }
}

/// Each word with a space before it.
impl fmt::Display for PeerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.recreate {
            f.write_str(" recreated")?;
        }
        if let Some(endpoint) = self.endpoint {
            write!(f, " endpoint {endpoint}")?;
        }
        if let Some(keepalive) = self.keepalive {
            write!(f, " persistent-keepalive {}", Every(keepalive))?;
        }
        if let Some(group) = &self.group {
            write!(f, " group {}", OrDash(group.as_ref()))?;
        }
        match &self.preshared {
            Some(Some(_)) => f.write_str(" preshared-key (hidden)")?,
            Some(None) => f.write_str(" preshared-key -")?,
            None => {}
        }
        if !self.add.is_empty() {
            write!(f, " add {}", List(&self.add))?;
        }
        if !self.remove.is_empty() {
            write!(f, " remove {}", List(&self.remove))?;
        }
        Ok(())
    }
}

/// Each with a space before it.
struct Passes<'a>(&'a Passage);

impl fmt::Display for Passes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Passage { passes, is_misplaced }) = self;
        for (index, pass) in passes.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {pass}")?;
        }
        f.write_str(if *is_misplaced { " (misplaced)" } else { "" })
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
