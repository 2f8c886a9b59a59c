//! Location objects.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use spanwire_topology::{Field, HopMode, LocationFact, Operator, Requirement, Selector};

use super::{Fields, Translated, created, distinct, keepalive};
use crate::{FieldProblem, Hop, Location, Mode};

/// Returns what a Location asks for.
#[must_use]
pub fn location(location: &Location) -> Translated<LocationFact> {
    let spec = &location.spec;
    let mut fields = Fields::default();
    let mut unread = BTreeSet::new();
    let mut of = |fields: &mut Fields, field: &str, asked: &Option<LabelSelector>, what: Field| {
        let asked = asked.as_ref()?;
        let read = selector(fields, field, asked);
        unread.extend(read.is_none().then_some(what));
        read
    };
    if spec.mesh == Mode::Unknown {
        fields.problems.push(FieldProblem {
            field: "spec.mesh".to_owned(),
            problem:
                "is a mode of another version of Spanwire; what was there before stays, at first Leaders; write \
                 Leaders or Nodes"
                    .to_owned(),
        });
    }
    if spec.hop == Hop::Unknown {
        fields.problems.push(FieldProblem {
            field: "spec.hop".to_owned(),
            problem: "is a hop of another version of Spanwire; what was there before stays, at first Auto; write Auto, CNI or VXLAN"
                .to_owned(),
        });
    }
    let fact = LocationFact {
        created: created(&location.metadata),
        selector: of(
            &mut fields,
            "spec.nodeSelector",
            &spec.node_selector,
            Field::Selector,
        ),
        mode: spec.mesh.into(),
        active: spec.leaders.active.max(1),
        standby: spec.leaders.standby,
        leader_selector: of(
            &mut fields,
            "spec.leaders.nodeSelector",
            &spec.leaders.node_selector,
            Field::LeaderSelector,
        ),
        endpoint: spec
            .endpoint
            .as_ref()
            .and_then(|text| fields.one("spec.endpoint", text)),
        cidrs: fields.list("spec.cidrs", &spec.cidrs),
        masquerade: spec.masquerade,
        hop: match spec.hop {
            Hop::Auto | Hop::Unknown => None,
            Hop::Cni => Some(HopMode::Cni),
            Hop::Vxlan => Some(HopMode::Vxlan),
        },
        node_cidrs: fields.list("spec.nodeCIDRs", &spec.node_cidrs),
        keepalive: keepalive(spec.persistent_keepalive),
        unread: BTreeSet::new(),
    };
    let whole = |texts: usize, read: usize| texts == read;
    let marks = [
        (Field::Mode, spec.mesh != Mode::Unknown),
        (Field::Hop, spec.hop != Hop::Unknown),
        (
            Field::Endpoints,
            spec.endpoint.is_none() || fact.endpoint.is_some(),
        ),
        (Field::Cidrs, whole(distinct(&spec.cidrs), fact.cidrs.len())),
        (
            Field::Addresses,
            whole(distinct(&spec.node_cidrs), fact.node_cidrs.len()),
        ),
    ];
    unread.extend(
        marks
            .into_iter()
            .filter(|(_, read)| !read)
            .map(|(field, _)| field),
    );
    let fact = LocationFact { unread, ..fact };
    Translated {
        fact,
        problems: fields.problems,
    }
}

/// Returns the selector, or `None` where a part of it cannot be read: a part alone would select more than was asked
/// for.
fn selector(fields: &mut Fields, field: &str, asked: &LabelSelector) -> Option<Selector> {
    let equal = asked.match_labels.iter().flatten().map(|(key, value)| {
        Some(Requirement {
            key: key.clone(),
            operator: Operator::In([value.clone()].into()),
        })
    });
    let equal: Vec<Option<Requirement>> = equal.collect();
    let expressions = asked
        .match_expressions
        .iter()
        .flatten()
        .map(|asked| requirement(fields, field, asked));
    let all: Vec<Option<Requirement>> = equal.into_iter().chain(expressions).collect();
    all.into_iter().collect::<Option<Vec<_>>>().map(Selector)
}

