//! The images that pods of a lab run, and the containerd store that every node starts with.
//!
//! A store is made once per set of images, by a containerd of its own, and then copied to each node with hard
//! links: layers are only ever read, so the copies share them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    command::Cmd,
    store::{Lock, cache},
    wait::wait_until,
};

/// The image of every pod's sandbox.
pub(crate) const PAUSE: &str = "localhost/lab-pause:1";
/// The image of the test pods.
pub(crate) const TEST: &str = "localhost/lab-test:1";

/// The release of Debian that the images are made of.
const SUITE: &str = "bookworm";
/// What the test image has in it.
const PACKAGES: &str = "dash,coreutils,grep,sed,procps,iputils-ping,iperf3,socat,netcat-openbsd,curl,tcpdump,iproute2,\
                        python3-minimal,libpython3-stdlib";
/// What comes with those packages and is of no use here.
const NEEDLESS: [&str; 7] = [
    "usr/share/perl",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/share/man",
    "usr/share/doc",
    "usr/share/locale",
];

/// Builds the lab's own images if they are not in the cache; their archives.
pub(crate) fn own() -> Result<Vec<Archive>> {
    let folder = cache()?
        .join("images")
        .join(short_hash(&format!("{PACKAGES} 3"))?);
    let _lock = Lock::take(&folder)?;
    let wanted = [
        (
            "pause",
            PAUSE,
            "busybox-static",
            "ENTRYPOINT [\"/bin/busybox\", \"sleep\", \"infinity\"]",
        ),
        (
            "test",
            TEST,
            PACKAGES,
            "RUN ln -s nc.openbsd /bin/nc\nENTRYPOINT [\"/bin/sleep\", \"infinity\"]",
        ),
    ];
    let mut archives = Vec::new();
    for (name, image, packages, end) in wanted {
        let archive = folder.join(name).with_extension("tar");
        if !archive.exists() {
            let context = folder.join("context");
            if context.exists() {
                fs::remove_dir_all(&context)?;
            }
            fs::create_dir_all(&context)?;
            bootstrap(packages, &context.join("root.tar"))?;
            fs::write(
                context.join("Containerfile"),
                format!("FROM scratch\nADD root.tar /\n{end}\n"),
            )?;
            build(&context, image, &archive)?;
            fs::remove_dir_all(&context)?;
        }
        archives.push(Archive {
            path: archive,
            tag: None,
        });
    }
    Ok(archives)
}

/// Makes a root file system of Debian packages, as an archive.
pub(crate) fn bootstrap(packages: &str, to: &Path) -> Result<()> {
    let needless = NEEDLESS.map(|path| format!("\"$1\"/{path}")).join(" ");
    Cmd::new("mmdebstrap")
        .args([
            "--variant=extract",
            "--mode=root",
            &format!("--include={packages}"),
        ])
        .args([&format!("--extract-hook=rm -rf {needless}"), SUITE])
        .arg(to)
        .run()
        .with_context(|| format!("cannot make a root of {packages}"))?;
    Ok(())
}

pub(crate) fn build(context: &Path, image: &str, archive: &Path) -> Result<()> {
    let storage = context.join("storage");
    let buildah = || {
        Cmd::of(["buildah", "--storage-driver", "vfs", "--root"])
            .arg(&storage)
            .arg("--runroot")
            .arg(context.join("run"))
    };
    let part = archive.with_extension("part");
    buildah()
        .args(["build", "--isolation", "chroot", "-t", image])
        .arg(context)
        .run()?;
    buildah()
        .args(["push", image])
        .arg(format!("docker-archive:{}:{image}", part.display()))
        .run()?;
    fs::rename(part, archive)?;
    Ok(())
}

/// An archive to be imported, and the name its image gets besides its own.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    /// The file.
    pub(crate) path: PathBuf,
    /// From which name to which.
    pub(crate) tag: Option<(String, String)>,
}

/// Returns the containerd store that holds the lab's own images and those of this archive; made if it is not in the cache.
pub(crate) fn store_with(own: &[Archive], more: Option<&Archive>) -> Result<PathBuf> {
    let base = store(None, own)?;
    more.map_or(Ok(base.clone()), |more| {
        store(Some(&base), std::slice::from_ref(more))
    })
}

