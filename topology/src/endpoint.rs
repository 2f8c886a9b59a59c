//! Where a WireGuard party is reached from outside: a host and a UDP port.

use std::{fmt, net::IpAddr, str::FromStr};

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

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// No `:port` at the end.
    #[error(
        "has no port; write host:port, like 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.com:51820"
    )]
    NoPort,
    /// The port is no number from 1 to 65535.
    #[error("has the port {0:?}; write a number from 1 to 65535")]
    Port(String),
    /// Neither an address nor a DNS name.
    #[error("has the host {0:?}, which is neither an IP address nor a DNS name")]
    Host(String),
    /// An address at which no other host can be reached.
    #[error("has the address {0}, at which no other host can be reached")]
    Unusable(IpAddr),
}

impl Endpoint {
    /// Returns whether any machine in the internet could reach it: a name, or an address that is not private, shared,
    /// link-local or of the host itself.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match &self.host {
            EndpointHost::Name(_) => true,
            EndpointHost::Address(address) => {
                let address = address.to_canonical();
                let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
                !special && !Prefix::host(address).is_private()
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(EndpointError::NoPort);
        }
        let port = match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => number,
            _ => return Err(EndpointError::Port(port.to_owned())),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match bare {
            Some(v6) => Some(IpAddr::V6(
                v6.parse().map_err(|_| EndpointError::Host(host.to_owned()))?,
            )),
            None => host.parse().ok(),
        };
        let host = match address {
            Some(address) if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
                return Err(EndpointError::Unusable(address));
            }
            Some(address) => EndpointHost::Address(address),
            None => EndpointHost::Name(dns_name(host).ok_or_else(|| EndpointError::Host(host.to_owned()))?),
        };
        Ok(Self { host, port })
    }
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
    fn bad_texts_say_what_is_wrong() {
        for text in ["192.0.2.1", "vpn.example.com", "2001:db8::1", "2001:db8::1:51820"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::NoPort), "{text}");
        }
        for text in ["a:0", "a:65536", "a:", "a:x", "a:+1"] {
            assert!(
                matches!(text.parse::<Endpoint>(), Err(EndpointError::Port(_))),
                "{text}"
            );
        }
        for text in [":1", "a_b:1", "-a:1", "[a]:1", "1.2.3:1", "256.1.1.1:1", "a..b:1"] {
            assert!(
                matches!(text.parse::<Endpoint>(), Err(EndpointError::Host(_))),
                "{text}"
            );
        }
        for text in ["0.0.0.0:1", "[::]:1", "127.0.0.1:1", "224.0.0.1:1"] {
            assert!(
                matches!(text.parse::<Endpoint>(), Err(EndpointError::Unusable(_))),
                "{text}"
            );
        }
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
