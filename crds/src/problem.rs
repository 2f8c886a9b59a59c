//! What cannot be read in an object: data for conditions and Events.

use std::fmt;

/// A field whose value cannot be read. It is set aside; the rest of the object counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// The field, like `spec.cidrs` or `annotation spanwire.dev/leader`.
    pub field: String,
    /// What is wrong with it, the value included, and what to write instead.
    pub problem: String,
}

impl FieldProblem {
    pub(crate) fn new(field: &str, value: &str, problem: &str) -> Self {
        const LONGEST: usize = 100;
        let mut shown: String = value.chars().take(LONGEST).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self {
            field: field.to_owned(),
            problem: format!("{shown:?} {problem}"),
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}
