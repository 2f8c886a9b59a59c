//! Atomic replacement of files: after a power cut a file is either the old one or the new one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a file of the state directory could not be written, read or removed.
#[derive(Debug, Error)]
#[error("cannot {verb} {}", .path.display())]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl FileError {
    fn new(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self { verb, path, cause }
    }
}

/// Replaces a file, readable by its owner alone, and returns when it would survive a power cut.
///
/// # Errors
/// Any failure; then the old file is still there, whole.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    make(directory)?;
    let temporary = temporary(path);
    // A left-over of a crash may have other permissions.
    unlink(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(FileError::new("create", &temporary))?;
    if let Err(cause) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        // Of a full disk it takes the last room.
        let _reported_with_the_cause = fs::remove_file(&temporary);
        return Err(FileError::new("write", &temporary)(cause));
    }
    fs::rename(&temporary, path).map_err(FileError::new("replace", path))?;
    // The rename itself is only on disk when its directory is (fsync(2), NOTES).
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(FileError::new("sync", directory))
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// Any failure but that the file does not exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(FileError::new("read", path)(cause)),
    }
}

/// Removes a file, if it is there, and what a crash may have left of writing it: of a key that is a key too.
///
/// # Errors
/// Any failure but that the file does not exist.
pub fn remove(path: &Path) -> Result<(), FileError> {
    unlink(path)?;
    unlink(&temporary(path))
}

/// Returns where a file is written before it has its name.
fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn unlink(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(FileError::new("remove", path)(cause)),
        _ => Ok(()),
    }
}

/// Removes a directory where it is empty. It may be the mount point of a container, which has to stay.
pub fn remove_directory(directory: &Path) {
    if let Err(cause) = fs::remove_dir(directory) {
        tracing::debug!(path = %directory.display(), %cause, "the directory stays");
    }
}

fn make(directory: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(FileError::new("create", directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/file.json");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.with_extension("new"), "left by a crash").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_of_writing_a_file_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["key", "ledger.json"] {
            let path = directory.path().join(name);
            write(&path, b"whole").unwrap();
            fs::write(temporary(&path), "half").unwrap();
            remove(&path).unwrap();
            fs::write(temporary(&path), "half, and never whole").unwrap();
            remove(&path).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_is_none_and_removing_it_is_no_error() {
        let path = Path::new("/nonexistent-directory/file");
        assert!(read(path).unwrap().is_none());
        remove(path).unwrap();
        let error = write(Path::new("/proc/nothing/file"), b"").unwrap_err();
        assert_eq!(error.to_string(), "cannot create /proc/nothing");
    }
}
