//! Removing every trace of Spanwire, as a node that retires or an administrator wants it.

use std::{error::Error, path::PathBuf};

use spanwire_core::Trouble;
use spanwire_host::{Host, Step, diff};

use super::{
    ReconcileError, Reconciler, chain,
    steps::{failures, leave_to_others},
};
use crate::{atomic_file, checkpoint::Checkpoint, guard::Guard, identity::Identity, preshared::kept};

impl Reconciler {
    /// Returns the steps that remove what is Spanwire's from the machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn removal(&mut self) -> Result<Vec<Step>, ReconcileError> {
        // Nothing that is to be removed depends on the key.
        let kernel = self.open_kernel().await?;
        let actual = kernel.read([]).await?;
        self.ownership = kernel.ownership_conflicts(None).await?;
        let mut steps = diff(&actual, &Host::default());
        leave_to_others(&mut steps, &self.ownership);
        Ok(steps)
    }

    /// Applies the steps of a removal; returns what could not be done.
    ///
    /// # Errors
    /// When it cannot be found out what is left.
    pub async fn remove(&mut self, steps: Vec<Step>) -> Result<Vec<Trouble>, ReconcileError> {
        let kernel = self.open_kernel().await?;
        let report = kernel.apply(steps).await;
        let mut troubles = failures(report.failed);
        let left = self.removal().await?;
        if troubles.is_empty() && !left.is_empty() {
            troubles.push(Trouble::Left(left));
        }
        Ok(troubles)
    }

    /// Puts back what was found, and removes what was remembered, the key included. Returns what could not be done.
    pub async fn forget(&mut self) -> Vec<Trouble> {
        let cleanup = |error: &dyn Error| Trouble::Cleanup(chain(error));
        let mut troubles: Vec<Trouble> = match &mut self.kernel {
            Some(kernel) => kernel
                .restore_sysctls()
                .await
                .iter()
                .map(|error| cleanup(error))
                .collect(),
            None => Vec::new(),
        };
        if troubles.is_empty() {
            if let Some(kernel) = &mut self.kernel {
                kernel.forget_table();
            }
            let state = &self.paths.state_dir;
            let forgotten = [
                Checkpoint::forget(state),
                Identity::forget(state),
                kept::forget(state),
                Guard::forget(state),
            ];
            let failed = forgotten.iter().filter_map(|result| result.as_ref().err());
            troubles.extend(failed.map(|error| cleanup(error)));
            atomic_file::remove_directory(state);
        }
        self.kernel = None;
        (self.identity, self.key_trouble) = (None, None);
        self.keys.send_replace(None);
        self.achieved = None;
        self.forget_known();
        self.ownership.clear();
        troubles
    }

    /// Returns the kernel settings that [`Self::forget`] would put back: name and found value.
    pub async fn changed_sysctls(&mut self) -> Vec<(String, String)> {
        let Some(kernel) = &mut self.kernel else {
            return Vec::new();
        };
        let restorable = kernel.restorable_sysctls().await.into_iter();
        restorable
            .map(|(sysctl, remembered)| (sysctl.0, remembered.found))
            .collect()
    }

    /// Returns the files in which something is remembered.
    #[must_use]
    pub fn remembered_files(&self) -> Vec<PathBuf> {
        let names = [
            Identity::path(&self.paths.state_dir),
            kept::path(&self.paths.state_dir),
            Checkpoint::path(&self.paths.state_dir),
            Guard::path(&self.paths.state_dir),
        ];
        names.into_iter().filter(|path| path.exists()).collect()
    }
}
