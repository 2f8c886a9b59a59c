//! What the API server tells of the cluster's networks.

use std::time::Duration;

use spanwire_operator::services;
use tokio::time::timeout;

use crate::server::Server;

#[tokio::test]
async fn the_network_of_services_is_known_from_the_api_server() {
    let server = Server::start().await;
    let mut networks = services::follow(server.client.clone(), false).await;
    let known = async {
        while networks.borrow_and_update().is_empty() {
            networks.changed().await.unwrap();
        }
        networks.borrow().clone()
    };
    let known = timeout(Duration::from_secs(90), known).await.unwrap();
    assert_eq!(known, ["10.96.0.0/16".parse().unwrap()].into());
}
