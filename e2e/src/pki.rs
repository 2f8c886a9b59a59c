//! Keys and certificates of a lab's cluster, made with openssl.

use std::{fs, net::IpAddr, thread};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    command::Cmd,
    layout::{API_PORT, Layout},
    store::Store,
};

/// First address of the services' network: the API server as pods know it.
const API_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:10:96::1"];

/// A certificate to be made: its file's name, who it is for, its groups, its addresses and names.
struct Certificate {
    file: String,
    user: String,
    group: Option<&'static str>,
    names: Vec<String>,
}

/// Makes everything that the cluster's components authenticate with, in the lab's folder `pki`.
pub(crate) fn create(store: &Store, layout: &Layout) -> Result<()> {
    let folder = store.path("pki");
    fs::create_dir_all(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let ca = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "3650",
    ];
    Cmd::new("openssl")
        .args(ca)
        .args([
            "-subj",
            "/CN=lab",
            "-keyout",
            &at("ca.key"),
            "-out",
            &at("ca.crt"),
        ])
        .args([
            "-addext",
            "keyUsage=critical,keyCertSign,digitalSignature,cRLSign",
        ])
        .run()?;
    Cmd::new("openssl")
        .args(["genrsa", "-out", &at("accounts.key"), "2048"])
        .run()?;
    let wanted = certificates(layout);
    thread::scope(|scope| {
        let running: Vec<_> = wanted
            .iter()
            .map(|one| scope.spawn(|| sign(store, one)))
            .collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic in signing"))
    })
}

fn certificates(layout: &Layout) -> Vec<Certificate> {
    let addresses = |all: &[IpAddr]| all.iter().map(|a| format!("IP:{a}")).collect::<Vec<_>>();
    let one = |file: &str, user: &str, group| Certificate {
        file: file.to_owned(),
        user: user.to_owned(),
        group,
        names: Vec::new(),
    };
    let mut api = vec![
        "IP:127.0.0.1".to_owned(),
        "DNS:kubernetes.default.svc".into(),
        "DNS:localhost".into(),
    ];
    api.extend(API_SERVICE.map(|address| format!("IP:{address}")));
    api.extend(addresses(&layout.control_plane().addresses));
    api.extend(addresses(&layout.locations[0].internet));
    let mut all = vec![
        Certificate {
            names: api,
            ..one("apiserver", "kube-apiserver", None)
        },
        one(
            "apiserver-kubelet",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        ),
        one("admin", "admin", Some("system:masters")),
        one("kube-controller-manager", "system:kube-controller-manager", None),
        one("kube-scheduler", "system:kube-scheduler", None),
        one("kube-proxy", "system:kube-proxy", None),
        one("flannel", "flannel", None),
    ];
    for node in layout.nodes() {
        let user = format!("system:node:{}", node.name);
        let names = [vec![format!("DNS:{}", node.name)], addresses(&node.addresses)].concat();
        all.push(Certificate {
            names,
            ..one(&format!("node-{}", node.name), &user, Some("system:nodes"))
        });
    }
    all
}

fn sign(store: &Store, wanted: &Certificate) -> Result<()> {
    let at = |end: &str| {
        store
            .path(format!("pki/{}.{end}", wanted.file))
            .display()
            .to_string()
    };
    let ca = |end: &str| store.path(format!("pki/ca.{end}")).display().to_string();
    let subject = match wanted.group {
        Some(group) => format!("/O={group}/CN={}", wanted.user),
        None => format!("/CN={}", wanted.user),
    };
    let request = Cmd::new("openssl")
        .args([
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-subj", &subject, "-keyout", &at("key")])
        .run()?;
    let mut extensions =
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n".to_owned();
    if !wanted.names.is_empty() {
        extensions += &format!("subjectAltName={}\n", wanted.names.join(","));
    }
    fs::write(at("ext"), extensions)?;
    Cmd::new("openssl")
        .args([
            "x509",
            "-req",
            "-CA",
            &ca("crt"),
            "-CAkey",
            &ca("key"),
            "-days",
            "3650",
        ])
        .args(["-extfile", &at("ext"), "-out", &at("crt")])
        .input(request)
        .run()
        .with_context(|| format!("cannot sign the certificate of {}", wanted.user))?;
    Ok(())
}

/// Writes a kubeconfig for one of the certificates.
pub(crate) fn kubeconfig(store: &Store, file: &str, certificate: &str, server: &str) -> Result<()> {
    let pki = |name: String| store.path("pki").join(name);
    let content = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": store.name(),
        "clusters": [{"name": store.name(), "cluster": {
            "server": server, "certificate-authority": pki("ca.crt".into()) }}],
        "users": [{"name": certificate, "user": {
            "client-certificate": pki(format!("{certificate}.crt")),
            "client-key": pki(format!("{certificate}.key")) }}],
        "contexts": [{"name": store.name(), "context": {"cluster": store.name(), "user": certificate}}],
    });
    store.write(file, serde_json::to_vec_pretty(&content)?)?;
    Ok(())
}

/// Returns the address at which the nodes of a location reach the API server. As in a real cluster, the node that it runs
/// on and its neighbours use the private one.
pub(crate) fn server(layout: &Layout, location: &str) -> IpAddr {
    if location == layout.control_plane().location {
        layout.control_plane().addresses[0]
    } else {
        layout.api()
    }
}

/// Writes the kubeconfigs of all components.
pub(crate) fn kubeconfigs(store: &Store, layout: &Layout) -> Result<()> {
    let url = |host: IpAddr| format!("https://{}", std::net::SocketAddr::new(host, API_PORT));
    let local = format!("https://127.0.0.1:{API_PORT}");
    for user in ["kube-controller-manager", "kube-scheduler"] {
        kubeconfig(store, &format!("kubeconfig/{user}"), user, &local)?;
    }
    kubeconfig(store, "kubeconfig/admin", "admin", &local)?;
    for location in &layout.locations {
        let server = url(server(layout, &location.name));
        for node in &location.nodes {
            let folder = format!("nodes/{}", node.name);
            kubeconfig(
                store,
                &format!("{folder}/kubelet.conf"),
                &format!("node-{}", node.name),
                &server,
            )?;
            kubeconfig(store, &format!("{folder}/kube-proxy.conf"), "kube-proxy", &server)?;
            kubeconfig(store, &format!("{folder}/flannel.conf"), "flannel", &server)?;
        }
    }
    Ok(())
}
