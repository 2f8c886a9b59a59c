//! What is read from the API server, with the rights of the user.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Args;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Client, Config,
    api::{DynamicObject, GetParams, ListParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde::Deserialize as _;
use serde_json::Value;
use spanwire_cluster::{
    kubeconfig::{Servers, resolve},
    observed::Observed,
};
use spanwire_crds::names;
use spanwire_topology::{ClusterFacts, Prefix};

use crate::{
    objects::{Kind, Objects, Unlisted},
    settings::Settings,
};

/// The namespace that Spanwire is installed in where none is named.
const INSTALLED_IN: &str = "spanwire";

/// How the cluster is reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct Reach {
    /// The kubeconfig [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// The namespace of the pods and services that are named [default: that of the context]; for a command that names none, that
    /// which Spanwire is installed in
    #[arg(short, long, value_name = "NAME", global = true)]
    pub namespace: Option<String>,
    /// The namespace that Spanwire is installed in [default: spanwire]
    #[arg(long, value_name = "NAME", global = true)]
    pub spanwire_namespace: Option<String>,
}

/// The API server, as the user reaches it.
#[derive(Clone)]
pub struct Access {
    /// The client.
    pub client: Client,
    /// The namespace that Spanwire is installed in.
    pub namespace: String,
    /// That of pods and services which are named without one.
    pub of_objects: String,
    /// The API server, as the kubeconfig names it.
    pub server: String,
    /// Where connections to it go, as host and port: there, or to the proxy that is in front of it.
    pub gate: (String, u16),
}

/// What is known of the operator in the cluster.
#[derive(Clone, Debug, Default)]
pub struct OperatorFacts {
    /// Its settings.
    pub settings: Settings,
    /// The pool of IPv6 overlay addresses that it has generated.
    pub generated: Option<Prefix>,
    /// The networks of services, as the API server tells them.
    pub services: BTreeSet<Prefix>,
    /// Where the API server runs, and where machines that join find it.
    pub endpoints: BTreeSet<SocketAddr>,
    /// What could not be read, and what is assumed instead.
    pub notes: Vec<String>,
}

impl Reach {
    /// Returns what this is for a command that names nothing with a namespace: `-n` is that of Spanwire.
    #[must_use]
    pub fn without_objects(mut self) -> Self {
        let named = self.namespace.take();
        self.spanwire_namespace = self.spanwire_namespace.or(named);
        self
    }

    fn installed_in(&self) -> String {
        let named = self.spanwire_namespace.clone();
        named.unwrap_or_else(|| INSTALLED_IN.to_owned())
    }

    /// Makes a client.
    ///
    /// # Errors
    /// Where there is no kubeconfig, or it cannot be used.
    pub async fn connect(&self) -> anyhow::Result<Access> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &options).await?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer()
                .await
                .context("no cluster: set KUBECONFIG, or name a file with --kubeconfig")?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        let gate = config.proxy_url.as_ref().unwrap_or(&config.cluster_url);
        let host = gate.host().unwrap_or_default();
        let port = if gate.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        Ok(Access {
            namespace: self.installed_in(),
            of_objects: self
                .namespace
                .clone()
                .unwrap_or_else(|| config.default_namespace.clone()),
            server: config.cluster_url.to_string(),
            gate: (
                host.trim_matches(['[', ']']).to_owned(),
                gate.port_u16().unwrap_or(port),
            ),
            client: spanwire_cluster::client::client(config)?,
        })
    }
}

impl Access {
    /// Returns all objects of these kinds.
    ///
    /// # Errors
    /// Where one of them may not be listed, or the API server does not answer.
    pub async fn objects(&self, kinds: &[Kind]) -> anyhow::Result<Objects> {
        let lists = kinds.iter().map(|kind| async move {
            let objects = self.list(&kind.path(), None).await;
            objects
                .map(|objects| (*kind, objects))
                .map_err(|error| unlisted(error, *kind))
        });
        let mut all = Objects::default();
        for (kind, objects) in futures::future::try_join_all(lists).await? {
            enter(&mut all, kind, objects);
        }
        Ok(all)
    }

