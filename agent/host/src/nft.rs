//! The nft table: sets of addresses, and chains as text for `nft -f`.
//!
//! Everything that depends on an address is one look-up in an interval set, so the cost of a packet does not grow with
//! the mesh. `mesh` is every address of it, `remote` those that are routed into the mesh: of these `settled` those whose traffic
//! may be nowhere else, `meshed` those whose never was, and `moving` the others; `far` what may come out of the tunnel, `transit` what
//! is not on this node, but for `masqueraded`, of which conntrack has to know.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `arrive` | prerouting, before conntrack | drops what has no business in the VXLAN of the location (`nft/vxlan.rs`); where others do not change marks, marks WireGuard's datagrams and what moves; `notrack` for transit; drops the spoofed |
//! | `marks` | prerouting, last | marks all packets of a connection that kube-proxy masquerades as it marks the first; where others change marks, what moves |
//! | `came` | input, first | takes that off again |
//! | `forward` | forward | drops pods' datagrams to that VXLAN; clamps the MSS; gives what came by a hop and leaves by one only a few hops more |
//! | `landed`, `enter` | forward, input | drop what leaves the tunnel for what its sender has no business with (`nft/landing.rs`) |
//! | `leave` | postrouting, before any other source NAT | keeps mesh sources and the tunnel's own datagrams, gives others, and what kube-proxy masquerades into the tunnel or onto the VXLAN, the node's address; masquerades what comes from the tunnel to `cidrs` of a location that wants it |
//! | `inherit` | postrouting, last | where others choose uplinks by marks, takes these off what the CNI is about to wrap |
//! | `stray` | postrouting | drops datagrams of that VXLAN to any other address; drops what is bound for a settled or meshed prefix by a device that is no way of the mesh, or by one that is to a neighbour that does not lead, and what is bound for a settled location in a family that this node has no part in (`nft/barred.rs`) |
//!
//! `stray` stands for itself: rules and tables that send a packet by the CNI's own route may be gone, and where the other end
//! of the CNI's tunnel is at an address that the mesh does not know only the packet inside shows where it is bound for. So
//! what leaves by a hop has to go to a leader (`rt nexthop`).

mod barred;
mod classes;
mod landing;
mod sets;
mod vxlan;

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use spanwire_topology::{Family, Plan, Prefix};

use crate::{
    Cni, HostFacts, LinkName, NftTable, marking,
    overtaking::chosen_by_mark,
    resolve::{Exempt, Held, Resolved, nameable, own_address},
};
use barred::barred;
use classes::{Class, Traffic};
use landing::Sets;
pub use sets::{AddressRange, NftSet};

/// How many hops a packet has left that goes from hop to hop: a leader here, one there, the node behind it and some
/// routers in its LAN.
const HOPS_LEFT: u8 = 8;

/// Returns the table; its text replaces an older one in one transaction, whether there is one or not.
pub(crate) fn table(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts) -> NftTable {
    let families: Vec<Words> = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| concerns(plan, resolved, facts, *family))
        .map(|family| Words::new(plan, resolved, facts, family))
        .collect();
    let ways = ways(resolved, facts);

    let mut chains = String::new();
    let mut put = |part: String| chains.push_str(&part);
    put(arrive(plan, resolved, facts, &families, &ways));
    put(marks(facts, &families, &ways));
    put(came(facts, &families, &ways));
    if plan.tunnel.is_some() {
        put(landing::chains(resolved, facts, &families));
    }
    put(forward(plan, resolved, facts, &families, &ways));
    put(leave(plan, resolved, facts, &families, &ways));
    let barred = barred(plan, resolved, facts);
    let mut ends = held(resolved, facts, &families);
    ends.extend(barred.iter().map(barred::Barred::rule));
    put(stray(plan, resolved, facts, &families, &ends));
    put(inherit(resolved, facts, &families));
    let spoken: BTreeSet<Family> = families.iter().map(|words| words.family).collect();
    if families.iter().any(|words| words.settled) {
        put(last("spoofed", &resolved.exempt, &spoken, true));
    }
    if !ends.is_empty() || families.iter().any(|words| words.confined().next().is_some()) {
        let all = barred.iter().map(|barred| barred.family).chain(spoken);
        put(last("strayed", &resolved.exempt, &all.collect(), false));
    }
    let sets = families.iter().flat_map(sets);
    let sets = sets.chain(barred.iter().map(barred::Barred::set));
    NftTable {
        name: facts.owned.nft_table.clone(),
        sets: sets.chain(nearby(resolved)).collect(),
        chains,
    }
}

