//! Reading and writing whole files through the file system's seam.

use std::io;
use std::path::Path;

use hightower_segment::{Access, Dir, File, MANIFEST, Manifest};

use crate::error::{Error, Result};

/// Length of the pieces of a copy, in bytes.
const PIECE_LEN_BYTES: usize = 1 << 20;

/// The error of an operating system's error.
pub(crate) fn io_error(action: &str, path: &Path, source: io::Error) -> Error {
    let action = format!("cannot {action} {}", path.display());
    if hightower_segment::is_full(&source) {
        return Error::Full { detail: format!("{action}: the device is full") };
    }
    Error::Io { action, source: source.into() }
}

/// Writes all of `bytes`, and continues after short writes and interruptions.
pub(crate) fn write_at(file: &dyn File, path: &Path, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, at) {
            Ok(0) => return Err(io_error("write", path, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("write", path, error)),
        }
    }
    Ok(())
}

/// Writes a durable file with these bytes under the name `tmp`, and then renames it to `name`. The
/// caller syncs the directory.
pub(crate) fn write_file(dir: &dyn Dir, tmp: &str, name: &str, bytes: &[u8]) -> Result<()> {
    remove_if_there(dir, tmp)?;
    let path = dir.path().join(tmp);
    let file = dir.create_new(tmp).map_err(|source| io_error("create", &path, source))?;
    let mut pieces = bytes.chunks(PIECE_LEN_BYTES).zip((0_u64..).step_by(PIECE_LEN_BYTES));
    let written = pieces
        .try_for_each(|(piece, at)| write_at(&*file, &path, piece, at))
        .and_then(|()| sync_data(&*file, &path))
        .and_then(|()| dir.rename(tmp, name).map_err(|source| io_error("rename", &path, source)));
    if written.is_err() {
        // Report the first failure; the name marks the file as garbage.
        let _removed = dir.remove_file(tmp);
    }
    written
}

pub(crate) fn remove_if_there(dir: &dyn Dir, name: &str) -> Result<()> {
    match dir.remove_file(name) {
        // A directory is never a file of the store.
        Err(source) if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            Err(io_error("remove", &dir.path().join(name), source))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_data(file: &dyn File, path: &Path) -> Result<()> {
    retry(|| file.sync_data()).map_err(|source| io_error("sync", path, source))
}

/// Repeats a call that a signal interrupted: an interrupted sync has not failed.
fn retry(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

pub(crate) fn sync_dir(dir: &dyn Dir) -> Result<()> {
    retry(|| dir.sync()).map_err(|source| io_error("sync", dir.path(), source))
}

/// The names in a directory.
pub(crate) fn list(dir: &dyn Dir) -> Result<Vec<String>> {
    dir.list().map_err(|source| io_error("list", dir.path(), source))
}

/// The manifest of a directory, if one exists, with its bytes.
pub(crate) fn read_manifest(dir: &dyn Dir) -> Result<Option<(Vec<u8>, Manifest)>> {
    let Some(bytes) = read_file(dir, MANIFEST)? else { return Ok(None) };
    let manifest = Manifest::decode(&bytes);
    manifest.map(|manifest| Some((bytes, manifest))).map_err(|error| Error::Corrupt {
        path: dir.path().join(MANIFEST),
        offset: 0,
        detail: error.to_string(),
    })
}

/// The content of a file, if it exists.
pub(crate) fn read_file(dir: &dyn Dir, name: &str) -> Result<Option<Vec<u8>>> {
    let path = dir.path().join(name);
    let file = match dir.open(name, Access::Read) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", &path, source)),
    };
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read_at(&mut piece, bytes.len() as u64) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", &path, error)),
        }
    }
    Ok(Some(bytes))
}
