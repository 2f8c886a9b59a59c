//! Objects and scenarios from files.

mod unused;

use std::{
    borrow::Cow,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde_json::Value;
use thiserror::Error;

use self::unused::without_unused;
use crate::{bundle, cluster::OperatorFacts, findings::Answers, objects::Objects};

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file system says no.
    #[error("cannot read {0}")]
    Read(String, #[source] io::Error),
    /// No YAML.
    #[error("{0} is no YAML")]
    Yaml(String, #[source] Box<serde_saphyr::Error>),
    /// A document that cannot be used.
    #[error("document {1} of {0}: {2}")]
    Document(String, usize, String),
}

/// What was found in files.
#[derive(Debug, Default)]
pub struct Found {
    /// The objects.
    pub objects: Objects,
    /// How many objects of other kinds there were.
    pub others: usize,
    /// Scenarios, each with its file.
    pub scenarios: Vec<(String, String)>,
    /// What agents answered when a bundle was written.
    pub answers: Answers,
    /// What is known of the operator where a bundle was written.
    pub operator: OperatorFacts,
}

/// Reads files, every `*.yaml`, `*.yml` and `*.json` of folders, and `-` for the standard input. A file with another ending is
/// a scenario.
///
/// # Errors
/// The first file that cannot be read.
pub fn read(paths: &[PathBuf]) -> Result<Found, FileError> {
    let mut found = Found::default();
    for path in paths {
        let shown = path.display().to_string();
        if shown == "-" {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| FileError::Read("the standard input".to_owned(), error))?;
            documents(&mut found, "the standard input", &text)?;
        } else if path.is_dir() {
            for path in folder(path)? {
                documents(&mut found, &path.display().to_string(), &content(&path)?)?;
            }
        } else if is_document(path) {
            documents(&mut found, &shown, &content(path)?)?;
        } else {
            found.scenarios.push((shown, content(path)?));
        }
    }
    Ok(found)
}

fn content(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|error| FileError::Read(path.display().to_string(), error))
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |error| FileError::Read(path.display().to_string(), error);
    let entries = fs::read_dir(path).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| is_document(path) && path.is_file());
    paths.sort();
    Ok(paths)
}

fn is_document(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Enters the documents of a text.
///
/// # Errors
/// Where it is no YAML, or a document cannot be used.
pub fn documents(found: &mut Found, file: &str, text: &str) -> Result<(), FileError> {
    let documents = parsed(text).map_err(|error| FileError::Yaml(file.to_owned(), Box::new(error)))?;
    for (index, document) in documents.into_iter().enumerate() {
        let wrong = |problem| FileError::Document(file.to_owned(), index + 1, problem);
        if document["operator"].is_object() {
            found.answers.append(&mut bundle::answers(&document));
            found.operator = bundle::operator_facts(&document).map_err(wrong)?;
        }
        for object in items(document) {
            if !found.objects.add(object).map_err(wrong)? {
                found.others += 1;
            }
        }
    }
    Ok(())
}

/// Reads YAML or JSON. What a cluster has is more than what a configuration is usually allowed to have; aliases, by which a small
/// file grows large, are held to the usual bounds.
fn parsed(text: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    if let Ok(document) = serde_json::from_str(text) {
        return Ok(vec![document]);
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_nodes: 100_000_000,
            max_events: 200_000_000,
            max_total_scalar_bytes: 1 << 30,
        },
    };
    let less = without_unused(text);
    match serde_saphyr::from_multiple_with_options(&less, options.clone()) {
        // What is left out may have an anchor; and where something is wrong, the line is that of the text.
        Err(_) if matches!(less, Cow::Owned(_)) => serde_saphyr::from_multiple_with_options(text, options),
        parsed => parsed,
    }
}

/// Returns the items of a list, as `kubectl get -o yaml` writes it, or the object itself; an empty document is none.
fn items(mut document: Value) -> Vec<Value> {
    let is_list = document["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Value::Array(items) = document["items"].take() {
        return items;
    }
    if document.is_null() {
        Vec::new()
    } else {
        vec![document]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Kind;

    fn of(text: &str) -> Result<Found, String> {
        let mut found = Found::default();
        documents(&mut found, "x.yaml", text)
            .map(|()| found)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn documents_and_lists_are_read() {
        let text = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Node, metadata: {name: b}}\n- {apiVersion: v1, kind: Service, metadata: {name: s}}\n";
        let found = of(text).unwrap();
        assert_eq!((found.objects.of(Kind::Node).count(), found.others), (2, 1));
        assert!(of(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}"#).is_ok());
    }

    #[test]
    fn a_large_cluster_is_read() {
        let node = |index| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{index}}}\n");
        let text: String = (0..5000).map(node).collect();
        assert_eq!(of(&text).unwrap().objects.len(), 5000);
    }

    #[test]
    fn what_is_not_used_is_read_where_something_else_needs_it() {
        let text = "kind: Node\napiVersion: v1\nmetadata: {name: a}\nstatus:\n  images:\n  - names: &x [i]\n  volumes: *x\n";
        let found = of(text).unwrap();
        let node = found.objects.get(Kind::Node, "a").unwrap();
        assert_eq!(node["status"]["volumes"][0], "i");
        let less = text.replace("*x", "[v]");
        let found = of(&less).unwrap();
        let node = found.objects.get(Kind::Node, "a").unwrap();
        assert_eq!(
            node["status"],
            serde_json::json!({"images": null, "volumes": ["v"]})
        );
    }

    #[test]
    fn an_error_names_the_line_of_the_file() {
        let text = "kind: Node\nstatus:\n  images:\n  - names: [i]\n  - names: [j]\nspec: [\n";
        let documents = documents(&mut Found::default(), "x.yaml", text);
        let error = documents.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("line 6") || cause.contains("line 7"), "{cause}");
    }

    #[test]
    fn an_error_names_the_file_and_the_document() {
        let twice = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
        assert_eq!(
            of(twice).unwrap_err(),
            "document 2 of x.yaml: Node a is there twice"
        );
        assert_eq!(of("a: [").unwrap_err(), "x.yaml is no YAML");
    }
}
