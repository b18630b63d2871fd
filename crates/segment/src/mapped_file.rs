//! Files that are written once and mapped as a whole: tables. This crate does not interpret their
//! content.

use std::io;

use crate::fs::{Access, Dir};
use crate::mapping::{MapPermit, Mapping};
use crate::names::is_table_name;

/// Maps all of a table, to be read at random. A table gets its name when it is complete, and is
/// never written to again.
///
/// It needs no lock. While the map lives, [`Dir::open`] refuses to open the file for writing in
/// this process, by any of its names; and a file that this process has open for writing is not
/// mapped. So no program that uses files through [`Fs`](crate::Fs) cuts it. Another process can,
/// and so can a `std::fs::File`: a read of the missing part then ends this process by a signal.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if the name does not end in
/// [`TABLE_SUFFIX`](crate::TABLE_SUFFIX); [`io::ErrorKind::ResourceBusy`] if this process has the
/// file open for writing; and those of the system.
pub fn map_table(dir: &dyn Dir, name: &str) -> io::Result<Mapping> {
    if !is_table_name(name) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not the name of a table")));
    }
    let file = dir.open(name, Access::Read)?;
    let len = usize::try_from(file.metadata()?.len_bytes).map_err(io::Error::other)?;
    let mapping = file.map(len, Access::Read, MapPermit::of_complete_file())?;
    let mut writer = mapping.writer().ok_or_else(|| io::Error::other("the map is in use"))?;
    mapping.publish(&mut writer, len).map_err(io::Error::other)?;
    Ok(mapping)
}
