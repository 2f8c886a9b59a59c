//! One `key=value` of a `set`.

use std::net::{SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;

use crate::{
    group::Group,
    key::{PresharedKey, PrivateKey, PublicKey},
    prefix::Prefix,
    uapi::{UapiError, UnknownKey},
};

/// What a line before the first peer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeviceLine {
    PrivateKey(Option<PrivateKey>),
    ListenPort(u16),
    Fwmark(u32),
    ReplacePeers,
    Eager(bool),
}

/// What a line of a peer's section says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerLine {
    UpdateOnly,
    Remove,
    PresharedKey(Option<PresharedKey>),
    Endpoint(SocketAddr),
    Keepalive(u16),
    ReplaceAllowedIps,
    Allow(Prefix),
    Disallow(Prefix),
    Group(Option<Group>),
    ProtocolVersion,
}

impl DeviceLine {
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, UapiError> {
        match key {
            "private_key" => PrivateKey::parse(value)
                .ok()
                .map(Self::PrivateKey)
                .ok_or_else(invalid("private_key")),
            "listen_port" => number(value)
                .map(Self::ListenPort)
                .ok_or_else(invalid("listen_port")),
            "fwmark" => number(value).map(Self::Fwmark).ok_or_else(invalid("fwmark")),
            "replace_peers" => {
                exactly("true", value, Self::ReplacePeers).ok_or_else(invalid("replace_peers"))
            }
            "eager" => match value {
                "true" => Ok(Self::Eager(true)),
                "false" => Ok(Self::Eager(false)),
                _ => Err(invalid("eager")()),
            },
            _ => Err(UapiError::UnknownKey {
                key: UnknownKey::new(key),
            }),
        }
    }
}

impl PeerLine {
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, UapiError> {
        match key {
            "update_only" => exactly("true", value, Self::UpdateOnly).ok_or_else(invalid("update_only")),
            "remove" => exactly("true", value, Self::Remove).ok_or_else(invalid("remove")),
            "preshared_key" => PresharedKey::parse(value)
                .ok()
                .map(Self::PresharedKey)
                .ok_or_else(invalid("preshared_key")),
            "endpoint" => endpoint(value).map(Self::Endpoint),
            "persistent_keepalive_interval" => number(value)
                .map(Self::Keepalive)
                .ok_or_else(invalid("persistent_keepalive_interval")),
            "replace_allowed_ips" => {
                exactly("true", value, Self::ReplaceAllowedIps).ok_or_else(invalid("replace_allowed_ips"))
            }
            "allowed_ip" => match value.strip_prefix('-') {
                Some(value) => value.parse().ok().map(Self::Disallow),
                None => value.parse().ok().map(Self::Allow),
            }
            .ok_or_else(invalid("allowed_ip")),
            "group" => match value {
                "" => Some(Self::Group(None)),
                name => name.parse().ok().map(|group| Self::Group(Some(group))),
            }
            .ok_or_else(invalid("group")),
            "protocol_version" => {
                exactly("1", value, Self::ProtocolVersion).ok_or_else(invalid("protocol_version"))
            }
            _ => Err(UapiError::UnknownKey {
                key: UnknownKey::new(key),
            }),
        }
    }
}

/// Parses the value of `public_key`, which begins a peer's section.
pub(crate) fn public_key(value: &str) -> Result<PublicKey, UapiError> {
    value.parse().map_err(|_| invalid("public_key")())
}

fn invalid(key: &'static str) -> impl Fn() -> UapiError {
    move || UapiError::InvalidValue { key }
}

fn exactly<T>(wanted: &str, value: &str, meaning: T) -> Option<T> {
    (value == wanted).then_some(meaning)
}

/// Digits and nothing else: Rust's own parsing takes a sign, too.
pub(crate) fn number<T: std::str::FromStr>(value: &str) -> Option<T> {
    value
        .parse()
        .ok()
        .filter(|_| value.bytes().all(|c| c.is_ascii_digit()))
}

/// Parses `1.2.3.4:5`, `[fd00::1]:5`, or `[fe80::1%eth0]:5` with a device's name or number.
pub(crate) fn endpoint(value: &str) -> Result<SocketAddr, UapiError> {
    parse_endpoint(value).ok_or_else(invalid("endpoint"))
}

