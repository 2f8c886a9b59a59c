//! What the chart grants to the operator: all that it needs, and no more.

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::ListParams};
use spanwire_crds::{MeshNode, Peer, PeerSpec};

use crate::{
    endpoints,
    objects::{annotate, condition, head, node, report, status_of},
    operating::start_as,
    policies::{By, template},
    server::{Server, port, until},
};

/// Everything that is granted, sorted: where, of what, what. docs/threat-model.md says what follows from it.
const GRANTED: &str = "\
cluster apiextensions.k8s.io/customresourcedefinitions [felixconfigurations.crd.projectcalico.org blockaffinities.crd.projectcalico.org blockaffinities.projectcalico.org ipamblocks.crd.projectcalico.org ciliumnodes.cilium.io]: list watch
cluster apiextensions.k8s.io/customresourcedefinitions [locations.spanwire.dev locationslices.spanwire.dev meshnodes.spanwire.dev peers.spanwire.dev]: patch
cluster cilium.io/ciliumnodes: list watch
cluster coordination.k8s.io/leases [spanwire-operator]: list
cluster crd.projectcalico.org/blockaffinities: list watch
cluster crd.projectcalico.org/felixconfigurations: list watch
cluster crd.projectcalico.org/ipamblocks: list watch
cluster networking.k8s.io/servicecidrs: list
cluster nodes: list watch
cluster pods: list watch
cluster spanwire.dev/locations/status: patch
cluster spanwire.dev/locations: create delete get list watch
cluster spanwire.dev/locationslices: create delete get list patch watch
cluster spanwire.dev/meshnodes/status: patch
cluster spanwire.dev/meshnodes: create delete get list patch watch
cluster spanwire.dev/peers/status: patch
cluster spanwire.dev/peers: get list watch
default discovery.k8s.io/endpointslices [kubernetes]: list watch
default events.k8s.io/events: create
kube-public configmaps [cluster-info]: get
spanwire configmaps [spanwire-operator]: get patch
spanwire configmaps: create
spanwire coordination.k8s.io/leases [spanwire-operator]: get update
spanwire coordination.k8s.io/leases: create list watch
";

fn is_operator(subjects: Option<&Vec<Subject>>) -> bool {
    let mut subjects = subjects.into_iter().flatten();
    subjects.any(|subject| subject.kind == "ServiceAccount" && subject.name == "x-spanwire-operator")
}

fn lines(place: &str, rules: Option<Vec<PolicyRule>>) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in rules.into_iter().flatten() {
        let mut verbs = rule.verbs;
        verbs.sort();
        let names = rule.resource_names.unwrap_or_default();
        let names = if names.is_empty() {
            String::new()
        } else {
            format!(" [{}]", names.join(" "))
        };
        for group in rule.api_groups.into_iter().flatten() {
            let group = if group.is_empty() {
                group
            } else {
                format!("{group}/")
            };
            for resource in rule.resources.iter().flatten() {
                lines.push(format!("{place} {group}{resource}{names}: {}", verbs.join(" ")));
            }
        }
        assert!(rule.non_resource_urls.unwrap_or_default().is_empty());
    }
    lines
}

/// What the roles grant that are bound to the operator.
async fn granted(server: &Server) -> Vec<String> {
    let client = || server.client.clone();
    let all = ListParams::default();
    let mut granted = Vec::new();
    let bindings = Api::<ClusterRoleBinding>::all(client()).list(&all).await.unwrap();
    for binding in bindings {
        if is_operator(binding.subjects.as_ref()) {
            let role = Api::<ClusterRole>::all(client())
                .get(&binding.role_ref.name)
                .await;
            granted.extend(lines("cluster", role.unwrap().rules));
        }
    }
    let bindings = Api::<RoleBinding>::all(client()).list(&all).await.unwrap();
    for binding in bindings {
        if is_operator(binding.subjects.as_ref()) {
            assert_eq!(binding.role_ref.kind, "Role");
            let ObjectMeta { namespace, .. } = binding.metadata;
            let namespace = namespace.unwrap();
            let roles: Api<Role> = Api::namespaced(client(), &namespace);
            let role = roles.get(&binding.role_ref.name).await.unwrap();
            granted.extend(lines(&namespace, role.rules));
        }
    }
    granted.sort();
    granted
}

