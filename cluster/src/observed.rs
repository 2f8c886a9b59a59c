//! An object as the API server has it, also where not all of it can be read.
//!
//! A list or a watch that decodes objects one by one into their type fails as a whole when one of them cannot be decoded,
//! and then nothing of that kind is known any more. What people and credentials on the disks of nodes can write, and the API
//! server takes:
//!
//! * times that no calendar has (`2026-01-01T00:00:00+99:99`), or that are later than any that can be computed with, in
//!   conditions, in a Lease, and in `metadata.managedFields` of whatever they may write;
//! * values that a newer version knows and this one does not.
//!
//! So decoding an [`Observed`] never fails. Of the metadata only what is used is taken, and each field by itself. The spec
//! counts as a whole: a part of it could mean more than was asked for. Of a status what cannot be read is set aside, and the
//! rest counts. What was set aside is named.

mod fields;

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use k8s_openapi::{
    api::{coordination::v1::Lease, discovery::v1::EndpointSlice},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};
use kube::Resource;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use spanwire_crds::{
    FieldProblem, Location, LocationSlice, MeshNode, Peer,
    translate::{
        FelixConfiguration, FelixSpec, Node, NodeSpec, NodeStatus,
        networks::{
            BlockAffinity, BlockAffinitySpec, CiliumNode, CiliumNodeSpec, IpamBlock, IpamBlockSpec, Pod,
            PodSpec, PodStatus,
        },
    },
};

use self::fields::fields_of;

/// A kind whose objects can be observed.
pub trait Observable:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static
{
    /// What it has besides metadata, as far as that is used.
    const PARTS: &'static [&'static str] = &["spec", "status"];

    /// Returns the fields of its spec, and of its status, that are used; `None`: all that there are.
    #[must_use]
    fn used(_part: &str) -> Option<Fields> {
        None
    }
}

/// The names of fields.
pub type Fields = &'static [&'static str];

/// Returns the fields of the spec or of the status.
fn fields_of_part<Spec: DeserializeOwned, Status: DeserializeOwned>(part: &str) -> Fields {
    match part {
        "status" => fields_of::<Status>(),
        _ => fields_of::<Spec>(),
    }
}

impl Observable for Node {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<NodeSpec, NodeStatus>(part))
    }
}
impl Observable for MeshNode {}
impl Observable for Location {}
impl Observable for Peer {}
impl Observable for LocationSlice {}
impl Observable for Lease {}
impl Observable for EndpointSlice {
    const PARTS: &'static [&'static str] = &["addressType", "endpoints", "ports"];
}
/// Whether there is one is all that is used.
impl Observable for CustomResourceDefinition {
    const PARTS: &'static [&'static str] = &[];
}
impl Observable for BlockAffinity {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<BlockAffinitySpec, ()>(part))
    }
}
impl Observable for IpamBlock {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<IpamBlockSpec, ()>(part))
    }
}
impl Observable for Pod {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<PodSpec, PodStatus>(part))
    }
}
impl Observable for CiliumNode {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<CiliumNodeSpec, ()>(part))
    }
}
impl Observable for FelixConfiguration {
    fn used(part: &str) -> Option<Fields> {
        Some(fields_of_part::<FelixSpec, ()>(part))
    }
}

/// What is used of the metadata of any object.
const METADATA: [&str; 9] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
];

/// How long the text about a problem may be.
const LONGEST: usize = 200;

/// An object of which some may not be readable.
#[derive(Clone, Debug)]
pub struct Observed<K> {
    /// Which object it is. Only what is used is here.
    pub metadata: ObjectMeta,
    /// The object, with the same metadata; `None`: it cannot be read.
    pub object: Option<K>,
    /// What was set aside, and why.
    pub problems: Vec<FieldProblem>,
}

impl<K: Observable> Observed<K> {
    fn read(metadata: Map<String, Value>, mut parts: Map<String, Value>) -> Self {
        let metadata = meta(metadata);
        let mut problems = Vec::new();
        let mut object = attempt(&parts, "spec");
        if object.is_err()
            && let Some(status) = parts.remove("status")
        {
            // Without its status it may be readable; then that is where something is wrong.
            object = attempt::<K>(&parts, "spec");
            if object.is_ok() {
                let readable = readable::<K>(&parts, status, &mut problems);
                parts.insert("status".to_owned(), readable);
                object = attempt(&parts, "status");
            }
        }
        match object {
            Ok(mut object) => {
                object.meta_mut().clone_from(&metadata);
                Self {
                    metadata,
                    object: Some(object),
                    problems,
                }
            }
            Err(problem) => Self {
                metadata,
                object: None,
                problems: vec![problem],
            },
        }
    }

