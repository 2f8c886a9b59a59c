//! The one setting of the whole machine that labs need: enough inotify instances, of which every kubelet and containerd
//! takes some. The limit is the user's, not a namespace's, and 128 by default: enough for one small lab.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::store::{Lock, Store, cache};

const SETTING: &str = "/proc/sys/fs/inotify/max_user_instances";
const ENOUGH: u64 = 8192;

fn found() -> Result<PathBuf> {
    Ok(cache()?.join("limits/found-inotify-instances"))
}

/// Raises the limit, and remembers what it was.
pub(crate) fn raise() -> Result<()> {
    let _lock = Lock::take(&cache()?.join("limits"))?;
    let now = fs::read_to_string(SETTING)?;
    if now.trim().parse::<u64>()? >= ENOUGH {
        return Ok(());
    }
    fs::write(found()?, &now)?;
    fs::write(SETTING, ENOUGH.to_string()).with_context(|| format!("cannot raise {SETTING}"))
}

/// Puts back what was found, once no lab is left.
pub(crate) fn put_back() -> Result<()> {
    let _lock = Lock::take(&cache()?.join("limits"))?;
    let file = found()?;
    if Store::all()?.is_empty() && file.exists() {
        fs::write(SETTING, fs::read_to_string(&file)?)?;
        fs::remove_file(&file)?;
    }
    Ok(())
}
