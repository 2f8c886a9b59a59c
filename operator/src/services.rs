//! The networks from which services get their addresses, as the API server tells them (`ServiceCIDR`, in every cluster since
//! Kubernetes 1.33).

use std::{collections::BTreeSet, time::Duration};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use spanwire_topology::Prefix;
use tokio::{sync::watch, time};

/// How often they are read. They change when an administrator adds a network.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long the first answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows them until nothing receives them. The first answer is waited for, so that nothing is decided without it, but not
/// for long.
pub async fn follow(client: Client) -> watch::Receiver<BTreeSet<Prefix>> {
    let (sender, mut networks) = watch::channel(BTreeSet::new());
    tokio::spawn(poll(client, sender));
    if time::timeout(PATIENCE, networks.changed()).await.is_ok() {
        // For the loop it is news.
        networks.mark_changed();
    }
    networks
}

async fn poll(client: Client, networks: watch::Sender<BTreeSet<Prefix>>) {
    let mut failing = false;
    while !networks.is_closed() {
        match read(&client).await {
            Ok(found) => {
                failing = false;
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
fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

/// Returns the networks; none where the API server does not know the kind.
async fn read(client: &Client) -> Result<BTreeSet<Prefix>, kube::Error> {
    for version in ["v1", "v1beta1"] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(version));
        match api.list(&ListParams::default()).await {
            Ok(list) => return Ok(list.items.iter().flat_map(of).collect()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(BTreeSet::new())
}

fn resource(version: &str) -> ApiResource {
    let group = "networking.k8s.io";
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: "ServiceCIDR".to_owned(),
        plural: "servicecidrs".to_owned(),
    }
}

/// Returns the networks of one object; what cannot be read is left out.
fn of(object: &DynamicObject) -> Vec<Prefix> {
    let networks = object.data["spec"]["cidrs"].as_array();
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
        let read = |data| {
            let mut object = DynamicObject::new("kubernetes", &resource("v1"));
            object.data = data;
            of(&object)
        };
        let both = read(json!({"spec": {"cidrs": ["10.96.0.0/16", "x", 7, "fd00:10:96::/112"]}}));
        assert_eq!(
            both,
            [
                "10.96.0.0/16".parse().unwrap(),
                "fd00:10:96::/112".parse().unwrap()
            ]
        );
        assert_eq!(read(json!({"spec": {"cidrs": "10.96.0.0/16"}})), []);
        assert_eq!(read(json!(null)), []);
    }
}