/// Returns what a family is called in rules, and the ending of the names of its sets.
fn named(family: Family) -> (&'static str, char) {
    match family {
        Family::V4 => ("ip", '4'),
        Family::V6 => ("ip6", '6'),
    }
}

/// What the rules of one family are made of.
struct Words {
    family: Family,
    /// `ip` or `ip6`.
    ip: &'static str,
    /// The ending of the names of its sets.
    v: char,
    /// Ranges, each with what it is.
    classes: Vec<(AddressRange, Class)>,
    leads: bool,
    masquerades: bool,
    /// Others may change the tunnel's mark before routing sees it.
    unsure: bool,
    settled: bool,
    meshed: bool,
    moving: bool,
    own: Option<IpAddr>,
    /// Where there is a tunnel, what may leave it.
    landing: Option<Sets>,
}

impl Words {
    fn new(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts, family: Family) -> Self {
        let (ip, v) = named(family);
        let classes = classes::classes(plan, resolved, facts, family);
        let any = |traffic| {
            let class = Class::Remote(traffic);
            classes.iter().any(|(_, other)| *other == class)
        };
        Self {
            family,
            ip,
            v,
            unsure: marking::is_unsure(plan, facts, family),
            settled: any(Traffic::Settled),
            meshed: any(Traffic::Meshed),
            moving: any(Traffic::Moving),
            masquerades: classes.iter().any(|(_, class)| *class == Class::Masqueraded),
            classes,
            leads: plan.tunnel.is_some(),
            own: own_address(plan, facts, family),
            landing: plan
                .tunnel
                .is_some()
                .then(|| Sets::new(plan, resolved, facts, family)),
        }
    }

    /// Returns the sets of what is bound for nowhere but the mesh.
    fn confined(&self) -> impl Iterator<Item = &'static str> {
        let settled = self.settled.then_some("settled");
        settled.into_iter().chain(self.meshed.then_some("meshed"))
    }
}

/// Whether the family needs rules: something is routed, or may come out of the tunnel.
fn concerns(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts, family: Family) -> bool {
    let peers = plan.tunnel.iter().flat_map(|tunnel| tunnel.peers.values());
    let mut allowed = peers.flat_map(|peer| &peer.allowed_ips);
    resolved.uses(family) || (facts.tunnels(family) && allowed.any(|prefix| prefix.family() == family))
}

/// Returns the devices on which packets of the mesh may come and go. The tunnel's is there on followers too, which have none, so
/// that nothing is lost while a leader becomes a follower.
fn ways(resolved: &Resolved<'_>, facts: &HostFacts) -> String {
    names(resolved.hops.iter().chain([&facts.owned.link]))
}

fn names<'a>(names: impl Iterator<Item = &'a LinkName>) -> String {
    let names: BTreeSet<&LinkName> = names.collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{{ {} }}", quoted.join(", "))
}

