//! `peer add` where the operator does not grant what is asked for. The test decides as the operator would.

use std::{path::Path, thread};

use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use spanwire_crds::{LocationSlice, Peer};

use crate::{
    cli, create, publish,
    server::{Server, until},
};

/// Waits until the API server says which networks its services have.
pub(crate) async fn services_are_known(server: &Server) {
    let all: Api<ServiceCIDR> = Api::all(server.client.clone());
    until("the networks of services are known", async || {
        all.get_opt("kubernetes").await.ok().flatten()
    })
    .await;
}

fn condition(about: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": about, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Adds the Peer laptop, and has it decided upon; the exit code, what is said, and the file.
async fn added(
    server: &Server,
    folder: &Path,
    words: &[&str],
    status: impl FnOnce(&Peer) -> Value,
) -> (i32, String, String) {
    let (kubeconfig, at) = (server.kubeconfig.clone(), folder.to_owned());
    let words: Vec<String> = ["peer", "add", "laptop"]
        .iter()
        .chain(words)
        .map(ToString::to_string)
        .collect();
    let adding = thread::spawn(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cli(&kubeconfig, &at, &words)
    });
    let api: Api<Peer> = Api::all(server.client.clone());
    let peer = until("the Peer is there", async || {
        api.get_opt("laptop").await.ok().flatten()
    })
    .await;
    let patch = Patch::Merge(json!({"status": status(&peer)}));
    api.patch_status("laptop", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let (code, said) = adding.join().unwrap();
    api.delete("laptop", &DeleteParams::default()).await.unwrap();
    let file = folder.join("laptop.conf");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    (code, said, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_get_its_addresses_is_no_success_and_the_reason_is_said() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&server).await;
    services_are_known(&server).await;

    // The API server of the tests has its services there.
    let (code, said) = cli(
        &server.kubeconfig,
        folder.path(),
        &["peer", "add", "laptop", "--pool", "10.96.0.0/16"],
    );
    assert!(
        code == 1 && said.contains("no address of 10.96.0.0/16 is free, which lies in 10.96.0.0/16"),
        "{code} {said}"
    );
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.199.0.0/24"]}});
    create::<ServiceCIDR>(&server, more).await;
    let granted = |peer: &Peer| {
        assert_eq!(peer.spec.allowed_ips, ["10.199.1.0/32"], "past the services");
        json!({"accepted": {"publicKey": peer.spec.public_key, "allowedIPs": peer.spec.allowed_ips, "home": "a",
            "attachments": ["a"]}})
    };
    let (code, said, config) = added(&server, folder.path(), &[], granted).await;
    assert!(
        code == 0 && config.contains("Address = 10.199.1.0/32"),
        "{code} {said} {config}"
    );

    // Its home stays, and a leader talks to it, though nothing is granted.
    let why = "allowedIPs 10.99.0.1/32: overlaps 10.96.0.0/12, from which services get their addresses; use another network";
    let refused = condition("Accepted", "False", "ClaimRejected", why);
    let attached = condition("Ready", "True", "Attached", "has a tunnel with a");
    let nothing = |peer: &Peer| {
        json!({"accepted": {"publicKey": peer.spec.public_key, "home": "a", "attachments": ["a"]},
            "conditions": [attached, refused]})
    };
    let words = ["--allowed-ip", "10.99.0.1/32"];
    let (code, said, config) = added(&server, folder.path(), &words, nothing).await;
    assert!(
        code == 4 && said.contains(&format!("the Peer is not served: {why}")),
        "{code} {said}"
    );
    assert!(
        config.contains("PrivateKey = ") && !config.contains("[Peer]"),
        "{config}"
    );
    assert!(!said.contains("wg-quick up"), "{said}");

    // Where a part is granted, too.
    let part = |peer: &Peer| {
        json!({"accepted": {"publicKey": peer.spec.public_key, "allowedIPs": ["192.168.50.0/24"], "home": "a",
            "attachments": ["a"]}, "conditions": [attached, refused]})
    };
    let words = ["--allowed-ip", "10.99.0.1/32", "--allowed-ip", "192.168.50.0/24"];
    let (code, said, _) = added(&server, folder.path(), &words, part).await;
    assert!(code == 4 && said.contains(why), "{code} {said}");

    // One of which nothing stands at all is not ready first, and that is not the reason.
    let taken = "publicKey: peer office has the same key";
    let conditions = [
        condition("Ready", "False", "NotYet", "was not accepted"),
        condition("Accepted", "False", "ClaimRejected", taken),
    ];
    let (code, said, _) = added(&server, folder.path(), &[], |_| json!({"conditions": conditions})).await;
    assert!(
        code == 4 && said.contains(&format!("the Peer is not served: {taken}")),
        "{code} {said}"
    );
}

/// Gives the location a another leader, which stands by.
async fn stand_by(server: &Server) {
    let slices: Api<LocationSlice> = Api::all(server.client.clone());
    let head = slices.get("a-head").await.unwrap().spec.head.unwrap();
    let mut head = json!(head);
    head["leaders"]
        .as_array_mut()
        .unwrap()
        .push(json!({"node": "a2", "role": "Standby"}));
    let members = slices.get("a-m1").await.unwrap().spec.members;
    let mut members = json!(members);
    let mut other = members[0].clone();
    other["node"] = json!("a2");
    other["addresses"] = json!(["192.168.0.2"]);
    other["prefixes"] = json!(["10.244.9.0/24"]);
    other["overlay"] = json!(["10.4.0.9"]);
    other["publicKey"] = json!(OTHER_KEY);
    other["endpoints"] = json!(["203.0.113.9:51820"]);
    members.as_array_mut().unwrap().push(other);
    for (name, spec) in [
        ("a-head", json!({"head": head})),
        ("a-m1", json!({"members": members})),
    ] {
        let patch = Patch::Merge(json!({"spec": spec}));
        slices.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
}

const OTHER_KEY: &str = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=";

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_has_a_file_for_each_leader_that_may_take_over() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    publish(&server).await;
    stand_by(&server).await;
    let granted = |peer: &Peer| {
        json!({"accepted": {"publicKey": peer.spec.public_key, "allowedIPs": peer.spec.allowed_ips, "home": "a",
            "attachments": ["a"]}})
    };
    let (code, said, config) = added(
        &server,
        folder.path(),
        &["--all-leaders", "--location", "a"],
        granted,
    )
    .await;
    assert!(
        code == 0 && said.contains("wg-quick up ./laptop.conf\n"),
        "{code} {said}"
    );
    assert!(
        said.contains("when a2 leads: wg-quick up laptop.a2/laptop.conf"),
        "{said}"
    );
    let path = folder.path().join("laptop.a2/laptop.conf");
    let other = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let line = |text: &str, name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
    };
    for same in [
        "PrivateKey = ",
        "Address = ",
        "AllowedIPs = ",
        "PersistentKeepalive = ",
    ] {
        assert_eq!(line(&config, same), line(&other, same));
    }
    assert_eq!(line(&config, "Endpoint"), "Endpoint = 203.0.113.1:51820");
    assert_eq!(line(&other, "Endpoint"), "Endpoint = 203.0.113.9:51820");
    assert_eq!(line(&other, "PublicKey"), format!("PublicKey = {OTHER_KEY}"));
    let comment = format!("# when a2 leads instead: PublicKey = {OTHER_KEY}, Endpoint = 203.0.113.9:51820");
    assert_eq!(line(&config, "# when"), comment);
    assert!(
        line(&other, "# when").starts_with("# when a1 leads instead: "),
        "{other}"
    );
    // Without the flag there is one file.
    std::fs::remove_dir_all(folder.path().join("laptop.a2")).unwrap();
    let (code, ..) = added(&server, folder.path(), &["--location", "a"], granted).await;
    assert!(code == 0 && !folder.path().join("laptop.a2").exists());
}
