use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key() -> PublicKey {
    PublicKey::new([1; 32])
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn wanted(party: Party, list: &[&str]) -> BTreeMap<PublicKey, TunnelPeer> {
    let endpoints = list.iter().map(|text| text.parse().unwrap()).collect();
    [(
        key(),
        TunnelPeer {
            party,
            overlay: BTreeSet::new(),
            endpoints,
            keepalive: None,
            preshared: None,
            group: None,
            allowed_ips: BTreeSet::new(),
        },
    )]
    .into()
}

/// One leader, and the device that knows it.
struct World {
    endpoints: Endpoints,
    sessions: Sessions,
    device: BTreeMap<PublicKey, PeerStats>,
    start: Instant,
    unroutable: &'static [&'static str],
}

impl World {
    fn new() -> Self {
        let mut sessions = Sessions::default();
        sessions.handle_leaders([key()].into());
        Self {
            endpoints: Endpoints::default(),
            sessions,
            device: BTreeMap::new(),
            start: Instant::now(),
            unroutable: &[],
        }
    }

    fn publish(&mut self, list: &[&str]) {
        let leader = Party::Leader("b".parse().unwrap(), "b1".parse().unwrap());
        self.endpoints.handle_plan(&wanted(leader, list));
    }

    fn at(&self, seconds: u32) -> Instant {
        self.start + seconds * SECOND
    }

    fn resolve(&mut self, name: &str, addresses: &[&str]) {
        let Ok(Endpoint {
            host: EndpointHost::Name(name),
            ..
        }) = format!("{name}:1").parse()
        else {
            unreachable!()
        };
        self.endpoints
            .handle_resolved(name, addresses.iter().map(|text| text.parse().unwrap()).collect());
    }

    fn heard(&mut self, seconds: u32, endpoint: &str) {
        let received = self.device.get(&key()).map_or(0, |seen| seen.received) + 100;
        let seen = PeerStats {
            endpoint: Some(address(endpoint)),
            handshake: Some(SECOND),
            handshake_at: Some(u32::try_from(received).unwrap_or(1) * SECOND),
            received,
            sent: 0,
        };
        self.device.insert(key(), seen);
        self.read(seconds);
    }

    fn read(&mut self, seconds: u32) {
        let now = self.at(seconds);
        self.sessions.handle_stats(&self.device, now);
        self.endpoints.handle_stats(&self.device, now);
    }

    fn stimulate(&mut self, seconds: u32) {
        let now = self.at(seconds);
        self.sessions.handle_stimulated(&key(), now);
    }

    /// What is given to the device; the device takes it.
    fn give(&mut self, seconds: u32) -> Option<SocketAddr> {
        let now = self.at(seconds);
        let routable = |address: IpAddr| !self.unroutable.contains(&address.to_string().as_str());
        let given = self
            .endpoints
            .poll_endpoints(&self.device, &self.sessions, &routable, now);
        self.endpoints.handle_given(&given, &BTreeSet::new(), now);
        let address = given.get(&key()).copied();
        let seen = self.device.entry(key()).or_default();
        seen.endpoint = address.or(seen.endpoint);
        self.read(seconds);
        address
    }
}

#[test]
fn a_new_peer_gets_the_first_of_its_list_once() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1", "192.0.2.2:1"]);
    assert_eq!(world.give(0), Some(address("192.0.2.1:1")));
    assert_eq!(world.give(1), None);
}

#[test]
fn a_roamed_peer_is_never_fought() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "198.51.100.7:9");
    world.publish(&["192.0.2.1:1"]);
    assert_eq!(world.give(6), None);
    world.publish(&["192.0.2.1:1", "192.0.2.2:1"]);
    assert_eq!(
        world.give(7),
        None,
        "the first candidate is the one that was given before"
    );
}

#[test]
fn a_changed_list_is_acted_upon_although_the_peer_answers() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "192.0.2.1:1");
    world.publish(&["192.0.2.9:1"]);
    assert_eq!(world.give(6), Some(address("192.0.2.9:1")));
    assert_eq!(world.give(7), None);
}

#[test]
fn a_change_undone_by_packets_on_their_way_is_insisted_on_a_few_times() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "192.0.2.1:1");
    world.publish(&["192.0.2.9:1"]);
    assert_eq!(world.endpoints.poll_timeout(world.at(5)), None);
    let insisted = Some(address("192.0.2.9:1"));
    assert_eq!(world.give(6), insisted);
    for (seconds, given) in [
        (6, None),
        (7, insisted),
        (8, None),
        (9, insisted),
        (10, None),
        (30, None),
    ] {
        world.heard(seconds, "192.0.2.1:1");
        assert_eq!(world.give(seconds), given, "after {seconds} s");
    }
    assert_eq!(world.endpoints.poll_timeout(world.at(6)), None);
}

#[test]
fn a_change_that_holds_is_looked_at_a_few_times() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "192.0.2.1:1");
    world.publish(&["192.0.2.9:1"]);
    world.give(6);
    for after in INSIST {
        let due = world.at(6) + after;
        assert_eq!(world.endpoints.poll_timeout(world.at(6)), Some(due));
        world.endpoints.handle_stats(&world.device, due);
    }
    assert_eq!(world.endpoints.poll_timeout(world.at(6)), None);
}