fn parse_endpoint(value: &str) -> Option<SocketAddr> {
    let zone = value
        .split_once('%')
        .and_then(|(addr, rest)| Some((addr, rest.split_once("]:")?)));
    let Some((addr, (zone, port))) = zone else {
        let plain: SocketAddr = value.parse().ok()?;
        // An IPv4 address in IPv6 clothes: the IPv6 socket does not send there.
        return Some(SocketAddr::new(plain.ip().to_canonical(), plain.port()));
    };
    let addr = addr.strip_prefix('[')?.parse().ok()?;
    let scope = number(zone).or_else(|| if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(addr, number(port)?, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(parsed: Result<impl std::fmt::Debug, UapiError>) -> i32 {
        parsed.expect_err("should be refused").errno()
    }

    #[test]
    fn every_key_of_a_device_is_understood() {
        let key = "01".repeat(32);
        assert!(matches!(
            DeviceLine::parse("private_key", &key),
            Ok(DeviceLine::PrivateKey(Some(_)))
        ));
        assert_eq!(
            DeviceLine::parse("listen_port", "51820").unwrap(),
            DeviceLine::ListenPort(51820)
        );
        assert_eq!(
            DeviceLine::parse("fwmark", "8192").unwrap(),
            DeviceLine::Fwmark(8192)
        );
        assert_eq!(
            DeviceLine::parse("replace_peers", "true").unwrap(),
            DeviceLine::ReplacePeers
        );
        for (value, eager) in [("true", true), ("false", false)] {
            assert_eq!(
                DeviceLine::parse("eager", value).unwrap(),
                DeviceLine::Eager(eager)
            );
        }
    }

    #[test]
    fn every_key_of_a_peer_is_understood() {
        let prefix = |text: &str| text.parse().unwrap();
        for (key, value, want) in [
            ("update_only", "true", PeerLine::UpdateOnly),
            ("remove", "true", PeerLine::Remove),
            ("preshared_key", &"0".repeat(64), PeerLine::PresharedKey(None)),
            (
                "endpoint",
                "192.0.2.1:5",
                PeerLine::Endpoint("192.0.2.1:5".parse().unwrap()),
            ),
            (
                "endpoint",
                "[::ffff:192.0.2.1]:5",
                PeerLine::Endpoint("192.0.2.1:5".parse().unwrap()),
            ),
            (
                "endpoint",
                "[2001:db8::1]:5",
                PeerLine::Endpoint("[2001:db8::1]:5".parse().unwrap()),
            ),
            (
                "endpoint",
                "[fe80::1%1]:5",
                PeerLine::Endpoint("[fe80::1%1]:5".parse().unwrap()),
            ),
            (
                "endpoint",
                "[fe80::1%lo]:5",
                PeerLine::Endpoint("[fe80::1%1]:5".parse().unwrap()),
            ),
            ("persistent_keepalive_interval", "25", PeerLine::Keepalive(25)),
            ("replace_allowed_ips", "true", PeerLine::ReplaceAllowedIps),
            ("allowed_ip", "10.0.0.0/8", PeerLine::Allow(prefix("10.0.0.0/8"))),
            ("allowed_ip", "-fd00::/8", PeerLine::Disallow(prefix("fd00::/8"))),
            ("group", "paris", PeerLine::Group("paris".parse().ok())),
            ("group", "", PeerLine::Group(None)),
            ("protocol_version", "1", PeerLine::ProtocolVersion),
        ] {
            assert_eq!(PeerLine::parse(key, value).unwrap(), want, "{key}={value}");
        }
    }

    #[test]
    fn wrong_keys_and_values_are_invalid() {
        for (key, value) in [
            ("private_key", "00"),
            ("listen_port", "65536"),
            ("listen_port", "+1"),
            ("listen_port", ""),
            ("fwmark", "0x10"),
            ("replace_peers", "false"),
            ("eager", "1"),
            ("eager", ""),
            ("endpoint", "192.0.2.1:5"),
        ] {
            assert_eq!(errno(DeviceLine::parse(key, value)), -22, "{key}={value}");
        }
        for (key, value) in [
            ("update_only", "1"),
            ("remove", ""),
            ("preshared_key", "00"),
            ("endpoint", "192.0.2.1"),
            ("endpoint", "example.com:1"),
            ("endpoint", "[fe80::1%no-such-device]:5"),
            ("endpoint", "%]:"),
            ("persistent_keepalive_interval", "-1"),
            ("replace_allowed_ips", "yes"),
            ("allowed_ip", "10.0.0.0"),
            ("allowed_ip", "--10.0.0.0/8"),
            ("group", "a b"),
            ("group", &"x".repeat(254)),
            ("protocol_version", "2"),
            ("listen_port", "1"),
        ] {
            assert_eq!(errno(PeerLine::parse(key, value)), -22, "{key}={value}");
        }
    }
}
