//! The annotations of Nodes: the user's voice. The keys stand here and nowhere else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    str::FromStr,
};

use spanwire_topology::{Endpoint, Keepalive, LocationName, Prefix};

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
}

/// Reads the annotations of a node, with `kilo` also Kilo's keys where ours are absent. What cannot be read is set
/// aside and reported; the rest counts.
#[must_use]
pub fn parse(annotations: &BTreeMap<String, String>, kilo: bool) -> (Annotations, Vec<FieldProblem>) {
    let mut reader = Reader {
        annotations,
        kilo,
        problems: Vec::new(),
    };
    let parsed = Annotations {
        location: reader.one(LOCATION, location_name),
        endpoints: reader.list(ENDPOINT, parsed::<Endpoint>),
        internal: reader.internal(),
        leader: reader.one(LEADER, boolean),
        keepalive: reader.one(PERSISTENT_KEEPALIVE, seconds).flatten(),
        cidrs: reader
            .list(LOCATION_CIDRS, parsed::<Prefix>)
            .into_iter()
            .collect(),
        listen_port: reader.one(LISTEN_PORT, port),
    };
    reader.unknown();
    (parsed, reader.problems)
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    kilo: bool,
    problems: Vec<FieldProblem>,
}

impl<'a> Reader<'a> {
    /// Returns the key under which the value was found, and the value. Kilo takes the mere presence of its leader key
    /// for yes.
    fn get(&self, key: &str) -> Option<(&'a str, &'a str)> {
        let (ours, kilos) = KEYS.iter().copied().find(|(ours, _)| *ours == key)?;
        let found = |key: &'static str| Some((key, self.annotations.get(key)?.trim()));
        found(ours).or_else(|| {
            let (key, value) = self.kilo.then(|| found(kilos)).flatten()?;
            Some((
                key,
                if ours == LEADER && value.is_empty() {
                    "true"
                } else {
                    value
                },
            ))
        })
    }

    fn one<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (key, value) = self.get(key)?;
        self.keep(key, value, read)
    }

    fn list<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((key, value)) = self.get(key) else {
            return Vec::new();
        };
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.filter_map(|item| self.keep(key, item, &read)).collect()
    }

    fn internal(&mut self) -> Option<BTreeSet<IpAddr>> {
        let (_, value) = self.get(INTERNAL_IP)?;
        if value == "-" {
            return Some(BTreeSet::new());
        }
        let addresses: BTreeSet<IpAddr> = self.list(INTERNAL_IP, address).into_iter().collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    fn keep<T>(&mut self, key: &str, value: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        read(value)
            .map_err(|problem| {
                let field = format!("annotation {key}");
                self.problems.push(FieldProblem::new(&field, value, &problem));
            })
            .ok()
    }

    fn unknown(&mut self) {
        let ours = |key: &str| KEYS.iter().any(|(known, _)| *known == key);
        for key in self.annotations.keys() {
            if key.starts_with(PREFIX) && !ours(key) {
                let known: Vec<&str> = KEYS
                    .iter()
                    .filter_map(|(key, _)| key.strip_prefix(PREFIX))
                    .collect();
                self.problems.push(FieldProblem {
                    field: format!("annotation {key}"),
                    problem: format!("is unknown; after {PREFIX} write one of: {}", known.join(", ")),
                });
            }
        }
    }
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
        Ok(port) if port > 0 => Ok(port),
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
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(
            "is an address at which no other host can be reached; write the node's address in its LAN"
                .to_owned(),
        );
    }
    Ok(address)
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

    fn read(annotations: &[(&str, &str)], kilo: bool) -> (Annotations, Vec<String>) {
        let map = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let (parsed, problems) = parse(&map, kilo);
        (parsed, problems.iter().map(ToString::to_string).collect())
    }
}
