//! The mesh from a file, or from every `*.yaml`, `*.yml` and `*.json` of a directory: for tests, and for machines that
//! no cluster manages. The documents are the same objects that a cluster would hold. Secrets with preshared keys lie beside them,
//! as a pod sees Secrets: `secrets/NAME/KEY`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::de::DeserializeOwned;
use spanwire_core::Snapshot;
use spanwire_crds::{LocationSlice, MeshNode, Peer};
use spanwire_topology::NodeName;
use thiserror::Error;

use crate::source::Publisher;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// Why the files give no snapshot; the one before stays in force.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file system says no.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// No YAML.
    #[error("{} is no YAML", .0.display())]
    Yaml(PathBuf, #[source] Box<serde_saphyr::Error>),
    /// A document is not what its kind asks for.
    #[error("document {1} of {path} is no {2}", path = .0.display())]
    Object(PathBuf, usize, &'static str, #[source] serde_json::Error),
    /// A document of another kind.
    #[error(
"document {1} of {path} has the kind {2:?}; LocationSlice, Peer and MeshNode are read",
path = .0.display())]
    Kind(PathBuf, usize, String),
}

/// Publishes what the files say, now and after each change, for ever. A file that is being written may look like a mesh
/// of which half is gone, so a change counts when the files have been the same for one interval.
pub async fn watch(path: PathBuf, me: NodeName, publisher: Publisher) {
    let (mut known, mut latest) = (None, None);
    let mut readable = true;
    loop {
        match files(&path) {
            Ok(files) => {
                readable = true;
                let at_rest = known.is_none() || latest.as_ref() == Some(&files);
                if at_rest && known.as_ref() != Some(&files) {
                    match read(files.keys(), &me) {
                        Ok(snapshot) => publisher.publish(snapshot),
                        Err(error) => kept(&error),
                    }
                    known = Some(files.clone());
                }
                latest = Some(files);
            }
            Err(error) if readable => {
                readable = false;
                kept(&error);
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the directory of Secrets that goes with the files: `secrets` beside them.
#[must_use]
pub fn secrets(path: &Path) -> PathBuf {
    let directory = if path.is_dir() { Some(path) } else { path.parent() };
    directory.unwrap_or(Path::new("/")).join("secrets")
}

fn kept(error: &FileError) {
    tracing::warn!(error = error as &dyn std::error::Error, "kept the mesh as it was");
}

/// What tells that a file is another one than before.
type Stamp = (Option<SystemTime>, u64);

fn files(path: &Path) -> Result<BTreeMap<PathBuf, Stamp>, FileError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| FileError::Read(path, cause)
    };
    let paths = if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed(path))?;
        entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed(path)))
            .filter(|path| path.as_ref().map_or(true, |path| is_document(path)))
            .collect::<Result<Vec<_>, _>>()?
    } else {
        vec![path.to_owned()]
    };
    let stamp = |path: PathBuf| {
        let meta = fs::metadata(&path).map_err(failed(&path))?;
        Ok((path, (meta.modified().ok(), meta.len())))
    };
    paths.into_iter().map(stamp).collect()
}

fn is_document(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

pub(crate) fn read<'a>(
    paths: impl Iterator<Item = &'a PathBuf>,
    me: &NodeName,
) -> Result<Snapshot, FileError> {
    let mut snapshot = Snapshot::default();
    for path in paths {
        let text = fs::read_to_string(path).map_err(|cause| FileError::Read(path.clone(), cause))?;
        add(&mut snapshot, path, &text, me)?;
    }
    Ok(snapshot)
}

fn add(snapshot: &mut Snapshot, path: &Path, text: &str, me: &NodeName) -> Result<(), FileError> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text)
        .map_err(|cause| FileError::Yaml(path.to_owned(), Box::new(cause)))?;
    for (index, document) in documents.into_iter().enumerate() {
        let position = (path, index + 1);
        let kind = document
            .get("kind")
            .and_then(|kind| kind.as_str())
            .unwrap_or_default()
            .to_owned();
        match kind.as_str() {
            "LocationSlice" => {
                let slice: LocationSlice = object(document, position, "LocationSlice")?;
                snapshot.slices.insert(name(&slice.metadata), Arc::new(slice));
            }
            "Peer" => {
                let peer: Peer = object(document, position, "Peer")?;
                snapshot.peers.insert(name(&peer.metadata), Arc::new(peer));
            }
            "MeshNode" => {
                let node: MeshNode = object(document, position, "MeshNode")?;
                if node.metadata.name.as_deref() == Some(me.as_str()) {
                    snapshot.node = Some(Arc::new(node));
                }
            }
            _ => return Err(FileError::Kind(path.to_owned(), index + 1, kind)),
        }
    }
    Ok(())
}

fn object<T: DeserializeOwned>(
    document: serde_json::Value,
    (path, index): (&Path, usize),
    kind: &'static str,
) -> Result<T, FileError> {
    serde_json::from_value(document).map_err(|cause| FileError::Object(path.to_owned(), index, kind, cause))
}

fn name(meta: &kube::api::ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    const MESH: &str = "
apiVersion: spanwire.dev/v1alpha1
kind: LocationSlice
metadata: {name: a-head}
spec: {location: a, head: {meshGeneration: 1, leaders: [{node: a1, role: Active}]}}
---
apiVersion: spanwire.dev/v1alpha1
kind: MeshNode
metadata: {name: a1}
spec: {location: a, retire: true}
---
apiVersion: spanwire.dev/v1alpha1
kind: MeshNode
metadata: {name: a2}
spec: {location: a}
";

    fn me() -> NodeName {
        "a1".parse().unwrap()
    }

    #[tokio::test]
    async fn a_directory_is_read_and_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        fs::write(&path, MESH).unwrap();
        fs::write(directory.path().join("README"), "no document").unwrap();
        let (publisher, mut snapshots) = source::channel();
        let task = tokio::spawn(watch(directory.path().to_owned(), me(), publisher));
        let first = snapshots
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert_eq!(first.slices.len(), 1);
        assert!(first.retire());
        fs::write(&path, "{broken").unwrap();
        tokio::time::sleep(2 * INTERVAL).await;
        assert!(!snapshots.has_changed().unwrap(), "a broken file changes nothing");
        fs::write(&path, MESH.replace("retire: true", "retire: false")).unwrap();
        let retiring = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().is_some_and(|it| !it.retire());
        tokio::time::timeout(4 * INTERVAL, snapshots.wait_for(retiring))
            .await
            .unwrap()
            .unwrap();
        task.abort();
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_not_acted_upon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        fs::write(&path, MESH).unwrap();
        let (publisher, mut snapshots) = source::channel();
        let task = tokio::spawn(watch(path.clone(), me(), publisher));
        snapshots.wait_for(Option::is_some).await.unwrap();
        // Growing at every look, as under a slow writer.
        for length in 0..6 {
            fs::write(&path, "\n".repeat(length)).unwrap();
            tokio::time::sleep(INTERVAL / 2).await;
        }
        fs::write(&path, MESH).unwrap();
        tokio::time::sleep(3 * INTERVAL).await;
        assert!(!snapshots.has_changed().unwrap());
        task.abort();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| {
            add(&mut Snapshot::default(), Path::new("m.yaml"), text, &me())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(message("{broken"), "m.yaml is no YAML");
        assert_eq!(
            message(&MESH.replace("location: a,", "location: [],")),
            "document 1 of m.yaml is no LocationSlice"
        );
        assert!(message("kind: Pod").starts_with("document 1 of m.yaml has the kind \"Pod\""));
    }
}
