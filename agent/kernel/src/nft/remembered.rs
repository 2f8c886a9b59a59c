//! What the table was loaded from, over a restart of the agent.
//!
//! The kernel does not give it back, so it is written into a file right after each load, together with a digest of what the kernel
//! had then. While the kernel has the same the table is as it was loaded, but for the elements of its sets, which are read. The
//! frame has the handles of the table and of its rules, which the kernel gives out once in a boot, so the digest is that of no
//! other table; a boot makes the file void. A file that cannot be read or written costs one more load.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use spanwire_host::{NftSet, NftTable};
use spanwire_topology::Family;

use super::{frame::Frame, script};
use crate::{state_file, sysctl};

/// The name of the file in the state folder.
const FILE: &str = "nft-table.json";

/// The file, and what it said when it was opened.
#[derive(Debug)]
pub(super) struct Remembered {
    file: PathBuf,
    boot: String,
    loaded: Option<(NftTable, String)>,
}

impl Remembered {
    pub(super) fn open(state: &Path) -> Self {
        Self::of_boot(state, sysctl::boot_id())
    }

    fn of_boot(state: &Path, boot: String) -> Self {
        let file = state.join(FILE);
        let loaded = fs::read(&file).ok().and_then(|text| {
            let read = read(&serde_json::from_slice(&text).ok()?, &boot);
            if read.is_none() {
                tracing::debug!(path = %file.display(), "says nothing of this boot's nft table");
            }
            read
        });
        Self { file, boot, loaded }
    }

    /// Returns the table without the elements of its sets, where the kernel has what it had when that was loaded.
    pub(super) fn table(&self, frame: &Frame) -> Option<&NftTable> {
        let (table, digest) = self.loaded.as_ref()?;
        (*digest == self::digest(frame)).then_some(table)
    }

    /// The file says nothing of what is loaded from now on.
    pub(super) fn forget(&mut self) {
        self.loaded = None;
    }

    /// Writes down what the kernel has right after this table was loaded.
    pub(super) fn write(&self, table: &NftTable, frame: &Frame) {
        let sets = table
            .sets
            .iter()
            .map(|set| json!([set.name(), set.family() == Family::V6]));
        let entry = json!({
            "boot_id": self.boot,
            "name": table.name,
            "sets": sets.collect::<Vec<Value>>(),
            "chains": table.chains,
            "text": text(table),
            "frame": digest(frame),
        });
        if let Err(error) = state_file::replace(&self.file, entry.to_string().as_bytes()) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, path = %self.file.display(), "the next agent will load the nft table once more");
        }
    }

    /// Removes the file: the table is gone.
    pub(super) fn remove(&mut self) {
        self.forget();
        if let Err(error) = state_file::remove(&self.file) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, path = %self.file.display(), "the file stays");
        }
    }
}

/// Returns the table without elements and the digest of the frame; `None` where the file is of another boot, or this version would
/// load another text for the same table.
fn read(entry: &Value, boot: &str) -> Option<(NftTable, String)> {
    let word = |key: &str| entry.get(key)?.as_str();
    if boot.is_empty() || word("boot_id")? != boot {
        return None;
    }
    let set = |set: &Value| {
        let family = if set.get(1)?.as_bool()? {
            Family::V6
        } else {
            Family::V4
        };
        Some(NftSet::new(set.get(0)?.as_str()?.to_owned(), family, []))
    };
    let table = NftTable {
        name: word("name")?.to_owned(),
        sets: entry
            .get("sets")?
            .as_array()?
            .iter()
            .map(set)
            .collect::<Option<_>>()?,
        chains: word("chains")?.to_owned(),
    };
    (word("text")? == text(&table)).then_some((table, word("frame")?.to_owned()))
}

/// Returns the digest of what is loaded for a table, but for the elements of its sets.
fn text(table: &NftTable) -> String {
    let empty = |set: &NftSet| NftSet::new(set.name().to_owned(), set.family(), []);
    let bare = NftTable {
        name: table.name.clone(),
        sets: table.sets.iter().map(empty).collect(),
        chains: table.chains.clone(),
    };
    digest(&script(&table.name, &bare))
}

/// Another release of the standard library may return another one: then the table is loaded once more.
fn digest(what: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> NftTable {
        NftTable {
            name: "spanwire".to_owned(),
            sets: vec![
                NftSet::new("mesh4".to_owned(), Family::V4, []),
                NftSet::new("mesh6".to_owned(), Family::V6, []),
            ],
            chains: "chain a {\n}\n".to_owned(),
        }
    }

    fn frame(objects: &[&str]) -> Frame {
        Frame::of(objects.iter().map(|object| object.as_bytes().to_vec()).collect())
    }

    fn written(folder: &Path) {
        Remembered::of_boot(folder, "one".to_owned()).write(&table(), &frame(&["a", "b"]));
    }

    #[test]
    fn the_table_is_known_again_while_the_kernel_has_the_same() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let again = Remembered::of_boot(folder.path(), "one".to_owned());
        assert_eq!(again.table(&frame(&["a", "b"])), Some(&table()));
        assert_eq!(again.table(&frame(&["ab"])), None);
        assert_eq!(again.table(&frame(&["a", "c"])), None);
    }

    #[test]
    fn a_file_of_another_boot_or_of_a_boot_without_a_name_is_void() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        for boot in ["two", ""] {
            let again = Remembered::of_boot(folder.path(), boot.to_owned());
            assert_eq!(again.table(&frame(&["a", "b"])), None, "{boot}");
        }
    }

    #[test]
    fn what_another_version_would_load_otherwise_or_is_damaged_is_void() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let file = folder.path().join(FILE);
        let text = fs::read_to_string(&file).unwrap();
        let digest = text
            .split("\"text\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let damaged = [
            text.replace(digest, "0123456789abcdef"),
            text.replace("mesh6", "mesh7"),
            text.replace("true", "3"),
            text[..text.len() / 2].to_owned(),
            "[]".to_owned(),
            String::new(),
        ];
        for text in damaged {
            fs::write(&file, &text).unwrap();
            let again = Remembered::of_boot(folder.path(), "one".to_owned());
            assert_eq!(again.table(&frame(&["a", "b"])), None, "{text}");
        }
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let away = folder.path().join("away");
        let mut remembered = Remembered::of_boot(&away, "one".to_owned());
        remembered.write(&table(), &frame(&["a"]));
        remembered.remove();
        assert!(!away.exists());
    }
}
