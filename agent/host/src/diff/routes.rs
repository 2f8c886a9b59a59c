//! Routes of one table, in an order in which every address is routed at each moment either as before or as wanted.
//!
//! Setting: of prefixes in each other, the longest first. When a prefix is set, every wanted prefix inside it is there
//! already, so only addresses that belong to it in the end are affected. Deleting: everything wanted is there, and of
//! stale routes the shortest goes first, so an address that loses its stale route falls to its wanted one, not to
//! another stale one. Of one prefix the lowest metric is set first and deleted last, for the same reason.
//!
//! Prefixes that are not in each other may come in any order, and of these single addresses are set last and deleted
//! first. They are those of nodes, between which the CNI may carry pods' packets: these must be out of the CNI's tunnel
//! before the tunnel's own packets are routed into the mesh (Linux drops what a vxlan device would send through itself).

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use spanwire_topology::{Family, Prefix};

use crate::{Host, Route, RouteKey, Step, TableId};

/// What rules of one family look up.
pub(super) type Table = (TableId, Family);

/// What is to change in one table, in the order of the keys.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    set: Vec<(&'a RouteKey, &'a Route)>,
    delete: Vec<&'a RouteKey>,
}

/// Returns what is to change in each table, by walking through both sets of routes at once: there are thousands, and mostly
/// they are alike.
pub(super) fn changes<'a>(actual: &'a Host, wanted: &'a Host) -> BTreeMap<Table, Changes<'a>> {
    let mut tables: BTreeMap<Table, Changes<'a>> = BTreeMap::new();
    if Arc::ptr_eq(&actual.routes, &wanted.routes) {
        return tables;
    }
    let table = |key: &RouteKey| (key.table, key.prefix.family());
    let mut there = actual.routes.iter().peekable();
    for (key, route) in wanted.routes.iter() {
        while let Some((stale, _)) = there.next_if(|(other, _)| *other < key) {
            tables.entry(table(stale)).or_default().delete.push(stale);
        }
        let same = there.next_if(|(other, _)| *other == key);
        if same.is_none_or(|(_, old)| old != route) {
            tables.entry(table(key)).or_default().set.push((key, route));
        }
    }
    for (stale, _) in there {
        tables.entry(table(stale)).or_default().delete.push(stale);
    }
    tables
}

impl Changes<'_> {
    pub(super) fn set(&self, steps: &mut Vec<Step>) {
        let nested = nested(self.set.iter().map(|(key, _)| *key));
        let mut routes: Vec<_> = nested.into_iter().zip(&self.set).collect();
        routes.sort_by_key(|(with_hosts, (key, _))| (*with_hosts, Reverse(key.prefix.length()), key.metric));
        let step = |(_, (key, route)): (bool, &(&RouteKey, &Route))| Step::SetRoute(**key, (*route).clone());
        steps.extend(routes.into_iter().map(step));
    }

    pub(super) fn delete(&self, steps: &mut Vec<Step>) {
        let nested = nested(self.delete.iter().copied());
        let mut keys: Vec<_> = nested.into_iter().zip(&self.delete).collect();
        keys.sort_by_key(|(with_hosts, key)| {
            (Reverse(*with_hosts), key.prefix.length(), Reverse(key.metric))
        });
        steps.extend(keys.into_iter().map(|(_, key)| Step::DeleteRoute(**key)));
    }
}

/// Returns for each of some keys of one table, which are in order, whether a single address is in the outermost prefix that
/// it lies in.
fn nested<'a>(keys: impl Iterator<Item = &'a RouteKey>) -> Vec<bool> {
    let mut nests: Vec<(Prefix, bool)> = Vec::new();
    // A prefix sorts right before what it contains.
    let nest_of = |prefix: &Prefix, nests: &mut Vec<(Prefix, bool)>| {
        let single = prefix.is_host();
        match nests.last_mut() {
            Some((nest, hosts)) if nest.covers(prefix) => *hosts |= single,
            _ => nests.push((*prefix, single)),
        }
        nests.len() - 1
    };
    let places: Vec<usize> = keys.map(|key| nest_of(&key.prefix, &mut nests)).collect();
    places.into_iter().map(|place| nests[place].1).collect()
}