    /// Returns the objects of those of these kinds that the user may list, and the others.
    ///
    /// # Errors
    /// Where LocationSlices, in which the mesh is published, may not be listed, or the API server does not answer.
    pub async fn listed(&self, kinds: &[Kind]) -> anyhow::Result<(Objects, Vec<Unlisted>)> {
        let lists = kinds
            .iter()
            .map(|kind| async move { (*kind, self.list(&kind.path(), None).await) });
        let (mut all, mut others) = (Objects::default(), Vec::new());
        for (kind, found) in futures::future::join_all(lists).await {
            match found {
                Ok(objects) => enter(&mut all, kind, objects),
                Err(kube::Error::Api(status)) if status.code == 403 && kind != Kind::LocationSlice => {
                    let why = status.message.clone();
                    others.push(Unlisted { kind, why });
                }
                Err(error) => return Err(unlisted(error, kind)),
            }
        }
        Ok((all, others))
    }

    /// Returns the objects of a collection, page by page.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn list(&self, path: &str, labels: Option<&str>) -> Result<Vec<Value>, kube::Error> {
        const PAGE: u32 = 500;
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = labels.map(str::to_owned);
        let mut objects = Vec::new();
        loop {
            let request = Request::new(path)
                .list(&params)
                .map_err(kube::Error::BuildRequest)?;
            let mut page: Value = self.client.request(request).await?;
            if let Value::Array(items) = page["items"].take() {
                objects.extend(items);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => params = params.continue_token(token),
                _ => return Ok(objects),
            }
        }
    }

    /// Asks whether this user may follow these kinds: a watch that is refused is tried again for ever, and says nothing.
    ///
    /// # Errors
    /// Where one of them may not be watched.
    pub async fn may_watch(&self, kinds: &[Kind]) -> anyhow::Result<()> {
        let params = WatchParams::default().timeout(1);
        let watches = kinds.iter().map(|kind| {
            let params = &params;
            async move {
                let request = Request::new(kind.path()).watch(params, "0");
                let request = request.map_err(kube::Error::BuildRequest);
                let watch = async { self.client.request_events::<DynamicObject>(request?).await };
                watch.await.map(drop).map_err(|error| {
                    explained(error, &format!("watch {}", kind.plural()), *kind != Kind::Node)
                })
            }
        });
        futures::future::try_join_all(watches).await.map(drop)
    }

    /// Returns an object of a collection; `None`: it is not there.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn get(&self, path: &str, name: &str) -> Result<Option<Value>, kube::Error> {
        let request = Request::new(path)
            .get(name, &GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.client.request(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the networks of services, as the API server names them since Kubernetes 1.33.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn service_cidrs(&self) -> Result<Vec<Prefix>, kube::Error> {
        match self.list("/apis/networking.k8s.io/v1/servicecidrs", None).await {
            Ok(found) => Ok(found.iter().flat_map(cidrs).collect()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Returns the operator's Deployments.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn operators(&self) -> Result<Vec<Value>, kube::Error> {
        let space = &self.namespace;
        let deployments = format!("/apis/apps/v1/namespaces/{space}/deployments");
        self.list(&deployments, Some("app.kubernetes.io/component=operator"))
            .await
    }

    /// Returns what is known of the operator. What the user may not read is named in the notes.
    pub async fn operator(&self) -> OperatorFacts {
        let space = &self.namespace;
        let mut known = OperatorFacts::default();
        match self.operators().await {
            Ok(found) => match found.first().map(arguments) {
                None => known.notes.push(format!(
                    "the namespace {space} has no operator, so its settings are taken for the defaults; name Spanwire's \
                     namespace with --spanwire-namespace"
                )),
                Some(arguments) => match Settings::of_operator(&arguments) {
                    Ok(settings) => known.settings = settings,
                    Err(problem) => known
                        .notes
                        .push(format!("the operator's settings cannot be read: {problem}")),
                },
            },
            Err(error) => known.notes.push(unread("the operator's settings", &error)),
        }
        let memory = format!("/api/v1/namespaces/{space}/configmaps");
        match self.get(&memory, names::OPERATOR_MEMORY).await {
            Ok(found) => {
                let pool = found.and_then(|map| map["data"][names::OVERLAY6].as_str()?.parse().ok());
                known.generated = pool;
            }
            Err(error) => known
                .notes
                .push(unread("the generated pool of IPv6 overlay addresses", &error)),
        }
        match self.service_cidrs().await {
            Ok(found) => known.services = found.into_iter().collect(),
            Err(error) => known.notes.push(unread("the networks of services", &error)),
        }
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        match self.get(slices, "kubernetes").await {
            Ok(found) => {
                let slice = found.and_then(|slice| Observed::<EndpointSlice>::deserialize(slice).ok());
                let addresses = slice.as_ref().map(spanwire_cluster::endpoints::addresses);
                known.endpoints = addresses.unwrap_or_default();
            }
            Err(error) => known.notes.push(unread("where the API server runs", &error)),
        }
        let problem = match self
            .get("/api/v1/namespaces/kube-public/configmaps", "cluster-info")
            .await
        {
            Ok(found) => match found.as_ref().and_then(|map| map["data"]["kubeconfig"].as_str()) {
                Some(text) => known.join(text).await,
                None => None,
            },
            Err(error) => Some(unread("where machines that join find the API server", &error)),
        };
        known.notes.extend(problem);
        known
    }
}

impl OperatorFacts {
    /// Adds the API servers of the kubeconfig by which machines join; returns what is wrong with it.
    async fn join(&mut self, kubeconfig: &str) -> Option<String> {
        let mut servers = Servers::default();
        let read = servers.read(kubeconfig, resolve).await;
        self.endpoints.extend(servers.addresses());
        let cause = read.err()?;
        Some(format!(
            "where machines that join find the API server is not known: {cause}; the operator may know it"
        ))
    }

    /// Returns the facts about the cluster with these settings.
    #[must_use]
    pub fn facts(&self, settings: &Settings) -> ClusterFacts {
        let mut facts = settings.facts(self.generated);
        facts.services.extend(&self.services);
        facts.api_endpoints.extend(&self.endpoints);
        facts
    }
}

pub(crate) fn enter(all: &mut Objects, kind: Kind, objects: Vec<Value>) {
    for mut object in objects {
        // The items of a list do not say what they are.
        object["kind"] = kind.name().into();
        let version = if kind == Kind::Node {
            "v1"
        } else {
            names::API_VERSION
        };
        object["apiVersion"] = version.into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        all.insert(kind, name, object);
    }
}

fn unlisted(error: kube::Error, kind: Kind) -> anyhow::Error {
    explained(error, &format!("list {}", kind.plural()), kind != Kind::Node)
}

fn arguments(deployment: &Value) -> Vec<String> {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
    let arguments = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["args"].as_array());
    let texts = arguments.flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn cidrs(object: &Value) -> Vec<Prefix> {
    let cidrs = object["spec"]["cidrs"].as_array();
    let texts = cidrs.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn unread(what: &str, error: &kube::Error) -> String {
    format!("{what} cannot be read, so the default counts: {}", brief(error))
}

/// Returns an error of the API server in one line.
#[must_use]
pub fn brief(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let next = inner.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = inner.source();
    }
    text
}

/// Returns the error with what would help.
pub(crate) fn explained(error: kube::Error, verb: &str, ours: bool) -> anyhow::Error {
    let text = brief(&error);
    let code = if let kube::Error::Api(status) = &error {
        status.code
    } else {
        0
    };
    match code {
        401 | 403 => {
            anyhow!("{text}\nthis command has to {verb}; docs/cli.md names the rights that it needs")
        }
        404 if ours => anyhow!(
            "this cluster knows no {}: Spanwire is not installed in it",
            names::GROUP
        ),
        _ => anyhow!("cannot {verb}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_arguments_of_all_containers_are_read() {
        let deployment = json!({"spec": {"template": {"spec": {"containers": [
            {"args": ["--listen-port=1", 7]}, {}, {"args": ["--tunnel-only"]}]}}}});
        assert_eq!(arguments(&deployment), ["--listen-port=1", "--tunnel-only"]);
        assert!(arguments(&json!(null)).is_empty());
    }

    #[test]
    fn who_may_not_is_referred_to_the_rights() {
        let refused = |code, ours| {
            let status = kube::core::Status::failure("no", "Reason").with_code(code);
            explained(kube::Error::Api(Box::new(status)), "list peers", ours).to_string()
        };
        assert!(refused(403, true).contains("docs/cli.md"));
        assert!(refused(404, true).contains("not installed"));
        assert_eq!(refused(500, true), "cannot list peers: no");
    }
}
