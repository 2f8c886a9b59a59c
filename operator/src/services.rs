//! The networks from which services get their addresses, as the API server tells them (`ServiceCIDR`, in every cluster since
//! Kubernetes 1.33).

use std::{collections::BTreeSet, time::Duration};

use kube::{Client, api::ListParams, core::Request};
use serde::Deserialize;
use serde_json::Value;
use spanwire_topology::Prefix;
use tokio::{sync::watch, time};

/// How often they are read. They change when an administrator adds a network.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long the first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows them until nothing receives them. The first answer is waited for, so that nothing is decided without it, but not
/// for long. `named`: the configuration names some, so an API server that knows none is no news.
pub async fn follow(client: Client, named: bool) -> watch::Receiver<BTreeSet<Prefix>> {
    let (sender, mut networks) = watch::channel(BTreeSet::new());
    tokio::spawn(poll(client, named, sender));
    if time::timeout(PATIENCE, networks.changed()).await.is_ok() {
        // For the loop it is news.
        networks.mark_changed();
    }
    networks
}

async fn poll(client: Client, named: bool, networks: watch::Sender<BTreeSet<Prefix>>) {
    let (mut failing, mut warned) = (false, named);
    while !networks.is_closed() {
        match read(&client).await {
            Ok(found) => {
                failing = false;
                if found.is_empty() && !std::mem::replace(&mut warned, true) {
                    tracing::warn!(
                        "the API server does not say from which networks services get their addresses, as it does since \
                         Kubernetes 1.33, and the configuration names none: of these addresses nodes and Peers are refused the API \
                         server's alone; name the networks in the chart's serviceCIDRs"
                    );
                }
                networks.send_if_modified(|known| {
                    let changed = *known != found;
                    *known = found;
                    changed
                });
            }
            // An API server that is away is reported by the watches.
            Err(error) if failing || !refused(&error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the networks of services cannot be read now");
            }
            Err(error) => {
                failing = true;
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the networks of services cannot be read; what --service-cidr names counts"
                );
            }
        }
        time::sleep(INTERVAL).await;
    }
}

/// Returns whether the API server answers that it will not say.
pub(crate) fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

/// Returns the networks; none where the API server does not know the kind.
async fn read(client: &Client) -> Result<BTreeSet<Prefix>, kube::Error> {
    for version in ["v1", "v1beta1"] {
        let request = Request::new(format!("/apis/networking.k8s.io/{version}/servicecidrs"));
        let request = request
            .list(&ListParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match client.request::<List>(request).await {
            Ok(list) => return Ok(list.items.iter().flat_map(of).collect()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(BTreeSet::new())
}

/// What is used of the answer. Nothing of the metadata is: a time in it that no calendar has keeps nothing else from being read.
#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

/// Returns the networks of one object; what cannot be read is left out.
fn of(object: &Value) -> Vec<Prefix> {
    let networks = object["spec"]["cidrs"].as_array();
    let texts = networks.into_iter().flatten().filter_map(|text| text.as_str());
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_refusal_is_worth_a_warning() {
        let answered = |code| {
            let status = kube::core::Status::failure("no", "Reason").with_code(code);
            refused(&kube::Error::Api(Box::new(status)))
        };
        assert!(answered(403));
        assert!(!answered(429) && !answered(503));
    }

    #[test]
    fn networks_are_taken_from_the_spec_and_nothing_else_is_needed() {
        let times = json!([{"manager": "x", "time": "2026-01-01T00:00:00+99:99"}]);
        let read = |spec: Value| {
            let object = json!({"metadata": {"name": "kubernetes", "managedFields": times}, "spec": spec});
            let list: List = serde_json::from_value(json!({"items": [object]})).unwrap();
            list.items.iter().flat_map(of).collect::<Vec<_>>()
        };
        let both = read(json!({"cidrs": ["10.96.0.0/16", "x", 7, "fd00:10:96::/112"]}));
        assert_eq!(
            both,
            [
                "10.96.0.0/16".parse().unwrap(),
                "fd00:10:96::/112".parse().unwrap()
            ]
        );
        assert_eq!(read(json!({"cidrs": "10.96.0.0/16"})), []);
        assert_eq!(read(json!(null)), []);
    }
}
