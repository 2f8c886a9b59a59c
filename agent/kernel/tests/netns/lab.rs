//! A network namespace with a [`Kernel`] in it.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use spanwire_host::{Device, Host, LinkName, Owned, Step, Sysctl, WireGuard, WireGuardSettings};
use spanwire_kernel::{BackendChoice, Config, Kernel, PrivateKey, Userspace};
use spanwire_testbed as testbed;
use tempfile::TempDir;

use crate::userspace::{self, Control};

/// A machine: its namespace is that of the thread that made it.
pub(crate) struct Lab {
    pub(crate) kernel: Kernel,
    pub(crate) name: LinkName,
    pub(crate) folder: TempDir,
    pub(crate) control: Option<Control>,
}

/// Runs the test on a thread with a network namespace of its own, which goes when the thread ends.
pub(crate) fn lab(test: impl AsyncFnOnce(&mut Lab) + Send + 'static) {
    testbed::isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut lab = Lab::new().await;
            test(&mut lab).await;
            if let Some(control) = lab.control.take() {
                control.stop();
            }
        });
    });
}

/// The private key of the machine under test.
pub(crate) fn key() -> PrivateKey {
    PrivateKey::new([0x41; 32])
}

impl Lab {
    async fn new() -> Self {
        // Sockets of userspace devices lie in one folder for all namespaces, so names must differ.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = LinkName::new(&format!("sw{:x}n{number}", std::process::id())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let control = userspace::serve(folder.path(), &name);
        let kernel = Kernel::open(config(&name, folder.path(), BackendChoice::Auto))
            .await
            .unwrap();
        Self {
            kernel,
            name,
            folder,
            control,
        }
    }

    /// The same machine for an agent that has just started.
    pub(crate) async fn restarted(&self, backend: BackendChoice) -> Kernel {
        Kernel::open(config(&self.name, self.folder.path(), backend))
            .await
            .unwrap()
    }

    /// The same machine with a kernel that has no IPv6: it lacks `/proc/sys/net/ipv6`.
    pub(crate) async fn without_ipv6(&self) -> Kernel {
        let mut config = config(&self.name, self.folder.path(), BackendChoice::Auto);
        config.proc_sys = self.folder.path().join("sys");
        Kernel::open(config).await.unwrap()
    }

    /// Applies steps that must all succeed.
    pub(crate) async fn apply(&mut self, steps: Vec<Step>) {
        let count = steps.len();
        let report = self.kernel.apply(steps).await;
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        assert_eq!(report.done, count);
    }

    /// The actual state, no sysctls.
    pub(crate) async fn read(&mut self) -> Host {
        self.kernel.read(&[] as &[Sysctl]).await.unwrap()
    }

    /// The actual device.
    pub(crate) async fn device(&mut self) -> Option<Device> {
        self.read().await.devices.remove(&self.name)
    }

    /// How the actual device is set up.
    pub(crate) async fn wireguard(&mut self) -> Option<WireGuard> {
        self.read().await.wireguard(&self.name).cloned()
    }

    /// The step that makes the device.
    pub(crate) fn add_link(&self) -> Step {
        let settings = WireGuardSettings {
            public_key: key().public(),
            listen_port: 51_820,
            mark: 0x2000,
        };
        Step::AddWireGuard(self.name.clone(), 1420, settings)
    }

    /// The step that sets the device up.
    pub(crate) fn up(&self) -> Step {
        Step::SetUp(self.name.clone(), true)
    }
}

fn config(name: &LinkName, folder: &Path, backend: BackendChoice) -> Config {
    Config {
        owned: Owned {
            link: name.clone(),
            ..Owned::default()
        },
        proc_sys: PathBuf::from("/proc/sys"),
        state: folder.to_owned(),
        private_key: Some(key()),
        backend,
        userspace: Userspace {
            control: folder.join("control.sock"),
            sockets: PathBuf::from(userspace::SOCKETS),
        },
    }
}

/// Runs lines of shell that must succeed, and returns what they print.
#[track_caller]
pub(crate) fn run(script: &str) -> String {
    testbed::Command::shell(script).run()
}

/// Runs a command that prints JSON; what prints nothing is an empty list.
pub(crate) fn json(command: &str) -> Value {
    let text = run(command);
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
}

/// Reads text that must be a `T`.
pub(crate) fn p<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// The device of that name.
pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}
