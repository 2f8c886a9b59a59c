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
/// What all keys of Kilo begin with.
pub const KILO: &str = "kilo.squat.ai/";
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

/// Returns the key under which a node says what `key` of ours is for: Kilo's where ours is absent and `kilo` has it read.
#[must_use]
pub fn key_found(annotations: &BTreeMap<String, String>, key: &'static str, kilo: bool) -> &'static str {
    let kilos = KEYS
        .iter()
        .find(|(ours, _)| *ours == key)
        .map(|(_, kilos)| *kilos);
    kilos
        .filter(|kilos| kilo && !annotations.contains_key(key) && annotations.contains_key(*kilos))
        .unwrap_or(key)
}

/// The most unknown keys of a node that are reported one by one.
const UNKNOWN: usize = 8;

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

    /// Reads the first items of a list; those behind them are reported together. In Kilo a list without items is as good as none;
    /// ours may be a mistake, and who means none removes the annotation.
    fn list<T>(&mut self, key: &str, most: usize, read: impl Fn(&str, bool) -> Result<T, String>) -> Vec<T> {
        let Some(found) = self.get(key) else {
            return Vec::new();
        };
        let items = || {
            let items = found.value.split(',').map(str::trim);
            items.filter(|item| !item.is_empty())
        };
        let count = items().count();
        if count == 0 && !found.kilo {
            self.keep::<T>(key, found, found.value, Err(without_items(key).to_owned()));
        }
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

/// Says what is wrong with a list of ours that has no items.
fn without_items(key: &str) -> &'static str {
    match key {
        ENDPOINT => "names no endpoint; write one like 203.0.113.7:51820, or remove the annotation",
        INTERNAL_IP => "names no address; write one, - for none, or remove the annotation",
        _ => "names no network; write one like 192.168.10.0/24, or remove the annotation",
    }
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
mod tests;
