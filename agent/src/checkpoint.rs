//! The agent's checkpoint on disk: the last snapshot, so that it works without the API server, where that is reached past
//! the mesh, and the locations for which the tunnel is enforced.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use spanwire_core::{ApiServer, Snapshot, liveness::Judgement};
use spanwire_crds::{LocationSlice, MeshNode, Peer};
use spanwire_topology::{Doubt, LocationName, NodeName};
use thiserror::Error;

use crate::atomic_file::{self, FileError};

/// Agents of all versions read this file; it is called what it was called first.
const FILE: &str = "ledger.json";
const VERSION: u32 = 1;

/// What is remembered over a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The last complete snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The locations for which the tunnel is enforced.
    pub enforced: BTreeSet<LocationName>,
    /// Those for which it will be, and when, in whole seconds.
    pub pending: BTreeMap<LocationName, SystemTime>,
    /// Where the API server is.
    pub api_server: ApiServer,
    /// Which leaders were not used.
    pub judgement: Judgement,
}

/// Why the checkpoint cannot be used or written.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The disk.
    #[error("the checkpoint cannot be accessed")]
    Disk(#[source] FileError),
    /// Not what this version writes.
    #[error("{} cannot be understood; the next snapshot replaces it", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
    /// Written by another version in another form.
    #[error(
"{path} has the version {1}, this agent reads {VERSION}; the next snapshot replaces it",
path = .0.display())]
    Version(PathBuf, u32),
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Body {
    version: u32,
    settled: BTreeSet<String>,
    /// Seconds since 1970.
    #[serde(default)]
    settling: BTreeMap<String, u64>,
    #[serde(default)]
    api_server: BTreeSet<SocketAddr>,
    #[serde(default)]
    api_endpoints: BTreeSet<SocketAddr>,
    #[serde(default)]
    lost: Vec<(String, String)>,
    #[serde(default)]
    forsaken: Vec<(String, String)>,
    #[serde(default)]
    useless: Vec<(String, String)>,
    #[serde(default)]
    cut: BTreeSet<String>,
    node: Option<MeshNode>,
    slices: Vec<LocationSlice>,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct BodyRef<'a> {
    version: u32,
    settled: BTreeSet<&'a str>,
    settling: BTreeMap<&'a str, u64>,
    api_server: &'a BTreeSet<SocketAddr>,
    api_endpoints: &'a BTreeSet<SocketAddr>,
    lost: Vec<(String, String)>,
    forsaken: Vec<(String, String)>,
    useless: Vec<(String, String)>,
    cut: Vec<String>,
    node: Option<&'a MeshNode>,
    slices: Vec<&'a LocationSlice>,
    peers: Vec<&'a Peer>,
}

impl Checkpoint {
    /// Returns where the checkpoint is kept.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(FILE)
    }

    /// Returns what the state directory holds; `None` where nothing has been remembered yet.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(state_directory: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = Self::path(state_directory);
        let Some(bytes) = atomic_file::read(&path).map_err(CheckpointError::Disk)? else {
            return Ok(None);
        };
        let damaged = |cause| CheckpointError::Damaged(path.clone(), cause);
        let Head { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(CheckpointError::Version(path, version));
        }
        let body: Body = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Some(body.into()))
    }

    /// The leaders from behind which nothing came. Of the others that were not used while they answered it shows again by itself.
    fn useless(&self) -> impl Iterator<Item = &(LocationName, NodeName)> {
        let answering = self.judgement.answering.iter();
        let useless = answering.filter(|(_, doubt)| **doubt == Doubt::Useless);
        useless.map(|(leader, _)| leader)
    }

    /// Returns for how long each location is pending from now on.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> BTreeMap<LocationName, Duration> {
        let left = |due: &SystemTime| due.duration_since(now).unwrap_or_default();
        self.pending
            .iter()
            .map(|(location, due)| (location.clone(), left(due)))
            .collect()
    }

    /// Returns the bytes for [`Self::save`].
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let body = BodyRef {
            version: VERSION,
            settled: self.enforced.iter().map(LocationName::as_str).collect(),
            settling: self
                .pending
                .iter()
                .map(|(location, due)| (location.as_str(), seconds(*due)))
                .collect(),
            api_server: &self.api_server.exempt,
            api_endpoints: &self.api_server.endpoints,
            lost: texts(&self.judgement.lost),
            forsaken: texts(&self.judgement.forsaken),
            useless: texts(self.useless()),
            cut: self.judgement.cut.iter().map(ToString::to_string).collect(),
            node: self.snapshot.node.as_deref(),
            slices: self.snapshot.slices.values().map(Arc::as_ref).collect(),
            peers: self.snapshot.peers.values().map(Arc::as_ref).collect(),
        };
        serde_json::to_vec(&body).expect("these types have only string keys")
    }

    /// Writes the checkpoint; returns when a power cut would not lose it.
    ///
    /// # Errors
    /// Where the disk cannot be written.
    pub fn save(state_directory: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
        atomic_file::write(&Self::path(state_directory), bytes).map_err(CheckpointError::Disk)
    }

    /// Removes the checkpoint.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn forget(state_directory: &Path) -> Result<(), FileError> {
        atomic_file::remove(&Self::path(state_directory))
    }
}

