//! Where Secrets are, and what is read of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, Resource as _, api::GetParams, core::Request};
use serde::Deserialize;
use spanwire_core::preshared::Unread;
use spanwire_host::PresharedKey;
use spanwire_topology::SecretKeyRef;

use crate::causes::chain;

/// Where Secrets are.
#[derive(Clone)]
pub enum Source {
    /// In a namespace of the cluster.
    ApiServer {
        /// Who reads them.
        client: Client,
        /// Spanwire's namespace.
        namespace: String,
    },
    /// In a directory, laid out as a pod sees its Secrets: `NAME/KEY`.
    Directory(PathBuf),
}

/// What came of reading keys of one Secret.
type Found = BTreeMap<SecretKeyRef, Result<PresharedKey, Unread>>;

/// The part of a Secret that is read.
#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

impl Source {
    /// Returns how long to wait at least before a Secret that was read is read again; it is less than twice that.
    pub(super) fn pace(&self) -> Duration {
        match self {
            Self::ApiServer { .. } => Duration::from_secs(30),
            Self::Directory(_) => Duration::from_millis(250),
        }
    }

    /// Reads keys of one Secret.
    pub(super) async fn read(&self, keys: &BTreeSet<SecretKeyRef>) -> Found {
        match self {
            Self::ApiServer { client, namespace } => {
                let Some(first) = keys.first() else {
                    return Found::new();
                };
                let content = ask(client, namespace, first.name()).await;
                let key = |key: &SecretKeyRef| {
                    let content = content.as_ref().map_err(Clone::clone);
                    (
                        key.clone(),
                        content.and_then(|content| of(content, key, namespace)),
                    )
                };
                keys.iter().map(key).collect()
            }
            Self::Directory(directory) => {
                let key = |key: &SecretKeyRef| {
                    let path = directory.join(key.name()).join(key.key());
                    let read = match std::fs::read(&path) {
                        Ok(value) => parse(&value).ok_or_else(|| no_key(&format!("{}", path.display()))),
                        // Without the directory there is nothing that could answer.
                        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.exists() => {
                            Err(Unread::Withdrawn(format!("there is no file {}", path.display())))
                        }
                        Err(error) => Err(Unread::Unanswered(format!("{}: {error}", path.display()))),
                    };
                    (key.clone(), read)
                };
                keys.iter().map(key).collect()
            }
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ApiServer { namespace, .. } => write!(f, "ApiServer({namespace})"),
            Self::Directory(path) => write!(f, "Directory({})", path.display()),
        }
    }
}

/// Returns the values of a Secret. As text: an object that the client cannot decode it would quote in the log.
async fn ask(client: &Client, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, Unread> {
    let request = Request::new(Secret::url_path(&(), Some(namespace))).get(name, &GetParams::default());
    let request = request.map_err(|error| Unread::Unanswered(chain(&error)))?;
    let answer = client.request_text(request).await;
    let text = answer.map_err(|error| refused(&error, namespace, name))?;
    let content: Content = serde_json::from_str(&text)
        .map_err(|_| Unread::Unanswered("what the API server answers is no Secret".to_owned()))?;
    Ok(content.data.unwrap_or_default())
}

fn refused(error: &kube::Error, namespace: &str, name: &str) -> Unread {
    let kube::Error::Api(status) = error else {
        return Unread::Unanswered(chain(error));
    };
    match status.code {
        404 => Unread::Withdrawn(format!(
            "there is no Secret {name} in the namespace {namespace}; create it, as by `wg genpsk | kubectl -n {namespace} create \
             secret generic {name} --from-file=KEY=/dev/stdin`, or name another in spec.presharedKeySecretRef of the Peer"
        )),
        403 => Unread::Forbidden(format!(
            "agents may not read the Secret {name} in the namespace {namespace}; add its name to the chart's value \
             agent.presharedKeySecrets, or name one that stands there in spec.presharedKeySecretRef of the Peer"
        )),
        _ => Unread::Unanswered(status.message.clone()),
    }
}

fn of(
    content: &BTreeMap<String, String>,
    key: &SecretKeyRef,
    namespace: &str,
) -> Result<PresharedKey, Unread> {
    let (name, key) = (key.name(), key.key());
    let Some(value) = content.get(key) else {
        return Err(Unread::Withdrawn(format!(
            "the Secret {name} in the namespace {namespace} has no key {key}; write it there, or name another in \
             spec.presharedKeySecretRef of the Peer"
        )));
    };
    let value = STANDARD.decode(value).ok();
    let place = format!("what the Secret {name} in the namespace {namespace} has as {key}");
    value
        .and_then(|value| parse(&value))
        .ok_or_else(|| no_key(&place))
}

fn no_key(place: &str) -> Unread {
    Unread::Withdrawn(format!(
        "{place} is no preshared key, the base64 of 32 bytes that are not all zeroes; write what `wg genpsk` prints"
    ))
}

/// Returns the key that `wg genpsk` printed; white space around it is allowed.
fn parse(value: &[u8]) -> Option<PresharedKey> {
    super::kept::parse(value.trim_ascii())
}
