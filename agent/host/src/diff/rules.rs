//! Rules that are missing, and those that are no longer wanted.

use std::collections::BTreeSet;

use crate::{Host, Rule, RuleAction, Step};

/// Whether a rule exempts packets from the mesh, or is where such a rule jumps to.
pub(super) fn exempts(rule: &&Rule) -> bool {
    !matches!(rule.action, RuleAction::Lookup(_))
}

/// Adds rules. Where a jump lands has to be there first, and to stay until the jump is gone.
pub(super) fn add(actual: &Host, wanted: &Host, which: impl Fn(&&Rule) -> bool, steps: &mut Vec<Step>) {
    let mut rules = missing(&wanted.rules, &actual.rules, which);
    rules.sort_by_key(|rule| (rule.action != RuleAction::Nop, rule.priority));
    steps.extend(rules.into_iter().cloned().map(Step::AddRule));
}

/// Deletes rules, in the reverse order.
pub(super) fn delete(actual: &Host, wanted: &Host, which: impl Fn(&&Rule) -> bool, steps: &mut Vec<Step>) {
    let mut rules = missing(&actual.rules, &wanted.rules, which);
    rules.sort_by_key(|rule| (rule.action != RuleAction::Nop, rule.priority));
    steps.extend(rules.into_iter().rev().cloned().map(Step::DeleteRule));
}

/// Returns the rules of one set that the other lacks.
pub(super) fn missing<'a>(
    from: &'a BTreeSet<Rule>,
    other: &'a BTreeSet<Rule>,
    which: impl Fn(&&Rule) -> bool,
) -> Vec<&'a Rule> {
    from.difference(other).filter(which).collect()
}
