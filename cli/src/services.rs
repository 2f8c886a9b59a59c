//! What of a service a packet to it becomes: kube-proxy, or what stands for it, replaces its address and port by those of an endpoint.

use std::net::IpAddr;

use serde_json::Value;
use spanwire_host::{Protocol, Transport};

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    /// Its name, as its endpoints' ports have it; without one it is empty.
    name: String,
    number: u16,
    protocol: Protocol,
}

/// To which port of a service a packet is, and what is to be said of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The name that its endpoints have for it, and what the packet to the service carries; `None`: it is to none that is known.
    port: Option<(String, Transport)>,
    /// No address and no port is replaced: its name leads to the endpoints themselves.
    is_headless: bool,
    /// Which port was taken, or may be.
    pub note: Option<String>,
}

/// An endpoint that is ready, and what a packet to it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// What the packet carries there; `None`: that is not known.
    pub transport: Option<Transport>,
}

/// Returns the namespace and the name of a service that has this address.
#[must_use]
pub fn named(service: &Value, address: IpAddr) -> Option<(&str, &str)> {
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

/// Returns to which port of a service a packet is. Without a port it is the only one that the service has.
///
/// # Errors
/// Where the service has no such port.
pub fn asked(service: &Value, transport: Option<Transport>) -> Result<Asked, String> {
    let is_headless = service["spec"]["clusterIP"] == "None";
    let what = format!(
        "service {}/{}",
        service["metadata"]["namespace"].as_str().unwrap_or_default(),
        service["metadata"]["name"].as_str().unwrap_or_default()
    );
    let all = ports(service);
    let of_protocol = |port: &&Port| transport.is_none_or(|asked| asked.protocol == port.protocol);
    let fitting: Vec<&Port> = all.iter().filter(of_protocol).collect();
    let number = transport.and_then(|asked| asked.destination_port);
    let taken = |port: &Port, note| Asked {
        port: Some((
            port.name.clone(),
            Transport {
                protocol: port.protocol,
                source_port: None,
                destination_port: Some(port.number),
            },
        )),
        is_headless,
        note,
    };
    let unknown = |note| Asked {
        port: transport.map(|asked| (String::new(), asked)),
        is_headless,
        note,
    };
    // An echo request has no port, and with a headless service any port is that of the endpoint.
    if is_headless || transport.is_some_and(|asked| !asked.protocol.has_ports()) {
        return Ok(Asked {
            is_headless: true,
            ..unknown(None)
        });
    }
    match (number, &fitting[..]) {
        (Some(number), _) => match fitting.iter().find(|port| port.number == number) {
            Some(port) => Ok(taken(port, None)),
            None => Err(format!(
                "{what} has no port {}; it has {}",
                transport.map(shown).unwrap_or_default(),
                listed(&all)
            )),
        },
        (None, [only]) => {
            let note = format!("{what}: the packet is to its port {}", listed(&[(*only).clone()]));
            Ok(taken(only, Some(note)))
        }
        (None, []) => Ok(unknown(None)),
        (None, _) => Ok(unknown(Some(format!(
            "{what} has the ports {}: --port says to which one the packet is",
            listed(&all)
        )))),
    }
}

/// Returns the endpoints of a service that are ready, of its EndpointSlices, and what the packet carries there.
#[must_use]
pub fn endpoints(slices: &[Value], asked: &Asked) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let transport = asked.port.as_ref().map(|(name, transport)| {
            let replaced = (!asked.is_headless).then(|| port_of(slice, name, transport.protocol));
            Transport {
                destination_port: replaced.unwrap_or(transport.destination_port),
                ..*transport
            }
        });
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok());
        found.extend(addresses.map(|address| Endpoint { address, transport }));
    }
    found
}

fn ports(service: &Value) -> Vec<Port> {
    let all = service["spec"]["ports"].as_array().into_iter().flatten();
    let read = all.filter_map(|port| {
        Some(Port {
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            number: u16::try_from(port["port"].as_u64()?).ok()?,
            protocol: protocol(port)?,
        })
    });
    read.collect()
}

