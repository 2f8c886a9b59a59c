//! The CustomResourceDefinitions: made what this version knows them to be, or found to be too old for it.
//!
//! An API server drops what a definition does not know when an object is created, and refuses it when it is applied. So an
//! operator of a newer version upon older definitions would publish what no agent reads whole, and could change it no more.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
};
use serde_json::Value;
use tokio::time;

use crate::writer::FIELD_MANAGER;

/// How often definitions that are too old are looked at again.
const AGAIN: Duration = Duration::from_secs(10);
/// How many fields of a definition are named.
const NAMED: usize = 5;

/// What to do where definitions are too old.
pub const REMEDY: &str = "apply those of the chart of this version, with `kubectl apply --server-side --force-conflicts -f \
                          crds/` in its folder, or set manageCRDs: true";

/// What a definition lacks of what this version reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The definition.
    pub name: String,
    /// The fields, like `spec.head.memberSlices`, and values, like `spec.mesh=Nodes`; none where there is no such definition.
    pub fields: Vec<String>,
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.fields.is_empty() {
            return write!(f, "{} does not exist", self.name);
        }
        let fields: Vec<&str> = self.fields.iter().take(NAMED).map(String::as_str).collect();
        write!(f, "{} lacks {}", self.name, fields.join(", "))?;
        match self.fields.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Makes the CustomResourceDefinitions what this version knows them to be.
///
/// # Errors
/// The error of the API server.
pub async fn apply(client: &Client) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    for definition in spanwire_crds::definitions() {
        let name = definition.metadata.name.clone().unwrap_or_default();
        api.patch(&name, &params, &Patch::Apply(&definition)).await?;
    }
    Ok(())
}

/// Waits until the definitions have all that this version reads and writes; `came_by` is called each time that it was looked.
/// Where it may not be looked it is not waited.
pub async fn wait(client: &Client, came_by: impl Fn()) {
    let mut said = String::new();
    loop {
        came_by();
        match lacking(client).await {
            Ok(lacking) if lacking.is_empty() => {
                if !said.is_empty() {
                    tracing::info!("the CustomResourceDefinitions are new enough now");
                }
                return;
            }
            Ok(lacking) => {
                let texts: Vec<String> = lacking.iter().map(ToString::to_string).collect();
                let text = texts.join("; ");
                if said != text {
                    tracing::warn!(
                        lacking = text,
                        "the CustomResourceDefinitions are older than this operator, which does not lead until they are not: {REMEDY}"
                    );
                    said = text;
                }
            }
            Err(Error::Api(status)) if status.code == 403 => {
                tracing::info!(
                    "may not look whether the CustomResourceDefinitions are new enough; the chart of this version lets the operator"
                );
                return;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "looking at the CustomResourceDefinitions failed, retrying");
            }
        }
        time::sleep(AGAIN).await;
    }
}

/// Returns what each definition lacks.
async fn lacking(client: &Client) -> Result<Vec<Lack>, Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for ours in spanwire_crds::definitions() {
        let name = ours.metadata.name.clone().unwrap_or_default();
        let Some(theirs) = api.get_opt(&name).await? else {
            lacking.push(Lack {
                name,
                fields: Vec::new(),
            });
            continue;
        };
        let fields = missing(&ours, &theirs);
        if !fields.is_empty() {
            lacking.push(Lack { name, fields });
        }
    }
    Ok(lacking)
}

/// Returns the fields and values of one definition that another one does not have.
fn missing(ours: &CustomResourceDefinition, theirs: &CustomResourceDefinition) -> Vec<String> {
    let mut missing = Vec::new();
    for version in &ours.spec.versions {
        let mut others = theirs.spec.versions.iter();
        let other = others.find(|other| other.name == version.name && other.served);
        let Some(other) = other else {
            missing.push(format!("the version {}", version.name));
            continue;
        };
        let [ours, theirs] = [version, other].map(|version| {
            let schema = version.schema.as_ref();
            let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
            serde_json::to_value(schema).unwrap_or_default()
        });
        for part in ["spec", "status"] {
            let [ours, theirs] = [&ours, &theirs].map(|schema| &schema["properties"][part]);
            compare(ours, theirs, part, &mut missing);
        }
    }
    missing
}

