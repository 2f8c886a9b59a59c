//! The tables of iptables-legacy, which nf_tables does not have: read as iptables-legacy-save reads them, by the options of a
//! socket (linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h), which needs no program and, unlike that,
//! no raw socket. They announce no changes. Only tables that are there are asked for: to ask makes them.
//!
//! A rule that jumps names the place of the first rule of a chain; in front of that stands one whose target `ERROR` has the
//! chain's name. The numbers of the rules here are their places.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::c_void,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
};

use spanwire_host::{ChainName, Direction, Filter, FilterRule, Match, TableFamily, Unread, Verdict};

use super::{
    extensions::{MATCHES, matched},
    marks,
};
use crate::watched::Hook;

/// The tables that filter.
const TABLES: [&str; 4] = ["raw", "mangle", "filter", "security"];
/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// Length of `struct ipt_getinfo`.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
/// Where the rules begin in `struct ipt_get_entries`.
const ENTRIES: usize = 40;
/// Length of `struct xt_entry_match` and `xt_entry_target` without their data.
const EXTENSION: usize = 32;
/// `IFNAMSIZ`.
const LINK: usize = 16;
/// `IPT_F_GOTO` and `IP6T_F_GOTO`.
const GOTO: (u8, u8) = (0x02, 0x04);

/// How the parts of a rule lie in it, by family.
struct Layout {
    family: TableFamily,
    /// The file in `/proc/net` with the names of its tables.
    names: &'static str,
    level: i32,
    /// Length of an address.
    address: usize,
    /// Where the name of the first device is.
    links: usize,
    protocol: usize,
    flags: usize,
    /// Where the offset of the target is; that of the next rule follows.
    offsets: usize,
    /// Where the matches begin.
    matches: usize,
    goto: u8,
}

/// `struct ipt_entry`.
const V4: Layout = Layout {
    family: TableFamily::Ip,
    names: "ip_tables_names",
    level: nix::libc::SOL_IP,
    address: 4,
    links: 16,
    protocol: 80,
    flags: 82,
    offsets: 88,
    matches: 112,
    goto: GOTO.0,
};

/// `struct ip6t_entry`.
const V6: Layout = Layout {
    family: TableFamily::Ip6,
    names: "ip6_tables_names",
    level: nix::libc::SOL_IPV6,
    address: 16,
    links: 64,
    protocol: 128,
    flags: 131,
    offsets: 140,
    matches: 168,
    goto: GOTO.1,
};

/// Returns the base chains at a hook, with the chains that they lead to, and adds what cannot be read.
pub(crate) fn legacy(hook: Hook, unread: &mut BTreeSet<Unread>) -> Vec<Filter> {
    // That of a thread is of its own namespace.
    legacy_of(Path::new("/proc/thread-self/net"), hook, unread)
}

fn legacy_of(proc: &Path, hook: Hook, unread: &mut BTreeSet<Unread>) -> Vec<Filter> {
    let mut filters = Vec::new();
    for layout in [V4, V6] {
        let family = layout.family;
        let mut fail = |what: String, error: &io::Error| {
            let cause = error.to_string();
            unread.insert(Unread { what, cause });
        };
        let names = match fs::read_to_string(proc.join(layout.names)) {
            Ok(names) => names,
            // Without the modules there are none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                fail(format!("the {family} tables of iptables-legacy"), &error);
                continue;
            }
        };
        for table in TABLES
            .into_iter()
            .filter(|table| names.lines().any(|name| name == *table))
        {
            match read(&layout, table, hook) {
                Ok(filter) => filters.extend(filter),
                Err(error) => fail(
                    format!("the rules of the {family} table {table} of iptables-legacy"),
                    &error,
                ),
            }
        }
    }
    filters
}

