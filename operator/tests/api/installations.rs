//! One cluster, two installations.

use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use spanwire_crds::{LocationSlice, names::INSTALLATION_LABEL};

use crate::{
    objects::{head, node, versions},
    operating::start,
    server::{Server, port, until},
};

/// The namespaces that what is published names.
async fn publishers(server: &Server) -> Vec<String> {
    let api: Api<LocationSlice> = Api::all(server.client.clone());
    let heads = api.list(&ListParams::default().labels(INSTALLATION_LABEL)).await;
    let labels = heads.unwrap().items.into_iter();
    let mut names: Vec<String> = labels
        .filter_map(|head| head.metadata.labels?.remove(INSTALLATION_LABEL))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn of_two_installations_that_start_at_the_same_moment_one_leads_and_marks_what_it_publishes() {
    let server = Server::start().await;
    let client = &server.client;
    node(client, "l1", 1, "left").await;
    let installation = |namespace: &str| {
        let (place, address) = (
            format!("--namespace={namespace}"),
            format!("--status-address=127.0.0.1:{}", port()),
        );
        start(
            &server,
            &[&format!("--identity={namespace}"), &place, &address],
            &format!("{namespace}.log"),
        )
    };
    let namespaces = ["default", "kube-system"];
    let mut running = namespaces.map(installation);
    let log = |namespace: &str| std::fs::read_to_string(server.file(&format!("{namespace}.log"))).unwrap();
    let ended = until("one of them ends", async || {
        (0..2).find(|place| running[*place].has_ended())
    })
    .await;
    let winner = namespaces[1 - ended];
    let named = format!("in the namespace {winner}");
    assert!(
        log(namespaces[ended]).contains(&named),
        "{}",
        log(namespaces[ended])
    );
    until("there is a head", async || head(client, "left").await).await;
    assert_eq!(publishers(&server).await, [winner]);
    assert!(!running[1 - ended].has_ended(), "{}", log(winner));

    // One that an older version published, or whose label was removed, is marked once.
    let api: Api<LocationSlice> = Api::all(client.clone());
    let unmarked = Patch::Merge(json!({"metadata": {"labels": {INSTALLATION_LABEL: null}}}));
    api.patch("left-head", &PatchParams::default(), &unmarked)
        .await
        .unwrap();
    until("it is marked again", async || {
        (publishers(&server).await == [winner]).then_some(())
    })
    .await;
    let before = versions(client).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(versions(client).await, before, "and that was all");
}
