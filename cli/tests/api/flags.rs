//! Flags of kubectl and of `peer`, through the program.

use std::{fs, path::Path, thread};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use spanwire_crds::{Location, Peer};

use crate::{
    KEY, cli, publish,
    server::{Server, until},
};

/// Runs `peer add`, and accepts the Peer as the operator does; the exit code and what it says.
async fn added(server: &Server, folder: &Path, name: &str, words: &[&str]) -> (i32, String, Peer) {
    let words: Vec<String> = ["peer", "add", name]
        .iter()
        .chain(words)
        .map(|&word| word.to_owned())
        .collect();
    let (kubeconfig, at) = (server.kubeconfig.clone(), folder.to_owned());
    let adding = thread::spawn(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cli(&kubeconfig, &at, &words)
    });
    let api: Api<Peer> = Api::all(server.client.clone());
    let peer = until("the Peer is there", async || {
        api.get_opt(name).await.ok().flatten()
    })
    .await;
    let accepted = json!({"publicKey": peer.spec.public_key, "allowedIPs": peer.spec.allowed_ips, "home": "a",
        "attachments": ["a"]});
    let patch = Patch::Merge(json!({"status": {"accepted": accepted}}));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
    let (code, said) = adding.join().unwrap();
    (code, said, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_added_as_the_flags_say() {
    let server = Server::start().await;
    publish(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);

    let (code, said) = run(&["peer", "add", "laptop", "--pool", "10.77.0.0/16", "--dry-run"]);
    assert!(
        code == 0
            && said.contains("kind: Peer")
            && said.contains("10.77.0.1/32")
            && said.contains("nothing was created"),
        "{code} {said}"
    );
    let (code, said) = run(&["peer", "list", "-o", "name"]);
    assert_eq!((code, said.as_str()), (0, ""), "a dry run creates nothing");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "and writes nothing"
    );

    let (code, said, peer) = added(
        &server,
        folder.path(),
        "phone",
        &["--pool", "10.77.0.0/16", "--qr"],
    )
    .await;
    assert_eq!(peer.spec.allowed_ips, ["10.77.0.1/32"]);
    assert!(
        code == 0 && said.contains("wg-quick up ./phone.conf"),
        "{code} {said}"
    );
    let drawn = said.lines().filter(|line| line.contains(['█', '▀', '▄'])).count();
    assert!(drawn > 20, "a QR code: {said}");

    let words = [
        "--public-key",
        KEY[0],
        "--allowed-ip",
        "192.168.50.0/24",
        "--endpoint",
        "vpn.example.com:51820",
    ];
    let (code, said, peer) = added(&server, folder.path(), "office", &words).await;
    assert_eq!(peer.spec.public_key, KEY[0]);
    assert_eq!(peer.spec.allowed_ips, ["192.168.50.0/24"]);
    assert!(code == 0, "{code} {said}");
    let config = fs::read_to_string(folder.path().join("office.conf")).unwrap();
    let private = config.lines().find(|line| line.contains("PrivateKey"));
    assert!(
        private.is_none_or(|line| line.starts_with('#')),
        "its key is not known here: {config}"
    );

    // The next free one of the pool.
    let (_, said) = run(&["peer", "add", "laptop", "--pool", "10.77.0.0/16", "--dry-run"]);
    assert!(said.contains("10.77.0.2/32"), "{said}");

    let api: Api<Peer> = Api::all(server.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "edge"}}}));
    api.patch("phone", &PatchParams::default(), &label).await.unwrap();
    let (code, said) = run(&["peer", "list", "-l", "team=edge", "-o", "name"]);
    assert_eq!((code, said.as_str()), (0, "peer.spanwire.dev/phone\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn locations_are_selected_by_labels_and_the_cluster_by_its_context() {
    let server = Server::start().await;
    publish(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let api: Api<Location> = Api::all(server.client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"tier": "edge"}}}));
    api.patch("b", &PatchParams::default(), &label).await.unwrap();
    let names = |selector: &str| {
        let script = format!("status -l {selector} -o json");
        let (_, said) = cli(
            &server.kubeconfig,
            folder.path(),
            &script.split(' ').collect::<Vec<_>>(),
        );
        // Notes come first, where there are any.
        let (_, report) = said.split_once('{').unwrap_or_else(|| panic!("{said}"));
        let report: Value = serde_json::from_str(&format!("{{{report}")).unwrap();
        let of = |list: &str, field: &str| {
            let items = report[list].as_array().unwrap().iter();
            items
                .map(|item| item[field].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        (of("locations", "name"), of("links", "from"))
    };
    let b = || vec!["b".to_owned()];
    assert_eq!(names("tier=edge"), (b(), b()));
    let listed = |words: &[&str]| cli(&server.kubeconfig, folder.path(), words);
    let one = "location.spanwire.dev/b\n".to_owned();
    assert_eq!(
        listed(&["status", "-l", "tier=edge", "-o", "name"]),
        (0, one.clone())
    );
    assert_eq!(
        listed(&["status", "-o", "name"]),
        (0, format!("location.spanwire.dev/a\n{one}"))
    );
    let (code, said) = listed(&["status", "--watch", "-o", "name"]);
    assert!(
        code == 1 && said.contains("--watch is for people"),
        "{code} {said}"
    );
    assert_eq!(names("tier!=edge"), (vec!["a".to_owned()], vec!["a".to_owned()]));

    let text = fs::read_to_string(&server.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let here = config["current-context"].as_str().unwrap().to_owned();
    let mut elsewhere = config["contexts"][0].clone();
    elsewhere["name"] = "elsewhere".into();
    elsewhere["context"]["cluster"] = "elsewhere".into();
    config["contexts"].as_array_mut().unwrap().push(elsewhere);
    let nowhere = json!({"name": "elsewhere", "cluster": {"server": "https://127.0.0.1:1"}});
    config["clusters"].as_array_mut().unwrap().push(nowhere);
    config["current-context"] = "elsewhere".into();
    let file = folder.path().join("contexts");
    fs::write(&file, config.to_string()).unwrap();
    let (code, said) = cli(&file, folder.path(), &["peer", "list"]);
    assert!(code == 1 && said.contains("cannot list peers"), "{code} {said}");
    let (code, said) = cli(&file, folder.path(), &["peer", "list", "--context", &here]);
    assert_eq!(code, 0, "{said}");
}