fn read(layout: &Layout, table: &str, hook: Hook) -> io::Result<Option<Filter>> {
    let socket = match layout.family {
        TableFamily::Ip6 => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        TableFamily::Ip | TableFamily::Inet | TableFamily::Netdev | TableFamily::Bridge => {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
        }
    };
    let mut info = vec![0; INFO];
    name(table, &mut info);
    option(&socket, layout.level, GET_INFO, &mut info)?;
    let size = word(&info, NAME + 48).unwrap_or_default();
    let mut entries = vec![0; ENTRIES + size as usize];
    name(table, &mut entries);
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    option(&socket, layout.level, GET_ENTRIES, &mut entries)?;
    Ok(parse(layout, table, hook, &info, &entries[ENTRIES..]))
}

fn name(table: &str, bytes: &mut [u8]) {
    for (byte, letter) in bytes.iter_mut().zip(table.bytes()) {
        *byte = letter;
    }
}

#[expect(unsafe_code, reason = "nix has no options of variable length")]
fn option(socket: &UdpSocket, level: i32, option: i32, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes `length` bytes at most, which is how many there are.
    let result = unsafe {
        nix::libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            bytes.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let half = u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
    Some(usize::from(half))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A rule as it lies in the table.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: &'a [u8],
}

/// Whether it stands for the name of a chain, or for the end of all.
fn is_name(entry: &Entry<'_>) -> bool {
    entry
        .target
        .get(2..EXTENSION - 1)
        .is_some_and(|name| text(name) == "ERROR")
}

fn parse(layout: &Layout, table: &str, hook: Hook, info: &[u8], bytes: &[u8]) -> Option<Filter> {
    let hooks = word(info, NAME)?;
    let number = hook as usize;
    if hooks & (1 << number) == 0 {
        return None;
    }
    let first = word(info, NAME + 4 + 4 * number)? as usize;
    let policy = word(info, NAME + 24 + 4 * number)? as usize;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = half(bytes, at + layout.offsets + 2)?;
        let entry = bytes.get(at..at + length)?;
        let target = entry.get(half(entry, layout.offsets)?..)?;
        entries.push(Entry {
            at,
            bytes: entry,
            target,
        });
        at += length.max(1);
    }
    // Chains of users begin behind their names.
    let mut names: BTreeMap<usize, String> = BTreeMap::new();
    for (entry, next) in entries.iter().zip(entries.iter().skip(1)) {
        if is_name(entry) {
            names.insert(next.at, text(entry.target.get(EXTENSION..)?));
        }
    }
    let mut chains: BTreeMap<String, Vec<FilterRule>> = BTreeMap::new();
    let mut drops = false;
    let mut base = Vec::new();
    let mut current: Option<&String> = None;
    for entry in &entries {
        if let Some(name) = names.get(&entry.at) {
            current = Some(name);
        }
        if is_name(entry) {
            continue;
        }
        let rule = rule(layout, entry, &names)?;
        if entry.at == policy {
            drops = rule.verdict == Verdict::Drop;
        } else if (first..policy).contains(&entry.at) {
            base.push(rule);
        } else if let Some(name) = current {
            chains.entry(name.clone()).or_default().push(rule);
        }
    }
    let chain = match hook {
        Hook::Prerouting => "PREROUTING",
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        Hook::Output => "OUTPUT",
        Hook::Postrouting => "POSTROUTING",
        Hook::Ingress | Hook::Egress | Hook::FromPorts | Hook::ToPorts => return None,
    };
    Some(Filter {
        name: ChainName {
            family: layout.family,
            table: table.to_owned(),
            chain: chain.to_owned(),
        },
        is_legacy: true,
        is_locked: false,
        priority: priority(table),
        links: None,
        drops,
        rules: base,
        chains,
    })
}

/// `NF_IP_PRI_RAW`, `NF_IP_PRI_MANGLE`, `NF_IP_PRI_FILTER`, `NF_IP_PRI_SECURITY` of linux/netfilter_ipv4.h.
fn priority(table: &str) -> i32 {
    match table {
        "raw" => -300,
        "mangle" => -150,
        "security" => 50,
        _ => 0,
    }
}

