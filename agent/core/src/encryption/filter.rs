//! What the kernel is to hand up, as a program of the classic BPF (the kernel's Documentation/networking/filter.rst): a little more
//! than what counts, since it knows addresses by some ranges alone. What the internet is sent is dropped before it is copied.
//!
//! Packets are read from their IP header on, wherever in the frame that is (`SKF_NET_OFF`).

use std::{collections::BTreeSet, net::IpAddr};

use spanwire_topology::{Family, Prefix};

use super::packet::{AUTHENTICATION, FRAGMENT, GENEVE, HOP_BY_HOP, IPV4, IPV6, OPTIONS, ROUTING, UDP};

/// The fields of `struct sock_filter`: what to do, how far to go on where it is so and where it is not, and the operand.
pub type Instruction = (u16, u8, u8, u32);

/// So many bytes of a packet are handed up: more than all headers that are looked at.
pub const LENGTH: u32 = 512;

/// More ranges are joined, so that the program and its jumps stay short.
const RANGES: usize = 24;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_FROM_X: u16 = 0x48;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SHIFT_RIGHT: u16 = 0x74;
const TO_X: u16 = 0x07;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `SKF_NET_OFF`: offsets count from the IP header.
const NETWORK: u32 = 0xfff0_0000;

const TAKE: Instruction = (RETURN, 0, 0, LENGTH);
const LEAVE: Instruction = (RETURN, 0, 0, 0);

/// A part of all packets; each is in one of the two at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Those to and from the UDP port of this node's WireGuard.
    Wireguard,
    /// The others that may count.
    Rest,
}

/// First and last of what is let through, of the first 32 bits of an address.
type Range = (u32, u32);

/// Returns the program that lets a part through, of a node whose WireGuard has this port and on which VXLAN has these, in a mesh that
/// has these prefixes.
pub(super) fn filter(
    part: Part,
    port: Option<u16>,
    vxlans: &[u16],
    prefixes: impl Fn(Family) -> Vec<Prefix>,
) -> Vec<Instruction> {
    let block = |family| match part {
        Part::Wireguard => wireguard(family, port),
        Part::Rest => rest(family, port, vxlans, &ranges(prefixes(family))),
    };
    let (v4, v6) = (block(Family::V4), block(Family::V6));
    let over_v4 = u32::try_from(v4.len() + 2).unwrap_or(u32::MAX);
    let version = [
        (LOAD_BYTE, 0, 0, NETWORK),
        (SHIFT_RIGHT, 0, 0, 4),
        (JUMP_EQUAL, 0, 1, 6),
        (JUMP, 0, 0, over_v4),
        (JUMP_EQUAL, 1, 0, 4),
        LEAVE,
    ];
    [&version[..], &v4, &v6].concat()
}

fn wireguard(family: Family, port: Option<u16>) -> Vec<Instruction> {
    let Some(port) = port else {
        return vec![LEAVE];
    };
    let mut program = vec![load_protocol(family)];
    program.extend(unless(UDP.into(), &[LEAVE]));
    program.extend(to_ports(family));
    for end in [0, 2] {
        program.push(load_port(family, end));
        program.extend(when(port.into(), TAKE));
    }
    program.push(LEAVE);
    program
}

fn rest(family: Family, port: Option<u16>, vxlans: &[u16], ranges: &[Range]) -> Vec<Instruction> {
    let mut program = vec![load_protocol(family)];
    let wrapping: &[u8] = match family {
        Family::V4 => &[IPV4, IPV6],
        // What comes behind these headers is looked at by whom it is handed to.
        Family::V6 => &[IPV4, IPV6, HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS],
    };
    for protocol in wrapping {
        program.extend(when(u32::from(*protocol), TAKE));
    }
    let mut udp = to_ports(family);
    for end in [0, 2] {
        udp.push(load_port(family, end));
        udp.extend(port.into_iter().flat_map(|port| when(port.into(), LEAVE)));
    }
    for port in vxlans.iter().chain([&GENEVE]) {
        udp.extend(when(u32::from(*port), TAKE));
    }
    program.push((JUMP_EQUAL, 0, short(udp.len()), UDP.into()));
    program.extend(udp);
    let addresses = match family {
        Family::V4 => [12, 16],
        Family::V6 => [8, 24],
    };
    for at in addresses {
        program.push((LOAD_WORD, 0, 0, NETWORK + at));
        program.extend(within(ranges));
    }
    program.push(TAKE);
    program
}

fn load_protocol(family: Family) -> Instruction {
    let at = match family {
        Family::V4 => 9,
        Family::V6 => 6,
    };
    (LOAD_BYTE, 0, 0, NETWORK + at)
}

/// Leaves fragments without ports, and remembers how long the header is.
fn to_ports(family: Family) -> Vec<Instruction> {
    match family {
        Family::V4 => vec![
            (LOAD_HALF, 0, 0, NETWORK + 6),
            (JUMP_SET, 0, 1, 0x1fff),
            LEAVE,
            (LOAD_BYTE, 0, 0, NETWORK),
            (AND, 0, 0, 0xf),
            (SHIFT_LEFT, 0, 0, 2),
            (TO_X, 0, 0, 0),
        ],
        Family::V6 => Vec::new(),
    }
}

