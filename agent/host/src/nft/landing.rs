//! Where packets that leave the tunnel may go.
//!
//! WireGuard vouches for their source, not for their destination: a leader of another location, or a Peer, could name
//! anything that this machine reaches, its LAN or its cloud's metadata service. What it has business with is `here`: what
//! the mesh has in this location, Peers that are attached to it included. `guests`, those Peers themselves, have
//! business with the whole mesh. Answers to what began here arrive.
//!
//! What this node's own DNAT has sent to this machine, or out of the mesh, is judged by where it was bound for at first
//! (`translated`): a host redirects more than services, its pods' way to the metadata service of its cloud among it
//! (kube2iam, kiam, GKE). What it has sent to a part of the mesh that is not this machine its sender could have asked itself.

use spanwire_topology::{Family, Plan, Prefix};

use super::{
    AddressRange, Words, chain,
    classes::{outside, ranges},
};
use crate::{
    HostFacts,
    prefixes::Prefixes,
    resolve::{Resolved, Underlay},
};

/// Local on every machine and in no list of addresses, but for the first. Linux takes packets for them from any device where
/// `route_localnet` is set, as kube-proxy sets it for node ports. IPv6 has no such switch.
const LOOPBACK: &str = "127.0.0.0/8";

/// The answer to what began here.
const ANSWER: &str = "ct state { established, related } ct direction reply return";
/// What has been sent elsewhere here. Behind a `goto` a return is that of the chain that jumped here.
const TRANSLATED: &str = "ct status dnat goto translated";
/// What follows a packet that passed: only the first of a connection meets kube-proxy's rules and has its mark, and no connection
/// is confirmed of which the first was dropped.
const FOLLOWS: &str = "ct status & (confirmed | dnat) == (confirmed | dnat) return";

/// The sets of one family.
pub(super) struct Sets {
    /// What packets from the tunnel may be for.
    here: Vec<AddressRange>,
    /// The sources of attached Peers.
    guests: Vec<AddressRange>,
    /// Addresses of this machine that are not the mesh's, networks of them too, and the loopback ones.
    private: Vec<AddressRange>,
    /// What is on this machine, where nothing else is reached.
    own: Option<Vec<AddressRange>>,
}

impl Sets {
    pub(super) fn new(plan: &Plan, resolved: &Resolved<'_>, facts: &HostFacts, family: Family) -> Self {
        let alone = resolved.stranded.contains(&family);
        let own = || ranges(plan.own.iter().copied(), family);
        let here: Vec<Prefix> = plan.here().copied().collect();
        let guests = plan.guests().copied();
        let known: Prefixes = here.iter().copied().collect();
        let addresses = facts.links.values().flat_map(|link| &link.addresses);
        let hop = resolved.underlay.iter().map(|_| Underlay::ADDRESS.into());
        let addresses = addresses.map(|(address, _)| *address).chain(hop);
        let all = addresses
            .map(Prefix::host)
            .chain(facts.local_routes.keys().copied());
        let private = all
            .filter(|prefix| known.covering(prefix).is_none())
            .chain(LOOPBACK.parse());
        Self {
            private: outside(private, here.iter().copied(), family),
            here: outside(here.into_iter(), plan.lent.iter().copied(), family),
            guests: ranges(guests, family),
            own: alone.then(own),
        }
    }

    /// Returns those that are needed, by name.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &[AddressRange])> {
        let some = |ranges: &'_ Vec<AddressRange>| !ranges.is_empty();
        let all = [
            ("here", Some(&self.here)),
            ("guests", Some(&self.guests).filter(|ranges| some(ranges))),
            // Also where there are none (of IPv6): devices of others come and go, and elements are changed sooner than rules.
            ("private", Some(&self.private)),
            ("own", self.own.as_ref()),
        ];
        all.into_iter()
            .filter_map(|(name, ranges)| Some((name, ranges?.as_slice())))
    }
}

/// Returns the end of what another node of the location is to have and cannot be given; the CNI's route to it is gone with
/// the device, and what is left is one to the gateway.
fn stranded(resolved: &Resolved<'_>, facts: &HostFacts, words: &Words) -> Option<String> {
    let Words { family, ip, v, .. } = words;
    let link = &facts.owned.link;
    resolved.stranded.contains(family).then(|| {
        format!("oifname != \"{link}\" {ip} daddr != @own{v} counter reject with icmpx host-unreachable")
    })
}

/// Returns the chain that judges what has been translated by its first destination: the mesh's here (node ports; addresses of
/// load balancers that are in `cidrs`), for attached Peers all of the mesh, or a service's. The addresses of services are no
/// network of the mesh, but kube-proxy marks what comes to them from elsewhere, and nothing else.
fn translated(facts: &HostFacts, families: &[Words]) -> String {
    let mark = facts.owned.masquerade_mark;
    let mut rules = vec![
        format!("meta mark & {mark:#010x} != 0 return"),
        FOLLOWS.to_owned(),
    ];
    for Words { ip, v, landing, .. } in families {
        let Some(landing) = landing else { continue };
        rules.push(format!("ct original {ip} daddr @here{v} return"));
        if !landing.guests.is_empty() {
            rules.push(format!(
                "{ip} saddr @guests{v} ct original {ip} daddr @remote{v} return"
            ));
        }
    }
    rules.push("counter drop".to_owned());
    chain("translated", "", &rules)
}

/// Returns the chains; `forward` jumps to `landed`.
pub(super) fn chains(resolved: &Resolved<'_>, facts: &HostFacts, families: &[Words]) -> String {
    let stranded = families
        .iter()
        .filter_map(|words| stranded(resolved, facts, words));
    let mut forwarded: Vec<String> = stranded.collect();
    forwarded.push(ANSWER.to_owned());
    let link = &facts.owned.link;
    let mut entering = vec![
        format!("iifname != \"{link}\" accept"),
        ANSWER.to_owned(),
        TRANSLATED.to_owned(),
        "fib daddr type != local counter drop".to_owned(),
    ];
    for Words { ip, v, landing, .. } in families {
        let Some(landing) = landing else { continue };
        forwarded.push(format!("{ip} daddr @here{v} return"));
        if !landing.guests.is_empty() {
            forwarded.push(format!("{ip} saddr @guests{v} {ip} daddr @remote{v} return"));
        }
        entering.push(format!("{ip} daddr @private{v} counter drop"));
    }
    forwarded.extend([TRANSLATED, "counter drop"].map(str::to_owned));
    translated(facts, families)
        + &chain("landed", "", &forwarded)
        + &chain("enter", "filter hook input priority mangle", &entering)
}
