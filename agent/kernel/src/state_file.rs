//! Files in the state folder, replaced as a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Replaces a file; returns when what is in it would survive a power cut. Where that fails the file is as it was.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = fresh(file);
    let written = fs::write(&fresh, bytes)
        .and_then(|()| fs::File::open(&fresh)?.sync_all())
        .and_then(|()| fs::rename(&fresh, file));
    if written.is_err() {
        // Of a full disk it takes the last room.
        let _reported_with_the_cause = fs::remove_file(&fresh);
    }
    written
}

/// Removes a file, if it is there, and what a crash may have left of writing it.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    unlink(file)?;
    unlink(&fresh(file))
}

fn fresh(file: &Path) -> PathBuf {
    file.with_extension("new")
}

fn unlink(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_of_writing_goes_with_the_file_or_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(fresh(&file), "left by a crash").unwrap();
        replace(&file, b"one").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(fresh(&file), "left by a crash").unwrap();
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A folder in the place of the file takes no rename, as a full or read-only disk takes none.
    #[test]
    fn what_cannot_be_replaced_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::create_dir(&file).unwrap();
        assert!(replace(&file, b"one").is_err());
        assert!(!fresh(&file).exists());
        assert!(remove(&file).is_err());
    }
}
