//! Routes, in an order in which every address is routed at each moment either as before or as wanted.
//!
//! Setting: the longest prefix first. When a prefix is set, every wanted prefix inside it is there already, so only
//! addresses that belong to it in the end are affected. Deleting: everything wanted is there, and of stale routes the
//! shortest goes first, so an address that loses its stale route falls to its wanted one, not to another stale one. Of
//! one prefix the lowest metric is set first and deleted last, for the same reason.

use std::cmp::Reverse;

use crate::{Host, Step};

pub(super) fn set(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let changed = |(key, route): &(&_, &_)| actual.routes.get(key) != Some(route);
    let mut routes: Vec<_> = wanted.routes.iter().filter(changed).collect();
    routes.sort_by_key(|(key, _)| (Reverse(key.prefix.length()), key.metric));
    steps.extend(
        routes
            .into_iter()
            .map(|(key, route)| Step::SetRoute(*key, route.clone())),
    );
}

pub(super) fn delete(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let stale = |key: &&_| !wanted.routes.contains_key(key);
    let mut keys: Vec<_> = actual.routes.keys().filter(stale).collect();
    keys.sort_by_key(|key| (key.prefix.length(), Reverse(key.metric)));
    steps.extend(keys.into_iter().copied().map(Step::DeleteRoute));
}
