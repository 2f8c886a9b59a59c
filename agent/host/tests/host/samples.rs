//! A mesh of two locations on flannel, seen from its nodes: `a` with a1 (leads), a2 (follows), a3 (stands by), and `b`
//! with b1 and b2. Node X of location L has 192.168.L.X, pods 10.244.LX.0/24 and overlay 10.4.0.LX; in dual stack also
//! fd00:L::X, fd00:244:LX::/64 and fd00:4::LX.

pub(crate) mod calico;
pub(crate) mod vxlan;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use spanwire_host::{
    ChainName, Cni, Elsewhere, Filter, FilterRule, HostFacts, LinkName, MarkChange, OtherLink, OtherRule,
    PresharedKey, TableFamily, TableId, Verdict,
};
use spanwire_topology::{
    Barred, Family, Holder, Keepalive, LeaderRole, LocationName, NodeName, Party, PeerName, Plan, Prefix,
    Probes, PublicKey, Role, Route, Tunnel, TunnelPeer, Unsent, Via,
};

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
    texts.iter().map(|text| prefix(text)).collect()
}

pub(crate) fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(crate) fn location(name: &str) -> LocationName {
    name.parse().unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey::new([number; 32])
}

pub(crate) fn other_link(mtu: u32, addresses: &[(&str, u8)], cni: bool) -> OtherLink {
    let addresses = addresses
        .iter()
        .map(|(text, length)| (text.parse().unwrap(), *length));
    OtherLink {
        mtu,
        addresses: addresses.collect(),
        cni,
        ..OtherLink::default()
    }
}

/// Node `x` of location `l` (1 is a, 2 is b) as flannel's vxlan leaves it.
pub(crate) fn facts(l: u8, x: u8) -> HostFacts {
    let lan = format!("192.168.{l}.{x}");
    let bridge = format!("10.244.{l}{x}.1");
    let vxlan = format!("10.244.{l}{x}.0");
    HostFacts {
        public_key: Some(key(l * 10 + x)),
        links: BTreeMap::from([
            (link("eth0"), other_link(1500, &[(&lan, 24)], false)),
            (link("cni0"), other_link(1450, &[(&bridge, 24)], true)),
            (link("flannel.1"), other_link(1450, &[(&vxlan, 32)], true)),
        ]),
        cni: Cni::Overlay {
            links: BTreeSet::from([link("flannel.1")]),
        },
        underlay_mtu: Some(1500),
        groups: true,
        ..HostFacts::default()
    }
}

fn routes(texts: &[&str], via: &Via, of: &str) -> BTreeMap<Prefix, Route> {
    let route = |text: &&str| {
        let (via, location) = (via.clone(), location(of));
        (
            prefix(text),
            Route {
                via,
                location,
                holder: match text {
                    _ if text.starts_with("192.168.") && !text.contains('/') => Holder::Node,
                    _ if text.starts_with("10.4.0.") => Holder::Overlay,
                    _ => Holder::Others,
                },
            },
        )
    };
    texts.iter().map(route).collect()
}

pub(crate) fn hop(name: &str, hop: &[&str], lan: &[&str]) -> Via {
    Via::Hop {
        node: node(name),
        hop: addresses(hop).into(),
        addresses: addresses(lan).into(),
    }
}

const OVERLAY_B: &[&str] = &["10.4.0.21"];
const ALL_B: &[&str] = &[
    "10.4.0.21",
    "10.244.21.0/24",
    "10.244.22.0/24",
    "192.168.2.1",
    "192.168.2.2",
];
const ALL_A: &[&str] = &[
    "10.244.11.0/24",
    "10.244.12.0/24",
    "10.244.13.0/24",
    "192.168.1.1",
    "192.168.1.2",
    "192.168.1.3",
];

fn plan(name: &str, role: Role, own: &[&str]) -> Plan {
    Plan {
        me: node(name),
        location: Some(location("a")),
        role,
        tunnel: None,
        routes: BTreeMap::new(),
        unsent: Unsent::default(),
        lent: BTreeSet::new(),
        masqueraded: BTreeSet::new(),
        local: prefixes(ALL_A),
        own: prefixes(own),
        overlay: addresses(&[&name.replace('a', "10.4.0.1")]),
        returns: BTreeMap::new(),
        ways: BTreeMap::new(),
        leaders: Vec::new(),
        before: 0,
        vxlan: None,
        mtus: BTreeMap::new(),
        probes: Probes::default(),
    }
}