#[test]
fn a_peer_that_roams_elsewhere_after_a_change_is_not_fought() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "192.0.2.1:1");
    world.publish(&["192.0.2.9:1"]);
    world.give(6);
    world.heard(7, "198.51.100.7:9");
    assert_eq!(world.give(7), None);
}

#[test]
fn a_silent_leader_is_looked_for_at_the_next_candidate_round_and_round() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1", "192.0.2.2:1"]);
    world.give(0);
    world.stimulate(0);
    assert_eq!(world.give(14), None);
    assert_eq!(world.give(15), Some(address("192.0.2.2:1")));
    assert_eq!(world.give(29), None);
    assert_eq!(world.give(30), Some(address("192.0.2.1:1")));
    world.heard(31, "192.0.2.1:1");
    assert_eq!(world.give(60), None);
}

#[test]
fn a_peer_without_endpoint_gets_one_when_its_name_is_resolved() {
    let mut world = World::new();
    world.publish(&["vpn.example.com:7"]);
    assert_eq!(world.endpoints.names().len(), 1);
    assert_eq!(world.give(0), None);
    world.resolve("vpn.example.com", &["192.0.2.1"]);
    assert_eq!(world.give(1), Some(address("192.0.2.1:7")));
}

#[test]
fn a_change_to_a_name_is_acted_upon_when_the_name_is_resolved() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(1, "192.0.2.1:1");
    world.publish(&["vpn.example.com:7"]);
    assert_eq!(world.give(2), None);
    world.resolve("vpn.example.com", &["192.0.2.5"]);
    assert_eq!(world.give(3), Some(address("192.0.2.5:7")));
}

#[test]
fn a_name_that_moves_is_followed_when_the_old_address_is_silent() {
    let mut world = World::new();
    world.publish(&["vpn.example.com:7"]);
    world.resolve("vpn.example.com", &["192.0.2.1"]);
    world.give(0);
    world.heard(1, "192.0.2.1:7");
    world.resolve("vpn.example.com", &["192.0.2.2"]);
    assert_eq!(world.give(2), None, "it answers");
    world.resolve("vpn.example.com", &[]);
    world.stimulate(30);
    assert_eq!(world.give(45), Some(address("192.0.2.2:7")));
}

#[test]
fn a_recreated_device_gets_the_address_where_the_peer_was_last_heard() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "198.51.100.7:9");
    world.device.clear();
    world.read(6);
    assert_eq!(world.give(6), Some(address("198.51.100.7:9")));
}

#[test]
fn what_a_restarted_agent_finds_working_is_left_alone() {
    let mut world = World::new();
    world.heard(0, "198.51.100.7:9");
    world.publish(&["192.0.2.1:1"]);
    assert_eq!(world.give(1), None);
    world.stimulate(30);
    assert_eq!(world.give(45), Some(address("192.0.2.1:1")));
}

#[test]
fn addresses_that_this_node_has_a_route_to_come_first() {
    let mut world = World::new();
    world.unroutable = &["2001:db8::1"];
    world.publish(&["[2001:db8::1]:1", "192.0.2.1:1"]);
    assert_eq!(world.give(0), Some(address("192.0.2.1:1")));
}

#[test]
fn a_party_that_is_no_leader_is_looked_for_again_when_its_session_has_ended() {
    let mut world = World::new();
    let list = ["192.0.2.1:1", "192.0.2.2:1"];
    world
        .endpoints
        .handle_plan(&wanted(Party::Peer("laptop".parse().unwrap()), &list));
    assert_eq!(world.give(0), Some(address("192.0.2.1:1")));
    assert_eq!(world.give(59), None);
    assert_eq!(world.give(60), Some(address("192.0.2.2:1")));
    world.heard(61, "192.0.2.2:1");
    assert_eq!(world.give(200), None);
}

#[test]
fn what_the_device_refused_is_given_again_and_what_it_took_is_not() {
    let mut world = World::new();
    world.publish(&["192.0.2.1:1"]);
    world.give(0);
    world.heard(5, "192.0.2.1:1");
    world.publish(&["192.0.2.9:1"]);
    let routable = |_| true;
    let poll = |world: &World, seconds: u32| {
        let (now, sessions) = (world.at(seconds), &world.sessions);
        world
            .endpoints
            .poll_endpoints(&world.device, sessions, &routable, now)
    };
    let given = poll(&world, 6);
    assert_eq!(given.get(&key()), Some(&address("192.0.2.9:1")));
    let now = world.at(6);
    world.endpoints.handle_given(&given, &[key()].into(), now);
    assert_eq!(poll(&world, 7), given, "it was refused");
    let now = world.at(7);
    world.endpoints.handle_given(&given, &BTreeSet::new(), now);
    world.heard(20, "198.51.100.7:9");
    assert!(poll(&world, 20).is_empty(), "it has roamed since");
}
