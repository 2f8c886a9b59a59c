//! Kernel settings: read, written, and put back as they were found.
//!
//! The value that was found before the first write is remembered in a file, together with the last one written: on the
//! way out a setting goes back only where it still is what Spanwire made it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use spanwire_host::{LinkName, Sysctl};

use crate::error::{ApplyError, OpenError, ReadError};

/// The name of the file in the state folder.
const FILE: &str = "found-sysctls.json";

/// What was found and what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The value before Spanwire's first write.
    pub found: String,
    /// The value that Spanwire wrote last.
    pub written: String,
}

/// The kernel settings of the machine.
#[derive(Debug)]
pub(crate) struct Sysctls {
    /// `/proc/sys`, or where that is mounted writable.
    root: PathBuf,
    file: PathBuf,
    remembered: BTreeMap<Sysctl, Remembered>,
}

impl Sysctls {
    pub(crate) fn open(root: &Path, state: &Path) -> Result<Self, OpenError> {
        let file = state.join(FILE);
        let remembered = load(&file).map_err(|source| OpenError::Remembered {
            path: file.clone(),
            source,
        })?;
        Ok(Self {
            root: root.to_owned(),
            file,
            remembered,
        })
    }

    /// Reads the value of a setting; `None` where there is none, as for a device that is gone.
    pub(crate) fn read(&self, sysctl: &Sysctl) -> Result<Option<String>, ReadError> {
        let path = self.root.join(&sysctl.0);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Sysctl { path, source }),
        }
    }

    /// Writes a setting, remembering what was there.
    pub(crate) fn write(&mut self, sysctl: &Sysctl, value: &str) -> Result<(), ApplyError> {
        let path = self.root.join(&sysctl.0);
        let failed = |source| ApplyError::Sysctl {
            path: path.clone(),
            source,
        };
        let present = fs::read_to_string(&path).map_err(failed)?;
        let present = present.trim_end();
        let mut remembered = self.remembered.clone();
        remembered
            .entry(sysctl.clone())
            .and_modify(|entry| entry.written = value.to_owned())
            .or_insert_with(|| Remembered {
                found: present.to_owned(),
                written: value.to_owned(),
            });
        if remembered != self.remembered {
            // Before the write: a crash in between must not forget what was found.
            save(&self.file, &remembered).map_err(failed)?;
            self.remembered = remembered;
        }
        fs::write(&path, value).map_err(failed)
    }

    /// Keeps the kernel from giving our own device a link-local address, and the main table a route to it: it does so
    /// for a TUN device and not for WireGuard (`IN6_ADDR_GEN_MODE_NONE`, drivers/net/wireguard/device.c). The setting goes
    /// with the device, so nothing is remembered; a kernel without IPv6 has none.
    pub(crate) fn without_link_local(&self, device: &LinkName) -> Result<(), ApplyError> {
        let path = self.root.join(format!("net/ipv6/conf/{device}/addr_gen_mode"));
        match fs::write(&path, "1") {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ApplyError::Sysctl { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Returns the settings that `restore` would put back, with what was found and what was written.
    pub(crate) fn remembered(&self) -> &BTreeMap<Sysctl, Remembered> {
        &self.remembered
    }

    /// Puts back what was found, where it is still as Spanwire made it, and forgets it.
    pub(crate) fn restore(&mut self) -> Vec<ApplyError> {
        let mut failed = Vec::new();
        for (sysctl, entry) in std::mem::take(&mut self.remembered) {
            let path = self.root.join(&sysctl.0);
            let put_back = || match fs::read_to_string(&path) {
                Ok(text) if text.trim_end() == entry.written => fs::write(&path, &entry.found),
                // Another program has changed it since, or it went away with its device.
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(source) = put_back() {
                failed.push(ApplyError::Sysctl { path, source });
                self.remembered.insert(sysctl, entry);
            }
        }
        let saved = if self.remembered.is_empty() {
            match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            save(&self.file, &self.remembered)
        };
        failed.extend(saved.err().map(|source| ApplyError::Sysctl {
            path: self.file.clone(),
            source,
        }));
        failed
    }
}

fn load(file: &Path) -> io::Result<BTreeMap<Sysctl, Remembered>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let entries: BTreeMap<String, [String; 2]> = serde_json::from_slice(&text)?;
    let entry =
        |(name, [found, written]): (String, [String; 2])| (Sysctl(name), Remembered { found, written });
    Ok(entries.into_iter().map(entry).collect())
}

fn save(file: &Path, remembered: &BTreeMap<Sysctl, Remembered>) -> io::Result<()> {
    let entries: BTreeMap<&str, [&str; 2]> = remembered
        .iter()
        .map(|(name, entry)| (name.0.as_str(), [entry.found.as_str(), entry.written.as_str()]))
        .collect();
    let fresh = file.with_extension("new");
    fs::write(&fresh, serde_json::to_vec_pretty(&entries)?)?;
    fs::File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn with(settings: &[(&str, &str)]) -> Self {
            let machine = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            settings.iter().for_each(|(name, value)| machine.set(name, value));
            machine
        }

        fn set(&self, name: &str, value: &str) {
            fs::write(self.folder.path().join(name), format!("{value}\n")).unwrap();
        }

        fn get(&self, name: &str) -> String {
            let text = fs::read_to_string(self.folder.path().join(name)).unwrap();
            text.trim_end().to_owned()
        }

        fn open(&self) -> Sysctls {
            Sysctls::open(self.folder.path(), self.folder.path()).unwrap()
        }
    }

    fn name(text: &str) -> Sysctl {
        Sysctl(text.to_owned())
    }

    #[test]
    fn what_was_found_first_comes_back_even_after_a_restart() {
        let machine = Machine::with(&[("forward", "0")]);
        machine.open().write(&name("forward"), "1").unwrap();
        let mut sysctls = machine.open();
        sysctls.write(&name("forward"), "2").unwrap();
        assert_eq!(sysctls.read(&name("forward")).unwrap().as_deref(), Some("2"));

        assert!(machine.open().restore().is_empty());

        assert_eq!(machine.get("forward"), "0");
        assert!(!machine.folder.path().join(FILE).exists());
    }

    #[test]
    fn what_others_changed_since_stays() {
        let machine = Machine::with(&[("forward", "0"), ("filter", "1")]);
        let mut sysctls = machine.open();
        sysctls.write(&name("forward"), "1").unwrap();
        sysctls.write(&name("filter"), "2").unwrap();
        machine.set("filter", "0");

        assert!(sysctls.restore().is_empty());

        assert_eq!(
            (machine.get("forward").as_str(), machine.get("filter").as_str()),
            ("0", "0")
        );
    }

    #[test]
    fn a_setting_of_a_device_that_is_gone_is_none_and_no_reason_to_fail() {
        let machine = Machine::with(&[("device", "0")]);
        let mut sysctls = machine.open();
        sysctls.write(&name("device"), "1").unwrap();
        fs::remove_file(machine.folder.path().join("device")).unwrap();

        assert_eq!(sysctls.read(&name("device")).unwrap(), None);
        assert!(matches!(
            sysctls.write(&name("device"), "1"),
            Err(ApplyError::Sysctl { .. })
        ));
        assert!(sysctls.restore().is_empty());
    }
}
