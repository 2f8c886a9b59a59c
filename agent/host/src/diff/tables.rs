//! Tables and the rules that look them up.
//!
//! A packet gets to one table after the other and takes the first route that fits. So a table's routes are set before a
//! rule leads to them, and tables that come earlier are set before later ones: what the earlier one is to take on is there
//! when the later one stops to do it. What goes, goes in the reverse order: the later table is as wanted when the earlier
//! one stops to stand before it, rules go before the routes that they lead to.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    routes::{self, Changes, Table},
    rules,
};
use crate::{Host, Rule, RuleAction, Step};

/// Changes routes, and the rules that look them up.
pub(super) fn change(actual: &Host, wanted: &Host, steps: &mut Vec<Step>) {
    let changes = routes::changes(actual, wanted);
    let none = Changes::default();
    let changes_of = |table: &Table| changes.get(table).unwrap_or(&none);
    let tables = in_order(actual, wanted, &changes);
    let stays = |table: Table| wanted.rules.iter().any(|rule| looked_up(rule) == Some(table));
    let fresh = |table| {
        let on = |rule: &&Rule| looked_up(rule) == Some(table);
        !rules::missing(&wanted.rules, &actual.rules, on).is_empty()
    };
    for table in tables.iter().copied().filter(|table| stays(*table)) {
        changes_of(&table).set(steps);
        if fresh(table) {
            changes_of(&table).delete(steps);
            rules::add(actual, wanted, |rule| looked_up(rule) == Some(table), steps);
        }
    }
    for table in tables.into_iter().rev() {
        rules::delete(actual, wanted, |rule| looked_up(rule) == Some(table), steps);
        if !stays(table) {
            changes_of(&table).set(steps);
        }
        if !fresh(table) {
            changes_of(&table).delete(steps);
        }
    }
}

/// Returns the table that a rule looks up.
fn looked_up(rule: &Rule) -> Option<Table> {
    match rule.action {
        RuleAction::Lookup(table) => Some((table, rule.family)),
        RuleAction::Goto(_) | RuleAction::Nop => None,
    }
}

/// Returns every table in which something changes, or which is looked up, in the order in which packets get to them.
fn in_order(actual: &Host, wanted: &Host, changes: &BTreeMap<Table, Changes<'_>>) -> Vec<Table> {
    let mut first: BTreeMap<Table, u32> = changes.keys().map(|table| (*table, 0)).collect();
    let mut rules: Vec<&Rule> = actual.rules.union(&wanted.rules).collect();
    rules.sort_by_key(|rule| Reverse(rule.priority));
    for rule in rules {
        first.extend(looked_up(rule).map(|table| (table, rule.priority)));
    }
    let mut tables: Vec<Table> = first.keys().copied().collect();
    tables.sort_by_key(|table| first[table]);
    tables
}