#[tokio::test]
async fn the_operator_does_its_work_with_what_the_chart_grants_and_that_is_this() {
    let server = Server::start().await;
    let client = &server.client;
    server.done(By::Admin, &["create", "namespace", "spanwire"], "");
    server.done(By::Admin, &["apply", "-f", "-"], &template("access", &[]));
    let expected: Vec<&str> = GRANTED.lines().collect();
    assert_eq!(granted(&server).await, expected);
    let without = template("access", &["--set", "manageCRDs=false"]);
    assert!(without.contains("verbs: [get]\n    resourceNames: [locations.spanwire.dev"));
    let of_sources = |named: &str| {
        let chart = template("access", &["--set", &format!("podNetworks={named}")]);
        ["blockaffinities, ipamblocks", "ciliumnodes", "pods"]
            .map(|kind| chart.contains(&format!("[{kind}]")))
    };
    assert_eq!(of_sources("nodes"), [false, false, false]);
    assert_eq!(of_sources("calico"), [true, false, false]);
    assert_eq!(of_sources("cilium"), [false, true, false]);
    assert_eq!(of_sources("pods"), [false, false, true]);

    for question in [
        ["get", "secrets", "--all-namespaces"],
        ["create", "pods", "--all-namespaces"],
        ["patch", "nodes", "--all-namespaces"],
        [
            "create",
            "customresourcedefinitions.apiextensions.k8s.io",
            "--all-namespaces",
        ],
        ["create", "clusterrolebindings", "--all-namespaces"],
        ["update", "leases", "--namespace=spanwire"],
        ["create", "events.events.k8s.io", "--namespace=kube-system"],
        ["impersonate", "users", "--all-namespaces"],
    ] {
        let out = server.kubectl(By::Operator, &[&["auth", "can-i"], &question[..]].concat(), "");
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "no", "{question:?}");
    }

    endpoints::join_by(&server, "192.168.200.9:6443").await;

    // It publishes, creates a Location, reports, writes an Event, and takes away again.
    let address = format!("--status-address=127.0.0.1:{}", port());
    let arguments = ["--identity=one", "--namespace=spanwire", &address];
    let kubeconfig = server.kubeconfig_of("operator");
    let mut operator = start_as(&server, &kubeconfig, &arguments, "one.log");
    node(client, "l1", 1, "left").await;
    let mesh_nodes: Api<MeshNode> = Api::all(client.clone());
    until("the node has a MeshNode", async || {
        mesh_nodes.get_opt("l1").await.unwrap()
    })
    .await;
    report(client, "l1", 1, &[]).await;
    annotate(client, "l1", "spanwire.dev/persistent-keepalive", "often").await;
    until("the bad annotation is reported", async || {
        condition(client, "left", "Accepted")
            .await
            .filter(|(status, _)| status == "False")
    })
    .await;
    annotate(client, "l1", "spanwire.dev/internal-ip", "192.168.200.9").await;
    until(
        "where machines that join find the API server is no node's",
        async || {
            let (status, message) = condition(client, "left", "Accepted").await?;
            (status == "False" && message.contains("192.168.200.9/32: is where nodes reach the API server"))
                .then_some(())
        },
    )
    .await;
    let peers: Api<Peer> = Api::all(client.clone());
    let peer = Peer::new(
        "laptop",
        PeerSpec {
            public_key: spanwire_topology::PublicKey::new([99; 32]).to_string(),
            allowed_ips: vec!["10.99.0.7/32".to_owned()],
            endpoint: None,
            persistent_keepalive: None,
            location: Some("left".to_owned()),
            preshared_key_secret_ref: None,
        },
    );
    peers.create(&Default::default(), &peer).await.unwrap();
    until("the Peer is accepted", async || {
        peers.get("laptop").await.unwrap().status?.accepted
    })
    .await;
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), "default");
    until("there is an Event", async || {
        let events = events.list(&ListParams::default()).await.unwrap().items;
        events
            .into_iter()
            .find(|event| event.note.as_ref().is_some_and(|note| note.contains("often")))
    })
    .await;
    annotate(client, "l1", "spanwire.dev/location", "right").await;
    until("the slices of a location that is gone go", async || {
        (head(client, "right").await.is_some() && head(client, "left").await.is_none()).then_some(())
    })
    .await;
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    nodes.delete("l1", &Default::default()).await.unwrap();
    node(client, "l2", 2, "right").await;
    until("and so does the MeshNode of a Node that is gone", async || {
        mesh_nodes.get_opt("l1").await.unwrap().is_none().then_some(())
    })
    .await;
    until("the node that came has one", async || {
        mesh_nodes.get_opt("l2").await.unwrap()
    })
    .await;
    assert!(!operator.has_ended());

    // An uninstallation, with the same rights.
    status_of(
        &mesh_nodes,
        "l2",
        serde_json::json!({"publicKey": null, "retired": true}),
    )
    .await;
    let arguments = ["retire", "--wait=20", "--identity=hook", "--namespace=spanwire"];
    let mut retire = start_as(&server, &kubeconfig, &arguments, "retire.log");
    let retired = tokio::task::spawn_blocking(move || retire.wait()).await.unwrap();
    for name in ["one.log", "retire.log"] {
        let log = std::fs::read_to_string(server.file(name)).unwrap();
        assert!(!log.to_lowercase().contains("forbidden"), "{name}: {log}");
    }
    assert!(retired);
}
