//! The annotations of Nodes: the user's voice. The keys stand here and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    str::FromStr,
};

use spanwire_topology::{
    Endpoint, EndpointError, Field, Keepalive, LocationName, NodeFact, Prefix, PrefixError,
};

use crate::problem::FieldProblem;

/// What all keys begin with.
pub const PREFIX: &str = "spanwire.dev/";
/// The location of the node.
pub const LOCATION: &str = "spanwire.dev/location";
/// Where its WireGuard is reached from outside: host:port, several separated by commas.
pub const ENDPOINT: &str = "spanwire.dev/endpoint";
/// Its own addresses, instead of those of type InternalIP; `-`: none.
pub const INTERNAL_IP: &str = "spanwire.dev/internal-ip";
/// `true`: preferred as leader; `false`: never leader.
pub const LEADER: &str = "spanwire.dev/leader";
/// Seconds between keepalives of its tunnels.
pub const PERSISTENT_KEEPALIVE: &str = "spanwire.dev/persistent-keepalive";
/// Private networks, other than those of pods and nodes, that its location reaches, separated by commas.
pub const LOCATION_CIDRS: &str = "spanwire.dev/location-cidrs";
/// The UDP port of its WireGuard.
pub const LISTEN_PORT: &str = "spanwire.dev/listen-port";

/// Each key with the one under which Kilo knows it. `kilo.squat.ai/endpoint` and `kilo.squat.ai/internal-ip` are
/// written by Kilo itself; what people write is `force-…`.
const KEYS: [(&str, &str); 7] = [
    (LOCATION, "kilo.squat.ai/location"),
    (ENDPOINT, "kilo.squat.ai/force-endpoint"),
    (INTERNAL_IP, "kilo.squat.ai/force-internal-ip"),
    (LEADER, "kilo.squat.ai/leader"),
    (PERSISTENT_KEEPALIVE, "kilo.squat.ai/persistent-keepalive"),
    (LOCATION_CIDRS, "kilo.squat.ai/allowed-location-ips"),
    (LISTEN_PORT, "kilo.squat.ai/listen-port"),
];

/// What the annotations of a node say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// [`LOCATION`].
    pub location: Option<LocationName>,
    /// [`ENDPOINT`].
    pub endpoints: Vec<Endpoint>,
    /// [`INTERNAL_IP`]; the empty set where it says `-`.
    pub internal: Option<BTreeSet<IpAddr>>,
    /// [`LEADER`].
    pub leader: Option<bool>,
    /// [`PERSISTENT_KEEPALIVE`]; 0 is none.
    pub keepalive: Option<Keepalive>,
    /// [`LOCATION_CIDRS`].
    pub cidrs: BTreeSet<Prefix>,
    /// [`LISTEN_PORT`].
    pub listen_port: Option<u16>,
    /// What stands there and cannot be read.
    pub unread: BTreeSet<Field>,
}

/// Reads the annotations of a node, with `kilo` also Kilo's keys where ours are absent. What cannot be read is set
/// aside and reported; the rest counts.
#[must_use]
pub fn parse(annotations: &BTreeMap<String, String>, kilo: bool) -> (Annotations, Vec<FieldProblem>) {
    let mut reader = Reader {
        annotations,
        kilo,
        problems: Vec::new(),
        unread: BTreeSet::new(),
    };
    let mut parsed = Annotations {
        location: reader.location(),
        endpoints: reader.list(ENDPOINT, NodeFact::MAX_ENDPOINTS, |text, _| {
            parsed::<Endpoint>(text)
        }),
        internal: reader.internal(),
        leader: reader.leader(),
        keepalive: reader.one(PERSISTENT_KEEPALIVE, seconds).flatten(),
        cidrs: reader
            .list(LOCATION_CIDRS, NodeFact::MAX_NETWORKS, network)
            .into_iter()
            .collect(),
        listen_port: reader.one(LISTEN_PORT, port),
        unread: BTreeSet::new(),
    };
    let mut seen = BTreeSet::new();
    parsed.endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
    reader.unknown();
    parsed.unread = reader.unread;
    (parsed, reader.problems)
}

/// The most unknown keys of a node that are reported one by one.
const UNKNOWN: usize = 8;