impl From<Body> for Checkpoint {
    fn from(body: Body) -> Self {
        let name = |meta: &kube::api::ObjectMeta| meta.name.clone().unwrap_or_default();
        let snapshot = Snapshot {
            slices: body
                .slices
                .into_iter()
                .map(|slice| (name(&slice.metadata), Arc::new(slice)))
                .collect(),
            peers: body
                .peers
                .into_iter()
                .map(|peer| (name(&peer.metadata), Arc::new(peer)))
                .collect(),
            node: body.node.map(Arc::new),
        };
        let enforced = body.settled.iter().filter_map(|name| name.parse().ok()).collect();
        Self {
            snapshot: Arc::new(snapshot),
            enforced,
            pending: body
                .settling
                .iter()
                .filter_map(|(name, seconds)| Some((name.parse().ok()?, at(*seconds)?)))
                .collect(),
            api_server: ApiServer {
                exempt: body.api_server,
                endpoints: body.api_endpoints,
            },
            judgement: Judgement {
                lost: names(&body.lost),
                forsaken: names(&body.forsaken),
                answering: body
                    .useless
                    .iter()
                    .filter_map(pair)
                    .map(|leader| (leader, Doubt::Useless))
                    .collect(),
                unreached: BTreeSet::new(),
                unheard: BTreeSet::new(),
                silent: BTreeSet::new(),
                barren: BTreeSet::new(),
                dead: BTreeSet::new(),
                idle: BTreeSet::new(),
                cut: body.cut.iter().filter_map(|name| name.parse().ok()).collect(),
            },
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns the time of so many seconds; a damaged file may have any number.
fn at(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn texts<'a, A: ToString + 'a, B: ToString + 'a>(
    pairs: impl IntoIterator<Item = &'a (A, B)>,
) -> Vec<(String, String)> {
    let pairs = pairs.into_iter();
    pairs.map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

fn names<A: Ord + FromStr, B: Ord + FromStr>(pairs: &[(String, String)]) -> BTreeSet<(A, B)> {
    pairs.iter().filter_map(pair).collect()
}

fn pair<A: FromStr, B: FromStr>((a, b): &(String, String)) -> Option<(A, B)> {
    Some((a.parse().ok()?, b.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use spanwire_crds::{LocationSliceSpec, MeshNodeSpec, PeerSpec};

    use super::*;

    fn checkpoint() -> Checkpoint {
        let slice = LocationSlice::new(
            "a-0",
            LocationSliceSpec {
                location: "a".into(),
                ..Default::default()
            },
        );
        let spec = serde_json::json!({"publicKey": "k", "allowedIPs": ["10.0.0.0/24"]});
        let peer = Peer::new("laptop", serde_json::from_value::<PeerSpec>(spec).unwrap());
        let snapshot = Snapshot {
            slices: [("a-0".to_owned(), Arc::new(slice))].into(),
            peers: [("laptop".to_owned(), Arc::new(peer))].into(),
            node: Some(Arc::new(MeshNode::new("a1", MeshNodeSpec::default()))),
        };
        Checkpoint {
            snapshot: Arc::new(snapshot),
            enforced: ["b".parse().unwrap()].into(),
            pending: [(
                "c".parse().unwrap(),
                UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            )]
            .into(),
            api_server: ApiServer {
                exempt: ["10.96.0.1:443".parse().unwrap()].into(),
                endpoints: ["[2001:db8::1]:6443".parse().unwrap()].into(),
            },
            judgement: Judgement {
                lost: [("a2".parse().unwrap(), "b".parse().unwrap())].into(),
                forsaken: [("c".parse().unwrap(), "c1".parse().unwrap())].into(),
                answering: [(("b".parse().unwrap(), "b1".parse().unwrap()), Doubt::Useless)].into(),
                cut: ["a3".parse().unwrap()].into(),
                ..Judgement::default()
            },
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Checkpoint::load(directory.path()).unwrap(), None);
        Checkpoint::save(directory.path(), &checkpoint().bytes()).unwrap();
        assert_eq!(Checkpoint::load(directory.path()).unwrap(), Some(checkpoint()));
        Checkpoint::forget(directory.path()).unwrap();
        assert_eq!(Checkpoint::load(directory.path()).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_without_the_api_server_is_one_of_an_older_version() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"settled":["b"],"node":null,"slices":[],"peers":[]}"#;
        fs::write(directory.path().join(FILE), text).unwrap();
        let checkpoint = Checkpoint::load(directory.path()).unwrap().unwrap();
        assert_eq!(checkpoint.api_server, ApiServer::default());
        assert_eq!(checkpoint.enforced.len(), 1);
        assert!(checkpoint.pending.is_empty());
    }

    #[test]
    fn what_is_pending_is_so_until_its_time_has_come_whatever_the_file_says() {
        let due = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let left = |now| checkpoint().left(now).into_values().collect::<Vec<_>>();
        assert_eq!(left(due - Duration::from_secs(7)), [Duration::from_secs(7)]);
        assert_eq!(left(due + Duration::from_secs(7)), [Duration::ZERO]);
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"version":1,"settled":[],"settling":{{"c":{}}},"node":null,"slices":[],"peers":[]}}"#,
            u64::MAX
        );
        fs::write(directory.path().join(FILE), text).unwrap();
        let checkpoint = Checkpoint::load(directory.path()).unwrap().unwrap();
        assert!(checkpoint.pending.is_empty());
    }

    #[test]
    fn a_checkpoint_that_cannot_be_understood_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for (text, wrong) in [
            ("{\"version\":1", "damaged"),
            ("{\"version\":1}", "damaged"),
            ("{\"version\":2}", "version"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Checkpoint::load(directory.path()).unwrap_err();
            assert_eq!(
                matches!(error, CheckpointError::Version(_, 2)),
                wrong == "version",
                "{error}"
            );
        }
    }
}