/// Returns the protocol of a port; `None`: it is one that packets are not asked about with.
fn protocol(port: &Value) -> Option<Protocol> {
    let name = port["protocol"].as_str().unwrap_or("TCP");
    let protocol: Protocol = name.to_lowercase().parse().ok()?;
    protocol.has_ports().then_some(protocol)
}

/// Returns the number that the endpoints of a slice have for a port of their service.
fn port_of(slice: &Value, name: &str, of: Protocol) -> Option<u16> {
    let mut all = slice["ports"].as_array().into_iter().flatten();
    let found =
        all.find(|port| port["name"].as_str().unwrap_or_default() == name && protocol(port) == Some(of));
    u16::try_from(found?["port"].as_u64()?).ok()
}

fn shown(transport: Transport) -> String {
    let port = transport.destination_port.unwrap_or_default();
    format!("{port}/{}", transport.protocol.name().to_uppercase())
}

fn listed(ports: &[Port]) -> String {
    crate::table::joined(
        ports
            .iter()
            .map(|port| format!("{}/{}", port.number, port.protocol.name().to_uppercase())),
    )
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

    fn service(ports: &Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "10.96.0.10", "ports": ports}})
    }

    fn to(protocol: &str, destination_port: Option<u16>) -> Option<Transport> {
        Some(Transport {
            protocol: protocol.parse().unwrap(),
            source_port: None,
            destination_port,
        })
    }

    /// An endpoint of which the ports have other numbers than those of the service.
    fn slices() -> Vec<Value> {
        let ports = json!([{"name": "sql", "port": 15432}, {"name": "dns", "port": 1053, "protocol": "UDP"}]);
        let not_ready = json!({"addresses": ["10.244.1.8"], "conditions": {"ready": false}});
        vec![json!({"ports": ports, "endpoints": [not_ready, {"addresses": ["10.244.1.7"]}]})]
    }

    fn arrives(asked: &Asked) -> Option<Transport> {
        let found = endpoints(&slices(), asked);
        let [endpoint] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(endpoint.address, "10.244.1.7".parse::<IpAddr>().unwrap());
        endpoint.transport
    }

    #[test]
    fn a_port_of_a_service_is_another_one_at_its_endpoints() {
        let ports = json!([{"name": "sql", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "sig", "port": 5060, "protocol": "SCTP"}]);
        let of = |transport| asked(&service(&ports), transport);
        assert_eq!(
            arrives(&of(to("tcp", Some(5432))).unwrap()),
            to("tcp", Some(15432))
        );
        assert_eq!(
            arrives(&of(to("udp", None)).unwrap()),
            to("udp", Some(1053)),
            "the only one of UDP"
        );
        let why = of(to("tcp", Some(53))).unwrap_err();
        assert_eq!(why, "service shop/db has no port 53/TCP; it has 5432/TCP,53/UDP");
        let several = of(None).unwrap();
        assert!(
            several.note.as_ref().unwrap().contains("5432/TCP,53/UDP: --port"),
            "{several:?}"
        );
        assert_eq!(arrives(&several), None);
        let only = asked(&service(&json!([{"name": "sql", "port": 5432}])), None).unwrap();
        assert_eq!(
            only.note.as_deref(),
            Some("service shop/db: the packet is to its port 5432/TCP")
        );
        assert_eq!(arrives(&only), to("tcp", Some(15432)));
    }

    #[test]
    fn what_no_service_replaces_stays() {
        let ports = json!([{"name": "sql", "port": 5432}]);
        let echo = asked(&service(&ports), to("icmp", None)).unwrap();
        assert_eq!(arrives(&echo), to("icmp", None));
        let mut headless = service(&ports);
        headless["spec"]["clusterIP"] = json!("None");
        let direct = asked(&headless, to("tcp", Some(8080))).unwrap();
        assert_eq!(arrives(&direct), to("tcp", Some(8080)));
        // Of which it is not known which ports it has, as of one that may not be read.
        assert_eq!(arrives(&Asked::default()), None);
    }
}
