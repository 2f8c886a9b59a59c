//! What runs on a node, and how it is configured.

use std::{net::IpAddr, path::Path};

use anyhow::Result;
use serde_json::json;

use crate::{
    calico, cloud,
    images::PAUSE,
    layout::{API_PORT, Layout, NodeLayout, PODS, SERVICES, cluster_dns},
    scenario::{Cni, Family, Proxy, Scenario},
    store::Store,
};

/// Everything the configuration of a node depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The lab's folder.
    pub store: &'a Store,
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The addresses.
    pub layout: &'a Layout,
    /// The folder of the lab's programs.
    pub tools: &'a Path,
}

/// Writes what all nodes share.
pub(crate) fn write_shared(context: Context<'_>) -> Result<()> {
    let Context { store, scenario, .. } = context;
    store.write("init.sh", include_str!("init.sh"))?;
    // No name is looked up here: a resolver that cannot be reached only makes everything wait.
    store.write("resolv.conf", "")?;
    let v6 = scenario.has(Family::V6);
    let mut flannel = json!({
        "Network": PODS[0], "EnableIPv4": true, "EnableIPv6": v6,
        "EnableNFTables": scenario.network.proxy == Proxy::Nftables,
        "Backend": {"Type": if scenario.network.cni == Cni::HostGw { "host-gw" } else { "vxlan" }},
    });
    if v6 {
        flannel["IPv6Network"] = json!(PODS[1]);
    }
    store.write("flannel.json", flannel.to_string())?;
    match scenario.network.cni {
        Cni::Vxlan | Cni::HostGw => {}
        Cni::CalicoVxlan | Cni::CalicoCrossSubnet | Cni::CalicoBgp => {
            calico::write_shared(store, context.layout)?;
        }
        Cni::Cloud => cloud::write_shared(store)?,
    }
    let audit = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]});
    store.write("audit.json", audit.to_string())?;
    Ok(())
}

/// Writes what one node runs, as a script that its first process reads.
pub(crate) fn write(context: Context<'_>, node: &NodeLayout) -> Result<()> {
    let Context { store, layout, .. } = context;
    let file = |name: &str| Path::new("nodes").join(&node.name).join(name);
    store.write(file("containerd.toml"), containerd(store))?;
    store.write(file("kubelet.json"), kubelet(context, node).to_string())?;
    store.write(file("kube-proxy.json"), kube_proxy(context, node).to_string())?;
    let (name, plugins) = match context.scenario.network.cni {
        Cni::Vxlan | Cni::HostGw => ("flannel", flannel_conflist()),
        Cni::CalicoVxlan | Cni::CalicoCrossSubnet | Cni::CalicoBgp => {
            ("calico", calico::conflist(layout, node))
        }
        Cni::Cloud => ("cloud", cloud::conflist(layout, node)),
    };
    store.write(file(&format!("cni/10-{name}.conflist")), plugins.to_string())?;
    let mut script = String::new();
    if node.name == layout.control_plane().name {
        script += &control_plane(context, node);
    }
    script += &workers(context, node);
    store.write(file("services.sh"), script)?;
    Ok(())
}