fn rule(layout: &Layout, entry: &Entry<'_>, names: &BTreeMap<usize, String>) -> Option<FilterRule> {
    let mut matches = Vec::new();
    let inverted = *entry.bytes.get(layout.flags + 1)?;
    for (source, bit) in [(true, 0x08), (false, 0x10)] {
        matches.extend(addresses(layout, entry.bytes, source, inverted & bit != 0));
    }
    for (direction, bit) in [(Direction::In, 0x01), (Direction::Out, 0x02)] {
        matches.extend(device(layout, entry.bytes, direction, inverted & bit != 0));
    }
    let protocol = u8::try_from(half(entry.bytes, layout.protocol)?).unwrap_or_default();
    if protocol != 0 {
        // IPT_INV_PROTO, XT_INV_PROTO.
        let not = inverted & 0x40 != 0;
        matches.push(Match::Protocol {
            protocols: vec![protocol],
            not,
        });
    }
    // IPT_INV_FRAG, and IPT_F_FRAG.
    if layout.family == TableFamily::Ip && entry.bytes.get(layout.flags)? & 0x01 != 0 {
        matches.push(Match::Unknown);
    }
    let mut rest = entry
        .bytes
        .get(layout.matches..half(entry.bytes, layout.offsets)?)?;
    while !rest.is_empty() {
        let length = half(rest, 0)?;
        matches.extend(extension(rest.get(..length)?, protocol)?);
        rest = rest.get(length.max(1)..)?;
    }
    // Of targets that are no extensions the name is empty.
    let target = text(entry.target.get(2..EXTENSION - 1)?);
    let revision = u32::from(*entry.target.get(EXTENSION - 1)?);
    let sets = match target.as_str() {
        "" => marks::Setting::default(),
        name => marks::target(name, revision, entry.target.get(EXTENSION..)?),
    };
    matches.extend(sets.condition());
    Some(FilterRule {
        handle: entry.at as u64,
        comment: None,
        own: None,
        matches,
        verdict: verdict(layout, entry, names)?,
        marks: sets.change,
        untracks: (!["CT", "NOTRACK"].contains(&target.as_str())).then_some(false),
    })
}

fn verdict(layout: &Layout, entry: &Entry<'_>, names: &BTreeMap<usize, String>) -> Option<Verdict> {
    let target = text(entry.target.get(2..EXTENSION - 1)?);
    Some(match target.as_str() {
        "" => {
            let number = i32::from_ne_bytes(entry.target.get(EXTENSION..EXTENSION + 4)?.try_into().ok()?);
            match (number, usize::try_from(number)) {
                // -NF_DROP - 1, -NF_ACCEPT - 1, XT_RETURN.
                (-1, _) => Verdict::Drop,
                (-2, _) => Verdict::Accept,
                (-5, _) => Verdict::Return,
                // The next rule, as of a rule without a target.
                (_, Ok(to)) if to == entry.at + entry.bytes.len() => Verdict::Continue,
                (_, Ok(to)) => match names.get(&to) {
                    Some(chain) if entry.bytes.get(layout.flags)? & layout.goto != 0 => {
                        Verdict::Goto(chain.clone())
                    }
                    Some(chain) => Verdict::Jump(chain.clone()),
                    None => Verdict::Unknown,
                },
                (_, Err(_)) => Verdict::Unknown,
            }
        }
        "REJECT" => Verdict::Drop,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CT" | "NOTRACK" => Verdict::Continue,
        _ => Verdict::Unknown,
    })
}

