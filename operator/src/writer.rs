//! Writes to the API server; the only part of the operator that does, but for its Lease.
//!
//! What exists is written by server-side apply with the version that the decision was made on, what does not exist is
//! created; so a replica that decided on something else gets a conflict, and a Lease that was lost unnoticed does no harm.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use spanwire_cluster::observed::{Observable, Observed};
use spanwire_crds::{
    Location, LocationSlice, LocationSpec, MeshNode, Peer,
    publication::{LOCATION_LABEL, MANAGED_LABEL},
};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    batch::{Notice, ObjectVersion, Target, Write},
    installation::Installation,
    queue::Outcome,
    state::Gone,
};

/// The name under which the operator writes.
pub const FIELD_MANAGER: &str = spanwire_crds::names::OPERATOR;

/// The API server itself waits no longer for etcd in a request that is no watch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is taken of the name of an object for that of an Event, which may have 253 characters.
const LONGEST_NAME: usize = 200;

/// Why a write failed.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Another writer changed the object since the decision.
    #[error("{kind} {name} has changed since it was decided upon")]
    Conflict {
        /// Which write.
        kind: &'static str,
        /// Of which object.
        name: String,
    },
    /// The API server refuses.
    #[error("the API server refused {kind} {name}")]
    Refused {
        /// Which write.
        kind: &'static str,
        /// Of which object.
        name: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The API server cannot be reached, or gives no answer.
    #[error("the API server did not answer to {kind} {name}")]
    Unanswered {
        /// Which write.
        kind: &'static str,
        /// Of which object.
        name: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// The API server took too long.
    #[error("the API server took more than {TIMEOUT:?} for {kind} {name}")]
    Late {
        /// Which write.
        kind: &'static str,
        /// Of which object.
        name: String,
    },
}

/// An object as it is after a write, or after a conflict.
#[derive(Debug)]
pub enum Found {
    /// A LocationSlice.
    Slice(Box<Observed<LocationSlice>>),
    /// A MeshNode.
    MeshNode(Box<Observed<MeshNode>>),
    /// A Location.
    Location(Box<Observed<Location>>),
    /// A Peer.
    Peer(Box<Observed<Peer>>),
    /// It is not there.
    Gone(Gone),
    /// No object that the state holds.
    Nothing,
}

impl WriteError {
    /// What the queue makes of it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Conflict { .. } => Outcome::Conflict,
            Self::Refused { .. } => Outcome::Refused,
            Self::Unanswered { .. } | Self::Late { .. } => Outcome::Unanswered,
        }
    }
}

/// What became of a write.
#[derive(Debug)]
pub struct WriteOutcome {
    /// What is there now, where that is known.
    pub found: Found,
    /// Why it failed, where it did.
    pub error: Option<WriteError>,
}

/// Carries out writes at the API server.
#[derive(Clone)]
pub struct ApiWriter {
    slices: Api<Observed<LocationSlice>>,
    mesh_nodes: Api<Observed<MeshNode>>,
    locations: Api<Observed<Location>>,
    peers: Api<Observed<Peer>>,
    events: Api<Event>,
    instance: String,
    installation: Option<Installation>,
}

