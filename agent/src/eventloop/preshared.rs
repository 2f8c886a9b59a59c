//! The preshared keys of Peers: which to read, what came of it, and what is kept.

use tokio::sync::watch;

use super::EventLoop;
use crate::preshared::{Read, Reader, kept::Keys};

/// Where the loop sends what is to be read and kept.
pub struct Preshared {
    /// Reads Secrets.
    pub reader: Reader,
    /// What is to be there after a restart; `None` while that is not known.
    pub known: watch::Sender<Option<Keys>>,
}

impl EventLoop {
    /// Another mesh may need other keys.
    pub(super) fn want_preshared(&mut self) {
        let outlet = &mut self.outlets.preshared;
        outlet.reader.want(&self.state.preshared_references());
        let known = self.state.preshared_to_remember();
        outlet.known.send_if_modified(|kept| {
            let changed = kept.as_ref() != Some(&known);
            *kept = Some(known);
            changed
        });
    }

    /// A key was read, or could not be.
    pub(super) fn take_preshared(&mut self, (reference, read): Read) {
        let (secret, key) = (reference.name().to_owned(), reference.key().to_owned());
        let failed = read.as_ref().err().cloned();
        let changed = self.state.handle_preshared(reference, read);
        if changed {
            self.reconcile_by(Self::now());
        }
        let problems = self.state.preshared_problems();
        let is_lasting = problems
            .iter()
            .any(|problem| Some(&problem.unread) == failed.as_ref());
        match failed {
            Some(failed) if is_lasting => {
                tracing::warn!(secret, key, cause = failed.cause(), "cannot read a preshared key");
            }
            Some(failed) => tracing::debug!(
                secret,
                key,
                cause = failed.cause(),
                "goes on with the preshared key it has"
            ),
            None if changed => tracing::info!(secret, key, "read a preshared key"),
            None => tracing::debug!(secret, key, "the preshared key is the same"),
        }
        self.want_preshared();
    }
}
