//! Kubernetes' own tests in a lab: the programs and images that they need, a DNS of the cluster, and how they are started.

mod outcome;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

pub use outcome::Outcome;

use crate::{
    command::Cmd,
    images::{self, Archive},
    lab::Lab,
    layout::{SERVICES, cluster_dns},
    node,
    store::{Lock, cache},
};

/// The image that most of the tests' pods run.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// What tests call by other names, and get the same image for: it is made of Debian, with what the real ones are asked to run
/// in it. Of nginx only its being there is asked.
const ALSO: [&str; 4] = [
    "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0",
    "registry.k8s.io/e2e-test-images/nginx:1.15-4",
    "registry.k8s.io/build-image/distroless-iptables:v0.9.6",
    "registry.k8s.io/pause:3.10.2",
];
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const REGRESSION: &str = "registry.k8s.io/e2e-test-images/regression-issue-74839:1.4";
const COREDNS: &str = "localhost/lab-coredns:1";
/// What agnhost's image has of Debian besides agnhost.
const PACKAGES: &str = "bash,bind9-dnsutils,busybox-static,conntrack,coreutils,curl,dash,grep,hostname,iproute2,iputils-ping,libc-bin,\
                        netcat-openbsd,procps,sed,util-linux";

/// An image to be built: the file's name, what it is called, its packages, its lines of the Containerfile, the files it takes.
struct Recipe {
    file: &'static str,
    name: &'static str,
    packages: Option<&'static str>,
    lines: &'static str,
    takes: &'static [&'static str],
}

const RECIPES: [Recipe; 4] = [
    Recipe {
        file: "agnhost",
        name: AGNHOST,
        packages: Some(PACKAGES),
        // What the packages' own scripts would have made, and a wget, which is BusyBox's in the real image, too. Without
        // the second line names of /etc/hosts are not looked up.
        lines: "RUN ln -s nc.openbsd /bin/nc && ln -s busybox /bin/wget && mkdir -p /uploads\n\
                RUN printf 'hosts: files dns\\n' >/etc/nsswitch.conf\n\
                ADD agnhost coredns localhost.crt localhost.key /\nENTRYPOINT [\"/agnhost\"]\nCMD [\"pause\"]",
        takes: &["agnhost", "coredns", "localhost.crt", "localhost.key"],
    },
    Recipe {
        file: "busybox",
        name: BUSYBOX,
        packages: Some("busybox-static"),
        lines: "RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCMD [\"sh\"]",
        takes: &[],
    },
    Recipe {
        file: "regression",
        name: REGRESSION,
        packages: None,
        lines: "ADD regression-issue-74839 /\nENTRYPOINT [\"/regression-issue-74839\"]",
        takes: &["regression-issue-74839"],
    },
    Recipe {
        file: "coredns",
        name: COREDNS,
        packages: None,
        lines: "ADD coredns /\nENTRYPOINT [\"/coredns\"]",
        takes: &["coredns"],
    },
];

/// Builds the tests and what they need if they are not in the cache; the folder they are in.
fn programs() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/build");
    let folder = PathBuf::from(Cmd::new(&script).arg("--where").run()?.trim());
    if !folder.join(".complete").exists() {
        let code = Cmd::new(&script).passthrough()?;
        ensure!(code == 0, "building Kubernetes' tests failed");
    }
    Ok(folder)
}

/// Builds the images of the tests if they are not in the cache; their archives.
pub(crate) fn images() -> Result<Vec<Archive>> {
    let programs = programs()?;
    let what: String = RECIPES.iter().map(|recipe| recipe.lines).collect();
    let key = format!("{} {PACKAGES} {what} {ALSO:?}", programs.display());
    let folder = cache()?.join("images").join(images::short_hash(&key)?);
    let _lock = Lock::take(&folder)?;
    let mut archives = Vec::new();
    for recipe in &RECIPES {
        let path = folder.join(recipe.file).with_extension("tar");
        if !path.exists() {
            recipe.build(&programs, &folder.join("context"), &path)?;
        }
        archives.push(Archive { path, tag: None });
    }
    let agnhost = archives[0].path.clone();
    archives.extend(ALSO.map(|name| Archive {
        path: agnhost.clone(),
        tag: Some((AGNHOST.to_owned(), name.to_owned())),
    }));
    Ok(archives)
}