fn sets(words: &Words) -> Vec<NftSet> {
    let remote = |class: Class| matches!(class, Class::Remote(_));
    let named = |name: &str, ranges: &mut dyn Iterator<Item = AddressRange>| {
        NftSet::new(format!("{name}{}", words.v), words.family, ranges)
    };
    let landing = words.landing.iter().flat_map(Sets::named);
    let mut sets: Vec<NftSet> = landing
        .map(|(name, ranges)| named(name, &mut ranges.iter().copied()))
        .collect();
    let mut set = |name: &str, has: &dyn Fn(Class) -> bool| {
        // Neighbours of different classes may be neighbours within a set.
        let ranges = words.classes.iter().filter(|(_, class)| has(*class));
        sets.push(named(name, &mut ranges.map(|(range, _)| *range)));
    };
    set("mesh", &|class| {
        matches!(class, Class::Own | Class::Local | Class::Masqueraded) || remote(class)
    });
    set("remote", &remote);
    if words.settled {
        set("settled", &|class| class == Class::Remote(Traffic::Settled));
    }
    if words.meshed {
        set("meshed", &|class| class == Class::Remote(Traffic::Meshed));
    }
    if words.moving {
        set("moving", &|class| class == Class::Remote(Traffic::Moving));
    }
    if words.leads {
        set("far", &|class| class == Class::Expected || remote(class));
        set("transit", &|class| {
            matches!(class, Class::Local | Class::Expected) || remote(class)
        });
        if words.masquerades {
            set("masqueraded", &|class| class == Class::Masqueraded);
        }
    }
    sets
}

/// Returns with whom datagrams of the VXLAN are exchanged.
fn nearby(resolved: &Resolved<'_>) -> Option<NftSet> {
    let underlay = resolved.underlay.as_ref()?;
    let family = underlay.vxlan.family;
    let (_, v) = named(family);
    Some(NftSet::new(format!("nearby{v}"), family, vxlan::nearby(underlay)))
}

fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n");
    if !hook.is_empty() {
        writeln!(text, "\t\ttype {hook}; policy accept;").expect("a String takes all");
    }
    for rule in rules {
        writeln!(text, "\t\t{rule}").expect("a String takes all");
    }
    text + "\t}\n"
}

fn arrive(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words], ways: &str) -> String {
    let mut rules = match &resolved.underlay {
        Some(underlay) => vxlan::arriving(underlay, facts, families),
        None => Vec::new(),
    };
    if let Some(tunnel) = &plan.tunnel {
        // With src_valid_mark the way back to an endpoint that is itself a remote node's address is then looked up
        // outside the mesh, as the datagrams themselves are sent; rp_filter would drop them otherwise.
        // Where others change marks their port is asked for (`past` in render/routing.rs), and a mark of ours would be taken
        // for one of theirs, and be saved with the connection.
        let own = format!("udp dport {} fib daddr type local", tunnel.listen_port);
        let marked = format!("meta mark set meta mark | {:#010x} accept", facts.owned.mark);
        let unsure: Vec<&Words> = families.iter().filter(|words| words.unsure).collect();
        rules.extend(
            unsure
                .iter()
                .map(|Words { ip, .. }| format!("meta protocol {ip} {own} accept")),
        );
        if unsure.len() < families.len() || families.is_empty() {
            rules.push(format!("{own} {marked}"));
        }
    }
    for Words { ip, v, .. } in families.iter().filter(|words| words.leads) {
        rules.push(format!("{ip} daddr @far{v} {ip} saddr @transit{v} notrack"));
        rules.push(format!("{ip} saddr @far{v} {ip} daddr @transit{v} notrack"));
    }
    for Words { ip, v, .. } in families.iter().filter(|words| words.settled) {
        rules.push(format!("iifname != {ways} {ip} saddr @settled{v} jump spoofed"));
    }
    // While traffic moves into the mesh, one direction may already be in it and the other not yet: its way back, too,
    // is then looked up outside the mesh.
    for Words { ip, v, .. } in families.iter().filter(|words| words.moving && !words.unsure) {
        let mark = facts.owned.mark;
        rules.push(format!(
            "iifname != {ways} {ip} saddr @moving{v} meta mark set meta mark | {mark:#010x}"
        ));
    }
    chain("arrive", "filter hook prerouting priority raw", &rules)
}

