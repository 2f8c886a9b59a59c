//! The table's sets of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use spanwire_topology::{Family, Prefix};

/// First and last address of a range, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    pub(super) family: Family,
    pub(super) first: u128,
    pub(super) last: u128,
}

impl AddressRange {
    /// Returns the range from one address to before another one, or to the last address there is; `None` where they are not of one
    /// family, or there is none between them.
    #[must_use]
    pub fn between(first: IpAddr, after: Option<IpAddr>) -> Option<Self> {
        let host = |address| Prefix::new(address, if matches!(address, IpAddr::V4(_)) { 32 } else { 128 });
        let first = Self::from(host(first).ok()?);
        let last = match after {
            Some(after) => {
                let after = Self::from(host(after).ok()?);
                (after.family == first.family).then(|| after.first.checked_sub(1))??
            }
            None => highest(first.family),
        };
        (first.first <= last).then_some(Self { last, ..first })
    }

    /// Returns the family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns the first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.address(self.first)
    }

    /// Returns the address after the last; `None` where there is none.
    #[must_use]
    pub fn after(&self) -> Option<IpAddr> {
        (self.last < highest(self.family)).then(|| self.address(self.last + 1))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => {
                let number = u32::try_from(number).expect("the numbers of an IPv4 range have 32 bits");
                IpAddr::V4(Ipv4Addr::from(number))
            }
            Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    /// Returns the range as a prefix, where it is one.
    fn prefix(&self) -> Option<Prefix> {
        let differing = 128 - (self.first ^ self.last).leading_zeros();
        let length = u32::from(self.family.bits()).checked_sub(differing)?;
        let prefix = Prefix::new(self.first(), u8::try_from(length).ok()?).ok()?;
        (Self::from(prefix) == *self).then_some(prefix)
    }
}

fn highest(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

impl From<Prefix> for AddressRange {
    fn from(prefix: Prefix) -> Self {
        let (first, bits) = match prefix.address() {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let host_bits = bits - u32::from(prefix.length());
        let span = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        Self {
            family: prefix.family(),
            first,
            last: first | span,
        }
    }
}

/// As nft writes elements of interval sets.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(prefix) if prefix.is_host() => write!(f, "{}", prefix.address()),
            Some(prefix) => write!(f, "{prefix}"),
            None => write!(f, "{}-{}", self.address(self.first), self.address(self.last)),
        }
    }
}

/// A set of addresses of one family, in a table of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftSet {
    name: String,
    family: Family,
    ranges: Arc<[AddressRange]>,
}

impl NftSet {
    /// Returns the set of the addresses in some ranges of its family, which are in order and do not overlap.
    #[must_use]
    pub fn new(name: String, family: Family, ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        let mut merged: Vec<AddressRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(before) if before.last.checked_add(1) == Some(range.first) => before.last = range.last,
                _ => merged.push(range),
            }
        }
        let ranges = merged.into();
        Self { name, family, ranges }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns its addresses in ranges, in order, of which no two touch: a set of these addresses has no others.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        &self.ranges
    }
}

/// As nft writes a set within a table.
impl fmt::Display for NftSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let name = &self.name;
        write!(f, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n")?;
        let mut before = "\t\telements = {\n\t\t\t";
        for range in self.ranges.iter() {
            write!(f, "{before}{range}")?;
            before = ",\n\t\t\t";
        }
        if !self.ranges.is_empty() {
            f.write_str("\n\t\t}\n")?;
        }
        f.write_str("\t}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(family: Family, prefixes: &[&str]) -> NftSet {
        let ranges = prefixes.iter().map(|text| text.parse::<Prefix>().unwrap().into());
        NftSet::new("s".to_owned(), family, ranges)
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let prefixes = [
            "10.0.0.0/9",
            "10.128.0.0/9",
            "12.0.0.0/32",
            "12.0.0.2/31",
            "255.255.255.255/32",
        ];
        let set = set(Family::V4, &prefixes);
        let texts: Vec<String> = set.ranges().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["10.0.0.0/8", "12.0.0.0", "12.0.0.2/31", "255.255.255.255"]
        );
        let after: Vec<_> = set.ranges().iter().map(AddressRange::after).collect();
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            after,
            [
                address("11.0.0.0"),
                address("12.0.0.1"),
                address("12.0.0.4"),
                None
            ]
        );
    }

    #[test]
    fn a_range_is_made_of_its_bounds() {
        let between = |first: &str, after: Option<&str>| {
            let after = after.map(|after| after.parse().unwrap());
            AddressRange::between(first.parse().unwrap(), after).map(|range| range.to_string())
        };
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(between("10.0.0.0", Some("11.0.0.0")), is("10.0.0.0/8"));
        assert_eq!(between("10.0.0.1", Some("10.0.0.2")), is("10.0.0.1"));
        assert_eq!(between("128.0.0.0", None), is("128.0.0.0/1"));
        assert_eq!(between("::", None), is("::/0"));
        assert_eq!(between("::1", Some("::4")), is("::1-::3"));
        for (first, after) in [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::1"), ("::1", "::")] {
            assert_eq!(between(first, Some(after)), None, "{first} to {after}");
        }
    }

    #[test]
    fn the_last_address_of_all_ends_a_range() {
        let set = set(Family::V6, &["::/0"]);
        assert_eq!(
            (set.ranges()[0].first(), set.ranges()[0].after()),
            ("::".parse().unwrap(), None)
        );
    }
}
