//! Clusters that are broken, each in one way, and what `diagnose` says of them. What the agent of a node says of its host, and what
//! the operator does not grant, comes from the functions by which they find it; only what they measure over time is written down.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod explained;
mod unknown;

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use serde_json::{Value, json};
use spanwire_cli::{
    figures::Figures,
    findings::{Answers, Finding, Severity, findings, of_operator},
    objects::{Kind, Objects},
};
use spanwire_host::{
    ChainName, Cni, Elsewhere, Filter, FilterRule, HostFacts, LinkName, MarkChange, Match, OtherLink,
    OtherRule, Step, Sysctl, TableFamily, TableId, Verdict, closed_port, conflicts,
};
use spanwire_topology::{Family, NodeName, PublicKey, Reachability, plan, scenario};

/// Two locations on flannel, both with IPv6, that have their tunnel.
const HEALTHY: &str = "\
overlay 10.4.0.0/16,fd00:4::/64
node a1 region=a addresses=192.168.1.1,fd00:1::1 pods=10.244.1.0/24,fd00:244:1::/64 key=1 hop=10.244.1.0,fd00:244:1:: up=b endpoints=203.0.113.1:51820
node a2 region=a addresses=192.168.1.2,fd00:1::2 pods=10.244.2.0/24,fd00:244:2::/64 key=2 hop=10.244.2.0,fd00:244:2:: up=b
node b1 region=b addresses=192.168.2.1,fd00:2::1 pods=10.244.11.0/24,fd00:244:11::/64 key=3 hop=10.244.11.0,fd00:244:11:: up=a endpoints=203.0.113.2:51820
decide
decide";

/// What makes a host another one.
type Change<'a> = &'a dyn Fn(&mut HostFacts);

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn other(addresses: &[(&str, u8)], cni: bool) -> OtherLink {
    let addresses = addresses
        .iter()
        .map(|(text, length)| (text.parse().unwrap(), *length));
    OtherLink {
        mtu: 1500,
        addresses: addresses.collect(),
        cni,
        ..OtherLink::default()
    }
}

/// The leader a1 as flannel leaves it.
fn leader() -> HostFacts {
    let flannel = [
        ("flannel.1", "10.244.1.0", 32),
        ("flannel-v6.1", "fd00:244:1::", 128),
    ];
    let mut links = BTreeMap::from([
        (
            link("eth0"),
            other(&[("192.168.1.1", 24), ("fd00:1::1", 64)], false),
        ),
        (
            link("cni0"),
            other(&[("10.244.1.1", 24), ("fd00:244:1::1", 64)], true),
        ),
    ]);
    links.extend(flannel.map(|(name, address, length)| (link(name), other(&[(address, length)], true))));
    HostFacts {
        public_key: Some(PublicKey::new([1; 32])),
        links,
        cni: Cni::Overlay {
            links: flannel.map(|(name, ..)| link(name)).into(),
        },
        carried: [Family::V4, Family::V6].into(),
        underlay_mtu: Some(1500),
        groups: true,
        uplinks: [link("eth0")].into(),
        ..HostFacts::default()
    }
}

fn overlay_of_a1() -> IpAddr {
    let (_, world) = scenario::run(HEALTHY, |_, _| None).unwrap();
    let members = world
        .mesh
        .locations
        .values()
        .flat_map(|location| location.members.iter());
    let mut found = members.filter(|(name, _)| name.as_str() == "a1");
    let (_, member) = found.next().unwrap();
    *member.overlay.iter().find(|address| address.is_ipv4()).unwrap()
}

/// What the agent of a1 says of its host.
fn said_of(change: impl FnOnce(&mut HostFacts)) -> Vec<String> {
    let (_, world) = scenario::run(HEALTHY, |_, _| None).unwrap();
    let plan = plan(
        &world.mesh,
        &"a1".parse::<NodeName>().unwrap(),
        &Reachability::default(),
    );
    let mut facts = leader();
    change(&mut facts);
    let conflicts = conflicts(&plan, &facts)
        .into_iter()
        .map(|conflict| conflict.to_string());
    let closed = closed_port(&plan, &facts).map(|closed| closed.to_string());
    conflicts.chain(closed).collect()
}

