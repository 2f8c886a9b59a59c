//! The operator as a process.

use std::{path::Path, time::Duration};

use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use spanwire_crds::{Location, LocationSlice, MeshNode, Peer, PeerSpec};

use crate::{
    objects::{annotate, condition, head, heartbeat, leaders, node, report, status_of, versions},
    server::{Process, Server, port, until},
};

#[tokio::test]
async fn a_cluster_comes_to_a_mesh_that_stays_as_it_is() {
    let server = Server::start().await;
    let client = &server.client;
    let mut operator = operator(&server, "one");
    for (name, number, location) in NODES {
        node(client, name, number, location).await;
    }
    let mesh_nodes: Api<MeshNode> = Api::all(client.clone());
    until(
        "every node has a MeshNode with an overlay address of its only family",
        async || {
            let nodes = mesh_nodes.list(&ListParams::default()).await.unwrap().items;
            (nodes.len() == 4 && nodes.iter().all(|node| node.spec.overlay.len() == 1)).then_some(())
        },
    )
    .await;
    until(
        "a location is published, without leaders: no node has a key yet",
        async || leaders(client, "left").await?.is_empty().then_some(()),
    )
    .await;
    until("the status says why no node leads", async || {
        let (status, message) = condition(client, "left", "LeaderElected").await?;
        (status == "False" && message.contains("no key from their agent")).then_some(())
    })
    .await;

    for (name, number, _) in NODES {
        report(client, name, number, &[]).await;
    }
    let led = until("both locations have leaders", async || {
        let (left, right) = (leaders(client, "left").await?, leaders(client, "right").await?);
        (left.len() == 2 && right.len() == 2).then_some([left, right])
    })
    .await;
    until("the status says that nothing is connected yet", async || {
        let (status, message) = condition(client, "left", "Connected").await?;
        (status == "False" && message.contains("no tunnel with right yet")).then_some(())
    })
    .await;
    report(client, &led[0][0], number_of(&led[0][0]), &["right"]).await;
    report(client, &led[1][0], number_of(&led[1][0]), &["left"]).await;
    until("the pair is established", async || {
        let established = head(client, "left").await?.spec.head?.established;
        (established == ["right"]).then_some(())
    })
    .await;
    until("the location is ready", async || {
        condition(client, "right", "Ready")
            .await
            .filter(|(status, _)| status == "True")
    })
    .await;

    let before = settled(client).await;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    for (name, _, _) in NODES {
        let conditions = serde_json::json!({"conditions": [heartbeat("2026-01-01T00:05:00Z")]});
        status_of(&nodes, name, conditions).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(versions(client).await, before, "heartbeats change nothing");

    assert!(operator.terminate(), "the operator ends well when asked to");
    let _second = self::operator(&server, "two");
    until("the second operator leads", async || {
        holder(&server).await.filter(|holder| holder == "two")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        versions(client).await,
        before,
        "another operator decides the same"
    );
}

#[tokio::test]
async fn annotations_and_peers_are_followed_and_bad_ones_are_reported() {
    let server = Server::start().await;
    let client = &server.client;
    let _operator = operator(&server, "one");
    for (name, number, location) in NODES {
        node(client, name, number, location).await;
    }
    for (name, number, _) in NODES {
        until("the node has a MeshNode", async || {
            Api::<MeshNode>::all(client.clone()).get_opt(name).await.unwrap()
        })
        .await;
        report(client, name, number, &[]).await;
    }
    let locations: Api<Location> = Api::all(client.clone());
    annotate(client, "l1", "spanwire.dev/location", "own").await;
    until("a location of its own", async || {
        leaders(client, "own").await.filter(|led| led == &["l1"])
    })
    .await;
    let slices: Api<LocationSlice> = Api::all(client.clone());
    until("the node is in one slice alone", async || {
        let slices = slices.list(&ListParams::default()).await.unwrap().items;
        let members = slices.iter().flat_map(|slice| &slice.spec.members);
        (members.filter(|member| member.node == "l1").count() == 1).then_some(())
    })
    .await;
    annotate(client, "l1", "spanwire.dev/location", "left").await;
    until("the managed location is gone", async || {
        let gone = locations.get_opt("own").await.unwrap().is_none();
        (gone && head(client, "own").await.is_none()).then_some(())
    })
    .await;

    annotate(client, "l2", "spanwire.dev/leader", "true").await;
    until("the annotated node leads", async || {
        leaders(client, "left")
            .await
            .filter(|led| led.first().is_some_and(|leader| leader == "l2"))
    })
    .await;

    annotate(client, "r1", "spanwire.dev/persistent-keepalive", "often").await;
    let reported = until("the bad annotation is reported", async || {
        condition(client, "right", "Accepted")
            .await
            .filter(|(status, _)| status == "False")
    })
    .await;
    for part in [
        "node r1",
        "spanwire.dev/persistent-keepalive",
        "\"often\"",
        "from 0 to 65535",
    ] {
        assert!(reported.1.contains(part), "{part}: {}", reported.1);
    }
    until("and on the MeshNode", async || {
        let node = Api::<MeshNode>::all(client.clone()).get("r1").await.unwrap();
        let mut conditions = node.status.unwrap_or_default().conditions.into_iter();
        let said = conditions.find(|condition| condition.type_ == "Accepted")?;
        (said.status == "False" && said.message.contains("often")).then_some(())
    })
    .await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), "default");
    until("and in an Event on the node", async || {
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let about = |event: &k8s_openapi::api::events::v1::Event| {
            let node = event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some("r1");
            node && event.note.as_ref().is_some_and(|note| note.contains("often"))
        };
        (events.iter().filter(|event| about(event)).count() == 1).then_some(())
    })
    .await;

    let peers: Api<Peer> = Api::all(client.clone());
    let spec = PeerSpec {
        public_key: spanwire_topology::PublicKey::new([99; 32]).to_string(),
        allowed_ips: vec!["10.99.0.7/32".to_owned(), "10.244.1.0/24".to_owned()],
        endpoint: None,
        persistent_keepalive: None,
        location: Some("right".to_owned()),
        preshared_key_secret_ref: None,
    };
    peers
        .create(&PostParams::default(), &Peer::new("laptop", spec))
        .await
        .unwrap();
    let status = until("the peer has a status", async || {
        peers.get("laptop").await.unwrap().status
    })
    .await;
    let accepted = status.accepted.unwrap();
    assert_eq!(
        accepted.allowed_ips,
        ["10.99.0.7/32"],
        "a pod network is not to be had"
    );
    assert_eq!(accepted.home.as_deref(), Some("right"));
    let refused = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Accepted")
        .unwrap();
    assert!(refused.message.contains("10.244.1.0/24"), "{}", refused.message);

    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    nodes.delete("r2", &DeleteParams::default()).await.unwrap();
    until("with the Node its MeshNode goes", async || {
        let gone = Api::<MeshNode>::all(client.clone())
            .get_opt("r2")
            .await
            .unwrap()
            .is_none();
        gone.then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_operators_one_leads_and_the_other_takes_over() {
    let server = Server::start().await;
    let client = &server.client;
    let first = operator(&server, "one");
    until("the first leads", async || holder(&server).await).await;
    let _second = operator(&server, "two");
    node(client, "l1", 1, "left").await;
    until("there is a head", async || head(client, "left").await).await;
    assert_eq!(holder(&server).await.as_deref(), Some("one"));
    drop(first); // killed: the Lease is not given up
    node(client, "r1", 3, "right").await;
    until("the second goes on", async || head(client, "right").await).await;
    assert_eq!(holder(&server).await.as_deref(), Some("two"));
}

#[tokio::test]
async fn nodes_are_retired_once_and_taken_back_by_the_next_installation() {
    let server = Server::start().await;
    let client = &server.client;
    let mut running = operator(&server, "one");
    node(client, "l1", 1, "left").await;
    node(client, "l2", 2, "left").await;
    node(client, "l3", 3, "left").await;
    let mesh_nodes: Api<MeshNode> = Api::all(client.clone());
    for name in ["l1", "l2", "l3"] {
        until("the node has a MeshNode", async || {
            mesh_nodes.get_opt(name).await.unwrap()
        })
        .await;
    }
    report(client, "l1", 1, &[]).await;
    report(client, "l2", 1, &[]).await;
    // Its agent has rules and routes, and no room on its disk for a key.
    status_of(&mesh_nodes, "l3", serde_json::json!({"observedGeneration": 1})).await;
    let mut retire = start(&server, &["retire", "--wait=20", "--identity=hook"], "retire.log");
    for name in ["l1", "l2", "l3"] {
        until("the agent is asked", async || {
            mesh_nodes.get(name).await.ok().filter(|node| node.spec.retire)
        })
        .await;
        status_of(&mesh_nodes, name, serde_json::json!({"retired": true})).await;
    }
    let waited = tokio::task::spawn_blocking(move || retire.wait()).await.unwrap();
    assert!(
        waited,
        "{}",
        std::fs::read_to_string(server.file("retire.log")).unwrap()
    );
    let ended = tokio::task::spawn_blocking(move || running.wait()).await.unwrap();
    assert!(!ended, "an operator that lost its Lease ends");
    for name in ["l1", "l2", "l3"] {
        assert!(
            mesh_nodes.get(name).await.unwrap().spec.retire,
            "no operator took it back"
        );
    }
    let _next = operator(&server, "next");
    until("the next installation takes the nodes back", async || {
        let nodes = mesh_nodes.list(&ListParams::default()).await.unwrap().items;
        nodes.iter().all(|node| !node.spec.retire).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_installation_neither_leads_nor_retires_the_nodes_of_the_first() {
    let server = Server::start().await;
    let client = &server.client;
    let _first = operator(&server, "one");
    node(client, "l1", 1, "left").await;
    let mesh_nodes: Api<MeshNode> = Api::all(client.clone());
    until("the node has a MeshNode", async || {
        mesh_nodes.get_opt("l1").await.unwrap()
    })
    .await;
    report(client, "l1", 1, &[]).await;
    let elsewhere = "--namespace=kube-system";
    let address = format!("--status-address=127.0.0.1:{}", port());
    let mut second = start(&server, &["--identity=two", elsewhere, &address], "two.log");
    let ended = tokio::task::spawn_blocking(move || second.wait()).await.unwrap();
    let log = std::fs::read_to_string(server.file("two.log")).unwrap();
    assert!(!ended && log.contains("in the namespace default"), "{log}");
    let mut retire = start(
        &server,
        &["retire", "--wait=5", "--identity=hook", elsewhere],
        "retire.log",
    );
    let waited = tokio::task::spawn_blocking(move || retire.wait()).await.unwrap();
    let log = std::fs::read_to_string(server.file("retire.log")).unwrap();
    let is_said = log.contains("belong to another installation") && log.contains("in the namespace default");
    assert!(waited && is_said, "{log}");
    assert!(!mesh_nodes.get("l1").await.unwrap().spec.retire);
    assert_eq!(holder(&server).await.as_deref(), Some("one"));
}

const NODES: [(&str, u8, &str); 4] = [
    ("l1", 1, "left"),
    ("l2", 2, "left"),
    ("r1", 3, "right"),
    ("r2", 4, "right"),
];

fn number_of(node: &str) -> u8 {
    NODES.iter().find(|(name, _, _)| *name == node).unwrap().1
}

pub(crate) fn operator(server: &Server, name: &str) -> Process {
    let address = format!("--status-address=127.0.0.1:{}", port());
    start(server, &["--identity", name, &address], &format!("{name}.log"))
}

pub(crate) fn start(server: &Server, arguments: &[&str], log: &str) -> Process {
    start_as(server, &server.kubeconfig, arguments, log)
}

/// Starts the operator with these credentials.
pub(crate) fn start_as(server: &Server, kubeconfig: &Path, arguments: &[&str], log: &str) -> Process {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let program = Path::new(env!("CARGO_BIN_EXE_spanwire-operator"));
    Process::start(
        program,
        &arguments,
        &[("KUBECONFIG", kubeconfig)],
        &server.file(log),
    )
}

async fn holder(server: &Server) -> Option<String> {
    let api: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(server.client.clone(), "default");
    let lease = api.get_opt("spanwire-operator").await.unwrap()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// The versions, once they do not change any more.
async fn settled(client: &kube::Client) -> Vec<(String, String)> {
    let mut last = versions(client).await;
    until("nothing is written any more", async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = versions(client).await;
        let same = now == last;
        last.clone_from(&now);
        same.then_some(now)
    })
    .await
}
