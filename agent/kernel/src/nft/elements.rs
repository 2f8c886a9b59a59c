//! The elements of the table's sets.
//!
//! In a large mesh they are all but a part of the table, and of a change of the mesh mostly all that changes. To load the table
//! again, with the command `nft`, takes tenths of a second of processor time then; so a few elements are changed by netlink
//! messages of our own. A range is two elements: its first address, and the address after its last, marked as an end
//! (net/netfilter/nft_set_rbtree.c). Before the first of a set nft puts an end at the lowest address.

use std::net::IpAddr;

use nix::libc::{
    NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NFT_MSG_DELSETELEM, NFT_MSG_GETSETELEM,
    NFT_MSG_NEWSETELEM, NLM_F_CREATE,
};
use spanwire_host::{AddressRange, NftSet, NftTable};
use spanwire_topology::Family;

use super::{
    HEADER, Nft,
    message::{INET, push, push_name, push_nested, request},
};
use crate::netlink::{Message, NetlinkError, Request, attributes};

/// Where more ranges than this change the table is loaded: one transaction is one message of the socket, and that much is no
/// small change.
const MOST: usize = 500;

/// So many ranges go into one message: the attribute that holds their elements is at most 64 KiB long.
const TOGETHER: usize = 200;

/// `NFTA_SET_ELEM_LIST_TABLE`, `NFTA_SET_ELEM_LIST_SET`, `NFTA_SET_ELEM_LIST_ELEMENTS`.
const LIST: [u16; 3] = [1, 2, 3];
/// `NFTA_LIST_ELEM`.
const ITEM: u16 = 1;
/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_FLAGS`.
const ELEMENT: [u16; 2] = [1, 3];
/// `NFTA_DATA_VALUE`.
const VALUE: u16 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`.
const END: u32 = 1;

/// What is to change in one set.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change<'a> {
    set: &'a str,
    remove: Vec<&'a AddressRange>,
    add: Vec<&'a AddressRange>,
}

/// Returns what makes one table of the other, where that is a few elements; `None` where it is more, or something else.
pub(super) fn changes<'a>(from: &'a NftTable, to: &'a NftTable) -> Option<Vec<Change<'a>>> {
    let mut pairs = from.sets.iter().zip(&to.sets);
    let is_same_set =
        |(from, to): (&NftSet, &NftSet)| from.name() == to.name() && from.family() == to.family();
    let is_same = from.name == to.name && from.chains == to.chains;
    if !is_same || from.sets.len() != to.sets.len() || !pairs.all(is_same_set) {
        return None;
    }
    let pairs = from.sets.iter().zip(&to.sets).filter(|(from, to)| from != to);
    let changes: Vec<Change<'_>> = pairs
        .map(|(from, to)| Change::of(from, to))
        .collect::<Option<_>>()?;
    let count: usize = changes.iter().map(Change::size).sum();
    (1..=MOST).contains(&count).then_some(changes)
}

impl<'a> Change<'a> {
    /// `None` where nft's end at the lowest address would have to come or go.
    pub(super) fn of(from: &'a NftSet, to: &'a NftSet) -> Option<Self> {
        let begins_later = |set: &NftSet| {
            let first = set.ranges().first();
            first.is_some_and(|first| !first.first().is_unspecified())
        };
        if !begins_later(from) || !begins_later(to) {
            return None;
        }
        let mut change = Self {
            set: to.name(),
            remove: Vec::new(),
            add: Vec::new(),
        };
        let mut there = from.ranges().iter().peekable();
        for range in to.ranges() {
            while let Some(gone) = there.next_if(|other| *other < range) {
                change.remove.push(gone);
            }
            if there.next_if(|other| *other == range).is_none() {
                change.add.push(range);
            }
        }
        change.remove.extend(there);
        Some(change)
    }

    /// Returns how many ranges it takes away and adds.
    fn size(&self) -> usize {
        self.remove.len() + self.add.len()
    }

    /// Returns the same in parts of few ranges that can be made one after the other. Ranges that overlap are in one part: what is in
    /// the set before and after is in it at each moment.
    pub(super) fn in_parts(self) -> Vec<Self> {
        let none = || Self {
            set: self.set,
            remove: Vec::new(),
            add: Vec::new(),
        };
        let (mut parts, mut part) = (Vec::new(), none());
        let (mut remove, mut add) = (self.remove.iter().peekable(), self.add.iter().peekable());
        // Where what came so far ends: nothing is apart from what ends with the last address of all.
        let (mut end, mut is_open) = (None, false);
        loop {
            let removed = remove.next_if(|gone| add.peek().is_none_or(|new| gone <= new));
            let Some(range) = removed.or_else(|| add.next()) else {
                break;
            };
            let is_apart = !is_open && end.is_some_and(|end| range.first() >= end);
            if part.size() >= MOST && is_apart {
                parts.push(std::mem::replace(&mut part, none()));
            }
            is_open |= range.after().is_none();
            end = end.max(range.after());
            match removed {
                Some(_) => part.remove.push(range),
                None => part.add.push(range),
            }
        }
        parts.push(part);
        parts
    }

    /// Returns the requests that make the change; first what goes, since ranges must not overlap.
    fn requests(&self, table: &str) -> Vec<Request> {
        let mut requests = Vec::new();
        let parts = [
            (NFT_MSG_DELSETELEM, 0, &self.remove),
            (NFT_MSG_NEWSETELEM, NLM_F_CREATE, &self.add),
        ];
        for (kind, flags, ranges) in parts {
            for ranges in ranges.chunks(TOGETHER) {
                let points = ranges.iter().flat_map(|range| Point::of(range));
                let mut elements = Vec::new();
                points.for_each(|point| push_nested(&mut elements, ITEM, &point.element()));
                let mut body = list(table, self.set);
                push_nested(&mut body, LIST[2], &elements);
                requests.push(Request {
                    flags,
                    ..request(kind, INET, &body)
                });
            }
        }
        requests
    }
}

