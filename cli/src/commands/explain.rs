//! `explain`.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, anyhow};
use serde_json::Value;
use spanwire_topology::{Member, Mesh};

use super::{
    live::{ask, ask_ways},
    source::{Source, read_listed},
};
use crate::{
    answer::{Answer, Verdict},
    args::ExplainArgs,
    cluster::{Access, Reach, brief},
    explain::{Report, Target, address, explain, is_known},
    findings::Answers,
    objects::{Kind, Objects},
    ways::Question,
};

pub(super) async fn run(reach: &Reach, args: &ExplainArgs) -> anyhow::Result<Answer> {
    let kinds = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];
    let Source {
        access,
        objects,
        unlisted,
        ..
    } = read_listed(reach, &args.filename, &kinds).await?;
    let access = access.as_ref();
    let mut notes: Vec<String> = unlisted.iter().map(ToString::to_string).collect();
    let (from, to) = addresses(access, &objects, &args.from, &args.to, args.ipv6, &mut notes).await?;
    let (report, more) = way_of(access, &objects, from, to).await?;
    notes.extend(more);
    let text = match args.output {
        None => report.text(),
        Some(format) => crate::answer::formatted(&report, Some(format), |_| report.text())?,
    };
    Ok(Answer {
        text,
        notes,
        verdict: if unlisted.is_empty() {
            report.verdict()
        } else {
            report.verdict().max(Verdict::Warnings)
        },
    })
}

/// Returns an address of each target, of one family where they have one in common.
pub(super) async fn addresses(
    access: Option<&Access>,
    objects: &Objects,
    from: &Target,
    to: &Target,
    v6: bool,
    notes: &mut Vec<String>,
) -> anyhow::Result<(IpAddr, IpAddr)> {
    let from = of_target(access, objects, from, v6, notes).await?;
    let to = of_target(access, objects, to, from.is_ipv6(), notes).await?;
    Ok((from, to))
}

/// Returns the way of a packet and of the answer to it, and what is not known of them.
pub(super) async fn way_of(
    access: Option<&Access>,
    objects: &Objects,
    from: IpAddr,
    to: IpAddr,
) -> anyhow::Result<(Report, Vec<String>)> {
    let nodes = deciding(&objects.published(), from, to);
    let (answers, mut notes) = match access {
        Some(access) => {
            let (answers, unasked) = ask(access, &nodes).await;
            (answers, unasked.into_iter().collect())
        }
        None => (Answers::new(), Vec::new()),
    };
    for (node, answer) in &answers {
        if let Err(why) = answer {
            notes.push(format!(
                "what {node} observes is not known, and taken for nothing: {why}"
            ));
        }
    }
    let mut report = explain(objects, &answers, from, to).map_err(|problem| anyhow!(problem))?;
    if let Some(access) = access {
        // Of those that have just not answered, one note is enough.
        let answering = |question: &Question| answers.get(&question.node).is_some_and(Result::is_ok);
        let questions = report.questions().into_iter().filter(answering);
        let ways = ask_ways(access, questions.collect()).await;
        notes.extend(report.compare(&ways));
    }
    Ok((report, notes))
}

/// Returns who decides about a packet: who has the addresses, and the leaders.
fn deciding(mesh: &Mesh, from: IpAddr, to: IpAddr) -> BTreeSet<String> {
    let holds = |member: &Member| {
        let has = |address: IpAddr| {
            let hosts = member.addresses.contains(&address) || member.overlay.contains(&address);
            hosts || member.prefixes.iter().any(|prefix| prefix.contains(address))
        };
        has(from) || has(to)
    };
    let mut nodes = BTreeSet::new();
    for location in mesh.locations.values() {
        let own = location.members.iter().filter(|(_, member)| holds(member));
        nodes.extend(own.map(|(node, _)| node.to_string()));
        let leaders = location.leaders.iter().take(4);
        nodes.extend(leaders.map(|leader| leader.node.to_string()));
    }
    nodes
}