fn addresses(layout: &Layout, bytes: &[u8], source: bool, not: bool) -> Option<Match> {
    let at = if source { 0 } else { layout.address };
    let part = |at: usize| bytes.get(at..at + layout.address);
    let (address, mask) = (part(at)?, part(at + 2 * layout.address)?);
    if mask.iter().all(|byte| *byte == 0) {
        return None;
    }
    let last: Vec<u8> = address
        .iter()
        .zip(mask)
        .map(|(byte, mask)| byte | !mask)
        .collect();
    let first: Vec<u8> = address.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
    // A mask with holes is no range.
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let set: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let mut behind = mask.iter().skip_while(|byte| **byte == u8::MAX).skip(1);
    let contiguous = ones == set && behind.all(|byte| *byte == 0);
    let ranges = address_of(&first).zip(address_of(&last)).filter(|_| contiguous);
    Some(ranges.map_or(Match::Unknown, |range| Match::Address {
        source,
        ranges: vec![range],
        not,
    }))
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A mask that ends before the name's end is one for all with this beginning.
fn device(layout: &Layout, bytes: &[u8], direction: Direction, not: bool) -> Option<Match> {
    let at = match direction {
        Direction::In => layout.links,
        Direction::Out => layout.links + LINK,
    };
    let (name, mask) = (
        bytes.get(at..at + LINK)?,
        bytes.get(at + 2 * LINK..at + 3 * LINK)?,
    );
    let asked = mask.iter().take_while(|byte| **byte != 0).count();
    if asked == 0 {
        return None;
    }
    let exact = text(name);
    let name = if asked > exact.len() {
        exact
    } else {
        format!("{}*", text(name.get(..asked)?))
    };
    Some(Match::Device {
        direction,
        names: vec![name],
        not,
    })
}

/// Returns what a match of an extension says; inner `None` where that decides nothing.
fn extension(bytes: &[u8], protocol: u8) -> Option<Option<Match>> {
    let name = text(bytes.get(2..EXTENSION - 1)?);
    let revision = u32::from(*bytes.get(EXTENSION - 1)?);
    let info = bytes.get(EXTENSION..)?;
    Some(match name.as_str() {
        "comment" => None,
        // struct xt_udp of linux/netfilter/xt_tcpudp.h: ranges of source and destination ports, what is inverted.
        "udp" => ports(info, protocol, *info.get(8)?)?,
        // struct xt_tcp there: the same ranges, an option, the flags that are looked at, those of them that are set, what is
        // inverted.
        "tcp" => {
            let plain = *info.get(8)? == 0 && *info.get(9)? == 0;
            if plain {
                ports(info, protocol, *info.get(11)?)?
            } else {
                Some(Match::Unknown)
            }
        }
        name if MATCHES.contains(&name) => matched(name, revision, info),
        _ => Some(Match::Unknown),
    })
}

/// Returns what is asked of ports; inner `None` where they may be any.
fn ports(info: &[u8], protocol: u8, inverted: u8) -> Option<Option<Match>> {
    let part = |source: bool, at: usize, bit: u8| {
        let range = (port(info, at)?, port(info, at + 2)?);
        let all = range == (0, u16::MAX);
        let found = Match::Port {
            protocol: Some(protocol),
            source,
            ranges: vec![range],
            not: inverted & bit != 0,
        };
        Some((!all).then_some(found))
    };
    Some(match (part(true, 0, 1)?, part(false, 4, 2)?) {
        (None, found) | (found, None) => found,
        (Some(source), Some(destination)) => Some(Match::Any {
            of: vec![vec![source, destination]],
            not: false,
        }),
    })
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_that_cannot_be_read_are_said_and_those_that_are_not_there_are_none() {
        let proc = tempfile::tempdir().unwrap();
        let mut unread = BTreeSet::new();
        assert!(legacy_of(proc.path(), Hook::Forward, &mut unread).is_empty());
        assert!(unread.is_empty());
        fs::create_dir(proc.path().join("ip6_tables_names")).unwrap();
        assert!(legacy_of(proc.path(), Hook::Forward, &mut unread).is_empty());
        let found: Vec<&str> = unread.iter().map(|unread| unread.what.as_str()).collect();
        assert_eq!(found, ["the ip6 tables of iptables-legacy"]);
    }
}
