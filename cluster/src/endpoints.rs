//! Where the API server really runs: the addresses behind the service `default/kubernetes`, which API servers write
//! themselves into an EndpointSlice of that name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Event, watcher},
    },
};
use tokio::sync::watch;

use crate::{observed::Observed, watch::expired};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const KIND: &str = "EndpointSlice";

/// Sends the endpoints, now and when they change, until nothing receives them; the first time also where there are none. API
/// servers that stop take themselves out;
/// when the last is gone the endpoints stay, for it comes back where it was.
pub async fn watch_endpoints(client: Client, endpoints: watch::Sender<BTreeSet<SocketAddr>>) {
    let api: Api<Observed<EndpointSlice>> = Api::namespaced(client, NAMESPACE);
    let config = Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut failing = false;
    while let Some(event) = events.next().await {
        if endpoints.is_closed() {
            return;
        }
        let failed_before = std::mem::replace(&mut failing, event.is_err());
        if event.is_ok() && failed_before {
            tracing::info!(kind = KIND, "watch re-established");
        }
        match event {
            Ok(Event::InitApply(slice) | Event::Apply(slice)) => {
                if !slice.problems.is_empty() {
                    tracing::warn!(
                        kind = KIND,
                        problem = slice.complaint(),
                        "what was known before stays"
                    );
                }
                enter(&endpoints, addresses(&slice));
            }
            // Also where there is none, so that it is not waited for.
            Ok(Event::InitDone) => endpoints.send_modify(|_| {}),
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(error) if failed_before || expired(&error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(kind = KIND, error, "watch failed again");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(kind = KIND, error, "watch failed, backing off");
            }
        }
    }
}

fn enter(endpoints: &watch::Sender<BTreeSet<SocketAddr>>, found: BTreeSet<SocketAddr>) {
    endpoints.send_if_modified(|known| {
        let changed = !found.is_empty() && *known != found;
        if changed {
            *known = found;
        }
        changed
    });
}

/// Returns the TCP endpoints of a slice; what cannot be read is left out.
#[must_use]
pub fn addresses(slice: &Observed<EndpointSlice>) -> BTreeSet<SocketAddr> {
    let Some(slice) = &slice.object else {
        return BTreeSet::new();
    };
    let ports = slice.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let ports: Vec<u16> = tcp.filter_map(|port| u16::try_from(port.port?).ok()).collect();
    let addresses = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| &endpoint.addresses);
    let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    addresses
        .flat_map(|address| ports.iter().map(move |port| SocketAddr::new(address, *port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(text: &str) -> Observed<EndpointSlice> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_address_with_every_tcp_port_is_an_endpoint() {
        let slice = slice(
            r#"{"addressType": "IPv4", "metadata": {"name": "kubernetes"},
                "endpoints": [{"addresses": ["192.0.2.1", "192.0.2.2"], "conditions": {"ready": false}},
                              {"addresses": ["what"]}],
                "ports": [{"port": 6443, "name": "https", "protocol": "TCP"}, {"port": 7, "protocol": "UDP"}, {}]}"#,
        );
        let expected = ["192.0.2.1:6443", "192.0.2.2:6443"].map(|text| text.parse().unwrap());
        assert_eq!(addresses(&slice), expected.into());
    }

    #[test]
    fn a_time_that_no_calendar_has_and_a_part_that_cannot_be_read_make_no_list_fail() {
        let read = |endpoints: &str| {
            let times = r#"[{"manager": "x", "operation": "Update", "time": "2026-01-01T00:00:00+99:99"}]"#;
            slice(&format!(
                r#"{{"addressType": "IPv4", "metadata": {{"name": "kubernetes", "managedFields": {times}}},
                    "endpoints": {endpoints}, "ports": [{{"port": 6443, "name": "https", "protocol": "TCP"}}]}}"#
            ))
        };
        let readable = read(r#"[{"addresses": ["192.0.2.1"]}]"#);
        assert_eq!(addresses(&readable), ["192.0.2.1:6443".parse().unwrap()].into());
        assert!(readable.problems.is_empty(), "{}", readable.complaint());
        let other = read(r#""192.0.2.1""#);
        assert!(addresses(&other).is_empty() && !other.problems.is_empty());
    }

    #[test]
    fn when_no_api_server_is_left_its_endpoints_stay() {
        let (sender, receiver) = watch::channel(BTreeSet::new());
        let one: BTreeSet<SocketAddr> = ["192.0.2.1:6443".parse().unwrap()].into();
        enter(&sender, one.clone());
        enter(&sender, BTreeSet::new());
        assert_eq!(*receiver.borrow(), one);
    }
}