/// Returns the requests of one transaction that makes the changes, provided that none came after the one that made this
/// generation.
pub(super) fn transaction(table: &str, generation: u32, changes: &[Change<'_>]) -> Vec<Request> {
    const NFNL_BATCH_GENID: u16 = 1;
    let subsystem = u16::try_from(NFNL_SUBSYS_NFTABLES).unwrap_or_default();
    let frame = |kind: i32| {
        let mut body = vec![0, 0];
        body.extend(subsystem.to_be_bytes());
        Request {
            kind: u16::try_from(kind).unwrap_or_default(),
            flags: 0,
            body,
        }
    };
    let mut begin = frame(NFNL_MSG_BATCH_BEGIN);
    push(&mut begin.body, NFNL_BATCH_GENID, &generation.to_be_bytes());
    let mut requests = vec![begin];
    requests.extend(changes.iter().flat_map(|change| change.requests(table)));
    requests.push(frame(NFNL_MSG_BATCH_END));
    requests
}

fn list(table: &str, set: &str) -> Vec<u8> {
    let mut body = Vec::new();
    push_name(&mut body, LIST[0], table);
    push_name(&mut body, LIST[1], set);
    body
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    address: IpAddr,
    is_end: bool,
}

impl Point {
    fn of(range: &AddressRange) -> impl Iterator<Item = Self> + use<> {
        let point = |address, is_end| Self { address, is_end };
        let end = range.after().map(|after| point(after, true));
        [point(range.first(), false)].into_iter().chain(end)
    }

    fn element(&self) -> Vec<u8> {
        let [key, flags] = ELEMENT;
        let (mut element, mut value) = (Vec::new(), Vec::new());
        match self.address {
            IpAddr::V4(address) => push(&mut value, VALUE, &address.octets()),
            IpAddr::V6(address) => push(&mut value, VALUE, &address.octets()),
        }
        push_nested(&mut element, key, &value);
        if self.is_end {
            push(&mut element, flags, &END.to_be_bytes());
        }
        element
    }

    fn read(element: &[u8]) -> Option<Self> {
        let [key, flags] = ELEMENT;
        let find = |kind| {
            attributes(element)
                .find(|(found, _)| *found == kind)
                .map(|(_, value)| value)
        };
        let (_, address) = attributes(find(key)?).find(|(kind, _)| *kind == VALUE)?;
        let flags = match find(flags) {
            Some(flags) => u32::from_be_bytes(flags.try_into().ok()?),
            None => 0,
        };
        let address = match address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        };
        Some(Self {
            address,
            is_end: flags & END != 0,
        })
    }
}

impl Nft {
    /// Whether the sets have the elements that they have in this table.
    pub(super) async fn has_elements(&mut self, table: &NftTable) -> Result<bool, NetlinkError> {
        for set in &table.sets {
            let found = self.elements(set).await?;
            let wanted: Vec<Point> = set.ranges().iter().flat_map(Point::of).collect();
            if found != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the table with the elements that its sets have in the kernel; `None` where they are no elements of such sets.
    pub(super) async fn with_elements(&mut self, table: &NftTable) -> Result<Option<NftTable>, NetlinkError> {
        let mut sets = Vec::new();
        for set in &table.sets {
            let Some(set) = self.present(set).await? else {
                return Ok(None);
            };
            sets.push(set);
        }
        Ok(Some(NftTable {
            sets,
            ..table.clone()
        }))
    }

    /// Returns the set with the elements that it has in the kernel; `None` where they are no elements of such a set.
    pub(super) async fn present(&mut self, set: &NftSet) -> Result<Option<NftSet>, NetlinkError> {
        let ranges = ranges(&self.elements(set).await?, set.family());
        Ok(ranges.map(|ranges| NftSet::new(set.name().to_owned(), set.family(), ranges)))
    }

    async fn elements(&mut self, set: &NftSet) -> Result<Vec<Point>, NetlinkError> {
        let question = request(NFT_MSG_GETSETELEM, INET, &list(&self.table, set.name()));
        Ok(points(&self.socket.dump(&question).await?))
    }
}

/// Returns the ranges that elements in their order are the bounds of.
fn ranges(points: &[Point], family: Family) -> Option<Vec<AddressRange>> {
    let mut ranges = Vec::new();
    let mut points = points.iter().peekable();
    while let Some(first) = points.next() {
        let after = points.next_if(|point| point.is_end).map(|point| point.address);
        if first.is_end || (after.is_none() && points.peek().is_some()) {
            return None;
        }
        ranges.push(AddressRange::between(first.address, after).filter(|range| range.family() == family)?);
    }
    Some(ranges)
}

/// Returns the elements in the parts of a dump, in order, without the end before the first.
fn points(parts: &[Message]) -> Vec<Point> {
    let lists = parts
        .iter()
        .flat_map(|part| attributes(part.body.get(HEADER..).unwrap_or_default()));
    let elements = lists
        .filter(|(kind, _)| *kind == LIST[2])
        .flat_map(|(_, list)| attributes(list));
    let mut points: Vec<Point> = elements.filter_map(|(_, element)| Point::read(element)).collect();
    points.sort();
    points.retain(|point| !(point.is_end && point.address.is_unspecified()));
    points
}

#[cfg(test)]
mod tests;