fn tunnel(own_overlay: &[&str]) -> Tunnel {
    let b1 = TunnelPeer {
        party: Party::Leader(location("b"), node("b1")),
        overlay: addresses(OVERLAY_B),
        endpoints: vec!["203.0.113.2:51820".parse().unwrap()],
        keepalive: Some(Keepalive(25)),
        preshared: None,
        group: Some(location("b")),
        allowed_ips: prefixes(ALL_B),
    };
    Tunnel {
        addresses: addresses(own_overlay),
        listen_port: 51820,
        peers: BTreeMap::from([(key(21), b1)]),
    }
}

/// a1, through which a sends to b.
pub(crate) fn leader() -> (Plan, HostFacts) {
    let own = ["10.244.11.0/24", "192.168.1.1", "10.4.0.11"];
    let mut plan = plan("a1", Role::Leader(LeaderRole::Active), &own);
    plan.tunnel = Some(tunnel(&["10.4.0.11"]));
    plan.routes = routes(ALL_B, &Via::Tunnel, "b");
    plan.ways = BTreeMap::from([(location("b"), Via::Tunnel)]);
    plan.returns = BTreeMap::from([
        (
            prefix("192.168.1.2"),
            hop("a2", &["10.244.12.0"], &["192.168.1.2"]),
        ),
        (
            prefix("192.168.1.3"),
            hop("a3", &["10.244.13.0"], &["192.168.1.3"]),
        ),
    ]);
    let mut facts = facts(1, 1);
    facts.endpoints = BTreeMap::from([(key(21), "203.0.113.2:51820".parse().unwrap())]);
    (plan, facts)
}

/// a2, which sends through a1.
pub(crate) fn follower() -> (Plan, HostFacts) {
    let own = ["10.244.12.0/24", "192.168.1.2", "10.4.0.12"];
    let mut plan = plan("a2", Role::Follower, &own);
    plan.routes = routes(ALL_B, &to_a1(), "b");
    plan.ways = BTreeMap::from([(location("b"), to_a1())]);
    plan.leaders = vec![to_a1()];
    plan.before = 1;
    (plan, facts(1, 2))
}

fn to_a1() -> Via {
    hop("a1", &["10.244.11.0"], &["192.168.1.1"])
}

/// a3, connected to b's leader, but else like a follower; b has a network that contains a's own.
pub(crate) fn standby() -> (Plan, HostFacts) {
    let own = ["10.244.13.0/24", "192.168.1.3", "10.4.0.13"];
    let mut plan = plan("a3", Role::Leader(LeaderRole::Standby), &own);
    let mut tunnel = tunnel(&["10.4.0.13"]);
    tunnel
        .peers
        .get_mut(&key(21))
        .unwrap()
        .allowed_ips
        .insert(prefix("10.0.0.0/8"));
    plan.tunnel = Some(tunnel);
    plan.routes = routes(ALL_B, &to_a1(), "b");
    plan.routes.extend(routes(&["10.0.0.0/8"], &to_a1(), "b"));
    plan.routes.extend(routes(OVERLAY_B, &Via::Tunnel, "b"));
    plan.ways = BTreeMap::from([(location("b"), to_a1())]);
    plan.leaders = vec![to_a1()];
    plan.before = 1;
    (plan, facts(1, 3))
}

/// The same node when it has become the active leader.
pub(crate) fn active_again() -> (Plan, HostFacts) {
    let (mut plan, facts) = standby();
    plan.role = Role::Leader(LeaderRole::Active);
    plan.routes.values_mut().for_each(|route| route.via = Via::Tunnel);
    plan.ways.values_mut().for_each(|way| *way = Via::Tunnel);
    plan.before = 0;
    (plan, facts)
}

/// a1 before a and b are established.
pub(crate) fn not_established() -> (Plan, HostFacts) {
    let (mut plan, facts) = leader();
    plan.routes = routes(OVERLAY_B, &Via::Tunnel, "b");
    (plan, facts)
}

/// a1 when all traffic with b has been in the tunnel for a while, and the API server, in b, is reached past the mesh.
pub(crate) fn settled_leader() -> (Plan, HostFacts) {
    settled(leader())
}

/// a2 in the same state.
pub(crate) fn settled_follower() -> (Plan, HostFacts) {
    settled(follower())
}