fn store(base: Option<&Path>, archives: &[Archive]) -> Result<PathBuf> {
    let names = archives
        .iter()
        .map(|archive| identity(&archive.path))
        .collect::<Result<Vec<_>>>()?;
    let stores = cache()?.join("stores");
    let folder = stores.join(short_hash(&format!("{base:?} {names:?}"))?);
    let _lock = Lock::take(&folder)?;
    let ready = folder.join("containerd");
    if ready.exists() {
        return Ok(ready);
    }
    let (root, state) = (folder.join("root"), folder.join("state"));
    for rest in [&root, &state].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(rest)?;
    }
    if let Some(base) = base {
        copy(base, &root)?;
    }
    serve(&folder, &root, &state, |ctr| {
        archives.iter().try_for_each(|archive| import(ctr, archive))
    })?;
    fs::rename(root, &ready)?;
    if base.is_some() {
        forget_old(&stores)?;
    }
    Ok(ready)
}

/// Returns what a file is as long as no process changes it.
fn identity(path: &Path) -> Result<String> {
    let about = fs::metadata(path).with_context(|| format!("there is no {}", path.display()))?;
    Ok(format!(
        "{} {} {:?}",
        path.display(),
        about.len(),
        about.modified()?
    ))
}

/// Keeps the stores used last. Labs have their own links to what they need of the others.
fn forget_old(stores: &Path) -> Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(stores)?.flatten() {
        // Every process that takes a store touches its lock.
        found.push((entry.path().join(".lock").metadata()?.modified()?, entry.path()));
    }
    found.sort();
    for (_, path) in found.iter().rev().skip(6) {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Imports an archive by some ctr.
pub(crate) fn import(ctr: &dyn Fn() -> Result<Cmd>, archive: &Archive) -> Result<()> {
    ctr()?
        .args(["-n", "k8s.io", "images", "import"])
        .arg(&archive.path)
        .run()?;
    if let Some((from, to)) = &archive.tag {
        ctr()?
            .args(["-n", "k8s.io", "images", "tag", "--force", from, to])
            .run()?;
    }
    Ok(())
}

/// Runs a containerd on a root of its own while something is done with it.
fn serve(
    folder: &Path,
    root: &Path,
    state: &Path,
    run: impl FnOnce(&dyn Fn() -> Result<Cmd>) -> Result<()>,
) -> Result<()> {
    let socket = state.join("containerd.sock");
    let config = folder.join("config.toml");
    fs::create_dir_all(state)?;
    fs::write(
        &config,
        format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n"
        ),
    )?;
    let log = fs::File::create(folder.join("log"))?;
    let mut containerd = Cmd::new("containerd")
        .arg("--config")
        .arg(&config)
        .into_command()?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start containerd")?;
    let ctr = || Ok(Cmd::new("ctr").arg("--address").arg(&socket));
    let up = wait_until("containerd answers", Duration::from_secs(30), || {
        Ok(ctr()?.arg("version").finish()?.code == 0)
    });
    let result = up
        .with_context(|| format!("see {}", folder.join("log").display()))
        .and_then(|()| run(&ctr));
    kill(Pid::from_raw(i32::try_from(containerd.id())?), Signal::SIGTERM)?;
    containerd.wait()?;
    result
}

/// Copies a store.
pub(crate) fn copy(store: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a store lies in a folder")?)?;
    Cmd::new("cp").arg("-al").arg(store).arg(to).run()?;
    // The databases are written to; only layers and blobs can be shared.
    let found = Cmd::new("find").arg(to).args(["-name", "*.db"]).run()?;
    for database in found.lines() {
        let copy = format!("{database}.copy");
        fs::copy(database, &copy)?;
        fs::rename(&copy, database)?;
    }
    Ok(())
}

pub(crate) fn short_hash(text: &str) -> Result<String> {
    let sum = Cmd::new("sha256sum").input(text).run()?;
    Ok(sum.chars().take(16).collect())
}