fn flannel_conflist() -> serde_json::Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn control_plane(context: Context<'_>, node: &NodeLayout) -> String {
    let Context {
        store,
        scenario,
        tools,
        ..
    } = context;
    let (tools, lab) = (tools.display(), store.root().display());
    let services = join(scenario, SERVICES);
    let address = node.addresses[0];
    let bind = if scenario.has(Family::V6) { "::" } else { "0.0.0.0" };
    let masks = if scenario.has(Family::V6) {
        " --node-cidr-mask-size-ipv6=64"
    } else {
        ""
    };
    let networks = if scenario.network.cni == Cni::Cloud {
        "--allocate-node-cidrs=false".to_owned()
    } else {
        format!(
            "--allocate-node-cidrs --cluster-cidr={}{masks}",
            join(scenario, PODS)
        )
    };
    // By these an API server of an extension knows who asks; here they are those by which kubelets know it.
    let aggregation = if scenario.conformance {
        format!(
            "--requestheader-client-ca-file={lab}/pki/ca.crt --requestheader-allowed-names=kube-apiserver-kubelet-client \
             --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
             --requestheader-username-headers=X-Remote-User --proxy-client-cert-file={lab}/pki/apiserver-kubelet.crt \
             --proxy-client-key-file={lab}/pki/apiserver-kubelet.key "
        )
    } else {
        String::new()
    };
    format!(
        "supervise etcd {tools}/etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn \
         --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
         --listen-peer-urls=http://127.0.0.1:2380 --auto-compaction-retention=5m\n\
         supervise kube-apiserver {tools}/kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
         --advertise-address={address} --bind-address={bind} --secure-port={API_PORT} \
         --service-cluster-ip-range={services} --service-node-port-range=30000-32767 \
         --tls-cert-file={lab}/pki/apiserver.crt --tls-private-key-file={lab}/pki/apiserver.key \
         --client-ca-file={lab}/pki/ca.crt --kubelet-certificate-authority={lab}/pki/ca.crt \
         --kubelet-client-certificate={lab}/pki/apiserver-kubelet.crt \
         --kubelet-client-key={lab}/pki/apiserver-kubelet.key --kubelet-preferred-address-types=InternalIP \
         --service-account-issuer=https://kubernetes.default.svc \
         --service-account-key-file={lab}/pki/accounts.key \
         --service-account-signing-key-file={lab}/pki/accounts.key --authorization-mode=Node,RBAC \
         --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false {aggregation}\
         --audit-policy-file={lab}/audit.json --audit-log-path=/var/log/audit.log --audit-log-maxsize=100\n\
         (await /run/lab/ready\n\
         supervise kube-controller-manager {tools}/kube-controller-manager \
         --kubeconfig={lab}/kubeconfig/kube-controller-manager --leader-elect=false {networks} \
         --service-account-private-key-file={lab}/pki/accounts.key \
         --root-ca-file={lab}/pki/ca.crt --cluster-signing-cert-file={lab}/pki/ca.crt \
         --cluster-signing-key-file={lab}/pki/ca.key --use-service-account-credentials --profiling=false\n\
         supervise kube-scheduler {tools}/kube-scheduler --kubeconfig={lab}/kubeconfig/kube-scheduler \
         --leader-elect=false --profiling=false\nwait) &\n\
         (until curl -sf --cacert {lab}/pki/ca.crt --cert {lab}/pki/admin.crt --key {lab}/pki/admin.key \
         https://127.0.0.1:{API_PORT}/readyz >/dev/null; do sleep 0.2; done; touch /run/lab/ready) &\n"
    )
}

fn workers(context: Context<'_>, node: &NodeLayout) -> String {
    let Context {
        store, layout, tools, ..
    } = context;
    let (tools, lab, name) = (tools.display(), store.root().display(), &node.name);
    let dir = store.node(name).display().to_string();
    let addresses = node
        .addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let v4 = node
        .addresses
        .iter()
        .find(|a| a.is_ipv4())
        .map(|a| format!(" --public-ip={a}"))
        .unwrap_or_default();
    let v6 = node
        .addresses
        .iter()
        .find(|a| a.is_ipv6())
        .map(|a| format!(" --public-ipv6={a}"))
        .unwrap_or_default();
    let cni = match context.scenario.network.cni {
        Cni::Vxlan | Cni::HostGw => format!(
            "NODE_NAME={name} supervise flanneld {tools}/flanneld --kube-subnet-mgr \
             --kubeconfig-file={dir}/flannel.conf --net-config-path={lab}/flannel.json --ip-masq --iface=eth0{v4}{v6}\n"
        ),
        Cni::CalicoVxlan | Cni::CalicoCrossSubnet | Cni::CalicoBgp => calico::services(store, node),
        Cni::Cloud => cloud::services(store, layout, node),
    };
    format!(
        "supervise containerd containerd --config={dir}/containerd.toml\n\
         (await {lab}/ready\nawait /run/containerd/containerd.sock\n\
         supervise kubelet {tools}/kubelet --config={dir}/kubelet.json --kubeconfig={dir}/kubelet.conf \
         --hostname-override={name} --node-ip={addresses} --root-dir=/var/lib/kubelet\n\
         supervise kube-proxy {tools}/kube-proxy --config={dir}/kube-proxy.json\n\
         {cni}wait) &\n"
    )
}

fn containerd(store: &Store) -> String {
    format!(
        "version = 2\nroot = \"/var/lib/containerd\"\nstate = \"/run/containerd\"\noom_score = 0\n\
         [grpc]\naddress = \"/run/containerd/containerd.sock\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{PAUSE}\"\nrestrict_oom_score_adj = true\n\
         disable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{}\"\nconf_dir = \"/etc/cni/net.d\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"overlayfs\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n",
        store.path("cni").display()
    )
}

fn kubelet(context: Context<'_>, node: &NodeLayout) -> serde_json::Value {
    let Context { store, scenario, .. } = context;
    let pki = |name: String| store.path("pki").join(name);
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt".into())}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": [], "oomScoreAdj": 0,
        "failSwapOn": false, "localStorageCapacityIsolation": true,
        "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "tlsCertFile": pki(format!("node-{}.crt", node.name)),
        "tlsPrivateKeyFile": pki(format!("node-{}.key", node.name)),
        "clusterDomain": "cluster.local", "resolvConf": "/etc/resolv.conf", "maxPods": 50,
    });
    if scenario.conformance {
        config["clusterDNS"] = json!([cluster_dns()]);
        if scenario.network.cni == Cni::Cloud {
            // As clouds do it, by the addresses that a node has for pods; two pods have the node's own.
            config["maxPods"] = json!(cloud::PODS_OF_A_NODE + 2);
        }
    }
    config
}

fn kube_proxy(context: Context<'_>, node: &NodeLayout) -> serde_json::Value {
    let Context { store, scenario, .. } = context;
    let mode = match scenario.network.proxy {
        Proxy::Nftables => "nftables",
        Proxy::Iptables => "iptables",
    };
    // Where pods have addresses of the LAN there is no network of pods, from which alone services are asked unchanged.
    let pods = if scenario.network.cni == Cni::Cloud {
        String::new()
    } else {
        join(scenario, PODS)
    };
    let mut config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": mode,
        "clientConnection": {"kubeconfig": store.node(&node.name).join("kube-proxy.conf")},
        "clusterCIDR": pods, "hostnameOverride": node.name, "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s", "udpStreamTimeout": "0s"},
    });
    if scenario.conformance {
        // Its own times. The number of connections is the machine's, which no namespace can set.
        config["conntrack"] = json!({"maxPerCore": 0, "min": 0});
    }
    config
}

/// Returns the members of a pair that the scenario's families use, as Kubernetes writes them.
fn join(scenario: &Scenario, pair: [&str; 2]) -> String {
    if scenario.has(Family::V6) {
        pair.join(",")
    } else {
        pair[0].to_owned()
    }
}
