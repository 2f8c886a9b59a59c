//! The nft table as a file that the node loads when it boots, before its CNI: until the agent runs nothing else keeps
//! plaintext from leaving.

use std::path::{Path, PathBuf};

use spanwire_host::NftTable;

use crate::atomic_file::{self, FileError};

const FILE: &str = "guard.nft";

/// The file.
#[derive(Debug)]
pub struct Guard {
    path: PathBuf,
    table: String,
    /// What was written last.
    written: Option<NftTable>,
}

impl Guard {
    /// Returns the guard in the state directory, of the table with this name.
    #[must_use]
    pub fn new(state_directory: &Path, table: &str) -> Self {
        Self {
            path: Self::path(state_directory),
            table: table.to_owned(),
            written: None,
        }
    }

    /// Returns where the guard is kept.
    #[must_use]
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(FILE)
    }

    /// Has the file say what the node's table is, unless it does. Without a table, as outside of the mesh, the file goes: it
    /// would drop what the node sends to addresses that are no other location's any more.
    ///
    /// # Errors
    /// Where the disk cannot be written; then the file is as it was.
    pub fn save(&mut self, table: Option<&NftTable>) -> Result<(), FileError> {
        let Some(table) = table else {
            self.written = None;
            return atomic_file::remove(&self.path);
        };
        if self.written.as_ref() != Some(table) || !self.path.exists() {
            let script = spanwire_kernel::script(&self.table, table);
            atomic_file::write(&self.path, script.as_bytes())?;
            self.written = Some(table.clone());
        }
        Ok(())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn forget(state_directory: &Path) -> Result<(), FileError> {
        atomic_file::remove(&Self::path(state_directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_as_long_as_there_is_a_table_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = Guard::path(directory.path());
        std::fs::write(&path, "of an agent before").unwrap();
        let mut guard = Guard::new(directory.path(), "spanwire");
        guard.save(None).unwrap();
        assert!(!path.exists(), "left by an agent before");
        let table = NftTable {
            name: "spanwire".to_owned(),
            ..NftTable::default()
        };
        guard.save(Some(&table)).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.contains(&table.to_string()), "{written}");
        guard.save(None).unwrap();
        assert!(!path.exists());
        guard.save(None).unwrap();
        guard.save(Some(&table)).unwrap();
        assert!(path.exists());
        // As when the node retires.
        Guard::forget(directory.path()).unwrap();
        guard.save(Some(&table)).unwrap();
        assert!(path.exists());
    }
}