fn requirement(fields: &mut Fields, field: &str, asked: &LabelSelectorRequirement) -> Option<Requirement> {
    let values = || asked.values.iter().flatten().cloned().collect();
    let operator = match asked.operator.as_str() {
        "In" => Operator::In(values()),
        "NotIn" => Operator::NotIn(values()),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let field = format!("{field}.matchExpressions");
            let problem = "is no operator; write In, NotIn, Exists or DoesNotExist";
            fields.problems.push(FieldProblem::new(&field, other, problem));
            return None;
        }
    };
    Some(Requirement {
        key: asked.key.clone(),
        operator,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use spanwire_topology::{Keepalive, Labels, MeshMode};

    use super::*;

    #[test]
    fn a_location_is_read_from_what_the_api_server_sends() {
        let read = read(json!({
            "nodeSelector": {"matchLabels": {"site": "x"}, "matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]},
            "mesh": "Nodes",
            "leaders": {"active": 3, "standby": 0, "nodeSelector": {}},
            "endpoint": "vpn.example.com:51820",
            "cidrs": ["192.168.10.0/24", "fd00:10::/64"],
            "masquerade": true,
            "hop": "VXLAN",
            "nodeCIDRs": ["192.168.10.0/24", "203.0.113.0/24"],
            "persistentKeepalive": 25,
        }));
        assert_eq!(read.problems, []);
        let fact = read.fact;
        assert_eq!((fact.node_cidrs.len(), fact.unread.len()), (2, 0));
        assert_eq!((fact.mode, fact.active, fact.standby), (MeshMode::Nodes, 3, 0));
        assert_eq!((fact.cidrs.len(), fact.keepalive), (2, Some(Keepalive(25))));
        assert!(fact.masquerade);
        assert_eq!(fact.hop, Some(HopMode::Vxlan));
        assert_eq!(fact.endpoint, Some("vpn.example.com:51820".parse().unwrap()));
        assert_eq!(fact.leader_selector, Some(Selector::default()));
        let selector = fact.selector.unwrap();
        assert!(selector.matches(&labels(&[("site", "x")])));
        assert!(!selector.matches(&labels(&[("site", "x"), ("gpu", "")])));
        assert!(!selector.matches(&labels(&[])));
    }

    #[test]
    fn an_empty_spec_means_the_defaults_and_selects_no_node() {
        let fact = read(json!({})).fact;
        assert_eq!((fact.mode, fact.active, fact.standby), (MeshMode::Leaders, 1, 1));
        assert_eq!(
            (fact.selector, fact.leader_selector, fact.keepalive),
            (None, None, None)
        );
    }

    #[test]
    fn a_selector_of_which_a_part_cannot_be_read_selects_nothing() {
        let expressions = json!([{"key": "site", "operator": "Is", "values": ["x"]}]);
        let read =
            read(json!({"nodeSelector": {"matchLabels": {"a": "b"}, "matchExpressions": expressions}}));
        assert_eq!(read.fact.selector, None);
        assert_eq!(read.fact.unread, [Field::Selector].into());
        assert!(read.problems[0].to_string().contains("write In, NotIn"));
    }

    #[test]
    fn a_mode_of_a_newer_version_is_reported_and_counts_as_leaders() {
        let read = read(json!({"mesh": "Hub", "cidrs": ["10.0.0.0/8"]}));
        assert_eq!((read.fact.mode, read.fact.cidrs.len()), (MeshMode::Leaders, 1));
        assert!(
            read.problems[0]
                .to_string()
                .starts_with("spec.mesh: is a mode of another version")
        );
    }

    #[test]
    fn a_hop_of_a_newer_version_is_reported_and_what_was_there_stays() {
        let read_hop = |hop: &str| read(json!({"hop": hop}));
        let unknown = read_hop("Geneve");
        assert_eq!(
            (unknown.fact.hop, unknown.fact.unread),
            (None, [Field::Hop].into())
        );
        let problem = unknown.problems[0].to_string();
        assert!(problem.ends_with("write Auto, CNI or VXLAN"), "{problem}");
        for (hop, expected) in [("Auto", None), ("CNI", Some(HopMode::Cni))] {
            let known = read_hop(hop);
            assert_eq!((known.fact.hop, known.problems), (expected, vec![]), "{hop}");
        }
    }

    #[test]
    fn one_bad_network_does_not_hide_the_others() {
        let read = read(json!({"cidrs": ["10.0.0.1/8", "10.0.0.0/8"], "endpoint": "x"}));
        assert_eq!((read.fact.cidrs.len(), read.fact.endpoint), (1, None));
        assert_eq!(read.fact.unread, [Field::Endpoints, Field::Cidrs].into());
        let texts: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        assert!(
            texts[0].starts_with("spec.endpoint: \"x\" has no port"),
            "{texts:?}"
        );
        assert!(texts[1].starts_with("spec.cidrs: \"10.0.0.1/8\""), "{texts:?}");
    }

    fn read(spec: Value) -> Translated<LocationFact> {
        let object = json!({
            "apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": "a"}, "spec": spec,
        });
        location(&serde_json::from_value(object).unwrap())
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Labels(pairs.collect())
    }
}