fn compare(ours: &Value, theirs: &Value, path: &str, missing: &mut Vec<String>) {
    if ours.is_null() || theirs["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if theirs.is_null() {
        missing.push(path.to_owned());
        return;
    }
    for (name, schema) in ours["properties"].as_object().into_iter().flatten() {
        compare(
            schema,
            &theirs["properties"][name],
            &format!("{path}.{name}"),
            missing,
        );
    }
    compare(&ours["items"], &theirs["items"], &format!("{path}[]"), missing);
    if let (Some(values), Some(known)) = (ours["enum"].as_array(), theirs["enum"].as_array()) {
        let unknown = values.iter().filter(|value| !known.contains(value));
        missing.extend(unknown.map(|value| format!("{path}={}", value.as_str().unwrap_or_default())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of our definitions, changed.
    fn changed(
        kind: &str,
        change: impl Fn(&mut Value),
    ) -> (CustomResourceDefinition, CustomResourceDefinition) {
        let mut all = spanwire_crds::definitions().into_iter();
        let ours = all.find(|definition| definition.spec.names.kind == kind).unwrap();
        let mut theirs = serde_json::to_value(&ours).unwrap();
        change(&mut theirs["spec"]["versions"][0]);
        (ours, serde_json::from_value(theirs).unwrap())
    }

    fn properties<'a>(version: &'a mut Value, path: &[&str]) -> &'a mut serde_json::Map<String, Value> {
        let mut schema = &mut version["schema"]["openAPIV3Schema"];
        for name in path {
            schema = match *name {
                "[]" => &mut schema["items"],
                name => &mut schema["properties"][name],
            };
        }
        schema["properties"].as_object_mut().unwrap()
    }

    #[test]
    fn what_a_definition_lacks_is_named() {
        for definition in spanwire_crds::definitions() {
            assert_eq!(missing(&definition, &definition), Vec::<String>::new());
        }
        let (ours, theirs) = changed("LocationSlice", |version| {
            properties(version, &["spec", "head"]).remove("memberSlices");
            properties(version, &["spec", "members", "[]"]).remove("prefixes");
        });
        assert_eq!(
            missing(&ours, &theirs),
            ["spec.head.memberSlices", "spec.members[].prefixes"]
        );
        assert_eq!(
            missing(&theirs, &ours),
            Vec::<String>::new(),
            "a newer one has more"
        );
        let (ours, theirs) = changed("Location", |version| {
            properties(version, &["spec"])["mesh"]["enum"] = serde_json::json!(["Leaders"]);
        });
        assert_eq!(missing(&ours, &theirs), ["spec.mesh=Nodes"]);
        let (ours, theirs) = changed("Peer", |version| version["name"] = "v1".into());
        assert_eq!(missing(&ours, &theirs), ["the version v1alpha1"]);
        let (ours, theirs) = changed("MeshNode", |version| {
            let status = &mut version["schema"]["openAPIV3Schema"]["properties"]["status"];
            *status = serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        });
        assert_eq!(missing(&ours, &theirs), Vec::<String>::new());
    }

    #[test]
    fn a_few_of_many_fields_are_named() {
        let lack = |fields: usize| Lack {
            name: "peers.spanwire.dev".to_owned(),
            fields: (0..fields).map(|number| format!("spec.f{number}")).collect(),
        };
        assert_eq!(lack(0).to_string(), "peers.spanwire.dev does not exist");
        assert_eq!(lack(1).to_string(), "peers.spanwire.dev lacks spec.f0");
        assert!(lack(9).to_string().ends_with("spec.f4 and 4 more"));
    }
}
