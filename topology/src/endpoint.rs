//! Where a WireGuard party is reached from outside: a host and a UDP port.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use crate::Prefix;

/// A DNS name (RFC 1123 section 2.1), in lower case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An address, or a name that agents resolve, again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointHost {
    /// An IP address.
    Address(IpAddr),
    /// A DNS name.
    Name(DnsName),
}

/// A host and a UDP port: `192.0.2.1:51820`, `[2001:db8::1]:51820`, `vpn.example.com:51820`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address or the name.
    pub host: EndpointHost,
    /// The UDP port, never 0.
    pub port: u16,
}

/// Why a text is no endpoint, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Nothing at all.
    #[error("is empty; write host:port, like 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820")]
    Empty,
    /// `https://…`.
    #[error("has the scheme {0:?}; write host:port alone, like vpn.example.com:51820")]
    Scheme(String),
    /// A path, a protocol or a user beside host and port.
    #[error("has {0:?}, which is no part of host:port; write these two alone, like vpn.example.com:51820")]
    Extra(String),
    /// Spaces between the parts.
    #[error("has a space in it; write host:port without one, like vpn.example.com:51820")]
    Space,
    /// No `:port` at the end.
    #[error(
        "has no port; write host:port, like 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820"
    )]
    NoPort,
    /// An IPv6 address without brackets, of which one cannot know where it ends.
    #[error("has an IPv6 address without brackets; write it like [2001:db8::1]:51820")]
    Unbracketed,
    /// Brackets around what is no IPv6 address.
    #[error("has brackets around {0}, which is no IPv6 address; write the host without them, like {0}:51820")]
    Bracketed(String),
    /// The port is no number from 1 to 65535.
    #[error("has the port {0:?}; write a number from 1 to 65535, without leading zeros")]
    Port(String),
    /// Four numbers that are no IPv4 address.
    #[error(
        "has the host {0:?}, which is no IPv4 address; write four numbers from 0 to 255, without leading zeros"
    )]
    Numbers(String),
    /// A character that no host name has.
    #[error("has the host {0:?} with the character {1:?}; {remedy}", remedy = remedy(*.1))]
    Character(String, char),
    /// Neither an address nor a DNS name.
    #[error(
        "has the host {0:?}, which is neither an IP address nor a DNS name; write one, like vpn.example.com"
    )]
    Host(String),
    /// An address with a zone.
    #[error(
        "has the zone {0:?}, which means something on one machine only; write an address that others can reach"
    )]
    Zone(String),
    /// An IPv4 address written as IPv6.
    #[error("has an IPv4 address written as IPv6; write {0}:51820, with the port that is meant")]
    Mapped(Ipv4Addr),
    /// An address at which no other host can be reached.
    #[error("has the address {0}, at which no other host can be reached; write one that others can reach")]
    Unusable(IpAddr),
    /// The name of the machine that resolves it.
    #[error(
        "has the host \"localhost\", which every machine is to itself; write a name that others can reach it by"
    )]
    Localhost,
}

fn remedy(character: char) -> &'static str {
    match character {
        '_' => "host names have none; write the address, or a name without it",
        character if character.is_ascii() => {
            "write a name of letters, digits, '-' and '.', like vpn.example.com, or an address"
        }
        _ => "write the name in ASCII, as `idn2` prints it, like xn--bcher-kva.example for bücher.example",
    }
}

impl Endpoint {
    /// Returns whether any machine in the internet could reach it: a name, or an address that is not private, shared,
    /// link-local or of the host itself.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match &self.host {
            EndpointHost::Name(_) => true,
            EndpointHost::Address(address) => {
                usable(*address).is_ok() && !Prefix::host(*address).is_private()
            }
        }
    }

    /// Returns the endpoint at an address: what is read again as it is written.
    ///
    /// # Errors
    /// Where no other host can be reached at it, or it is an IPv4 address written as IPv6.
    pub fn at(address: IpAddr, port: u16) -> Result<Self, EndpointError> {
        let host = EndpointHost::Address(usable(address)?);
        Ok(Self { host, port })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `host:port`; spaces around it do not count.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        shape(text)?;
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        if host.contains(':') && !host.starts_with('[') || host.starts_with('[') && !host.ends_with(']') {
            let whole = text.trim_start_matches('[').trim_end_matches(']');
            let bracketed = text.starts_with('[') && text.ends_with(']');
            return Err(match whole.parse::<IpAddr>() {
                Ok(_) if bracketed => EndpointError::NoPort,
                _ => EndpointError::Unbracketed,
            });
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        let port = match port.parse::<u16>() {
            Ok(number) if digits => number,
            _ => return Err(EndpointError::Port(port.to_owned())),
        };
        let host = host_of(host)?;
        Ok(Self { host, port })
    }
}

/// Says what people write beside host and port.
fn shape(text: &str) -> Result<(), EndpointError> {
    if text.is_empty() {
        return Err(EndpointError::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(EndpointError::Scheme(format!("{scheme}://")));
    }
    if let Some((user, _)) = text.split_once('@') {
        return Err(EndpointError::Extra(format!("{user}@")));
    }
    if let Some(start) = text.find(['/', '?', '#']) {
        return Err(EndpointError::Extra(text[start..].to_owned()));
    }
    if text.contains(char::is_whitespace) {
        return Err(EndpointError::Space);
    }
    Ok(())
}

fn host_of(host: &str) -> Result<EndpointHost, EndpointError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => Some(IpAddr::V6(bracketed(bare)?)),
        None => host.parse().ok(),
    };
    match address {
        Some(address) => usable(address).map(EndpointHost::Address),
        None if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") => Err(EndpointError::Localhost),
        None => name_of(host).map(EndpointHost::Name),
    }
}