fn load_port(family: Family, end: u32) -> Instruction {
    match family {
        Family::V4 => (LOAD_HALF_FROM_X, 0, 0, NETWORK + end),
        Family::V6 => (LOAD_HALF, 0, 0, NETWORK + 40 + end),
    }
}

fn when(value: u32, then: Instruction) -> [Instruction; 2] {
    [(JUMP_EQUAL, 0, 1, value), then]
}

fn unless(value: u32, then: &[Instruction]) -> Vec<Instruction> {
    let mut program = vec![(JUMP_EQUAL, short(then.len()), 0, value)];
    program.extend(then);
    program
}

/// Goes on where what was loaded is in a range, and leaves the packet otherwise.
fn within(ranges: &[Range]) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (index, (first, last)) in ranges.iter().enumerate() {
        let behind = 2 * (ranges.len() - 1 - index) + 1;
        program.push((JUMP_AT_LEAST, 0, 1, *first));
        program.push((JUMP_GREATER, 0, short(behind), *last));
    }
    program.push(LEAVE);
    program
}

/// There are no longer jumps: of at most [`RANGES`] ranges.
fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

/// Returns ranges that have these prefixes, and what is between some of them.
fn ranges(prefixes: Vec<Prefix>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for (first, last) in prefixes.iter().map(range) {
        match ranges.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => ranges.push((first, last)),
        }
    }
    let gaps = ranges.windows(2).map(|pair| pair[1].0 - pair[0].1);
    let mut widest: Vec<(u32, usize)> = gaps.zip(1..).collect();
    widest.sort_unstable_by(|one, other| other.cmp(one));
    let starts: BTreeSet<usize> = widest.iter().take(RANGES - 1).map(|(_, at)| *at).collect();
    let mut joined: Vec<Range> = Vec::new();
    for (at, (first, last)) in ranges.into_iter().enumerate() {
        match joined.last_mut().filter(|_| !starts.contains(&at)) {
            Some(before) => before.1 = last,
            None => joined.push((first, last)),
        }
    }
    joined
}

fn range(prefix: &Prefix) -> Range {
    let first = match prefix.address() {
        IpAddr::V4(address) => u32::from(address),
        IpAddr::V6(address) => (u128::from(address) >> 96) as u32,
    };
    let rest = u32::MAX.checked_shr(prefix.length().into()).unwrap_or_default();
    (first, first | rest)
}

#[cfg(test)]
pub(super) mod interpreter {
    use super::*;

    /// Runs a program on a packet that begins with its IP header, as the kernel does; what is not there ends it.
    pub(crate) fn takes(program: &[Instruction], packet: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        loop {
            let (code, so, not, k) = program[at];
            at += 1;
            let offset = match code {
                LOAD_HALF_FROM_X => x.wrapping_add(k),
                _ => k,
            };
            let mut load = |size: usize| {
                let start = usize::try_from(offset.wrapping_sub(NETWORK)).unwrap();
                let bytes = packet.get(start..start + size)?;
                a = bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
                Some(())
            };
            let mut jump = |is_so: bool| at += usize::from(if is_so { so } else { not });
            match code {
                LOAD_BYTE if load(1).is_none() => return false,
                LOAD_HALF | LOAD_HALF_FROM_X if load(2).is_none() => return false,
                LOAD_WORD if load(4).is_none() => return false,
                LOAD_BYTE | LOAD_HALF | LOAD_HALF_FROM_X | LOAD_WORD => {}
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
                SHIFT_RIGHT => a >>= k,
                TO_X => x = a,
                JUMP => at += usize::try_from(k).unwrap(),
                JUMP_EQUAL => jump(a == k),
                JUMP_GREATER => jump(a > k),
                JUMP_AT_LEAST => jump(a >= k),
                JUMP_SET => jump(a & k != 0),
                RETURN => return k > 0,
                _ => panic!("{code:#x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ranges_than_fit_are_joined_where_little_lies_between() {
        let prefixes = (0..100).map(|index: u8| {
            let third = index % 50;
            Prefix::new([10 + index / 50, 0, third * 2, 0].into(), 24).unwrap()
        });
        let joined = ranges(prefixes.collect());
        assert_eq!(joined.len(), RANGES);
        let in_order = |pair: &[Range]| pair[0].0 <= pair[0].1 && pair[0].1 < pair[1].0;
        assert!(joined.windows(2).all(in_order), "{joined:x?}");
        let has = |address: u32| {
            joined
                .iter()
                .any(|(first, last)| (first..=last).contains(&&address))
        };
        assert!(has(0x0a00_0000) && has(0x0a00_62ff) && has(0x0b00_6201));
        assert!(!has(0x0aff_0000), "the widest gap: {joined:x?}");
    }

    #[test]
    fn of_ipv6_the_first_word_counts() {
        let prefixes = ["fd00:1::/64", "fd00:1:2::/48", "fd00:3::1/128", "fe00::/7"];
        let prefixes = prefixes.map(|text| text.parse().unwrap());
        let found = [
            (0xfd00_0001, 0xfd00_0001),
            (0xfd00_0003, 0xfd00_0003),
            (0xfe00_0000, 0xffff_ffff),
        ];
        assert_eq!(ranges(prefixes.into()), found);
    }
}
