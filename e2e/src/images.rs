//! The images that pods of a lab run, and the containerd store that every node starts with.
//!
//! A store is made once per set of images, by a containerd of its own, and then copied to each node with hard
//! links: layers are only ever read, so the copies share them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::Cmd,
    store::{Lock, cache},
};

/// The image of every pod's sandbox.
pub(crate) const PAUSE: &str = "localhost/lab-pause:1";
/// The image of the test pods.
pub(crate) const TEST: &str = "localhost/lab-test:1";

/// What the test image has in it.
const PACKAGES: &str = "dash,coreutils,grep,sed,procps,iputils-ping,iperf3,socat,netcat-openbsd,curl,tcpdump,iproute2,\
                        python3-minimal,libpython3-stdlib";

/// Builds the lab's own images if they are not in the cache; their archives.
pub(crate) fn own() -> Result<Vec<PathBuf>> {
    let folder = cache()?
        .join("images")
        .join(short_hash(&format!("{PACKAGES} 1"))?);
    let _lock = Lock::take(&folder)?;
    let archives = vec![folder.join("pause.tar"), folder.join("test.tar")];
    if archives.iter().all(|path| path.exists()) {
        return Ok(archives);
    }
    let root = folder.join("root.tar");
    bootstrap(PACKAGES, &root)?;
    let context = folder.join("context");
    fs::create_dir_all(&context)?;
    fs::rename(&root, context.join("root.tar"))?;
    let sleep = "FROM scratch\nADD root.tar /\nRUN ln -s nc.openbsd /bin/nc\n\
                 ENTRYPOINT [\"/bin/sleep\", \"infinity\"]\n";
    for (archive, image) in archives.iter().zip([PAUSE, TEST]) {
        fs::write(context.join("Containerfile"), sleep)?;
        build(&context, image, archive)?;
    }
    fs::remove_dir_all(&context)?;
    Ok(archives)
}

/// Makes a root file system of Debian packages, as an archive.
fn bootstrap(packages: &str, to: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no suite of Debian")?;
    Cmd::new("mmdebstrap")
        .args([
            "--variant=extract",
            "--mode=root",
            &format!("--include={packages}"),
        ])
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
        ])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*", suite])
        .arg(to)
        .run()
        .context("cannot make the test image's root")?;
    Ok(())
}

fn build(context: &Path, image: &str, archive: &Path) -> Result<()> {
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

/// The containerd store that holds these archives; made if it is not in the cache.
pub(crate) fn store_of(archives: &[PathBuf]) -> Result<PathBuf> {
    let sums = Cmd::new("sha256sum").args(archives).run()?;
    let hashes: Vec<&str> = sums.lines().filter_map(|line| line.split(' ').next()).collect();
    let folder = cache()?.join("stores").join(short_hash(&hashes.join(" "))?);
    let _lock = Lock::take(&folder)?;
    let ready = folder.join("containerd");
    if ready.exists() {
        return Ok(ready);
    }
    let (root, state) = (folder.join("root"), folder.join("state"));
    for rest in [&root, &state].into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(rest)?;
    }
    import(&folder, &root, &state, archives)?;
    fs::rename(root, &ready)?;
    Ok(ready)
}

fn import(folder: &Path, root: &Path, state: &Path, archives: &[PathBuf]) -> Result<()> {
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
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start containerd")?;
    let result = (|| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let ctr = || {
            Cmd::new("ctr")
                .arg("--address")
                .arg(&socket)
                .args(["-n", "k8s.io", "images"])
        };
        while ctr().arg("ls").finish().is_ok_and(|done| done.code != 0) {
            if Instant::now() > deadline {
                bail!("containerd did not start; see {}", folder.join("log").display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        archives
            .iter()
            .try_for_each(|archive| ctr().arg("import").arg(archive).run().map(drop))
    })();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(containerd.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    containerd.wait()?;
    result
}

/// Gives a node its own copy of a store.
pub(crate) fn copy(store: &Path, node: &Path) -> Result<()> {
    fs::create_dir_all(node.join("lib"))?;
    let to = node.join("lib/containerd");
    Cmd::new("cp").arg("-al").arg(store).arg(&to).run()?;
    // The databases are written to; only layers and blobs can be shared.
    let found = Cmd::new("find").arg(&to).args(["-name", "*.db"]).run()?;
    for database in found.lines() {
        let copy = format!("{database}.copy");
        fs::copy(database, &copy)?;
        fs::rename(&copy, database)?;
    }
    Ok(())
}

fn short_hash(text: &str) -> Result<String> {
    let sum = Cmd::new("sha256sum").input(text).run()?;
    Ok(sum.chars().take(16).collect())
}