impl Recipe {
    fn build(&self, programs: &Path, context: &Path, archive: &Path) -> Result<()> {
        if context.exists() {
            fs::remove_dir_all(context)?;
        }
        fs::create_dir_all(context)?;
        let mut root = "";
        if let Some(packages) = self.packages {
            images::bootstrap(packages, &context.join("root.tar"))?;
            root = "ADD root.tar /\n";
        }
        for file in self.takes {
            fs::copy(programs.join(file), context.join(file))?;
        }
        fs::write(
            context.join("Containerfile"),
            format!("FROM scratch\n{root}{}\n", self.lines),
        )?;
        images::build(context, self.name, archive)?;
        Ok(fs::remove_dir_all(context)?)
    }
}

/// Adds CoreDNS, as installers of clusters do it, and waits for it. Elsewhere than beside the API server it needs the mesh.
pub(crate) fn add_dns(lab: &Lab) -> Result<()> {
    lab.apply(&dns().to_string())?;
    lab.wait_ready()
}

fn dns() -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    let corefile = ".:53 {\n    errors\n    health\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        \
                    pods insecure\n        fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }\n    cache 30\n    \
                    reload\n    loadbalance\n}\n";
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": "kube-system"}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"}, "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:coredns"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
         "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "coredns", "namespace": "kube-system"},
         "data": {"Corefile": corefile}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
         "spec": {"clusterIP": cluster_dns(), "selector": labels, "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")]}},
        {"apiVersion": "apps/v1", "kind": "Deployment",
         "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
         "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": "coredns", "dnsPolicy": "Default", "priorityClassName": "system-cluster-critical",
            "containers": [{"name": "coredns", "image": COREDNS, "imagePullPolicy": "IfNotPresent",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "coredns"}}]}}}},
    ]})
}

/// Which of Kubernetes' tests are run.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// An expression about their labels.
    pub labels: String,
    /// Patterns of names, of which one has to match; all do if there is none.
    pub only: Vec<String>,
    /// Patterns of names that are left out.
    pub without: Vec<String>,
}

/// How many tests run beside each other, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many at once.
    pub at_once: usize,
    /// How long all of them together may take.
    pub time: Duration,
}

impl Lab {
    /// Returns the command that runs tests of Kubernetes against the cluster, in the network of the control plane. It writes its
    /// report, of Ginkgo's format, to a file. It ends, with all that it has started, when this thread does.
    pub fn kubernetes_tests(&self, selection: &Selection, bounds: Bounds, report: &Path) -> Result<Cmd> {
        let programs = programs()?;
        // The namespace of processes ends with its first one, and that with this thread.
        let mut command = Cmd::of(["setpriv", "--pdeathsig", "KILL", "--"])
            .running(["nsenter", &self.control_net(), "--"])
            .running(["unshare", "--pid", "--fork", "--kill-child", "--"])
            .running([programs.join("ginkgo")])
            .env("PATH", node::path(self.tools()))
            .args([
                "--no-color".to_owned(),
                "--keep-going".to_owned(),
                format!("--procs={}", bounds.at_once),
                format!("--timeout={}s", bounds.time.as_secs()),
                format!("--label-filter={}", selection.labels),
            ])
            .arg("--output-dir")
            .arg(report.parent().unwrap_or(Path::new(".")))
            .arg("--json-report")
            .arg(report.file_name().unwrap_or_default());
        for pattern in &selection.only {
            command = command.arg(format!("--focus={pattern}"));
        }
        for pattern in &selection.without {
            command = command.arg(format!("--skip={pattern}"));
        }
        let kubectl = self.tools().join("kubectl");
        Ok(command.arg(programs.join("e2e.test")).args([
            "--".to_owned(),
            "--provider=local".to_owned(),
            format!("--kubeconfig={}", self.store.path("kubeconfig/admin").display()),
            format!("--kubectl-path={}", kubectl.display()),
            format!("--cluster-ip-range={}", SERVICES[0]),
            // Tests that want two nodes do not count them.
            format!("--num-nodes={}", self.layout.nodes().count()),
            // What pods logged and what the nodes saw makes a report of a failure long, not clear.
            "--dump-logs-on-failure=false".to_owned(),
            "--disable-log-dump".to_owned(),
        ]))
    }
}