fn bracketed(text: &str) -> Result<Ipv6Addr, EndpointError> {
    if let Some((_, zone)) = text.split_once('%') {
        return Err(EndpointError::Zone(zone.to_owned()));
    }
    let wrong = |_| match text.contains(':') {
        true => EndpointError::Host(format!("[{text}]")),
        false => EndpointError::Bracketed(text.to_owned()),
    };
    text.parse().map_err(wrong)
}

/// Returns the address, where it may be another host's.
fn usable(address: IpAddr) -> Result<IpAddr, EndpointError> {
    let link_local = match address {
        // Of 0.0.0.0/8 none is a host's (RFC 1122 section 3.2.1.3).
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => return Err(EndpointError::Mapped(mapped)),
            None => address.is_unicast_link_local(),
        },
    };
    if link_local || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(EndpointError::Unusable(address));
    }
    Ok(address)
}

fn name_of(host: &str) -> Result<DnsName, EndpointError> {
    let numbers = host
        .split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if numbers {
        return Err(EndpointError::Numbers(host.to_owned()));
    }
    let known = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.');
    if let Some(other) = host.chars().find(|character| !known(*character)) {
        return Err(EndpointError::Character(host.to_owned(), other));
    }
    dns_name(host).ok_or_else(|| EndpointError::Host(host.to_owned()))
}

fn dns_name(text: &str) -> Option<DnsName> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let numeric_end = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (name.len() <= 253 && name.split('.').all(label) && !numeric_end).then_some(DnsName(name))
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            EndpointHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            EndpointHost::Address(address) => write!(f, "{address}:{}", self.port),
            EndpointHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_round_trip() {
        for text in [
            "192.0.2.1:51820",
            "[2001:db8::1]:1",
            "vpn.example.com:65535",
            "gw:51820",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!(
            "VPN.Example.com.:1".parse::<Endpoint>().unwrap().to_string(),
            "vpn.example.com:1"
        );
    }

    #[test]
    fn what_people_write_gets_a_remedy_that_fits() {
        let cases = [
            ("", "is empty"),
            ("https://vpn.example.com:51820", "has the scheme \"https://\""),
            ("udp://vpn.example.com:51820", "has the scheme \"udp://\""),
            ("vpn.example.com:51820/udp", "has \"/udp\", which is no part"),
            ("vpn.example.com/wg:51820", "has \"/wg:51820\", which is no part"),
            ("me@vpn.example.com:51820", "has \"me@\", which is no part"),
            ("203.0.113.12: 51820", "has a space in it"),
            ("vpn.example.com", "has no port"),
            ("192.0.2.1", "has no port"),
            ("[2001:db8::1]", "has no port"),
            (
                "2001:db8::1",
                "without brackets; write it like [2001:db8::1]:51820",
            ),
            ("2001:db8::7:51820", "without brackets"),
            ("[203.0.113.12]:51820", "brackets around 203.0.113.12"),
            ("[vpn.example.com]:51820", "brackets around vpn.example.com"),
            ("[a::b::c]:51820", "neither an IP address nor a DNS name"),
            ("a:0", "has the port \"0\""),
            ("a:65536", "from 1 to 65535"),
            ("a:", "has the port \"\""),
            ("a:+1", "has the port \"+1\""),
            ("203.0.113.12:051820", "without leading zeros"),
            ("010.0.0.1:51820", "is no IPv4 address"),
            ("256.1.1.1:1", "is no IPv4 address"),
            ("1.2.3:1", "is no IPv4 address"),
            ("my_host.dyn.example.net:51820", "'_'; host names have none"),
            ("bücher.example:51820", "write the name in ASCII"),
            ("-a:1", "neither an IP address nor a DNS name"),
            ("a..b:1", "neither an IP address nor a DNS name"),
            (":1", "neither an IP address nor a DNS name"),
            ("[fe80::1%eth0]:51820", "has the zone \"eth0\""),
            ("[fe80::1]:51820", "at which no other host can be reached"),
            ("169.254.7.7:51820", "at which no other host can be reached"),
            ("[::ffff:203.0.113.12]:51820", "write 203.0.113.12:51820"),
            ("0.0.0.0:51820", "at which no other host can be reached"),
            ("[::]:1", "at which no other host can be reached"),
            ("127.0.0.1:1", "at which no other host can be reached"),
            ("224.0.0.1:1", "at which no other host can be reached"),
            ("localhost:51820", "every machine is to itself"),
        ];
        for (text, remedy) in cases {
            let problem = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(problem.contains(remedy), "{text}: {problem}");
        }
    }

    #[test]
    fn spaces_around_it_do_not_count() {
        let endpoint = " 203.0.113.12:51820 ".parse::<Endpoint>().unwrap();
        assert_eq!(endpoint.to_string(), "203.0.113.12:51820");
        let name = "xn--bcher-kva.example:51820".parse::<Endpoint>().unwrap();
        assert_eq!(name.to_string(), "xn--bcher-kva.example:51820");
    }

    #[test]
    fn names_and_addresses_of_the_internet_are_public() {
        for text in [
            "vpn.example.com:1",
            "198.51.100.1:1",
            "[2001:db8::1]:1",
            "172.32.0.1:1",
        ] {
            assert!(text.parse::<Endpoint>().unwrap().is_public(), "{text}");
        }
        let addresses = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.3.11",
            "100.64.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "0.0.0.0",
            "fd00::1",
            "fe80::1",
            "::1",
            "::",
            "::ffff:192.168.3.11",
            "224.0.0.1",
        ];
        for text in addresses {
            let host = EndpointHost::Address(text.parse().unwrap());
            assert!(!Endpoint { host, port: 1 }.is_public(), "{text}");
        }
    }
}
