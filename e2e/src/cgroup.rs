//! The lab's control groups: one of the lab in every v1 hierarchy, below it one per node.
//!
//! They are also the register of everything that runs in a lab: once all that is in
//! them is killed, and they are removed, nothing is left, whatever became of the process that started it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Two processes of the default nice value, each of which has 1024 (sched-design-CFS).
const SHARES_OF_A_NODE: usize = 2048;
/// The kernel's own limit.
const MOST_SHARES: usize = 262_144;

/// Returns the lab's folder in every hierarchy, below this process's own group.
pub(crate) fn folders(lab: &str) -> Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let found = find(&own, &mounts, lab);
    ensure!(
        found.iter().any(|path| controllers(path).contains("memory")),
        "this machine has no cgroup v1 memory hierarchy, which the lab's kubelets want"
    );
    Ok(found)
}

fn controllers(path: &Path) -> String {
    path.components()
        .nth(4)
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn find(own: &str, mounts: &str, lab: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if names.is_empty() {
            continue;
        }
        let wanted: Vec<&str> = names.split(',').collect();
        let mount = mounts.lines().find_map(|mount| {
            let (left, right) = mount.split_once(" - ")?;
            let mut right = right.split(' ');
            let kind = right.next()?;
            let options = right.nth(1)?;
            let all = wanted
                .iter()
                .all(|name| options.split(',').any(|option| option == *name));
            (kind == "cgroup" && all)
                .then(|| left.split(' ').nth(4))
                .flatten()
        });
        if let Some(mount) = mount {
            found.push(
                Path::new(mount)
                    .join(path.trim_start_matches('/'))
                    .join(format!("spanwire-lab-{lab}")),
            );
        }
    }
    found
}

/// Makes a group and the groups above it, ready to hold processes.
pub(crate) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
    // A cpuset without CPUs and memory takes no process; each level inherits from the one above only by hand.
    let lab = folder.parent().expect("a group has a parent");
    for group in [lab, folder] {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (Ok(mine), Some(above)) = (fs::read_to_string(group.join(file)), group.parent()) else {
                continue;
            };
            if mine.trim().is_empty() {
                fs::write(group.join(file), fs::read_to_string(above.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Gives a lab the share of the processors that its nodes would have as so many busy processes of the group above. A group
/// counts as one process otherwise, whatever runs in it: beside a build a whole cluster would be left a twentieth.
pub(crate) fn weigh(folders: &[PathBuf], nodes: usize) -> Result<()> {
    let shares = nodes.saturating_mul(SHARES_OF_A_NODE).min(MOST_SHARES);
    let weighing = |folder: &&PathBuf| {
        folder
            .parent()
            .is_some_and(|above| above.join("cpu.shares").exists())
    };
    for folder in folders.iter().filter(weighing) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        fs::write(folder.join("cpu.shares"), shares.to_string())
            .with_context(|| format!("cannot weigh the cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// Returns the processor time that everything in the groups has used so far.
pub(crate) fn used(folders: &[PathBuf]) -> Result<Duration> {
    let mut files = folders.iter().map(|folder| folder.join("cpuacct.usage"));
    let file = files
        .find(|file| file.exists())
        .context("no group of the lab counts processor time")?;
    Ok(Duration::from_nanos(fs::read_to_string(file)?.trim().parse()?))
}

/// Kills every process in the groups and below them, hard, and waits until they are gone.
pub(crate) fn kill_all(folders: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut found = Vec::new();
        for folder in folders {
            collect(folder, &mut found)?;
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("these processes do not die: {found:?}");
        }
        for pid in found {
            // One that is gone already is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn collect(folder: &Path, found: &mut Vec<i32>) -> Result<()> {
    let procs = match fs::read_to_string(folder.join("cgroup.procs")) {
        Err(error) if gone(&error) => return Ok(()),
        text => text.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    found.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
    for below in below(folder)? {
        collect(&below, found)?;
    }
    Ok(())
}

/// Removes the groups and everything below them; they must be empty of processes.
pub(crate) fn remove(folders: &[PathBuf]) -> Result<()> {
    for folder in folders {
        // A group whose last process has just been reaped is busy for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = remove_tree(folder) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> Result<()> {
    for below in below(folder)? {
        remove_tree(&below)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if !gone(&error) => {
            Err(error).with_context(|| format!("cannot remove the cgroup {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_weighs_as_much_as_its_nodes_where_processors_are_shared_out() {
        let root = std::env::temp_dir().join(format!("spanwire-weigh-{}", std::process::id()));
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir_all(root.join(hierarchy)).unwrap();
        }
        fs::write(root.join("cpu/cpu.shares"), "1024").unwrap();
        let folders = ["cpu/lab", "memory/lab"].map(|folder| root.join(folder));
        weigh(&folders, 7).unwrap();
        assert_eq!(
            fs::read_to_string(root.join("cpu/lab/cpu.shares")).unwrap(),
            "14336"
        );
        weigh(&folders, 1000).unwrap();
        assert_eq!(
            fs::read_to_string(root.join("cpu/lab/cpu.shares")).unwrap(),
            "262144"
        );
        assert!(!root.join("memory/lab").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_group_lies_below_the_callers_own_in_every_v1_hierarchy() {
        let own = "9:name=systemd:/\n4:memory:/mine/deep\n1:cpu,cpuacct:/\n0::/x\n";
        let mounts = "1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      2 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      3 0 0:1 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      4 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let shown: Vec<_> = find(own, mounts, "x")
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        assert_eq!(
            shown,
            [
                "/sys/fs/cgroup/systemd/spanwire-lab-x",
                "/sys/fs/cgroup/memory/mine/deep/spanwire-lab-x",
                "/sys/fs/cgroup/cpu,cpuacct/spanwire-lab-x"
            ]
        );
    }
}