/// What is wrong with an empty value of ours.
const NO_ADDRESS: &str = "is empty; write an address, - for none, or remove the annotation";

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    kilo: bool,
    problems: Vec<FieldProblem>,
    unread: BTreeSet<Field>,
}

/// A value where it was found.
#[derive(Clone, Copy)]
struct Found<'a> {
    key: &'static str,
    value: &'a str,
    /// It is one of Kilo's, and means what it means there.
    kilo: bool,
}

impl<'a> Reader<'a> {
    fn get(&self, key: &str) -> Option<Found<'a>> {
        let (ours, kilos) = KEYS.iter().copied().find(|(ours, _)| *ours == key)?;
        let found = |key: &'static str, kilo: bool| {
            let value = self.annotations.get(key)?.trim();
            Some(Found { key, value, kilo })
        };
        found(ours, false).or_else(|| self.kilo.then(|| found(kilos, true)).flatten())
    }

    fn one<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let found = self.get(key)?;
        self.keep(key, found, found.value, read(found.value))
    }

    /// Locations of Kilo have any characters; those of labels are read as they are in a topology label.
    fn location(&mut self) -> Option<LocationName> {
        let found = self.get(LOCATION)?;
        let read = match location_name(found.value) {
            Err(problem) if found.kilo => {
                let remedy = || format!("{problem}; or annotate the node with {LOCATION}");
                location_name(&folded(found.value)).map_err(|_| remedy())
            }
            read => read,
        };
        self.keep(LOCATION, found, found.value, read)
    }

    /// Kilo takes the mere presence of its key for yes, whatever stands there.
    fn leader(&mut self) -> Option<bool> {
        let found = self.get(LEADER)?;
        if !found.kilo {
            return self.keep(LEADER, found, found.value, boolean(found.value));
        }
        if !matches!(found.value, "" | "true") {
            let problem = format!(
                "means that the node is preferred as leader, for Kilo looks at the presence of this key alone; remove it, \
                 or say what is meant with {LEADER}"
            );
            self.report(found, found.value, &problem);
        }
        Some(true)
    }

    /// Reads the first items of a list; those behind them are reported together.
    fn list<T>(&mut self, key: &str, most: usize, read: impl Fn(&str, bool) -> Result<T, String>) -> Vec<T> {
        let Some(found) = self.get(key) else {
            return Vec::new();
        };
        let items = || {
            let items = found.value.split(',').map(str::trim);
            items.filter(|item| !item.is_empty())
        };
        let count = items().count();
        if count > most {
            self.problems
                .push(too_many(&format!("annotation {}", found.key), count, most));
        }
        let read = |item| self.keep(key, found, item, read(item, found.kilo));
        items().take(most).filter_map(read).collect()
    }

    fn internal(&mut self) -> Option<BTreeSet<IpAddr>> {
        let found = self.get(INTERNAL_IP)?;
        if found.value == "-" || (found.kilo && found.value.is_empty()) {
            return Some(BTreeSet::new());
        }
        if found.value.is_empty() {
            return self.keep(INTERNAL_IP, found, "", Err(NO_ADDRESS.to_owned()));
        }
        let read = |text: &str, _| address(text);
        let addresses: BTreeSet<IpAddr> = self
            .list(INTERNAL_IP, NodeFact::MAX_ADDRESSES, read)
            .into_iter()
            .collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    fn keep<T>(&mut self, ours: &str, found: Found<'_>, value: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|problem| {
            self.report(found, value, &problem);
            self.unread.extend(field(ours));
        })
        .ok()
    }

    fn report(&mut self, found: Found<'_>, value: &str, problem: &str) {
        let field = format!("annotation {}", found.key);
        self.problems.push(FieldProblem::new(&field, value, problem));
    }

    fn unknown(&mut self) {
        let ours = |key: &str| KEYS.iter().any(|(known, _)| *known == key);
        let keys = self.annotations.range(PREFIX.to_owned()..).map(|(key, _)| key);
        let keys = keys.take_while(|key| key.starts_with(PREFIX));
        let unknown: Vec<&String> = keys.filter(|key| !ours(key)).collect();
        let known: Vec<&str> = KEYS
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(PREFIX))
            .collect();
        let known = known.join(", ");
        for key in unknown.iter().take(UNKNOWN) {
            self.problems.push(FieldProblem {
                field: format!("annotation {key}"),
                problem: format!("is unknown; after {PREFIX} write one of: {known}"),
            });
        }
        if let Some(more) = unknown.len().checked_sub(UNKNOWN).filter(|more| *more > 0) {
            self.problems.push(FieldProblem {
                field: "annotations".to_owned(),
                problem: format!("{more} more begin with {PREFIX} and are unknown; remove them"),
            });
        }
    }
}

