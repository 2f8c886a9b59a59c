//! Getting hold of the machine's network and of the node's key.

use spanwire_core::Trouble;
use spanwire_kernel::{BackendChoice, Config, Kernel, PrivateKey, Userspace};

use super::{ReconcileError, Reconciler, chain};
use crate::{args, identity::Identity};

impl Reconciler {
    pub(super) async fn open(
        &mut self,
        retire: bool,
        listen_port: Option<u16>,
    ) -> Result<(), ReconcileError> {
        if self.kernel.is_none() {
            self.forget_known();
            let kernel = self.open_kernel().await?;
            let listen_port = listen_port.filter(|_| !retire);
            self.ownership = kernel.ownership_conflicts(listen_port).await?;
        }
        if !retire && (self.identity.is_none() || self.key_trouble.is_some()) {
            self.identify().await;
        }
        Ok(())
    }

    /// Finds the node's key: on the disk, else in the device that an agent before has left, else a new one. A node without
    /// one follows all the same.
    async fn identify(&mut self) {
        let state = &self.paths.state_dir;
        let loaded = Identity::load(state);
        let kernel = self.kernel.as_mut().expect("it was opened before");
        let identity = match loaded {
            Ok(Some(identity)) => Ok((identity, None)),
            loaded => match (kernel.device_key().await, loaded) {
                (Ok(Some(left)), loaded) => {
                    let identity = Identity::from_private(*left.as_bytes());
                    let cause = loaded.err().map(|error| chain(&error));
                    tracing::warn!(
                        cause,
                        "the node's key is not on the disk; it is that of the running device"
                    );
                    let unsaved = identity.save(state).err().map(|error| chain(&error));
                    Ok((identity, unsaved))
                }
                (_, Err(error)) => Err(error),
                (_, Ok(_)) => Identity::load_or_create(state).map(|identity| (identity, None)),
            },
        };
        self.key_trouble = match identity {
            Ok((identity, unsaved)) => {
                let key = PrivateKey::new(identity.private());
                kernel.set_private_key(key.clone());
                self.keys.send_replace(Some(key));
                self.identity = Some(identity.public());
                unsaved.map(|cause| Trouble::Key { cause, usable: true })
            }
            Err(error) => Some(Trouble::Key {
                cause: chain(&error),
                usable: false,
            }),
        };
    }

    pub(super) async fn open_kernel(&mut self) -> Result<&mut Kernel, ReconcileError> {
        if self.kernel.is_none() {
            let config = Config {
                owned: self.owned.clone(),
                proc_sys: self.paths.proc_sys.clone(),
                state: self.paths.state_dir.clone(),
                private_key: None,
                backend: match self.paths.backend {
                    args::Backend::Auto => BackendChoice::Auto,
                    args::Backend::Kernel => BackendChoice::Kernel,
                    args::Backend::Userspace => BackendChoice::Userspace,
                },
                userspace: Userspace {
                    control: self.paths.tunnel_socket.clone(),
                    sockets: self.paths.wireguard_socket_dir.clone(),
                },
            };
            self.kernel = Some(Kernel::open(config).await?);
        }
        Ok(self.kernel.as_mut().expect("it has just been opened"))
    }
}
