//! Kernel settings: read, written, and put back as they were found.
//!
//! The value that was found before the first write is remembered in a file, together with the last one written: on the
//! way out a setting goes back only where it still is what Spanwire made it. A boot makes all of them void, so the file
//! says to which boot they belong. A file that cannot be read or written keeps no setting from being written: a node
//! that carries packets matters more than what it is left as.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use spanwire_host::{LinkName, Sysctl};

use crate::{error::ApplyError, state_file};

/// The name of the file in the state folder.
const FILE: &str = "found-sysctls.json";
/// The entry that names the boot; agents of versions that did not know of it take it for a setting that is gone.
const BOOT: &str = "boot_id";
/// Where the kernel names the boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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
    /// Names this boot; empty where the kernel does not.
    boot: String,
    remembered: BTreeMap<Sysctl, Remembered>,
    /// What is remembered is not in the file.
    unsaved: bool,
}

impl Sysctls {
    pub(crate) fn open(root: &Path, state: &Path) -> Self {
        Self::of_boot(root, state, &boot_id())
    }

    fn of_boot(root: &Path, state: &Path, boot: &str) -> Self {
        let file = state.join(FILE);
        let remembered = load(&file, boot).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            let path = file.display();
            tracing::warn!(error, %path, "what kernel settings were before is not known; they stay as they are");
            BTreeMap::new()
        });
        Self {
            root: root.to_owned(),
            file,
            boot: boot.to_owned(),
            remembered,
            unsaved: false,
        }
    }

    /// Reads the value of a setting; `None` where there is none, as for a device that is gone, or it cannot be read: the step
    /// that is to write it says why.
    pub(crate) fn read(&self, sysctl: &Sysctl) -> Option<String> {
        let text = fs::read_to_string(self.root.join(&sysctl.0)).ok()?;
        Some(text.trim_end().to_owned())
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
        if remembered != self.remembered || self.unsaved {
            self.remembered = remembered;
            // Before the write: a crash in between must not forget what was found.
            let saved = save(&self.file, &self.boot, &self.remembered);
            if let Err(error) = saved.as_ref().map_err(|error| error as &dyn std::error::Error)
                && !self.unsaved
            {
                let path = self.file.display();
                tracing::warn!(error, %path, "what kernel settings were before is remembered by this process alone");
            }
            self.unsaved = saved.is_err();
        }
        fs::write(&path, value).map_err(failed)
    }

    /// Keeps the kernel from giving our own device a link-local address when it goes up, and the main table a route to it: it
    /// does so for a TUN device and not for WireGuard (`IN6_ADDR_GEN_MODE_NONE`, drivers/net/wireguard/device.c). The setting goes
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

    /// Returns the settings that were changed, with what was found and what was written.
    pub(crate) fn remembered(&self) -> &BTreeMap<Sysctl, Remembered> {
        &self.remembered
    }

    /// Returns the settings that [`Self::restore`] would put back.
    pub(crate) fn restorable(&self, pods: bool) -> impl Iterator<Item = (&Sysctl, &Remembered)> {
        let restored = move |(sysctl, _): &(&Sysctl, &Remembered)| !(pods && stays_for_pods(sysctl));
        self.remembered.iter().filter(restored)
    }

    /// Puts back what was found, where it is still as Spanwire made it, and forgets it. Where there are `pods` of a CNI, or
    /// containers, the machine goes on to forward: they may have come after Spanwire, and found it so.
    pub(crate) fn restore(&mut self, pods: bool) -> Vec<ApplyError> {
        let mut failed = Vec::new();
        for (sysctl, entry) in std::mem::take(&mut self.remembered) {
            if pods && stays_for_pods(&sysctl) {
                continue;
            }
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
            state_file::remove(&self.file)
        } else {
            save(&self.file, &self.boot, &self.remembered)
        };
        failed.extend(saved.err().map(|source| ApplyError::Sysctl {
            path: self.file.clone(),
            source,
        }));
        failed
    }
}

/// Returns the kernel's name of this boot; empty where it has none.
pub(crate) fn boot_id() -> String {
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    boot.trim().to_owned()
}

/// Whether pods need the setting: forwarding, and `accept_ra` of 2, without which a machine that forwards IPv6 loses its default
/// route.
fn stays_for_pods(sysctl: &Sysctl) -> bool {
    sysctl.0 == "net/ipv4/ip_forward"
        || *sysctl == Sysctl::ipv6_forwarding()
        || sysctl.0.ends_with("/accept_ra")
}

/// Reads what was found in this boot; nothing where the kernel does not name it. What does not say in which boot it was found was
/// written by a version that did not know of that, and counts.
fn load(file: &Path, boot: &str) -> io::Result<BTreeMap<Sysctl, Remembered>> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut entries: BTreeMap<String, [String; 2]> = serde_json::from_slice(&text)?;
    let is_other = |[found, _]: [String; 2]| found.is_empty() || found != boot;
    if entries.remove(BOOT).is_some_and(is_other) {
        return Ok(BTreeMap::new());
    }
    let entry =
        |(name, [found, written]): (String, [String; 2])| (Sysctl(name), Remembered { found, written });
    Ok(entries.into_iter().map(entry).collect())
}