async fn of_target(
    access: Option<&Access>,
    objects: &Objects,
    target: &Target,
    v6: bool,
    notes: &mut Vec<String>,
) -> anyhow::Result<IpAddr> {
    match (target, access) {
        (Target::Pod(namespace, name), Some(access)) => {
            let path = format!("/api/v1/namespaces/{namespace}/pods");
            let pod = access
                .get(&path, name)
                .await
                .with_context(|| format!("pod {namespace}/{name}"))?;
            let pod = pod.ok_or_else(|| anyhow!("there is no pod {namespace}/{name}"))?;
            let found = texts(&pod["status"]["podIPs"], "ip");
            pick(&found, v6).ok_or_else(|| anyhow!("pod {namespace}/{name} has no address yet"))
        }
        (Target::Service(namespace, name), Some(access)) => {
            of_service(access, (namespace, name), v6, notes).await
        }
        (Target::Address(address), Some(access)) if !is_known(&objects.published(), *address) => {
            let services = match access.list("/api/v1/services", None).await {
                Ok(services) => services,
                Err(error) => {
                    notes.push(format!(
                        "whether {address} is that of a service is not known: {}",
                        brief(&error)
                    ));
                    return Ok(*address);
                }
            };
            let Some((namespace, name)) = services.iter().find_map(|service| named(service, *address)) else {
                return Ok(*address);
            };
            notes.push(format!(
                "{address} is that of the service {namespace}/{name}: the node that sends replaces it by that of an endpoint"
            ));
            of_service(access, (namespace, name), address.is_ipv6(), notes).await
        }
        _ => address(&objects.published(), target, v6).map_err(|problem| anyhow!(problem)),
    }
}

/// Returns the namespace and the name of a service that has this address.
fn named(service: &Value, address: IpAddr) -> Option<(&str, &str)> {
    let (spec, metadata) = (&service["spec"], &service["metadata"]);
    let listed = [&spec["clusterIPs"], &spec["externalIPs"]];
    let listed = listed.into_iter().filter_map(Value::as_array).flatten();
    let balanced = service["status"]["loadBalancer"]["ingress"].as_array();
    let balanced = balanced.into_iter().flatten().map(|ingress| &ingress["ip"]);
    let mut all = listed.chain(balanced).filter_map(Value::as_str);
    // A headless one has "None".
    let has = all.any(|text| text.parse() == Ok(address));
    has.then_some((metadata["namespace"].as_str()?, metadata["name"].as_str()?))
}

/// Returns the address of an endpoint of a service that is ready.
async fn of_service(
    access: &Access,
    (namespace, name): (&str, &str),
    v6: bool,
    notes: &mut Vec<String>,
) -> anyhow::Result<IpAddr> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let of = format!("kubernetes.io/service-name={name}");
    let slices = access
        .list(&path, Some(&of))
        .await
        .with_context(|| format!("service {namespace}/{name}"))?;
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok());
    let found: Vec<IpAddr> = addresses.collect();
    if found.len() > 1 {
        notes.push(format!(
            "service {namespace}/{name} has {} endpoints, of which this is one",
            found.len()
        ));
    }
    pick(&found, v6).ok_or_else(|| anyhow!("service {namespace}/{name} has no ready endpoint"))
}

fn texts(list: &Value, field: &str) -> Vec<IpAddr> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item[field].as_str()?.parse().ok())
        .collect()
}

fn pick(found: &[IpAddr], v6: bool) -> Option<IpAddr> {
    let of_family = found.iter().find(|address| address.is_ipv6() == v6);
    of_family.or(found.first()).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_has_its_cluster_external_and_balanced_addresses() {
        let service = json!({"metadata": {"namespace": "shop", "name": "payments"},
            "spec": {"clusterIPs": ["10.96.0.10", "fd96::a"], "externalIPs": ["198.51.100.7"]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "x"}, {"ip": "203.0.113.9"}]}}});
        let has = |address: &str| named(&service, address.parse().unwrap());
        for address in ["10.96.0.10", "fd96::a", "198.51.100.7", "203.0.113.9"] {
            assert_eq!(has(address), Some(("shop", "payments")), "{address}");
        }
        assert_eq!(has("10.96.0.11"), None);
        let headless = json!({"metadata": {"namespace": "n", "name": "s"}, "spec": {"clusterIPs": ["None"]}});
        assert_eq!(named(&headless, "10.96.0.10".parse().unwrap()), None);
    }
}
