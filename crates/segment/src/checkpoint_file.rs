//! The file of an index checkpoint, mapped: of what is in it this crate knows nothing.

use std::io;

use crate::fs::{Access, Dir};
use crate::mapping::{MapPermit, Mapping};
use crate::names::is_checkpoint;

/// Maps all of a store's index checkpoint, to be read from front to back. The store is open, so
/// that nobody else has it open for writing; a store never writes to a checkpoint again that has
/// its name.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if the name is not one of a checkpoint, and those of the system.
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