fn save(file: &Path, boot: &str, remembered: &BTreeMap<Sysctl, Remembered>) -> io::Result<()> {
    let mut entries: BTreeMap<&str, [&str; 2]> = remembered
        .iter()
        .map(|(name, entry)| (name.0.as_str(), [entry.found.as_str(), entry.written.as_str()]))
        .collect();
    entries.insert(BOOT, [boot, ""]);
    state_file::replace(file, &serde_json::to_vec_pretty(&entries)?)
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
            Sysctls::open(self.folder.path(), self.folder.path())
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
        assert_eq!(sysctls.read(&name("forward")).as_deref(), Some("2"));

        assert!(machine.open().restore(false).is_empty());

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

        assert!(sysctls.restore(false).is_empty());

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

        assert_eq!(sysctls.read(&name("device")), None);
        assert!(matches!(
            sysctls.write(&name("device"), "1"),
            Err(ApplyError::Sysctl { .. })
        ));
        assert!(sysctls.restore(false).is_empty());
    }

    #[test]
    fn what_was_found_in_another_boot_is_not_put_back() {
        let machine = Machine::with(&[("filter", "1")]);
        let of = |boot| Sysctls::of_boot(machine.folder.path(), machine.folder.path(), boot);
        of("one").write(&name("filter"), "2").unwrap();
        assert_eq!(of("one").remembered().len(), 1);
        assert_eq!(of("two").remembered().len(), 0);
        of("").write(&name("filter"), "2").unwrap();
        assert_eq!(of("").remembered().len(), 0, "a boot without a name may be any");
        // As the next boot sets it; it was not found so.
        machine.set("filter", "0");
        of("two").write(&name("filter"), "2").unwrap();
        assert!(of("two").restore(false).is_empty());
        assert_eq!(machine.get("filter"), "0");
    }

    #[test]
    fn what_a_version_without_boots_remembered_is_put_back() {
        let machine = Machine::with(&[("filter", "2")]);
        fs::write(machine.folder.path().join(FILE), r#"{"filter": ["1", "2"]}"#).unwrap();
        assert!(machine.open().restore(false).is_empty());
        assert_eq!(machine.get("filter"), "1");
    }

    #[test]
    fn under_pods_forwarding_and_what_goes_with_it_stay_on() {
        let machine = Machine::with(&[]);
        for folder in ["net/ipv4", "net/ipv6/conf/all", "net/ipv6/conf/eth0"] {
            fs::create_dir_all(machine.folder.path().join(folder)).unwrap();
        }
        let settings = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/eth0/accept_ra", "2"),
            ("net/ipv4/filter", "2"),
        ];
        let values = || settings.map(|(setting, _)| machine.get(setting));
        for (pods, left) in [(true, ["1", "1", "2", "0"]), (false, ["0", "0", "0", "0"])] {
            let mut sysctls = machine.open();
            for (setting, value) in settings {
                machine.set(setting, "0");
                sysctls.write(&name(setting), value).unwrap();
            }
            assert_eq!(sysctls.restorable(pods).count(), if pods { 1 } else { 4 });
            assert!(sysctls.restore(pods).is_empty());
            assert_eq!(values(), left);
            assert!(!machine.folder.path().join(FILE).exists());
        }
    }

    #[test]
    fn a_damaged_memory_keeps_no_setting_from_being_written() {
        for damage in ["", "{", "[1]", "{\"filter\": 1}", "\0\0\0"] {
            let machine = Machine::with(&[("filter", "1")]);
            fs::write(machine.folder.path().join(FILE), damage).unwrap();
            let mut sysctls = machine.open();
            sysctls.write(&name("filter"), "2").unwrap();
            assert_eq!(machine.get("filter"), "2");
            assert!(sysctls.restore(false).is_empty());
            assert_eq!(machine.get("filter"), "1", "{damage}");
        }
    }

    #[test]
    fn a_memory_that_cannot_be_written_keeps_no_setting_from_being_written() {
        let machine = Machine::with(&[("filter", "1"), ("forward", "0")]);
        let nowhere = machine.folder.path().join("gone");
        let mut sysctls = Sysctls::of_boot(machine.folder.path(), &nowhere, "one");
        sysctls.write(&name("filter"), "2").unwrap();
        assert_eq!(machine.get("filter"), "2");
        // The disk has room again: the next write makes up for it.
        fs::create_dir(&nowhere).unwrap();
        sysctls.write(&name("filter"), "2").unwrap();
        let mut restarted = Sysctls::of_boot(machine.folder.path(), &nowhere, "one");
        assert!(restarted.restore(false).is_empty());
        assert_eq!(machine.get("filter"), "1");
    }
}
