//! The programs that tests, benchmarks and the lab may start: those that `scripts/programs` lists, from which
//! `scripts/setup` installs.
//!
//! A program that this process starts by name is looked up in the list ([`command`]). What starts programs in its
//! turn (a shell, `nsenter`, `ip netns exec`, `timeout`, …) gets a `PATH` of one folder that holds links to exactly the
//! listed programs ([`path`]), so that the lines of a shell script are held to the list as well. A program of a
//! package that runs by itself (`buildah`, `containerd`, `cargo`) keeps the whole `PATH`: what it needs is its own
//! package's business.

pub mod script;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The list as it stands in the tree.
const LIST: &str = include_str!("../../scripts/programs");

/// Where Debian puts programs, whatever the user's `PATH` leaves out.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Programs that run a command of their caller's.
const STARTERS: [&str; 12] = [
    "bash", "env", "flock", "ip", "nice", "nsenter", "setpriv", "setsid", "sh", "taskset", "timeout",
    "unshare",
];

/// A program that is not on the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not on the list of programs: add a line `{0} PACKAGE` to scripts/programs, with the Debian package that has \
     it, so that scripts/setup installs it on every machine"
)]
pub struct Unlisted(String);

/// Returns whether a program may be started: its name is on the list, or its path leads to something that was built.
///
/// # Errors
/// The program is not on the list.
pub fn check(program: impl AsRef<OsStr>) -> Result<(), Unlisted> {
    let path = Path::new(program.as_ref());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let by_name = path.as_os_str() == &*name;
    let of_debian = FOLDERS
        .iter()
        .any(|folder| path.parent() == Some(Path::new(folder)));
    if (by_name || of_debian) && !listed().contains_key(&*name) {
        return Err(Unlisted(name.into_owned()));
    }
    Ok(())
}

/// Makes a command of a listed program, or of one that was built and is named by its path.
///
/// # Errors
/// The program is not on the list.
pub fn command(program: impl AsRef<OsStr>) -> Result<Command, Unlisted> {
    let program = program.as_ref();
    check(program)?;
    #[expect(clippy::disallowed_methods, reason = "this is the place that checks")]
    let mut command = Command::new(program);
    if program.to_str().is_some_and(|name| STARTERS.contains(&name)) {
        command.env("PATH", path());
    }
    Ok(command)
}

/// Makes a command that does nothing, for the place of one that was refused.
#[must_use]
pub fn nothing() -> Command {
    #[expect(clippy::disallowed_methods, reason = "it is on the list")]
    Command::new("true")
}

/// Returns every listed program with its Debian package, or with `user` or `lab` for one that no package has.
#[must_use]
pub fn listed() -> &'static BTreeMap<&'static str, &'static str> {
    static LISTED: OnceLock<BTreeMap<&str, &str>> = OnceLock::new();
    LISTED.get_or_init(|| {
        LIST.lines()
            .map(|line| line.split('#').next().unwrap_or_default())
            .filter_map(|line| line.trim().split_once(char::is_whitespace))
            .filter(|(program, _)| *program != "-")
            .map(|(program, package)| (program, package.trim()))
            .collect()
    })
}

/// Returns the folder that holds a link to each listed program that this machine has, and nothing else.
///
/// # Panics
/// The folder can be made neither beside this program's build outputs nor in the folder of temporary files.
#[must_use]
pub fn path() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let found: BTreeMap<_, _> = listed()
            .keys()
            .filter_map(|program| Some((*program, find(program)?)))
            .collect();
        let mut hasher = DefaultHasher::new();
        found.hash(&mut hasher);
        let name = format!("programs-{:016x}", hasher.finish());
        // User-Mode Linux (e2e/uml) sees the build outputs, which it cannot write to.
        let folders = [build_folder(), Some(std::env::temp_dir())].into_iter().flatten();
        let mut failed = Vec::new();
        for folder in folders {
            match link(&folder.join(&name), &found) {
                Ok(folder) => return folder,
                Err(error) => failed.push(format!("{}: {error}", folder.display())),
            }
        }
        panic!("the folder of programs cannot be made: {}", failed.join(", "))
    })
}

/// `target/PROFILE`, in which this program lies: directly, or in `deps`.
fn build_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    Some(
        if folder.ends_with("deps") {
            folder.parent()?
        } else {
            folder
        }
        .to_owned(),
    )
}

/// Makes the folder under a name that nothing else has and moves it into place, so that it is whole or not there.
fn link(folder: &Path, programs: &BTreeMap<&str, PathBuf>) -> io::Result<String> {
    if !folder.exists() {
        let draft = folder.with_extension(std::process::id().to_string());
        fs::create_dir(&draft)?;
        for (name, target) in programs {
            symlink(target, draft.join(name))?;
        }
        if let Err(error) = fs::rename(&draft, folder) {
            fs::remove_dir_all(&draft)?;
            // Another process was faster.
            if !folder.exists() {
                return Err(error);
            }
        }
    }
    Ok(folder.display().to_string())
}

/// Where a program is, without links: so a changed `PATH` that leads to the same programs leads to the same folder.
fn find(program: &str) -> Option<PathBuf> {
    let users = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&users)
        .chain(FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
        .and_then(|file| file.canonicalize().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_program_is_refused_with_what_to_add_where() {
        for program in ["nmap", "/usr/bin/nmap", "/sbin/nmap"] {
            let error = command(program).unwrap_err().to_string();
            assert!(error.contains("`nmap PACKAGE` to scripts/programs"), "{error}");
        }
    }

    #[test]
    fn listed_programs_and_those_that_were_built_are_started() {
        for program in ["ip", "/usr/sbin/ip", "/cache/tools/etcd", "target/debug/lab"] {
            assert_eq!(check(program), Ok(()));
        }
    }

    #[test]
    fn a_shell_finds_listed_programs_alone() {
        // Debian has it in the same folder as the shell itself, and the list does not.
        let script = "command -v dpkg-divert && exit 1; command -v sort && command -v sh && sort </dev/null";
        for shell in [&["sh", "-c", script][..], &["env", "bash", "-c", script]] {
            let output = command(shell[0]).unwrap().args(&shell[1..]).output().unwrap();
            assert!(output.status.success(), "{shell:?}: {output:?}");
        }
    }

    #[test]
    fn a_program_of_a_package_keeps_the_whole_path() {
        let unchanged = command("buildah").unwrap();
        assert_eq!(unchanged.get_envs().count(), 0);
    }

    #[test]
    fn the_list_is_sorted_and_names_each_program_once_with_its_package() {
        let lines: Vec<_> = LIST
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .collect();
        let programs: Vec<_> = lines
            .iter()
            .map(|line| {
                let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
                assert_eq!(words.len(), 2, "not `PROGRAM PACKAGE`: {line}");
                words[0]
            })
            .filter(|program| *program != "-")
            .collect();
        assert!(programs.is_sorted_by(|a, b| a < b), "{programs:?}");
        assert_eq!(programs.len(), listed().len());
    }
}
