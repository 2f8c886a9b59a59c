//! What a packet carries above IP.

use std::{fmt, str::FromStr};

use spanwire_topology::Family;

/// A protocol above IP that packets are asked about with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An echo request of ICMP or ICMPv6, or its answer.
    Icmp,
}

/// What one packet carries above IP, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transport {
    /// The protocol.
    pub protocol: Protocol,
    /// The port that it comes from.
    pub source_port: Option<u16>,
    /// The port that it goes to.
    pub destination_port: Option<u16>,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// Returns its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// Returns its number in the packets of a family (protocols(5)).
    #[must_use]
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
        }
    }

    /// Whether its packets have ports.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.name() == text);
        found.ok_or_else(|| format!("{text} is none of tcp, udp, icmp"))
    }
}

/// A packet of which the ports are not known.
impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        Self {
            protocol,
            source_port: None,
            destination_port: None,
        }
    }
}

impl Transport {
    /// Returns what the answer carries.
    #[must_use]
    pub const fn answer(self) -> Self {
        Self {
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// `tcp from port 1 to port 2`, without what is not known.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol.name())?;
        for (word, port) in [("from", self.source_port), ("to", self.destination_port)] {
            if let Some(port) = port {
                write!(f, " {word} port {port}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_from_the_port_that_was_asked() {
        let asked = Transport {
            protocol: "tcp".parse().unwrap(),
            source_port: None,
            destination_port: Some(443),
        };
        assert_eq!(asked.to_string(), "tcp to port 443");
        assert_eq!(asked.answer().to_string(), "tcp from port 443");
        assert!("sctp".parse::<Protocol>().unwrap_err().contains("icmp"));
    }

    #[test]
    fn echo_requests_have_a_number_of_their_own_in_ipv6() {
        let numbers = |family| Protocol::ALL.map(|protocol| protocol.number(family));
        assert_eq!(numbers(Family::V4), [6, 17, 1]);
        assert_eq!(numbers(Family::V6), [6, 17, 58]);
    }
}