impl ApiWriter {
    /// A writer; `instance` is this operator's name in Events.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        Self {
            slices: Api::all(client.clone()),
            mesh_nodes: Api::all(client.clone()),
            locations: Api::all(client.clone()),
            peers: Api::all(client.clone()),
            // Events on objects without a namespace lie in `default`.
            events: Api::namespaced(client, "default"),
            instance,
            installation: None,
        }
    }

    /// The same for this installation, which the heads of locations name.
    #[must_use]
    pub fn of_installation(self, installation: Installation) -> Self {
        Self {
            installation: Some(installation),
            ..self
        }
    }

    /// Does one write. After a conflict the object is read again.
    pub async fn write(&self, write: &Write) -> WriteOutcome {
        let (kind, name) = (write.kind(), write.name().to_owned());
        let source = match timeout(TIMEOUT, self.attempt(write)).await {
            Ok(Ok(found)) => return WriteOutcome { found, error: None },
            Ok(Err(source)) => source,
            Err(_) => {
                return WriteOutcome {
                    found: Found::Nothing,
                    error: Some(WriteError::Late { kind, name }),
                };
            }
        };
        let Error::Api(status) = &source else {
            let source = Box::new(source);
            return WriteOutcome {
                found: Found::Nothing,
                error: Some(WriteError::Unanswered { kind, name, source }),
            };
        };
        if status.code != 409 && status.code != 404 {
            let source = Box::new(source);
            return WriteOutcome {
                found: Found::Nothing,
                error: Some(WriteError::Refused { kind, name, source }),
            };
        }
        WriteOutcome {
            found: timeout(TIMEOUT, self.read(write))
                .await
                .map_or(Found::Nothing, |found| found.unwrap_or(Found::Nothing)),
            error: Some(WriteError::Conflict { kind, name }),
        }
    }

    async fn attempt(&self, write: &Write) -> Result<Found, Error> {
        match write {
            Write::Slice { name, version, spec } => {
                let mut labels = BTreeMap::from([(LOCATION_LABEL.to_owned(), spec.location.clone())]);
                if let Some(installation) = self.installation.as_ref().filter(|_| spec.head.is_some()) {
                    labels.extend(installation.labels());
                }
                let mut object = LocationSlice::new(name, spec.clone());
                object.metadata.labels = Some(labels);
                put(&self.slices, object, version.as_ref()).await.map(slice)
            }
            Write::MeshNode {
                name,
                version,
                node_uid,
                spec,
            } => {
                let mut object = MeshNode::new(name, spec.clone());
                object.metadata.owner_references = Some(vec![owner(name, node_uid)]);
                put(&self.mesh_nodes, object, version.as_ref())
                    .await
                    .map(mesh_node)
            }
            Write::CreateLocation { name } => {
                let mut object = Location::new(name, LocationSpec::default());
                object.metadata.labels = Some([(MANAGED_LABEL.to_owned(), "true".to_owned())].into());
                put(&self.locations, object, None).await.map(location)
            }
            Write::LocationStatus {
                name,
                version,
                status,
            } => {
                let status = serde_json::to_value(status).map_err(Error::SerdeError)?;
                apply_status(&self.locations, name, version.as_ref(), status)
                    .await
                    .map(location)
            }
            Write::PeerStatus {
                name,
                version,
                status,
            } => {
                let status = serde_json::to_value(status).map_err(Error::SerdeError)?;
                apply_status(&self.peers, name, version.as_ref(), status)
                    .await
                    .map(peer)
            }
            Write::MeshNodeStatus {
                name,
                version,
                condition,
            } => {
                let status = json!({"conditions": [condition]});
                apply_status(&self.mesh_nodes, name, version.as_ref(), status)
                    .await
                    .map(mesh_node)
            }
            Write::DeleteSlice(target) => {
                delete(&self.slices, target).await?;
                Ok(Found::Gone(Gone::Slice(target.name.clone())))
            }
            Write::DeleteMeshNode(target) => {
                delete(&self.mesh_nodes, target).await?;
                Ok(target
                    .name
                    .parse()
                    .map_or(Found::Nothing, |name| Found::Gone(Gone::MeshNode(name))))
            }
            Write::DeleteLocation(target) => {
                delete(&self.locations, target).await?;
                Ok(target
                    .name
                    .parse()
                    .map_or(Found::Nothing, |name| Found::Gone(Gone::Location(name))))
            }
        }
    }

    async fn read(&self, write: &Write) -> Result<Found, Error> {
        let name = write.name();
        let gone = |gone: Option<Gone>| gone.map_or(Found::Nothing, Found::Gone);
        Ok(match write {
            Write::Slice { .. } | Write::DeleteSlice(_) => match self.slices.get_opt(name).await? {
                Some(object) => slice(object),
                None => Found::Gone(Gone::Slice(name.to_owned())),
            },
            Write::MeshNode { .. } | Write::MeshNodeStatus { .. } | Write::DeleteMeshNode(_) => {
                match self.mesh_nodes.get_opt(name).await? {
                    Some(object) => mesh_node(object),
                    None => gone(name.parse().ok().map(Gone::MeshNode)),
                }
            }
            Write::CreateLocation { .. } | Write::DeleteLocation(_) | Write::LocationStatus { .. } => {
                match self.locations.get_opt(name).await? {
                    Some(object) => location(object),
                    None => gone(name.parse().ok().map(Gone::Location)),
                }
            }
            Write::PeerStatus { .. } => match self.peers.get_opt(name).await? {
                Some(object) => peer(object),
                None => gone(name.parse().ok().map(Gone::Peer)),
            },
        })
    }

    /// Writes an Event.
    ///
    /// # Errors
    /// Why it is not written.
    pub async fn notify(&self, notice: &Notice) -> Result<(), WriteError> {
        let (kind, name) = ("event", notice.name.clone());
        let event = self.event(notice);
        match timeout(TIMEOUT, self.events.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source @ Error::Api(_))) => {
                let source = Box::new(source);
                Err(WriteError::Refused { kind, name, source })
            }
            Ok(Err(source)) => {
                let source = Box::new(source);
                Err(WriteError::Unanswered { kind, name, source })
            }
            Err(_) => Err(WriteError::Late { kind, name }),
        }
    }

    fn event(&self, notice: &Notice) -> Event {
        let now = Timestamp::now();
        // With the time behind it, it is still a name.
        let name: String = notice.name.chars().take(LONGEST_NAME).collect();
        let name = name.trim_end_matches(['-', '.']);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some("default".to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some("Warning".to_owned()),
            action: Some("Decide".to_owned()),
            reason: Some(notice.reason.to_owned()),
            note: Some(notice.note.clone()),
            regarding: Some(ObjectReference {
                api_version: Some(notice.api_version.to_owned()),
                kind: Some(notice.kind.to_owned()),
                name: Some(notice.name.clone()),
                uid: Some(notice.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// Creates the object, or applies it to the version that is there.
async fn put<K: Observable + Serialize>(
    api: &Api<Observed<K>>,
    mut object: K,
    version: Option<&ObjectVersion>,
) -> Result<Observed<K>, Error> {
    let Some(version) = version else {
        let manager = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        return api.create(&manager, &object.into()).await;
    };
    object.meta_mut().uid = Some(version.uid.clone());
    object.meta_mut().resource_version = Some(version.version.clone());
    let name = object.meta().name.clone().unwrap_or_default();
    api.patch(
        &name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&object),
    )
    .await
}

async fn apply_status<K: Observable>(
    api: &Api<Observed<K>>,
    name: &str,
    version: Option<&ObjectVersion>,
    status: Value,
) -> Result<Observed<K>, Error> {
    let object = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": name,
            "uid": version.map(|version| &version.uid),
            "resourceVersion": version.map(|version| &version.version),
        },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(object)).await
}

async fn delete<K>(api: &Api<K>, target: &Target) -> Result<(), Error>
where
    K: DeserializeOwned + Clone + std::fmt::Debug,
{
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: Some(target.version.uid.clone()),
        resource_version: Some(target.version.version.clone()),
    });
    match api.delete(&target.name, &params).await {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// A MeshNode is deleted with its Node.
fn owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

fn slice(object: Observed<LocationSlice>) -> Found {
    Found::Slice(Box::new(object))
}

fn mesh_node(object: Observed<MeshNode>) -> Found {
    Found::MeshNode(Box::new(object))
}

fn location(object: Observed<Location>) -> Found {
    Found::Location(Box::new(object))
}

fn peer(object: Observed<Peer>) -> Found {
    Found::Peer(Box::new(object))
}
