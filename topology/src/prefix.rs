//! IP networks.

use std::{cmp::Ordering, fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use thiserror::Error;

/// IP version 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

impl Family {
    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns how many bits an address of this family has: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// An IP network in canonical form: the host bits are zero (RFC 4632, RFC 4291 section 2.3).
///
/// The order is by family, then address, then length, so a network sorts right before what it contains.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix(IpNetwork);

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Neither an address nor `address/length`.
    #[error("is no IP network; write it like 192.168.10.0/24 or fd00:10::/64")]
    Malformed,
    /// The length is larger than the family's 32 or 128.
    #[error("has the length {0}, which is more than the {1} bits of its family")]
    Length(u8, u8),
    /// Bits are set behind the length.
    #[error("has bits set behind its length; write {0}")]
    HostBits(Prefix),
}

impl Prefix {
    /// Returns the network of `address` with `length` bits; bits behind the length are cleared.
    ///
    /// # Errors
    /// [`PrefixError::Length`] when the length is larger than the family allows.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let bits = Family::of(address).bits();
        let network = IpNetwork::new(address, length).map_err(|_| PrefixError::Length(length, bits))?;
        let canonical = IpNetwork::new(network.network(), length);
        canonical.map(Self).map_err(|_| PrefixError::Length(length, bits))
    }

    /// Returns the network of one address: /32 or /128.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNetwork::from(address))
    }

    /// Returns the first address, with all host bits zero.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.ip()
    }

    /// Returns the number of leading bits that are fixed.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix()
    }

    /// Returns the family of the network.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.address())
    }

    /// Returns whether this is `0.0.0.0/0` or `::/0`.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.length() == 0
    }

    /// Returns whether this is a single address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.length() == self.family().bits()
    }

    /// Returns whether the address lies in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Returns whether every address of `other` lies in this network.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length() <= other.length() && self.contains(other.address())
    }

    /// Returns whether the two networks have an address in common; of two networks that do, one covers the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Returns the first and the last address as numbers, after the family: ranges to compare and sort fast.
    pub(crate) fn range(&self) -> (Family, u128, u128) {
        match self.0 {
            IpNetwork::V4(v4) => {
                let first = u32::from(v4.ip());
                let last = first | u32::MAX.checked_shr(u32::from(v4.prefix())).unwrap_or(0);
                (Family::V4, u128::from(first), u128::from(last))
            }
            IpNetwork::V6(v6) => {
                let first = u128::from(v6.ip());
                let last = first | u128::MAX.checked_shr(u32::from(v6.prefix())).unwrap_or(0);
                (Family::V6, first, last)
            }
        }
    }

    /// Returns each of its addresses in order, as a network of one.
    pub fn hosts(&self) -> impl Iterator<Item = Self> + use<> {
        let (family, first, last) = self.range();
        (first..=last).map_while(move |number| {
            let address = match family {
                Family::V4 => IpAddr::V4(u32::try_from(number).ok()?.into()),
                Family::V6 => IpAddr::V6(number.into()),
            };
            Some(Self::host(address))
        })
    }

    /// Returns whether all of it is private: what no router of the internet has a route to (the IANA special-purpose
    /// registries, "globally reachable: false"), and sites give to their own machines.
    ///
    /// Private are RFC 1918, the shared space of RFC 6598, unique local (RFC 4193) and link-local addresses; and, because
    /// clouds give them to nodes and pods where RFC 1918 is used up, the networks for benchmarks (RFC 2544; IPv6: RFC 5180)
    /// and the class E of IPv4 (RFC 1112). Not private are networks for documentation, site-local addresses (given up by
    /// RFC 3879), and those with addresses that are the same everywhere (192.0.0.0/24, 192.88.99.0/24).
    #[must_use]
    pub fn is_private(&self) -> bool {
        /// Value, mask: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 169.254.0.0/16, 198.18.0.0/15,
        /// 240.0.0.0/4.
        const V4: [(u32, u32); 7] = [
            (0x0a00_0000, 0xff00_0000),
            (0xac10_0000, 0xfff0_0000),
            (0xc0a8_0000, 0xffff_0000),
            (0x6440_0000, 0xffc0_0000),
            (0xa9fe_0000, 0xffff_0000),
            (0xc612_0000, 0xfffe_0000),
            (0xf000_0000, 0xf000_0000),
        ];
        /// The first 48 bits: fc00::/7, fe80::/10, 2001:2::/48.
        const V6: [(u64, u64); 3] = [
            (0xfc00_0000_0000, 0xfe00_0000_0000),
            (0xfe80_0000_0000, 0xffc0_0000_0000),
            (0x2001_0002_0000, 0xffff_ffff_ffff),
        ];
        let length = u32::from(self.length());
        match self.address() {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                let mut ranges = V4.iter();
                let private =
                    ranges.any(|(value, mask)| bits & mask == *value && mask.count_ones() <= length);
                private && !address.is_broadcast()
            }
            IpAddr::V6(address) => {
                let [first, second, third, ..] = address.segments().map(u64::from);
                let bits = first << 32 | second << 16 | third;
                let mut ranges = V6.iter();
                ranges.any(|(value, mask)| bits & mask == *value && mask.count_ones() <= length)
            }
        }
    }

    /// Returns whether it is a large part of all addresses of its family, as `0.0.0.0/1`, which next to `128.0.0.0/1` is a
    /// default route: an IPv4 network of more than a /8, an IPv6 one of more than a /16 outside `fc00::/7`.
    #[must_use]
    pub fn is_vast(&self) -> bool {
        let least = match self.family() {
            Family::V4 => 8,
            Family::V6 => 16,
        };
        self.length() < least && !self.is_private()
    }

    /// Returns the network of this length around this one; itself where it is not longer.
    #[must_use]
    pub fn around(&self, length: u8) -> Self {
        Self::new(self.address(), length.min(self.length())).unwrap_or(*self)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `address/length`, or a bare address as a network of one. Bits behind the length are an error that names
    /// the network that was probably meant.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => {
                let padded = length.len() > 1 && length.starts_with('0');
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && !padded;
                let length = digits.then(|| length.parse::<u8>().ok()).flatten();
                (address, Some(length.ok_or(PrefixError::Malformed)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let prefix = Self::new(address, length.unwrap_or(Family::of(address).bits()))?;
        if prefix.address() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits(prefix))
        }
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.address(), self.length()).cmp(&(other.address(), other.length()))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_bare_address_is_a_network_of_one() {
        assert_eq!(prefix("10.0.0.1"), prefix("10.0.0.1/32"));
        assert_eq!(prefix("fd00::1"), prefix("fd00::1/128"));
    }

    #[test]
    fn the_addresses_of_a_network_come_in_order() {
        let hosts = |text: &str| {
            prefix(text)
                .hosts()
                .map(|host| host.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(hosts("10.0.0.254/31"), ["10.0.0.254/32", "10.0.0.255/32"]);
        assert_eq!(hosts("255.255.255.255/32"), ["255.255.255.255/32"]);
        assert_eq!(hosts("fd00::fe/127"), ["fd00::fe/128", "fd00::ff/128"]);
        assert_eq!(prefix("0.0.0.0/0").hosts().nth(256), Some(prefix("0.0.1.0")));
        let last = prefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(last.hosts().last(), Some(last));
    }

    #[test]
    fn bad_texts_say_what_to_write() {
        assert_eq!(
            "10.0.0.1/24".parse::<Prefix>(),
            Err(PrefixError::HostBits(prefix("10.0.0.0/24")))
        );
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length(33, 32)));
        for bad in [
            "",
            "x",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/999",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "/8",
        ] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError::Malformed), "{bad}");
        }
    }

    #[test]
    fn covering_goes_by_family_and_bits() {
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.1.0.0/16")));
        assert!(!prefix("10.1.0.0/16").covers(&prefix("10.0.0.0/8")));
        assert!(prefix("10.1.0.0/16").overlaps(&prefix("10.0.0.0/8")));
        assert!(!prefix("10.0.0.0/16").overlaps(&prefix("10.1.0.0/16")));
        assert!(!prefix("0.0.0.0/0").overlaps(&prefix("fd00::/8")));
    }

    #[test]
    fn a_range_is_the_first_and_the_last_address() {
        let (family, first, last) = prefix("10.1.0.0/16").range();
        assert_eq!((family, first, last), (Family::V4, 0x0a01_0000, 0x0a01_ffff));
        assert_eq!(prefix("::/0").range(), (Family::V6, 0, u128::MAX));
        assert_eq!(prefix("0.0.0.0/0").range().2, u128::from(u32::MAX));
        assert_eq!(prefix("fd00::7").range().1, prefix("fd00::7").range().2);
    }

    #[test]
    fn private_means_all_of_it() {
        assert!(prefix("192.168.1.0/24").is_private());
        assert!(prefix("fd12::/48").is_private());
        assert!(!prefix("192.0.0.0/8").is_private());
        assert!(!prefix("8.8.8.0/24").is_private());
        for private in [
            "10.0.0.0/8",
            "172.31.255.255",
            "100.127.0.0/16",
            "169.254.0.0/16",
            "198.18.0.0/15",
            "198.19.255.255",
            "240.0.0.0/4",
            "255.255.255.0/24",
            "fc00::/7",
            "fdff::1",
            "febf::/64",
            "2001:2::/48",
            "2001:2::7",
        ] {
            assert!(prefix(private).is_private(), "{private}");
        }
        for public in [
            "10.0.0.0/7",
            "172.32.0.0/16",
            "100.128.0.0/16",
            "172.0.0.0/8",
            "198.16.0.0/14",
            "198.17.255.0/24",
            "198.20.0.0/16",
            "224.0.0.0/3",
            "239.255.0.0/16",
            "255.255.255.255",
            "192.0.0.170",
            "203.0.113.0/24",
            "2001:2::/47",
            "2001:2:1::/48",
            "2001:3::1",
            "fe00::/9",
            "fec0::/10",
            "f800::/5",
            "2001:db8::1",
        ] {
            assert!(!prefix(public).is_private(), "{public}");
        }
    }

    #[test]
    fn halves_and_quarters_of_the_internet_are_vast_and_private_networks_are_not() {
        for vast in [
            "0.0.0.0/0",
            "128.0.0.0/1",
            "64.0.0.0/2",
            "12.0.0.0/7",
            "224.0.0.0/3",
            "::/0",
            "8000::/1",
            "2000::/3",
        ] {
            assert!(prefix(vast).is_vast(), "{vast}");
        }
        for modest in [
            "10.0.0.0/8",
            "11.0.0.0/8",
            "240.0.0.0/4",
            "fc00::/7",
            "fd00::/8",
            "2001::/16",
            "2001:db8::/32",
        ] {
            assert!(!prefix(modest).is_vast(), "{modest}");
        }
    }

    #[test]
    fn a_network_has_larger_ones_around_it() {
        assert_eq!(prefix("10.244.7.0/24").around(16), prefix("10.244.0.0/16"));
        assert_eq!(prefix("10.0.0.0/8").around(16), prefix("10.0.0.0/8"));
    }
}