fn field(key: &str) -> Option<Field> {
    Some(match key {
        LOCATION => Field::Location,
        ENDPOINT => Field::Endpoints,
        INTERNAL_IP => Field::Addresses,
        LEADER => Field::Leader,
        PERSISTENT_KEEPALIVE => Field::Keepalive,
        LOCATION_CIDRS => Field::Cidrs,
        LISTEN_PORT => Field::ListenPort,
        _ => return None,
    })
}

/// Says that a list is longer than what counts of it.
pub(crate) fn too_many(field: &str, count: usize, most: usize) -> FieldProblem {
    FieldProblem {
        field: field.to_owned(),
        problem: format!("has {count} values, of which the first {most} count; leave the others out"),
    }
}

/// Returns what a label's value is as the name of a location: labels may have upper-case letters and underscores, which
/// names have not.
pub(crate) fn folded(value: &str) -> String {
    value.to_ascii_lowercase().replace('_', "-")
}

/// The longest name of a location: it is also the value of a label.
pub const LONGEST_LOCATION: usize = 63;

/// Reads the name of a location.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn location_name(text: &str) -> Result<LocationName, String> {
    if text.len() > LONGEST_LOCATION {
        return Err(format!(
            "has {} characters; write at most {LONGEST_LOCATION}",
            text.len()
        ));
    }
    parsed(text)
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Returns a network; of one that Kilo is given, the bits behind its length do not count.
fn network(text: &str, kilo: bool) -> Result<Prefix, String> {
    match text.parse() {
        Err(PrefixError::HostBits(network)) if kilo => Ok(network),
        read => read.map_err(|error: PrefixError| error.to_string()),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(
            "is neither true (preferred as leader) nor false (never leader); write one of these".to_owned(),
        ),
    }
}

fn seconds(text: &str) -> Result<Option<Keepalive>, String> {
    match text.parse::<u16>() {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Keepalive(seconds))),
        Err(_) => Err("is no number of seconds from 0 to 65535; write one, like 25".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if matches!(text.as_bytes(), [b'1'..=b'9', ..]) => Ok(port),
        _ => Err("is no port; write a number from 1 to 65535".to_owned()),
    }
}