/// Returns the chain by which routing sees kube-proxy's mark on more than the first packet, which alone meets its rules: a
/// leader's rules tell by it what goes the way of `main`. A connection that kube-proxy masquerades has a server other than
/// who was asked, and a client other than who asks, who may be no part of the mesh (a node port); the kernel ends it when a
/// later packet would leave by another device than the first.
///
/// What moves has its mark from `arrive` where nothing changes it until routing, for the checks of others, too. Where something does,
/// or may save it with the connection, so that answers would have it and go past the mesh, it comes last. The kernel's check of
/// the way back wants exactly it, and behind routing it is taken off.
fn marks(facts: &HostFacts, families: &[Words], ways: &str) -> String {
    let mark = facts.owned.mark;
    let mut rules: Vec<String> = families
        .iter()
        .filter(|words| words.moving && words.unsure)
        .map(|Words { ip, v, .. }| {
            format!("iifname != {ways} {ip} saddr @moving{v} meta mark set {mark:#010x}")
        })
        .collect();
    let mark = facts.owned.masquerade_mark;
    let leading = families.iter().filter(|words| words.leads);
    rules.extend(leading.map(|words| format!("{} meta mark set meta mark | {mark:#010x}", later(words))));
    if rules.is_empty() {
        return String::new();
    }
    chain("marks", "filter hook prerouting priority 300", &rules)
}

fn came(facts: &HostFacts, families: &[Words], ways: &str) -> String {
    let rest = !facts.owned.mark;
    let moving = families.iter().filter(|words| words.moving && words.unsure);
    let rules: Vec<String> = moving
        .map(|Words { ip, v, .. }| {
            format!("iifname != {ways} {ip} saddr @moving{v} meta mark set meta mark & {rest:#010x}")
        })
        .collect();
    if rules.is_empty() {
        return String::new();
    }
    chain("came", "filter hook input priority raw", &rules)
}

/// What of a connection that kube-proxy masquerades comes after the first packet, in both directions.
fn later(Words { ip, v, .. }: &Words) -> String {
    format!("ct reply {ip} saddr @mesh{v} ct status & (snat | dnat) == (snat | dnat)")
}

fn forward(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
    families: &[Words],
    ways: &str,
) -> String {
    let clamp = "tcp option maxseg size set rt mtu";
    let wrapped = resolved.underlay.as_ref();
    let wrapped = wrapped.map(|underlay| vxlan::forwarded(underlay, facts));
    let mut rules: Vec<String> = wrapped.into_iter().collect();
    if plan.tunnel.is_some() {
        rules.push(format!("iifname \"{}\" jump landed", facts.owned.link));
    }
    // Routing is done; a program that masquerades by a mark of the same bit (the CNI's portmap does) must not see it.
    for Words { ip, v, .. } in families.iter().filter(|words| words.moving) {
        let rest = !facts.owned.mark;
        rules.push(format!(
            "iifname != {ways} {ip} saddr @moving{v} meta mark set meta mark & {rest:#010x}"
        ));
    }
    // While a new order of leaders spreads two nodes may take each other for the leader, and for as long as one of them
    // does not hear of it when its agent is gone. What a hop sent here and a hop takes on still arrives where the next
    // node leads; where it does not, this ends the loop.
    let hops = names(resolved.hops.iter());
    for Words { family, ip, v, .. } in families.iter().filter(|_| !resolved.hops.is_empty()) {
        let left = match family {
            Family::V4 => "ip ttl",
            Family::V6 => "ip6 hoplimit",
        };
        rules.push(format!(
            "iifname {hops} oifname {hops} {ip} daddr @remote{v} {left} > {HOPS_LEFT} {left} set {HOPS_LEFT}"
        ));
    }
    for Words { ip, v, .. } in families {
        let syn = "tcp flags & (syn | rst) == syn";
        rules.push(format!("{syn} oifname {ways} {ip} daddr @remote{v} {clamp}"));
        rules.push(format!("{syn} iifname {ways} {ip} saddr @remote{v} {clamp}"));
    }
    chain("forward", "filter hook forward priority mangle", &rules)
}

/// Returns what the tunnel's own datagrams are known by when they are routed: others set marks in which the same bit is set,
/// but none of them has the port.
fn datagrams(plan: &Plan) -> Option<String> {
    let port = plan.tunnel.as_ref()?.listen_port;
    Some(format!("udp sport {port} fib saddr type local"))
}

