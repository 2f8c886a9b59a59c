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

    /// Writes the table, unless that was what was written last.
    ///
    /// # Errors
    /// Where the disk cannot be written; then the file is as it was.
    pub fn save(&mut self, table: &NftTable) -> Result<(), FileError> {
        if self.written.as_ref() != Some(table) {
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