/// a2 in a location without IPv6 in the mesh, with an IPv6 address of its LAN that the mesh does not know.
pub(crate) fn other_family() -> (Plan, HostFacts) {
    let (mut plan, mut facts) = settled_follower();
    let node = |prefix: &Prefix| match prefix.is_host() {
        true => Holder::Node,
        false => Holder::Others,
    };
    let barred = |prefix: Prefix| {
        let (location, holder) = (location("b"), node(&prefix));
        (prefix, Barred { location, holder })
    };
    let of_b = [
        "fd00:244:21::/64",
        "fd00:2::21",
        "fd00:1::/48",
        "fd00:3::/64",
        "fd00:5::21",
        "fd00:6::53",
        "fd00:5::1:0/112",
    ];
    plan.unsent.barred = prefixes(&of_b).into_iter().map(barred).collect();
    plan.unsent.spared = prefixes(&["fd00:244:21::12"]);
    let eth0 = facts.links.get_mut(&link("eth0")).unwrap();
    for (address, length) in [("fd00:1::2", 64), ("fd00:3::2", 64), ("fd00:5::2", 64)] {
        eth0.addresses.insert((address.parse().unwrap(), length));
    }
    facts.resolvers.insert("fd00:6::53".parse().unwrap());
    facts.api_server.insert("[fd00:244:21::1]:6443".parse().unwrap());
    (plan, facts)
}

