//! Files that are written once and mapped as a whole: index checkpoints and tables. This crate does
//! not interpret their content.

use std::io;

use crate::fs::{Access, Dir};
use crate::mapping::{MapPermit, Mapping};
use crate::names::{is_checkpoint, is_table_name};

/// Maps a whole index checkpoint for sequential reads. The store is open, so no other process has
/// it open for writing; a store never writes to a checkpoint that already has its name.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if the name is not that of a checkpoint, and those of the
/// system.
pub fn map_checkpoint(dir: &dyn Dir, name: &str) -> io::Result<Mapping> {
    if !is_checkpoint(name) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mapping = map_whole(dir, name)?;
    mapping.read_in_order();
    Ok(mapping)
}

/// Maps all of a table, to be read at random. A table gets its name when it is complete, and is
/// never written to again.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if the name does not end in
/// [`TABLE_SUFFIX`](crate::TABLE_SUFFIX), and those of the system.
pub fn map_table(dir: &dyn Dir, name: &str) -> io::Result<Mapping> {
    if !is_table_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a table")));
    }
    map_whole(dir, name)
}

fn map_whole(dir: &dyn Dir, name: &str) -> io::Result<Mapping> {
    let file = dir.open(name, Access::Read)?;
    let len = usize::try_from(file.metadata()?.len_bytes).map_err(io::Error::other)?;
    let mapping = file.map(len, Access::Read, MapPermit::of_store())?;
    let mut writer = mapping.writer().ok_or_else(|| io::Error::other("the map is in use"))?;
    mapping.publish(&mut writer, len).map_err(io::Error::other)?;
    Ok(mapping)
}
