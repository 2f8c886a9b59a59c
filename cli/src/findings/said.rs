//! Findings as text.

use std::collections::BTreeMap;

use super::{Finding, Severity};

/// Of the objects of which the same is found so many are named.
const FEW: usize = 6;

/// Returns what was found, with the object to look at and the next command to type; `wide` with the page that explains it. What is
/// found of several objects of a kind is said once, with the next command for the first of them.
#[must_use]
pub fn said(findings: &[Finding], wide: bool) -> String {
    let mut text = entries(findings, wide).concat();
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        text += "Nothing is wrong.\n";
    }
    text
}

/// Returns the same, each with its lines, without the one that says that nothing is wrong.
#[must_use]
pub fn entries(findings: &[Finding], wide: bool) -> Vec<String> {
    let entry = |Group { first, names }| {
        let mark = match first.severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARNING",
            Severity::Note => "NOTE",
        };
        let object = match kind_and_name(first) {
            Some((kind, _)) if names.len() > 1 => format!("{kind}s {}", listed(&names, FEW)),
            _ => first.object.clone(),
        };
        let Finding {
            reason,
            evidence,
            next,
            ..
        } = first;
        let page = if wide {
            format!("  see:  {}\n", first.page)
        } else {
            String::new()
        };
        format!("{mark}: {object}: {reason}\n  {evidence}\n  next: {next}\n{page}")
    };
    groups(findings).into_iter().map(entry).collect()
}

/// Findings that differ in nothing but the object.
struct Group<'a> {
    first: &'a Finding,
    names: Vec<&'a str>,
}

/// In the order of their first findings.
fn groups(findings: &[Finding]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places = BTreeMap::new();
    for finding in findings {
        let Some((kind, name)) = kind_and_name(finding) else {
            let names = Vec::new();
            groups.push(Group {
                first: finding,
                names,
            });
            continue;
        };
        let same = (finding.severity, kind, &finding.reason, &finding.evidence);
        let place = *places.entry(same).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.names.push(name),
            None => groups.push(Group {
                first: finding,
                names: vec![name],
            }),
        }
    }
    groups
}

/// Returns the two words of an object like `location c`; the published mesh is none of many.
fn kind_and_name(finding: &Finding) -> Option<(&str, &str)> {
    let (kind, name) = finding.object.split_once(' ')?;
    (!name.contains(' ')).then_some((kind, name))
}

/// Returns the first `count` of many names, and how many more there are.
pub(super) fn listed(names: &[&str], count: usize) -> String {
    let named = names[..names.len().min(count)].join(", ");
    match names.len().saturating_sub(count) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(object: &str, evidence: &str) -> Finding {
        let (kind, name) = object.split_once(' ').expect("two words");
        Finding::new(Severity::Note, kind, name, "EndpointInMesh", evidence.to_owned())
    }

    #[test]
    fn what_is_the_same_of_several_objects_is_said_once() {
        let found = ["b1", "b2", "c1"].map(|node| finding(&format!("meshnode {node}"), "one endpoint"));
        let other = finding("meshnode c2", "another endpoint");
        let place = finding("location c", "one endpoint");
        let [b1, b2, c1] = found;
        let mesh = finding("the published mesh", "one endpoint");
        assert_eq!(
            said(&[place, b1, other, b2, c1, mesh.clone(), mesh], false),
            "NOTE: location c: EndpointInMesh\n  one endpoint\n  next: kubectl describe location c\n\
             NOTE: meshnodes b1, b2, c1: EndpointInMesh\n  one endpoint\n  next: kubectl describe meshnode b1\n\
             NOTE: meshnode c2: EndpointInMesh\n  another endpoint\n  next: kubectl describe meshnode c2\n\
             NOTE: the published mesh: EndpointInMesh\n  one endpoint\n  next: kubectl describe the published mesh\n\
             NOTE: the published mesh: EndpointInMesh\n  one endpoint\n  next: kubectl describe the published mesh\n\
             Nothing is wrong.\n"
        );
    }

    #[test]
    fn of_many_objects_the_first_ones_are_named() {
        let found: Vec<Finding> = (1..=50)
            .map(|number| finding(&format!("meshnode n{number}"), "the same"))
            .collect();
        let text = said(&found, true);
        assert!(
            text.starts_with("NOTE: meshnodes n1, n2, n3, n4, n5, n6 and 44 more: EndpointInMesh\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}