pub(crate) fn settled((plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    facts.settled = BTreeSet::from([location("b")]);
    facts.api_server = BTreeSet::from(["192.168.2.1:6443".parse().unwrap()]);
    (plan, facts)
}

/// a1 where the API server runs on it.
pub(crate) fn control_plane() -> (Plan, HostFacts) {
    let (plan, mut facts) = settled(leader());
    facts.api_server = BTreeSet::from(["192.168.1.1:6443".parse().unwrap()]);
    (plan, facts)
}

/// a2 where flannel routes without a tunnel of its own (host-gw).
pub(crate) fn direct_follower() -> (Plan, HostFacts) {
    let (mut plan, mut facts) = settled(follower());
    plan.routes = routes(ALL_B, &hop("a1", &[], &["192.168.1.1"]), "b");
    plan.leaders = vec![hop("a1", &[], &["192.168.1.1"])];
    facts.cni = Cni::Direct;
    facts.links.remove(&link("flannel.1"));
    (plan, facts)
}

/// a2 when no node leads.
pub(crate) fn leaderless() -> (Plan, HostFacts) {
    let (mut plan, facts) = follower();
    plan.routes = routes(ALL_B, &Via::Unreachable, "b");
    (plan, facts)
}

/// a1 with a network of b that contains a's own, and a node of b with an address of a's LAN.
pub(crate) fn wide() -> (Plan, HostFacts) {
    let (mut plan, facts) = settled(leader());
    let wide = routes(
        &["10.0.0.0/8", "192.168.0.0/16", "192.168.1.77"],
        &Via::Tunnel,
        "b",
    );
    plan.routes.extend(wide);
    (plan, facts)
}

/// a1 with two Peers: a laptop attached here, and a router whose home is b.
pub(crate) fn with_peers() -> (Plan, HostFacts) {
    let (mut plan, facts) = leader();
    let laptop = TunnelPeer {
        party: Party::Peer("laptop".parse::<PeerName>().unwrap()),
        overlay: BTreeSet::new(),
        endpoints: Vec::new(),
        keepalive: None,
        preshared: None,
        group: None,
        allowed_ips: prefixes(&["10.9.0.1"]),
    };
    let tunnel = plan.tunnel.as_mut().unwrap();
    tunnel.peers.insert(key(99), laptop);
    let b1 = tunnel.peers.get_mut(&key(21)).unwrap();
    b1.allowed_ips.insert(prefix("172.30.0.0/16"));
    plan.routes.extend(routes(&["10.9.0.1"], &Via::Tunnel, "a"));
    plan.routes.extend(routes(&["172.30.0.0/16"], &Via::Tunnel, "b"));
    (plan, facts)
}

/// a1 with a Peer whose preshared key is known, and with one whose is not.
pub(crate) fn preshared() -> (Plan, HostFacts) {
    let (mut plan, mut facts) = with_peers();
    let tunnel = plan.tunnel.as_mut().unwrap();
    let laptop = tunnel.peers.get_mut(&key(99)).unwrap();
    laptop.preshared = Some("keys/laptop".parse().unwrap());
    let phone = TunnelPeer {
        party: Party::Peer("phone".parse::<PeerName>().unwrap()),
        preshared: Some("keys/phone".parse().unwrap()),
        allowed_ips: prefixes(&["10.9.0.2"]),
        ..laptop.clone()
    };
    tunnel.peers.insert(key(98), phone);
    plan.routes.extend(routes(&["10.9.0.2"], &Via::Tunnel, "a"));
    facts.preshared = [(key(99), PresharedKey::new([7; 32]).unwrap())].into();
    (plan, facts)
}

/// a1 with both families everywhere.
pub(crate) fn dual_stack() -> (Plan, HostFacts) {
    let (mut plan, mut facts) = settled(leader());
    let b = [
        "fd00:4::21",
        "fd00:244:21::/64",
        "fd00:244:22::/64",
        "fd00:2::1",
        "fd00:2::2",
    ];
    plan.routes.extend(routes(&b, &Via::Tunnel, "b"));
    plan.local.extend(prefixes(&[
        "fd00:244:11::/64",
        "fd00:244:12::/64",
        "fd00:1::1",
        "fd00:1::2",
    ]));
    plan.own
        .extend(prefixes(&["fd00:244:11::/64", "fd00:1::1", "fd00:4::11"]));
    plan.returns
        .insert(prefix("fd00:1::2"), hop("a2", &["fd00:244:12::"], &["fd00:1::2"]));
    let tunnel = plan.tunnel.as_mut().unwrap();
    tunnel.addresses.extend(addresses(&["fd00:4::11"]));
    let b1 = tunnel.peers.get_mut(&key(21)).unwrap();
    b1.overlay.extend(addresses(&["fd00:4::21"]));
    b1.allowed_ips.extend(prefixes(&b));
    let mut more = |name: &str, address: &str, length| {
        let link = facts.links.get_mut(&link(name)).unwrap();
        link.addresses.insert((address.parse().unwrap(), length));
    };
    more("eth0", "fd00:1::1", 64);
    more("eth0", "fe80::1", 64);
    more("cni0", "fd00:244:11::1", 64);
    let v6 = other_link(1430, &[("fd00:244:11::", 128), ("fe80::2", 64)], true);
    facts.links.insert(link("flannel-v6.1"), v6);
    let links = BTreeSet::from([link("flannel.1"), link("flannel-v6.1")]);
    facts.cni = Cni::Overlay { links };
    (plan, facts)
}

/// a2 with both families everywhere.
pub(crate) fn dual_stack_follower() -> (Plan, HostFacts) {
    let (leader, leader_facts) = dual_stack();
    let (mut plan, mut facts) = follower();
    plan.local = leader.local;
    plan.own
        .extend(prefixes(&["fd00:244:12::/64", "fd00:1::2", "fd00:4::12"]));
    let to_a1 = hop(
        "a1",
        &["10.244.11.0", "fd00:244:11::"],
        &["192.168.1.1", "fd00:1::1"],
    );
    let remote: Vec<Prefix> = leader.routes.into_keys().collect();
    let route = |prefix: Prefix| {
        let (via, location) = (to_a1.clone(), location("b"));
        (
            prefix,
            Route {
                via,
                location,
                holder: match prefix.to_string() {
                    text if prefix.is_host() && text.starts_with("fd00:2:") => Holder::Node,
                    text if prefix.is_host() && text.starts_with("fd00:4:") => Holder::Overlay,
                    _ => Holder::Others,
                },
            },
        )
    };
    plan.routes = remote.into_iter().map(route).collect();
    plan.leaders = vec![to_a1];
    let mut more = |name: &str, address: &str, length| {
        let link = facts.links.get_mut(&link(name)).unwrap();
        link.addresses.insert((address.parse().unwrap(), length));
    };
    more("eth0", "fd00:1::2", 64);
    more("cni0", "fd00:244:12::1", 64);
    let v6 = other_link(1430, &[("fd00:244:12::", 128)], true);
    facts.links.insert(link("flannel-v6.1"), v6);
    facts.cni = leader_facts.cni;
    (plan, facts)
}

/// The same machine without IPv6, as `disable_ipv6` of `all` and `default` leaves it.
pub(crate) fn without_ipv6((plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    facts.ipv6_disabled = true;
    for link in facts.links.values_mut() {
        link.ipv6_disabled = true;
        link.addresses.retain(|(address, _)| address.is_ipv4());
    }
    (plan, facts)
}

/// a1 where every node leads itself: traffic with a2, in the same LAN, is in the tunnel too.
pub(crate) fn nodes_mode() -> (Plan, HostFacts) {
    let (mut plan, mut facts) = settled(leader());
    let a2 = ["10.4.0.12", "10.244.12.0/24", "192.168.1.2"];
    plan.routes.extend(routes(&a2, &Via::Tunnel, "a"));
    plan.returns.clear();
    let peer = TunnelPeer {
        party: Party::Leader(location("a"), node("a2")),
        overlay: addresses(&["10.4.0.12"]),
        endpoints: vec!["192.168.1.2:51820".parse().unwrap()],
        keepalive: None,
        preshared: None,
        group: None,
        allowed_ips: prefixes(&a2),
    };
    plan.tunnel.as_mut().unwrap().peers.insert(key(12), peer);
    facts.settled.insert(location("a"));
    (plan, facts)
}

/// a1 before it has a key.
pub(crate) fn keyless() -> (Plan, HostFacts) {
    let (plan, mut facts) = leader();
    facts.public_key = None;
    (plan, facts)
}

/// a1 with the kernel's WireGuard, which has no groups.
pub(crate) fn groupless() -> (Plan, HostFacts) {
    let (plan, mut facts) = leader();
    facts.groups = false;
    (plan, facts)
}

/// a2 when its leader has not said where it is reached on the CNI's device.
pub(crate) fn hopless() -> (Plan, HostFacts) {
    let (mut plan, facts) = follower();
    plan.routes = routes(ALL_B, &hop("a1", &[], &["192.168.1.1"]), "b");
    (plan, facts)
}

/// A node where another program chooses one of several uplinks by the mark of a packet.
pub(crate) fn with_uplinks((plan, mut facts): (Plan, HostFacts)) -> (Plan, HostFacts) {
    let table = TableId(202);
    facts.wide_tables.insert((Family::V4, table));
    facts
        .marked_routes
        .insert((Family::V4, table), prefixes(&["0.0.0.0/0"]));
    facts.rules.insert(OtherRule {
        family: Family::V4,
        priority: 1_002,
        protocol: 3,
        from: None,
        to: None,
        iif: None,
        mark: Some((0x200, 0xff00)),
        inverted: false,
        table: Some(table),
        forbids: false,
    });
    (plan, facts)
}

/// Chains at every hook by which another program sets all of the mark of whatever passes.
pub(crate) fn changed_marks() -> BTreeMap<Elsewhere, Arc<Vec<Filter>>> {
    let setting = FilterRule {
        handle: 1,
        comment: None,
        own: None,
        matches: vec![],
        verdict: Verdict::Continue,
        marks: MarkChange { sets: 5, clears: !5 },
        untracks: Some(false),
    };
    let filter = Filter {
        name: ChainName {
            family: TableFamily::Ip,
            table: "mangle".to_owned(),
            chain: "any".to_owned(),
        },
        is_legacy: false,
        is_locked: false,
        priority: 0,
        links: None,
        drops: false,
        rules: vec![setting],
        chains: BTreeMap::new(),
    };
    let hooks = [Elsewhere::Prerouting, Elsewhere::Output, Elsewhere::Postrouting];
    hooks.map(|at| (at, Arc::new(vec![filter.clone()]))).into()
}

/// A node that the mesh does not know.
pub(crate) fn outside() -> (Plan, HostFacts) {
    let (mut plan, facts) = follower();
    plan = Plan {
        location: None,
        role: Role::Outside,
        routes: BTreeMap::new(),
        local: BTreeSet::new(),
        own: BTreeSet::new(),
        ..plan
    };
    (plan, facts)
}

/// All of the above by name.
pub(crate) fn all() -> Vec<(&'static str, (Plan, HostFacts))> {
    vec![
        ("leader", leader()),
        ("follower", follower()),
        ("standby", standby()),
        ("not-established", not_established()),
        ("settled-leader", settled_leader()),
        ("settled-follower", settled_follower()),
        ("other-family", other_family()),
        ("control-plane", control_plane()),
        ("direct-follower", direct_follower()),
        ("leaderless", leaderless()),
        ("wide", wide()),
        ("with-peers", with_peers()),
        ("preshared", preshared()),
        ("dual-stack", dual_stack()),
        ("dual-stack-follower", dual_stack_follower()),
        ("dual-stack-without-ipv6", without_ipv6(dual_stack())),
        ("nodes-mode", nodes_mode()),
        ("keyless", keyless()),
        ("groupless", groupless()),
        ("hopless", hopless()),
        ("uplinks-leader", with_uplinks(settled_leader())),
        ("uplinks-follower", with_uplinks(settled_follower())),
        ("calico-leader", calico::leader()),
        ("calico-follower", calico::follower(&calico::ALWAYS)),
        (
            "calico-cross-subnet-follower",
            calico::follower(&calico::CROSS_SUBNET),
        ),
        ("calico-ipip-follower", calico::follower(&calico::IPIP)),
        ("vxlan-leader", vxlan::leader()),
        ("vxlan-follower", vxlan::follower()),
        ("outside", outside()),
    ]
}
