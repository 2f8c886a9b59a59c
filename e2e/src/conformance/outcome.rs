//! What became of tests: read from the report that Ginkgo writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// What became of the tests of one run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What passed, by name.
    pub passed: BTreeSet<String>,
    /// What failed, by name, with the first line of why.
    pub failed: BTreeMap<String, String>,
    /// What found that it cannot be run here, by name, with what it said.
    pub declined: BTreeMap<String, String>,
    /// Why not all of them have been run, if that is so.
    pub unfinished: Vec<String>,
    /// How long all of them took.
    pub took: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Failure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let above = self.container_hierarchy_texts.iter().flatten();
        let words: Vec<&str> = above
            .map(String::as_str)
            .chain([&*self.leaf_node_text])
            .filter(|text| !text.is_empty())
            .collect();
        if words.is_empty() {
            self.leaf_node_type.clone()
        } else {
            words.join(" ")
        }
    }
}

impl Outcome {
    /// Reads a report.
    ///
    /// # Errors
    /// There is none, or it is not of Ginkgo's format.
    pub fn read(report: &Path) -> Result<Self> {
        let text =
            fs::read(report).with_context(|| format!("the tests have left no {}", report.display()))?;
        let suites: Vec<Suite> = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report of Ginkgo's", report.display()))?;
        Ok(Self::of(suites))
    }

    fn of(suites: Vec<Suite>) -> Self {
        let mut outcome = Self::default();
        for suite in suites {
            outcome.took += Duration::from_nanos(suite.run_time);
            for spec in suite.spec_reports.into_iter().flatten() {
                let is_test = spec.leaf_node_type == "It";
                let said = spec.failure.message.lines().next().unwrap_or_default();
                let said: String = said.chars().take(300).collect();
                match spec.state.as_str() {
                    "passed" if is_test => {
                        outcome.passed.insert(spec.name());
                    }
                    "passed" => {}
                    "skipped" | "pending" if said.is_empty() => {}
                    "skipped" | "pending" => {
                        outcome.declined.insert(spec.name(), said);
                    }
                    // Before all tests, or after them.
                    state if !is_test => outcome
                        .unfinished
                        .push(format!("{} {state}: {said}", spec.name())),
                    state => {
                        outcome.failed.insert(spec.name(), format!("{state}: {said}"));
                    }
                }
            }
            outcome
                .unfinished
                .extend(suite.special_suite_failure_reasons.into_iter().flatten());
        }
        outcome
    }

    /// Returns patterns that match the names of what failed and nothing else.
    pub fn failed_names(&self) -> Vec<String> {
        self.failed.keys().map(|name| pattern(name)).collect()
    }

    /// Returns the same of what failed and has not passed in a later run. One that declined then, or was not reached, has
    /// shown nothing.
    pub fn failed_and_not_passed_in(&self, later: &Self) -> Vec<String> {
        let failed = self.failed.keys();
        let not_passed = failed.filter(|name| !later.passed.contains(*name));
        not_passed.map(|name| pattern(name)).collect()
    }
}

/// Returns a pattern for the name of a test: Ginkgo puts that of the suite before it.
fn pattern(name: &str) -> String {
    format!(" {}$", escaped(name))
}

/// Returns a regular expression that matches a text alone.
fn escaped(text: &str) -> String {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    let escape = |c: char| if special(c) { vec!['\\', c] } else { vec![c] };
    text.chars().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Ginkgo 2.28 writes it, shortened.
    const REPORT: &str = r#"[{"RunTime": 2500000000, "SpecialSuiteFailureReasons": ["Suite Timeout Elapsed"], "SpecReports": [
        {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "should resolve (all) [Conformance]", "State": "failed",
         "Failure": {"Message": "no answer\nmore"}},
        {"ContainerHierarchyTexts": ["[sig-network] Proxy"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-apps]"], "LeafNodeType": "It", "LeafNodeText": "is not asked for", "State": "skipped"},
        {"ContainerHierarchyTexts": ["[sig-network]"], "LeafNodeType": "It", "LeafNodeText": "restarts", "State": "skipped",
         "Failure": {"Message": "Only supported for providers [gce]"}}]}]"#;

    fn outcome() -> Outcome {
        Outcome::of(serde_json::from_str(REPORT).unwrap())
    }

    #[test]
    fn a_report_says_what_passed_failed_and_declined() {
        let outcome = outcome();
        assert_eq!(outcome.passed, ["[sig-network] Proxy works".to_owned()].into());
        let failed: Vec<_> = outcome.failed.into_iter().collect();
        let name = "[sig-network] DNS should resolve (all) [Conformance]";
        assert_eq!(failed, [(name.to_owned(), "failed: no answer".to_owned())]);
        assert_eq!(outcome.declined.len(), 1);
        assert_eq!(outcome.unfinished, ["Suite Timeout Elapsed"]);
        assert_eq!(outcome.took, Duration::from_millis(2500));
    }

    #[test]
    fn what_failed_is_named_by_a_pattern_of_its_own() {
        let patterns = outcome().failed_names();
        assert_eq!(
            patterns,
            [r" \[sig-network\] DNS should resolve \(all\) \[Conformance\]$"]
        );
    }

    #[test]
    fn what_declines_or_is_not_reached_when_it_is_tried_again_has_not_passed() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let failed = |names: &[&str]| {
            let failed = names.iter();
            failed
                .map(|name| ((*name).to_owned(), "failed: no".to_owned()))
                .collect()
        };
        let first = Outcome {
            failed: failed(&["declines", "fails", "is never reached", "passes"]),
            ..Outcome::default()
        };
        let again = Outcome {
            passed: names(&["passes"]),
            failed: failed(&["fails"]),
            declined: failed(&["declines"]),
            unfinished: vec!["Suite Timeout Elapsed".to_owned()],
            ..Outcome::default()
        };
        let patterns = first.failed_and_not_passed_in(&again);
        assert_eq!(patterns, [" declines$", " fails$", " is never reached$"]);
    }
}
