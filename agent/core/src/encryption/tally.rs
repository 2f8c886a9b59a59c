//! What was counted.

use std::{collections::BTreeMap, fmt::Write as _};

use spanwire_topology::LocationName;

use super::{
    Frame, Kind, Plaintext,
    packet::{ICMP, ICMPV6, TCP, UDP},
};

/// Packets, as the kernel hands them to a device or gets them from it: many of one stream may be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub packets: u64,
    /// How many bytes in all, with their headers.
    pub bytes: u64,
}

/// What went from one location to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// In WireGuard.
    pub wireguard: Amount,
    /// In plaintext.
    pub plaintext: Amount,
    /// The first packet in plaintext.
    pub sample: Option<String>,
}

/// What was counted on the devices of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From which location to which.
    pub pairs: BTreeMap<(LocationName, LocationName), Count>,
    /// In WireGuard, with Peers or with leaders whose endpoint is not known.
    pub others: Amount,
    /// Packets that are cut off before they say what they are.
    pub unreadable: u64,
}

impl Amount {
    fn add(&mut self, length: u64) {
        self.packets += 1;
        self.bytes += length;
    }
}

impl Tally {
    /// Counts a packet, of which a node of `here` found on a device what it is.
    pub fn count(&mut self, here: &LocationName, kind: Kind<'_>, frame: &Frame<'_>, device: &str) {
        let length = frame.length();
        match kind {
            Kind::Wireguard(Some(there)) => {
                let pair = if frame.outgoing {
                    (here.clone(), there.clone())
                } else {
                    (there.clone(), here.clone())
                };
                self.pairs.entry(pair).or_default().wireguard.add(length);
            }
            Kind::Wireguard(None) => self.others.add(length),
            Kind::Plaintext(found) => {
                let [from, to] = found.between.map(Clone::clone);
                let count = self.pairs.entry((from, to)).or_default();
                count.plaintext.add(length);
                count
                    .sample
                    .get_or_insert_with(|| described(&found, device, frame.outgoing));
            }
            Kind::Unreadable => self.unreadable += 1,
            Kind::Other => {}
        }
    }
}

fn described(found: &Plaintext<'_>, device: &str, outgoing: bool) -> String {
    let [source, destination] = found.addresses;
    let mut text = format!("{source} to {destination}");
    match found.protocol {
        Some(TCP) => text += ", TCP",
        Some(UDP) => text += ", UDP",
        Some(ICMP | ICMPV6) => text += ", ICMP",
        // Writing to a String fails for no text.
        Some(other) => drop(write!(text, ", protocol {other}")),
        None => {}
    }
    if let Some(wrapped) = found.wrapped {
        text += " in ";
        text += wrapped;
    }
    text += if outgoing { ", sent by " } else { ", received by " };
    text + device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_is_counted_for_itself_and_the_first_plaintext_is_described() {
        let (a, b): (LocationName, LocationName) = ("a".parse().unwrap(), "b".parse().unwrap());
        // As the header says it, though fewer bytes are there.
        let packet = |length: u8| [&[0x45, 0, 0, length][..], &[0; 16]].concat();
        let plain = |last: u8| {
            Kind::Plaintext(Plaintext {
                between: [&a, &b],
                addresses: [[10, 244, 1, last].into(), [10, 244, 3, 7].into()],
                protocol: Some(TCP),
                wrapped: Some("VXLAN"),
            })
        };
        let mut tally = Tally::default();
        for (kind, outgoing, length) in [
            (Kind::Wireguard(Some(&b)), true, 100),
            (Kind::Wireguard(Some(&b)), true, 50),
            (Kind::Wireguard(Some(&b)), false, 60),
            (Kind::Wireguard(None), false, 7),
            (plain(5), true, 90),
            (plain(6), true, 90),
            (Kind::Unreadable, false, 1),
            (Kind::Other, false, 1),
        ] {
            let frame = Frame {
                bytes: &packet(length),
                ethernet: false,
                outgoing,
            };
            tally.count(&a, kind, &frame, "eth0");
        }
        let amount = |packets, bytes| Amount { packets, bytes };
        let out = &tally.pairs[&(a.clone(), b.clone())];
        assert_eq!((out.wireguard, out.plaintext), (amount(2, 150), amount(2, 180)));
        assert_eq!(
            out.sample.as_deref(),
            Some("10.244.1.5 to 10.244.3.7, TCP in VXLAN, sent by eth0")
        );
        assert_eq!(tally.pairs[&(b, a)].wireguard, amount(1, 60));
        assert_eq!((tally.others, tally.unreadable), (amount(1, 7), 1));
    }
}
