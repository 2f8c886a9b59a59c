//! The way of a packet through the rules of a base chain.
//!
//! Of a [`Sample`] the device is known, and some of its addresses, its state in connection tracking, its port, and the bits of
//! its mark that nothing sets. A match on anything else may hold or not. Then nothing follows from its rule, but what is found
//! afterwards is in doubt where the rule could have accepted the packet.

use super::{Filter, Match, Pass, Sample, matching::holds};

/// How deep chains may call each other; the kernel has a limit of 16 (`NFT_JUMP_STACK_SIZE`).
pub(super) const DEEPEST: u32 = 16;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Its number in the table.
    pub handle: u64,
    /// What the one who made it says of it.
    pub comment: Option<String>,
    /// What it accepts, where Spanwire made it.
    pub own: Option<Pass>,
    /// What all must hold.
    pub matches: Vec<Match>,
    /// What then.
    pub verdict: Verdict,
    /// What it may change in the mark of a packet.
    pub marks: MarkChange,
    /// It has connection tracking leave the packet alone; `None`: that is not known.
    pub untracks: Option<bool>,
}

/// Bits that may be changed in the mark of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkChange {
    /// Those that may be set.
    pub sets: u32,
    /// Those that may be taken away.
    pub clears: u32,
}

impl MarkChange {
    /// Any of them.
    pub const ANY: Self = Self {
        sets: u32::MAX,
        clears: u32::MAX,
    };

    /// Returns what both may change.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sets: self.sets | other.sets,
            clears: self.clears | other.clears,
        }
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Accept it.
    Accept,
    /// Drop or reject it.
    Drop,
    /// Go back to where the chain was called.
    Return,
    /// Go on in another chain of the table, then with the next rule.
    Jump(String),
    /// Go on in another chain of the table, then as if this one had ended.
    Goto(String),
    /// Something else.
    Unknown,
}

/// The rule that drops a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropper {
    /// Its chain, which the base chain leads to or is.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// What the one who made it says of it.
    pub comment: Option<String>,
}

/// What becomes of a packet in a [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is certain to be dropped, by the policy or by the rule of this number, if no rule before decides otherwise.
    Dropped(Option<u64>),
    /// It is accepted.
    Accepted,
}

/// Where a walk through a chain ends.
enum End {
    Accepted,
    Dropped,
    /// The chain was left.
    Left,
}

/// A walk through a base chain with one packet.
pub(super) struct Walk<'a> {
    filter: &'a Filter,
    sample: &'a Sample,
    in_doubt: bool,
    dropper: Option<(&'a str, &'a FilterRule)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(filter: &'a Filter, sample: &'a Sample) -> Self {
        Self {
            filter,
            sample,
            in_doubt: false,
            dropper: None,
        }
    }

    /// Whether a rule of which it is not known whether it is for the packet could have accepted it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Returns the rule that has dropped the packet; `None`: the policy, or none.
    pub(super) fn dropper(&self) -> Option<Dropper> {
        self.dropper.map(|(chain, rule)| Dropper {
            chain: chain.to_owned(),
            handle: rule.handle,
            comment: rule.comment.clone(),
        })
    }

    pub(super) fn fate(&mut self) -> Fate {
        for rule in &self.filter.rules {
            match self.decide(rule, &self.filter.name.chain, 0) {
                Some(End::Accepted) => return Fate::Accepted,
                Some(End::Dropped) => return Fate::Dropped(Some(rule.handle)),
                Some(End::Left) => break,
                None => {}
            }
        }
        if self.filter.drops {
            Fate::Dropped(None)
        } else {
            Fate::Accepted
        }
    }

    /// `None`: the next rule.
    fn decide(&mut self, rule: &'a FilterRule, chain: &'a str, depth: u32) -> Option<End> {
        if rule.own.is_some() {
            return None;
        }
        let mut holds = rule.matches.iter().map(|found| holds(found, self.sample));
        if !holds.clone().all(|holds| holds == Some(true)) {
            let may_hold = !holds.any(|holds| holds == Some(false));
            self.in_doubt |= may_hold && !matches!(rule.verdict, Verdict::Continue | Verdict::Drop);
            return None;
        }
        match &rule.verdict {
            Verdict::Continue => None,
            Verdict::Unknown => {
                self.in_doubt = true;
                None
            }
            Verdict::Accept => Some(End::Accepted),
            Verdict::Drop => {
                self.dropper = Some((chain, rule));
                Some(End::Dropped)
            }
            Verdict::Return => Some(End::Left),
            Verdict::Jump(chain) => match self.walk(chain, depth) {
                End::Left => None,
                end @ (End::Accepted | End::Dropped) => Some(end),
            },
            Verdict::Goto(chain) => Some(self.walk(chain, depth)),
        }
    }

    fn walk(&mut self, chain: &'a str, depth: u32) -> End {
        let Some(rules) = self.filter.chains.get(chain).filter(|_| depth < DEEPEST) else {
            self.in_doubt = true;
            return End::Left;
        };
        let mut ends = rules
            .iter()
            .filter_map(|rule| self.decide(rule, chain, depth + 1));
        ends.next().unwrap_or(End::Left)
    }
}
