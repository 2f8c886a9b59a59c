//! Where a lab keeps what it must find again: everything about a lab lies in one folder, named after it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

/// The folder of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    name: String,
    root: PathBuf,
}

/// What a lab is made of, written before anything is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The scenario it was brought up with.
    pub scenario: Scenario,
    /// Folder of the programs it runs.
    pub tools: PathBuf,
    /// The lab's cgroup in every hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Port on 127.0.0.1 that leads to the API server.
    pub port: Option<u16>,
}

/// Returns the cache of everything that is built once.
pub(crate) fn cache() -> Result<PathBuf> {
    let var = |key: &str| {
        std::env::var_os(key)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let root = var("SPANWIRE_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("spanwire")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/spanwire")))
        .context(
            "none of SPANWIRE_CACHE, XDG_CACHE_HOME and HOME is set, so there is no place for the cache",
        )?;
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let root = root.canonicalize()?;
    for hidden in ["/run", "/var/lib", "/var/log", "/sys", "/proc"] {
        ensure!(
            !root.starts_with(hidden),
            "the cache {} is in {hidden}, which nodes hide",
            root.display()
        );
    }
    Ok(root)
}

impl Store {
    /// Returns the folder for a lab of this name, whether it exists or not.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let fits = (1..=20).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        ensure!(
            fits,
            "the lab's name {name:?} does not fit: 1 to 20 of a-z, 0-9 and -"
        );
        Ok(Self {
            name: name.to_owned(),
            root: cache()?.join("labs").join(name),
        })
    }

    /// Returns names of the labs that are there.
    pub(crate) fn all() -> Result<Vec<String>> {
        let folder = cache()?.join("labs");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// Returns the lab's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether there is such a lab.
    pub(crate) fn exists(&self) -> bool {
        self.root.exists()
    }

    /// Makes the folder; fails if there is one, so that of two who try one succeeds.
    pub(crate) fn create(&self) -> Result<()> {
        fs::create_dir_all(self.root.parent().expect("the folder has a parent"))?;
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "the lab {0} is there already; `lab --name {0} down` removes it, another --name makes another",
                self.name
            ),
            done => done.with_context(|| format!("cannot make {}", self.root.display())),
        }
    }

    /// Returns a path in the folder.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// Returns the folder of a node.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, inside: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a file has a parent"))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Remembers what the lab is made of.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        self.write(".lab.json", serde_json::to_vec_pretty(record)?)?;
        fs::rename(self.path(".lab.json"), self.path("lab.json"))?;
        Ok(())
    }

    /// Returns what the lab is made of.
    pub(crate) fn load(&self) -> Result<Record> {
        ensure!(
            self.exists(),
            "there is no lab {}; `lab --name {0} up FILE` makes one",
            self.name
        );
        let path = self.path("lab.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Name of one of the lab's network namespaces.
    pub(crate) fn namespace(&self, of: &str) -> String {
        format!("{}.{of}", self.name)
    }
}

/// Held while something in a folder of the cache is made or changed, so that it happens once.
pub(crate) struct Lock {
    _file: nix::fcntl::Flock<fs::File>,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = fs::File::create(folder.join(".lock"))?;
        let locked = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("cannot lock {}", folder.display()))?;
        Ok(Self { _file: locked })
    }
}