/// The cluster, with the conditions of a healthy one but for these, each of an object.
fn cluster(script: &str, conditions: &[(Kind, &str, Value)]) -> Objects {
    let (_, world) = scenario::run(script, |_, _| None).unwrap();
    let mut objects = Objects::of_mesh(&world.mesh);
    for kind in [Kind::Location, Kind::MeshNode] {
        let found: Vec<(String, Value)> = objects
            .of(kind)
            .map(|(name, object)| (name.clone(), object.clone()))
            .collect();
        for (name, mut object) in found {
            let mut its = vec![condition("Ready", "True", "AllWell", "")];
            let of_it = conditions
                .iter()
                .filter(|(of, named, _)| *of == kind && *named == name);
            its.extend(of_it.map(|(_, _, condition)| condition.clone()));
            object["status"] = json!({"conditions": its});
            objects.insert(kind, name, object);
        }
    }
    objects
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn degraded(node: &'static str, message: &str) -> (Kind, &'static str, Value) {
    (
        Kind::MeshNode,
        node,
        condition("Ready", "False", "Degraded", message),
    )
}

/// What the page of a finding says of it.
fn page(finding: &Finding) -> String {
    let (file, anchor) = finding.page.split_once('#').unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let mut sections = text.split("\n#").skip(1);
    let section = sections.find(|section| {
        let title = section.lines().next().unwrap().trim_start_matches(['#', ' ']);
        title.to_lowercase() == anchor
    });
    section
        .unwrap_or_else(|| panic!("{file} has no section {anchor}"))
        .to_owned()
}

/// One thing is wrong, and it is named so.
fn named(found: &[Finding], severity: Severity, object: &str, words: &[&str]) {
    let [finding] = found else {
        panic!("{words:?}: {found:#?}");
    };
    assert_eq!(
        (finding.severity, finding.object.as_str()),
        (severity, object),
        "{finding:?}"
    );
    for word in words {
        assert!(finding.evidence.contains(word), "{word}: {finding:?}");
    }
    assert!(finding.next.starts_with("kubectl "), "{finding:?}");
    assert!(page(finding).lines().count() > 1, "{finding:?}");
}

/// The host of a1 is broken, and that is named.
fn host_is_named(what: &str, change: impl FnOnce(&mut HostFacts), words: &[&str]) {
    let said = said_of(change);
    assert!(!said.is_empty(), "{what} is not noticed");
    // As agents join them.
    let found = findings(
        &cluster(HEALTHY, &[degraded("a1", &said.join("; "))]),
        &Answers::new(),
    );
    named(&found, Severity::Error, "meshnode a1", words);
}

fn chain(table: &str, name: &str, drops: bool, rules: Vec<FilterRule>) -> Filter {
    Filter {
        name: ChainName {
            family: TableFamily::Inet,
            table: table.to_owned(),
            chain: name.to_owned(),
        },
        is_legacy: false,
        is_locked: false,
        priority: 0,
        links: None,
        drops,
        rules,
        chains: BTreeMap::new(),
    }
}

fn rejects() -> Vec<FilterRule> {
    vec![FilterRule {
        handle: 7,
        comment: None,
        own: None,
        matches: vec![],
        verdict: Verdict::Drop,
        marks: MarkChange::default(),
        untracks: Some(false),
    }]
}

fn vpn(priority: u32) -> OtherRule {
    OtherRule {
        family: Family::V4,
        priority,
        protocol: 3,
        from: None,
        to: None,
        iif: None,
        mark: Some((0xca6c, u32::MAX)),
        inverted: true,
        table: Some(TableId(51_820)),
        forbids: false,
    }
}

#[test]
fn nothing_is_wrong_in_a_healthy_cluster() {
    assert_eq!(findings(&cluster(HEALTHY, &[]), &Answers::new()), []);
    assert_eq!(said_of(|_| {}), Vec::<String>::new());
}

/// With what the agents get along with nothing is wrong.
#[test]
fn profiles_that_break_nothing_are_no_findings() {
    let docker = |facts: &mut HostFacts| {
        let chain = chain("filter", "FORWARD", true, vec![]);
        facts.filters = Arc::new(vec![chain]);
    };
    let firewalld = |facts: &mut HostFacts| {
        facts.filters = Arc::new(vec![chain("firewalld", "filter_FORWARD", false, rejects())]);
    };
    let wide_lan = |facts: &mut HostFacts| {
        facts
            .links
            .insert(link("wide0"), other(&[("10.0.0.5", 8)], false));
    };
    let vpn_rules = |facts: &mut HostFacts| {
        facts.rules = [vpn(32_764)].into();
        facts.wide_tables = [(Family::V4, TableId(51_820))].into();
    };
    let foreign_marks = |facts: &mut HostFacts| {
        let rule = OtherRule {
            inverted: false,
            mark: Some((0x1bd21, u32::MAX)),
            ..vpn(105)
        };
        facts.rules = [rule].into();
    };
    let router_advertisements = |facts: &mut HostFacts| {
        facts.links.get_mut(&link("eth0")).unwrap().advertisements = true;
    };
    let external_vtep = |facts: &mut HostFacts| {
        let outside: IpAddr = "203.0.113.1".parse().unwrap();
        facts.links.get_mut(&link("flannel.1")).unwrap().tunnel_from = Some(outside);
    };
    let profiles: [(&str, Change<'_>); 7] = [
        ("docker", &docker),
        ("firewalld", &firewalld),
        ("wide-lan", &wide_lan),
        ("vpn-rules", &vpn_rules),
        ("foreign-marks", &foreign_marks),
        ("router-advertisements", &router_advertisements),
        ("external-vtep", &external_vtep),
    ];
    for (profile, change) in profiles {
        assert_eq!(said_of(change), Vec::<String>::new(), "{profile}");
    }
}

/// Of each profile what agents do not get along with, and other hosts.
#[test]
fn what_is_wrong_with_a_host_is_named() {
    host_is_named(
        "docker with iptables-legacy",
        |facts| {
            let mut chain = chain("filter", "FORWARD", true, vec![]);
            (chain.is_legacy, chain.name.family) = (true, TableFamily::Ip);
            facts.filters = Arc::new(vec![chain]);
        },
        &["filter FORWARD of iptables-legacy", "iptables-legacy -"],
    );
    host_is_named(
        "firewalld that keeps its table to itself",
        |facts| {
            let mut chain = chain("firewalld", "filter_FORWARD", false, rejects());
            chain.is_locked = true;
            facts.filters = Arc::new(vec![chain]);
        },
        &["firewalld filter_FORWARD", "trusted"],
    );
    host_is_named(
        "wide-lan with the pods of another location",
        |facts| {
            drop(
                facts
                    .links
                    .insert(link("wide0"), other(&[("10.244.11.9", 24)], false)),
            )
        },
        &["10.244.11.0/24 of location b is connected here, too, by wide0"],
    );
    host_is_named(
        "wide-lan with the nodes of another location",
        |facts| {
            drop(facts.links.insert(
                link("eth0"),
                other(&[("192.168.1.1", 16), ("fd00:1::1", 64)], false),
            ))
        },
        &["192.168.2.1", "correct the mask of eth0"],
    );
    host_is_named(
        "no-ipv6",
        |facts| {
            facts.ipv6_disabled = true;
            facts
                .links
                .values_mut()
                .for_each(|link| link.ipv6_disabled = true);
        },
        &["IPv6 is switched off on this node"],
    );
    host_is_named(
        "vpn-rules before all others",
        |facts| {
            facts.rules = [vpn(5)].into();
            facts.wide_tables = [(Family::V4, TableId(51_820))].into();
        },
        &["takes packets of the mesh before Spanwire's rules", "5"],
    );
    host_is_named(
        "foreign-marks, and what has none is dropped",
        |facts| {
            let unmarked = Match::Mark {
                of_connection: false,
                mask: u32::MAX,
                ranges: vec![(0x1bd21, 0x1bd21)],
                not: true,
            };
            let mut rules = rejects();
            rules[0].matches = vec![unmarked];
            let chain = chain("killswitch", "out", false, rules);
            facts.elsewhere = [(Elsewhere::Output, Arc::new(vec![chain]))].into();
        },
        &["inet killswitch out", "drops what the tunnel sends", "0x2000"],
    );
    host_is_named(
        "external-vtep at an address of Spanwire's",
        |facts| {
            let overlay = overlay_of_a1();
            facts.links.get_mut(&link("flannel.1")).unwrap().tunnel_from = Some(overlay);
        },
        &[
            "the CNI's tunnel flannel.1 of this node begins at 10.4.",
            "--iface",
        ],
    );
    host_is_named(
        "a CNI whose devices are missing",
        |facts| {
            facts
                .links
                .retain(|name, _| !name.as_str().starts_with("flannel"));
            facts.cni = Cni::Direct;
        },
        &["the CNI's device for IPv4 is missing"],
    );
    host_is_named(
        "flannel's own WireGuard",
        |facts| {
            facts.cni = Cni::Unsupported {
                link: link("flannel-wg"),
            }
        },
        &["flannel-wg", "the back-end vxlan"],
    );
    let advertised = Step::SetSysctl(Sysctl("net/ipv6/conf/eth0/accept_ra".to_owned()), "2".to_owned());
    let refused = format!("{advertised}: Read-only file system (os error 30)");
    let found = findings(&cluster(HEALTHY, &[degraded("a1", &refused)]), &Answers::new());
    named(
        &found,
        Severity::Error,
        "meshnode a1",
        &["eth0/accept_ra = 2: Read-only"],
    );
}

#[test]
fn a_closed_port_is_named_and_so_are_the_links_that_it_keeps_down() {
    let said = said_of(|facts| facts.inputs = Arc::new(vec![chain("filter", "INPUT", true, vec![])]));
    let [said] = said.as_slice() else {
        panic!("{said:#?}");
    };
    let closed = (
        Kind::MeshNode,
        "a1",
        condition("PortOpen", "False", "WireGuardPortClosed", said),
    );
    let found = findings(&cluster(HEALTHY, &[closed]), &Answers::new());
    named(
        &found,
        Severity::Error,
        "meshnode a1",
        &["inet filter INPUT", "UDP", "51820"],
    );
    // A wrong endpoint: each of the two leaders waits for the other.
    let waiting = "waits for a tunnel to b: a1 and b1 have none";
    let mut objects = cluster(
        HEALTHY,
        &[(
            Kind::Location,
            "a",
            condition("Connected", "False", "WaitingForTunnel", waiting),
        )],
    );
    let mut node = objects.get(Kind::MeshNode, "a1").unwrap().clone();
    node["status"]["links"] = json!([{"location": "b", "up": false}]);
    objects.insert(Kind::MeshNode, "a1".to_owned(), node);
    let found = findings(&objects, &Answers::new());
    let [waiting, down] = found.as_slice() else {
        panic!("{found:#?}");
    };
    assert!(page(waiting).contains("have an endpoint that the other can reach"));
    assert_eq!(
        (down.reason.as_str(), down.next.as_str()),
        ("LinkDown", "kubectl spanwire explain a1 location/b")
    );
}

/// Returns what the operator does not grant, as it says so.
fn refused(more: &str) -> (Objects, Vec<String>) {
    let script = HEALTHY.replace("decide\ndecide", &format!("{more}\ndecide\ndecide"));
    let (_, world) = scenario::run(&script, |_, _| None).unwrap();
    let texts = world.rejected.iter().map(ToString::to_string).collect();
    (cluster(&script, &[]), texts)
}

#[test]
fn claims_of_two_are_named_with_who_has_what() {
    let (_, texts) = refused("node b2 region=b addresses=192.168.2.2 pods=10.244.1.0/24 key=4 up=a");
    let [text] = texts.as_slice() else {
        panic!("{texts:#?}");
    };
    let claimed = (
        Kind::Location,
        "b",
        condition("Accepted", "False", "ClaimRejected", text),
    );
    let found = findings(&cluster(HEALTHY, &[claimed]), &Answers::new());
    named(&found, Severity::Error, "location b", &["10.244.1.0/24", "a1"]);
    // What a machine leaves behind that was installed again under another name: its Node, which is not Ready.
    let (mut objects, texts) = refused("node a2-old region=a addresses=192.168.1.2,fd00:1::2 dead");
    assert!(
        texts
            .iter()
            .any(|text| text.contains("192.168.1.2") && text.contains("a2")),
        "{texts:#?}"
    );
    let mut node = objects.get(Kind::MeshNode, "a2-old").unwrap().clone();
    node["status"] = json!({});
    objects.insert(Kind::MeshNode, "a2-old".to_owned(), node);
    let found = findings(&objects, &Answers::new());
    named(
        &found,
        Severity::Error,
        "meshnode a2-old",
        &["no agent has reported", "its Node is left over"],
    );
}

/// What agents find out in the course of time is written down here as their own tests have it.
#[test]
fn what_is_measured_over_time_is_named() {
    let of_node = |node, kind: &str, reason: &str, text: &str| {
        let condition = condition(kind, "False", reason, text);
        findings(
            &cluster(HEALTHY, &[(Kind::MeshNode, node, condition)]),
            &Answers::new(),
        )
    };
    let clock = "this node's clock is about 3 days behind the cluster's: nodes that have heard it before refuse the handshakes";
    named(
        &of_node("a1", "Ready", "Limited", clock),
        Severity::Warning,
        "meshnode a1",
        &["3 days behind"],
    );
    let lease = "the API server does not take the Lease: leases is forbidden";
    named(
        &of_node("b1", "LeaseRenewed", "LeaseRefused", lease),
        Severity::Warning,
        "meshnode b1",
        &["is forbidden"],
    );
    let stranded = "no leader of its own location has answered this node since 2026-01-01T00:00:00Z";
    named(
        &of_node("a2", "Ready", "Degraded", stranded),
        Severity::Error,
        "meshnode a2",
        &["no leader of its own"],
    );
    let silent = "a2 has not answered since 2026-01-01T00:00:00Z";
    named(
        &of_node("a1", "MembersReached", "MemberSilent", silent),
        Severity::Warning,
        "meshnode a1",
        &["a2"],
    );
    let answers = |figures: Figures| Answers::from([("a2".to_owned(), Ok(figures))]);
    let own = || Some(env!("CARGO_PKG_VERSION").to_owned());
    let unreached = Figures {
        version: own(),
        unreached: ["b".to_owned()].into(),
        ..Figures::default()
    };
    let found = findings(&cluster(HEALTHY, &[]), &answers(unreached));
    named(&found, Severity::Error, "meshnode a2", &["location b"]);
    let silent = Answers::from([("b1".to_owned(), Err("nothing within 2 s".to_owned()))]);
    let found = findings(&cluster(HEALTHY, &[]), &silent);
    named(
        &found,
        Severity::Warning,
        "meshnode b1",
        &["does not answer", "nothing within 2 s"],
    );
}

#[test]
fn what_operators_and_agents_do_not_do_is_named() {
    let away = |replicas: Value| {
        let deployment =
            json!({"metadata": {"name": "spanwire-operator", "namespace": "spanwire"}, "status": replicas});
        of_operator(&[deployment])
    };
    assert_eq!(away(json!({"availableReplicas": 1})), None);
    assert_eq!(of_operator(&[]), None);
    for replicas in [
        json!({"availableReplicas": 0, "unavailableReplicas": 2}),
        json!({}),
    ] {
        let found: Vec<Finding> = away(replicas).into_iter().collect();
        named(
            &found,
            Severity::Warning,
            "deployment spanwire-operator",
            &["no operator runs"],
        );
    }
    let answer = |version: &str| {
        Ok(Figures {
            version: Some(version.to_owned()),
            ..Figures::default()
        })
    };
    let own = env!("CARGO_PKG_VERSION");
    let skewed = [("a1".to_owned(), answer(own)), ("b1".to_owned(), answer("0.0.1"))].into();
    let found = findings(&cluster(HEALTHY, &[]), &skewed);
    named(
        &found,
        Severity::Warning,
        "daemonset agent",
        &["0.0.1 on b1", own],
    );
}