    /// Returns the name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Returns what is wrong with it in one line; empty where nothing is.
    #[must_use]
    pub fn complaint(&self) -> String {
        let texts: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        texts.join("; ")
    }
}

impl<K: Resource<DynamicType = ()>> From<K> for Observed<K> {
    fn from(object: K) -> Self {
        Self {
            metadata: object.meta().clone(),
            object: Some(object),
            problems: Vec::new(),
        }
    }
}

impl<'de, K: Observable> Deserialize<'de> for Observed<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl<K: Serialize> Serialize for Observed<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Observed<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

struct ObjectVisitor<K>(PhantomData<K>);

impl<'de, K: Observable> Visitor<'de> for ObjectVisitor<K> {
    type Value = Observed<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut metadata, mut parts) = (Map::new(), Map::new());
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => metadata = map.next_value_seed(Kept(&METADATA))?,
                part if K::PARTS.contains(&part) => {
                    let part = match K::used(part) {
                        Some(used) => Value::Object(map.next_value_seed(Kept(used))?),
                        None => map.next_value()?,
                    };
                    parts.insert(key, part);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Observed::read(metadata, parts))
    }
}

/// Takes these fields of a map and passes over the others, however they are nested.
struct Kept(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Kept {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Kept {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.0.contains(&key.as_str()) {
                kept.insert(key, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(kept)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }
}

fn attempt<K: DeserializeOwned>(parts: &Map<String, Value>, field: &str) -> Result<K, FieldProblem> {
    let mut object = parts.clone();
    object.insert("metadata".to_owned(), Value::Object(Map::new()));
    K::deserialize(Value::Object(object)).map_err(|error| problem(field, &error))
}

/// Returns of a status the fields that can be read, each tried by itself; of a list those of its items.
fn readable<K: Observable>(
    parts: &Map<String, Value>,
    status: Value,
    problems: &mut Vec<FieldProblem>,
) -> Value {
    let Value::Object(fields) = status else {
        let error = serde_json::Error::custom("is no map");
        problems.push(problem("status", &error));
        return Value::Object(Map::new());
    };
    let mut parts = parts.clone();
    let mut with = |name: &str, value: &Value| {
        let status = Map::from_iter([(name.to_owned(), value.clone())]);
        parts.insert("status".to_owned(), Value::Object(status));
        attempt::<K>(&parts, &format!("status.{name}")).err()
    };
    let mut kept = Map::new();
    for (name, value) in fields {
        let Some(wrong) = with(&name, &value) else {
            kept.insert(name, value);
            continue;
        };
        let Value::Array(items) = value else {
            problems.push(wrong);
            continue;
        };
        let readable = items.into_iter().enumerate().filter(|(index, item)| {
            let wrong = with(&name, &Value::Array(vec![item.clone()]));
            problems.extend(wrong.clone().map(|wrong| FieldProblem {
                field: format!("status.{name}[{index}]"),
                ..wrong
            }));
            wrong.is_none()
        });
        let readable = readable.map(|(_, item)| item).collect();
        kept.insert(name.clone(), Value::Array(readable));
    }
    Value::Object(kept)
}

fn problem(field: &str, error: &serde_json::Error) -> FieldProblem {
    let text: String = error.to_string().chars().take(LONGEST).collect();
    FieldProblem {
        field: field.to_owned(),
        problem: format!("cannot be read and is set aside: {text}"),
    }
}

fn meta(fields: Map<String, Value>) -> ObjectMeta {
    let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
    let texts = |field: &str| {
        let entries = fields.get(field)?.as_object()?.iter();
        let entries = entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Some(entries.collect::<BTreeMap<_, _>>())
    };
    let owners = fields.get("ownerReferences").and_then(Value::as_array);
    let owner = |value: &Value| OwnerReference::deserialize(value).ok();
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        generation: fields.get("generation").and_then(Value::as_i64),
        // Of two claims the older one stands, so an object of unknown age is the youngest.
        creation_timestamp: text("creationTimestamp")
            .map(|time| Time(time.parse().unwrap_or(Timestamp::MAX))),
        labels: texts("labels"),
        annotations: texts("annotations"),
        owner_references: owners.map(|owners| owners.iter().filter_map(owner).collect()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