/// Returns an address, with or without the length of its network.
fn address(text: &str) -> Result<IpAddr, String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let malformed = || "is no address; write one like 10.1.0.5 or 10.1.0.5/24, or - for none".to_owned();
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    if let Some(length) = length {
        let length = length.parse::<u8>().map_err(|_| malformed())?;
        Prefix::new(address, length).map_err(|_| malformed())?;
    }
    match Endpoint::at(address, 1) {
        Ok(_) => Ok(address),
        Err(EndpointError::Mapped(address)) => {
            Err(format!("has an IPv4 address written as IPv6; write {address}"))
        }
        Err(_) => Err(
            "is an address at which no other host can be reached; write the node's address in its LAN"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let (parsed, problems) = read(
            &[
                (LOCATION, "a"),
                (ENDPOINT, "192.0.2.1:51820, [2001:db8::1]:51820,vpn.example.com:1"),
                (INTERNAL_IP, "10.1.0.5/24,fd00::5"),
                (LEADER, "true"),
                (PERSISTENT_KEEPALIVE, "25"),
                (LOCATION_CIDRS, "192.168.10.0/24, fd00:10::/64"),
                (LISTEN_PORT, "51821"),
            ],
            false,
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(parsed.location, Some("a".parse().unwrap()));
        assert_eq!(parsed.endpoints.len(), 3);
        assert_eq!(
            parsed.internal,
            Some(["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()].into())
        );
        assert_eq!(parsed.leader, Some(true));
        assert_eq!(parsed.keepalive, Some(Keepalive(25)));
        assert_eq!(parsed.cidrs.len(), 2);
        assert_eq!(parsed.listen_port, Some(51821));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_remedy_and_the_rest_counts() {
        let bad = [
            (LOCATION, "My Site", "has the character 'M'"),
            (ENDPOINT, "192.0.2.1", "has no port; write host:port"),
            (INTERNAL_IP, "10.1.0.5/99", "is no address; write one like"),
            (INTERNAL_IP, "127.0.0.1", "write the node's address in its LAN"),
            (INTERNAL_IP, "fe80::5", "write the node's address in its LAN"),
            (
                INTERNAL_IP,
                "169.254.7.1/16",
                "write the node's address in its LAN",
            ),
            (
                INTERNAL_IP,
                "255.255.255.255",
                "write the node's address in its LAN",
            ),
            (INTERNAL_IP, "::ffff:10.1.0.5", "write 10.1.0.5"),
            (LEADER, "yes", "write one of these"),
            (PERSISTENT_KEEPALIVE, "65536", "from 0 to 65535"),
            (LOCATION_CIDRS, "10.0.0.1/24", "write 10.0.0.0/24"),
            (LISTEN_PORT, "0", "from 1 to 65535"),
        ];
        for (key, value, remedy) in bad {
            let (_, problems) = read(&[(key, value)], false);
            assert_eq!(problems.len(), 1, "{key}={value}");
            assert!(problems[0].contains(remedy), "{}", problems[0]);
            assert!(
                problems[0].contains(key) && problems[0].contains(value),
                "{}",
                problems[0]
            );
        }
        let (parsed, problems) = read(&[(LOCATION_CIDRS, "x,10.0.0.0/24"), (LEADER, "maybe")], false);
        assert_eq!((parsed.cidrs.len(), problems.len()), (1, 2));
        assert!(read(&[(LOCATION, &"x".repeat(64))], false).1[0].contains("at most 63"));
    }

    #[test]
    fn every_udp_port_may_be_listened_on_and_nothing_else() {
        for port in [1_u16, 53, 500, 1023, 1024, u16::MAX] {
            let (parsed, problems) = read(&[(LISTEN_PORT, &port.to_string())], false);
            assert_eq!((parsed.listen_port, problems.len()), (Some(port), 0));
        }
        for bad in ["0", "65536", "-1", "+500", "0500", "500/udp", "http", "", "5e2"] {
            let (parsed, problems) = read(&[(LISTEN_PORT, bad)], false);
            assert_eq!(parsed.listen_port, None, "{bad}");
            assert!(
                problems[0].contains("write a number from 1 to 65535"),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn a_dash_means_no_address_at_all() {
        assert_eq!(
            read(&[(INTERNAL_IP, "-")], false).0.internal,
            Some(BTreeSet::new())
        );
        assert_eq!(read(&[], false).0.internal, None);
        assert_eq!(read(&[(INTERNAL_IP, "x")], false).0.internal, None);
    }

    #[test]
    fn a_mistyped_key_is_reported_with_those_that_exist() {
        let (_, problems) = read(&[("spanwire.dev/leeder", "true")], false);
        assert!(problems[0].contains("spanwire.dev/leeder") && problems[0].contains("leader"));
    }

    #[test]
    fn kilos_keys_are_read_on_request_and_ours_win() {
        let kilo = [
            ("kilo.squat.ai/location", "k"),
            ("kilo.squat.ai/force-endpoint", "192.0.2.9:51820"),
            ("kilo.squat.ai/leader", ""),
            ("kilo.squat.ai/endpoint", "discovered by kilo"),
        ];
        assert_eq!(read(&kilo, false).0, Annotations::default());
        let (parsed, problems) = read(&kilo, true);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(parsed.location, Some("k".parse().unwrap()));
        assert_eq!(parsed.endpoints.len(), 1);
        assert_eq!(parsed.leader, Some(true));
        let both = [("kilo.squat.ai/location", "k"), (LOCATION, "ours")];
        assert_eq!(read(&both, true).0.location, Some("ours".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_read_is_marked_so_that_what_was_there_stays() {
        for (key, bad, field) in [
            (LOCATION, "B", Field::Location),
            (ENDPOINT, "nowhere", Field::Endpoints),
            (INTERNAL_IP, "x", Field::Addresses),
            (INTERNAL_IP, "", Field::Addresses),
            (LEADER, "maybe", Field::Leader),
            (PERSISTENT_KEEPALIVE, "often", Field::Keepalive),
            (LOCATION_CIDRS, "10.0.0.0/24,x", Field::Cidrs),
            (LISTEN_PORT, "http", Field::ListenPort),
        ] {
            assert_eq!(read(&[(key, bad)], false).0.unread, [field].into(), "{key}={bad}");
        }
        assert_eq!(
            read(&[(LOCATION, "b"), (INTERNAL_IP, "-")], false).0.unread,
            BTreeSet::new()
        );
    }

    #[test]
    fn of_a_long_list_the_first_values_count_and_the_rest_is_reported_once() {
        let endpoints: Vec<String> = (1..=20).map(|port| format!("192.0.2.1:{port}")).collect();
        let networks: Vec<String> = (0..200).map(|third| format!("172.20.{third}.0/24")).collect();
        let addresses: Vec<String> = (0..50_000).map(|bad| format!("bad{bad}")).collect();
        let (parsed, problems) = read(
            &[
                (ENDPOINT, &endpoints.join(",")),
                (LOCATION_CIDRS, &networks.join(",")),
                (INTERNAL_IP, &addresses.join(",")),
            ],
            false,
        );
        assert_eq!((parsed.endpoints.len(), parsed.cidrs.len()), (16, 64));
        assert_eq!(parsed.internal, None);
        for (key, count) in [(ENDPOINT, "20"), (LOCATION_CIDRS, "200"), (INTERNAL_IP, "50000")] {
            let of = |problem: &&String| problem.contains(key) && problem.contains("leave the others out");
            let found: Vec<&String> = problems.iter().filter(of).collect();
            assert_eq!(found.len(), 1, "{key}");
            assert!(found[0].contains(count), "{}", found[0]);
        }
        assert_eq!(problems.len(), 3 + 16, "those that count are named one by one");
        let keys: Vec<String> = (0..5_000).map(|n| format!("spanwire.dev/x{n}")).collect();
        let many: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
        assert_eq!(read(&many, false).1.len(), UNKNOWN + 1);
    }

    #[test]
    fn kilos_values_mean_what_they_mean_in_kilo_or_it_is_said_what_to_change() {
        let kilo = |key: &str, value: &str| read(&[(key, value)], true);
        for none in ["", "-"] {
            let (parsed, problems) = kilo("kilo.squat.ai/force-internal-ip", none);
            assert_eq!(
                (parsed.internal, problems.len()),
                (Some(BTreeSet::new()), 0),
                "{none:?}"
            );
        }
        for yes in ["", "true"] {
            let (parsed, problems) = kilo("kilo.squat.ai/leader", yes);
            assert_eq!((parsed.leader, problems.len()), (Some(true), 0), "{yes:?}");
        }
        for odd in ["false", "yes", "1", "True"] {
            let (parsed, problems) = kilo("kilo.squat.ai/leader", odd);
            assert_eq!(parsed.leader, Some(true), "{odd}");
            assert!(
                problems[0].contains("preferred as leader") && problems[0].contains(LEADER),
                "{problems:?}"
            );
        }
        let (parsed, problems) = kilo("kilo.squat.ai/location", "AWS_Frankfurt");
        assert_eq!(
            (parsed.location, problems.len()),
            (Some("aws-frankfurt".parse().unwrap()), 0)
        );
        for odd in ["Home Lab", "dc:1", ""] {
            let (parsed, problems) = kilo("kilo.squat.ai/location", odd);
            assert_eq!(
                (parsed.location, parsed.unread),
                (None, [Field::Location].into()),
                "{odd:?}"
            );
            assert!(problems[0].contains(LOCATION), "{problems:?}");
        }
        let networks = "192.168.10.1/24, 10.20.0.0/16 ,";
        let (parsed, problems) = kilo("kilo.squat.ai/allowed-location-ips", networks);
        assert_eq!((parsed.cidrs.len(), problems.len()), (2, 0));
        assert!(parsed.cidrs.contains(&"192.168.10.0/24".parse().unwrap()));
    }

    fn read(annotations: &[(&str, &str)], kilo: bool) -> (Annotations, Vec<String>) {
        let map = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let (parsed, problems) = parse(&map, kilo);
        (parsed, problems.iter().map(ToString::to_string).collect())
    }
}
