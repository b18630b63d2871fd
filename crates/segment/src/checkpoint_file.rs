//! The mapped file of an index checkpoint. This crate does not interpret its content.

use std::io;

use crate::fs::{Access, Dir};
use crate::mapping::{MapPermit, Mapping};
use crate::names::is_checkpoint;

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
    let file = dir.open(name, Access::Read)?;
    let len = usize::try_from(file.metadata()?.len_bytes).map_err(io::Error::other)?;
    let mapping = file.map(len, Access::Read, MapPermit::of_store())?;
    mapping.read_in_order();
    let mut writer = mapping.writer().ok_or_else(|| io::Error::other("the map is in use"))?;
    mapping.publish(&mut writer, len).map_err(io::Error::other)?;
    Ok(mapping)
}