fn leave(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words], ways: &str) -> String {
    let others = facts.owned.masquerade_mark;
    let mut rules = masqueraded(resolved, facts, families);
    for Words { ip, v, .. } in families.iter().filter(|words| words.masquerades) {
        rules.push(format!(
            "{ip} saddr @far{v} {ip} daddr @masqueraded{v} masquerade"
        ));
    }
    rules.push(format!("meta mark & {others:#010x} != 0 accept"));
    rules.extend(untranslated(plan, facts));
    let mut kept = String::new();
    for Words { ip, v, own, .. } in families {
        rules.push(format!("oifname {ways} {ip} daddr @remote{v} jump keep{v}"));
        let mut keep = vec![format!("{ip} saddr @mesh{v} snat {ip} to {ip} saddr")];
        keep.extend(own.map(|own| format!("snat {ip} to {own}")));
        kept += &chain(&format!("keep{v}"), "", &keep);
    }
    kept + &chain("leave", "nat hook postrouting priority srcnat - 1", &rules)
}

/// The tunnel's own datagrams keep their address and port: a chain that accepts them leaves them to the next one, and hosts have rules
/// that masquerade whatever leaves the cluster, often by random ports. Their mark is gone by now.
fn untranslated(plan: &Plan, facts: &HostFacts) -> Vec<String> {
    let rule = |(family, nfproto, ip): (Family, &str, &str)| {
        let own = datagrams(plan).filter(|_| family == Family::V4 || facts.speaks(family))?;
        Some(format!("meta nfproto {nfproto} {own} snat {ip} to {ip} saddr"))
    };
    let families = [(Family::V4, "ipv4", "ip"), (Family::V6, "ipv6", "ip6")];
    families.into_iter().filter_map(rule).collect()
}

/// Masquerading takes an address of the device, which in the tunnel is the overlay address (`inet_select_addr`,
/// net/netfilter/nf_nat_masquerade.c). A server there that answers from a wildcard UDP socket takes the source that its
/// route to that address prefers, which is its own overlay address, and the answer belongs to no connection. The VXLAN has
/// none that could be taken, and then it is the first of the machine: one on `lo`, say, which the mesh does not know.
fn masqueraded(resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words]) -> Vec<String> {
    let mark = facts.owned.masquerade_mark;
    let rule = |words: &Words| {
        let tunnel = words.leads.then_some(&facts.owned.link);
        let vxlan = resolved.underlay.as_ref().map(|_| &facts.owned.hop_link);
        let Words { ip, v, own, .. } = words;
        let own = own.as_ref()?;
        let rule = |link| {
            format!(
                "meta mark & {mark:#010x} != 0 oifname \"{link}\" {ip} daddr @remote{v} snat {ip} to {own} fully-random"
            )
        };
        Some(tunnel.into_iter().chain(vxlan).map(rule).collect::<Vec<_>>())
    };
    families.iter().filter_map(rule).flatten().collect()
}

