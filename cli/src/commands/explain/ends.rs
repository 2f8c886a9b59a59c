//! Where a packet begins and where it is to go: the addresses of what the command line names.

use std::net::IpAddr;

use anyhow::{Context as _, anyhow};
use serde_json::Value;
use spanwire_host::Transport;

use crate::{
    cluster::{Access, brief},
    explain::is_known,
    objects::Objects,
    services::{Asked, Endpoint, asked, endpoints, named},
    target::{Target, address},
};

/// What the command line names.
pub(in crate::commands) struct Named<'a> {
    /// Where the packet begins.
    pub(in crate::commands) from: &'a Target,
    /// Where it is to go.
    pub(in crate::commands) to: &'a Target,
    /// Where there is a choice, an address of IPv6 is taken.
    pub(in crate::commands) v6: bool,
    /// What it carries to what is named.
    pub(in crate::commands) transport: Option<Transport>,
}

/// The addresses of a packet, of one family where both ends have it, and what it carries to the second one.
#[derive(Clone, Copy)]
pub(in crate::commands) struct Ends {
    /// Where it begins.
    pub(in crate::commands) from: IpAddr,
    /// Where it is to go.
    pub(in crate::commands) to: IpAddr,
    /// What it carries.
    pub(in crate::commands) transport: Option<Transport>,
}

/// What can be asked for addresses.
struct Lookup<'a> {
    access: Option<&'a Access>,
    objects: &'a Objects,
    notes: &'a mut Vec<String>,
}

/// Returns the addresses of what is named.
pub(in crate::commands) async fn ends(
    access: Option<&Access>,
    objects: &Objects,
    named: &Named<'_>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Ends> {
    let mut lookup = Lookup {
        access,
        objects,
        notes,
    };
    let from = lookup.of(named.from, named.v6, None).await?.address;
    let to = Destination(named.transport);
    let to = lookup.of(named.to, from.is_ipv6(), Some(to)).await?;
    Ok(Ends {
        from,
        to: to.address,
        transport: to.transport,
    })
}

/// What is to go to an end.
#[derive(Clone, Copy)]
struct Destination(Option<Transport>);

impl Lookup<'_> {
    /// Returns an address of a target, and what the packet carries there where it is to go there.
    async fn of(
        &mut self,
        target: &Target,
        v6: bool,
        destination: Option<Destination>,
    ) -> anyhow::Result<Endpoint> {
        let at = |address| Endpoint {
            address,
            transport: destination.and_then(|Destination(transport)| transport),
        };
        match (target, self.access) {
            (Target::Pod(namespace, name), Some(access)) => {
                let namespace = namespace.as_ref().unwrap_or(&access.of_objects);
                of_pod(access, (namespace, name), v6).await.map(at)
            }
            (Target::Service(namespace, name), Some(access)) => {
                let namespace = namespace.as_ref().unwrap_or(&access.of_objects);
                let path = format!("/api/v1/namespaces/{namespace}/services");
                let service = match access.get(&path, name).await {
                    Ok(Some(service)) => Some(service),
                    Ok(None) => return Err(anyhow!("there is no service {namespace}/{name}")),
                    // Its endpoints may be read all the same.
                    Err(error) => {
                        self.notes.push(format!(
                            "which ports the service {namespace}/{name} has is not known: {}",
                            brief(&error)
                        ));
                        None
                    }
                };
                let service = (service.as_ref(), namespace.as_str(), name.as_str());
                self.of_service(access, service, v6, destination).await
            }
            (Target::Address(address), Some(access)) if !is_known(&self.objects.published(), *address) => {
                let services = match access.list("/api/v1/services", None).await {
                    Ok(services) => services,
                    Err(error) => {
                        self.notes.push(format!(
                            "whether {address} is that of a service is not known: {}",
                            brief(&error)
                        ));
                        return Ok(at(*address));
                    }
                };
                let mut services = services.iter();
                let Some((service, (namespace, name))) =
                    services.find_map(|service| Some((service, named(service, *address)?)))
                else {
                    return Ok(at(*address));
                };
                self.notes.push(format!(
                    "{address} is that of the service {namespace}/{name}: the node that sends replaces it by that of an endpoint"
                ));
                let service = (Some(service), namespace, name);
                self.of_service(access, service, address.is_ipv6(), destination)
                    .await
            }
            _ => {
                let found = address(&self.objects.published(), target, v6);
                found.map(at).map_err(|problem| anyhow!(problem))
            }
        }
    }

    /// Returns an endpoint of a service that is ready.
    async fn of_service(
        &mut self,
        access: &Access,
        (service, namespace, name): (Option<&Value>, &str, &str),
        v6: bool,
        destination: Option<Destination>,
    ) -> anyhow::Result<Endpoint> {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        let of = format!("kubernetes.io/service-name={name}");
        let slices = access
            .list(&path, Some(&of))
            .await
            .with_context(|| format!("service {namespace}/{name}"))?;
        // What begins at an endpoint comes from a port of its own.
        let asked = match (service, destination) {
            (Some(service), Some(Destination(transport))) => {
                asked(service, transport).map_err(|problem| anyhow!(problem))?
            }
            (None, _) | (_, None) => Asked::default(),
        };
        let found = endpoints(&slices, &asked);
        self.notes.extend(asked.note);
        if found.len() > 1 {
            self.notes.push(format!(
                "service {namespace}/{name} has {} endpoints, of which this is one",
                found.len()
            ));
        }
        let of_family = found.iter().find(|endpoint| endpoint.address.is_ipv6() == v6);
        let found = of_family.or(found.first()).copied();
        found.ok_or_else(|| anyhow!("service {namespace}/{name} has no ready endpoint"))
    }
}

async fn of_pod(access: &Access, (namespace, name): (&str, &str), v6: bool) -> anyhow::Result<IpAddr> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let pod = access
        .get(&path, name)
        .await
        .with_context(|| format!("pod {namespace}/{name}"))?;
    let pod = pod.ok_or_else(|| anyhow!("there is no pod {namespace}/{name}"))?;
    let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let found: Vec<IpAddr> = listed
        .filter_map(|item| item["ip"].as_str()?.parse().ok())
        .collect();
    let of_family = found.iter().find(|address| address.is_ipv6() == v6);
    let found = of_family.or(found.first()).copied();
    found.ok_or_else(|| anyhow!("pod {namespace}/{name} has no address yet"))
}