fn stray(
    plan: &Plan,
    resolved: &Resolved<'_>,
    facts: &HostFacts,
    families: &[Words],
    ends: &[String],
) -> String {
    let ways = ways(resolved, facts);
    let hops = names(resolved.hops.iter());
    // The mark is for routing, which is done. A program that masquerades by a mark of the same bit (the CNI's portmap does)
    // must not see it.
    let mark = facts.owned.mark;
    let own = datagrams(plan).map(|own| {
        let rest = !mark;
        // Other programs may have taken it.
        let marked = match marking::is_unsure_at_last(plan, facts) {
            true => String::new(),
            false => format!("meta mark & {mark:#010x} == {mark:#010x} "),
        };
        format!("{marked}{own} meta mark set meta mark & {rest:#010x} accept")
    });
    // Before that: the packet around another has its mark.
    let wrapped = resolved.underlay.iter();
    let wrapped = wrapped.flat_map(|underlay| vxlan::leaving(underlay, facts));
    let mut rules: Vec<String> = wrapped.chain(own).collect();
    // Nor may kube-proxy see its own again: the CNI's packet around this one inherits it, and would be masqueraded, too, which
    // spoils its checksum (kubernetes/kubernetes#92035).
    let rest = !facts.owned.masquerade_mark;
    let leading = families.iter().filter(|words| words.leads);
    rules.extend(leading.map(|words| format!("{} meta mark set meta mark & {rest:#010x}", later(words))));
    let confined = |words| Words::confined(words).map(move |set| (words, set));
    for (Words { family, ip, v, .. }, set) in families.iter().flat_map(confined) {
        rules.push(format!("oifname != {ways} {ip} daddr @{set}{v} jump strayed"));
        if resolved.hops.is_empty() {
            continue;
        }
        let leaders = resolved
            .neighbours
            .iter()
            .filter(|address| Family::of(**address) == *family);
        let leaders: Vec<String> = leaders.map(ToString::to_string).collect();
        let elsewhere = if leaders.is_empty() {
            String::new()
        } else {
            format!(" rt {ip} nexthop != {{ {} }}", leaders.join(", "))
        };
        rules.push(format!(
            "oifname {hops} {ip} daddr @{set}{v}{elsewhere} jump strayed"
        ));
    }
    rules.extend_from_slice(ends);
    chain("stray", "filter hook postrouting priority mangle", &rules)
}

/// The packet that the CNI puts around another inherits its mark, and is routed by it (`vxlan_get_route`,
/// drivers/net/vxlan/vxlan_core.c): by the uplink that others have chosen for the packet inside, which does not lead to
/// the node that it is for. All chains of others, which may save the mark or masquerade by it, come before.
fn inherit(resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words]) -> String {
    let flannels = match &facts.cni {
        Cni::Overlay { links } => Some(links),
        Cni::Direct | Cni::Calico { .. } | Cni::Unsupported { .. } => None,
    };
    let own = resolved.underlay.as_ref().map(|_| &facts.owned.hop_link);
    let links: BTreeSet<&LinkName> = flannels.into_iter().flatten().chain(own).collect();
    if links.is_empty() || !chosen_by_mark(facts, None) {
        return String::new();
    }
    let links = names(links.into_iter());
    let rule = |Words { ip, v, .. }: &Words| {
        ["daddr", "saddr"].map(|end| format!("oifname {links} {ip} {end} @remote{v} meta mark set 0"))
    };
    let rules: Vec<String> = families.iter().flat_map(rule).collect();
    chain("inherit", "filter hook postrouting priority 300", &rules)
}

/// Returns the rules that keep what is bound for a network held here from any other device, as the CNI's that leads to the
/// remote prefix of that name.
fn held(resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words]) -> Vec<String> {
    let rule = |(prefix, held): (&Prefix, &Held<'_>)| {
        let Words { ip, .. } = families.iter().find(|words| words.family == prefix.family())?;
        let guarded = facts.settled.contains(held.location) && held.links.iter().all(|link| nameable(link));
        let devices = match held.links.len() {
            1 => format!("\"{}\"", held.link),
            _ => names(held.links.iter().copied()),
        };
        guarded.then(|| format!("oifname != {devices} {ip} daddr {prefix} jump strayed"))
    };
    resolved.held.iter().filter_map(rule).collect()
}

/// Returns the end of packets that are where they must not be, but for those of the API server.
fn last(name: &str, exempt: &BTreeSet<Exempt>, families: &BTreeSet<Family>, arriving: bool) -> String {
    let mut rules = Vec::new();
    for Exempt { address, served_here } in exempt {
        let (host, port) = (address.ip(), address.port());
        let family = Family::of(host);
        if !families.contains(&family) {
            continue;
        }
        let (ip, _) = named(family);
        rules.push(if arriving == *served_here {
            format!("{ip} daddr {host} tcp dport {port} return")
        } else {
            format!("{ip} saddr {host} tcp sport {port} return")
        });
    }
    // With mesh: Nodes a neighbour in the LAN is remote, but is asked for its link address in the LAN.
    if families.contains(&Family::V6) {
        rules.push("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } return".to_owned());
    }
    rules.push("drop".to_owned());
    chain(name, "", &rules)
}
