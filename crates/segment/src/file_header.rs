//! The header of a segment's file, as an entry of the manifest.

use std::io;

use hightower_log::{SegmentHeader, SegmentKind};

use crate::error::{SegmentError, is_shortage};
use crate::fs::{Access, Dir, read_full_at};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::mutants::planted;
use crate::names::segment_name;

/// The header of a segment's file; `None` if it is unreadable.
///
/// # Errors
///
/// [`SegmentError::Io`] if the process lacked memory or descriptors.
pub(crate) fn entry_from_header(dir: &dyn Dir, id: u32) -> Result<Option<SegmentEntry>, SegmentError> {
    let name = segment_name(id);
    match read_header(dir, &name, id) {
        Ok(found) => Ok(found),
        Err(error) if is_shortage(&error) && !planted("shortage_is_damage") => {
            Err(SegmentError::io("read", &dir.path().join(name), error))
        }
        Err(_) => Ok(None),
    }
}

fn read_header(dir: &dyn Dir, name: &str, id: u32) -> io::Result<Option<SegmentEntry>> {
    let file = dir.open(name, Access::Read)?;
    let mut bytes = [0; SegmentHeader::LEN];
    let read = read_full_at(file.as_ref(), &mut bytes, 0)?;
    let header = SegmentHeader::decode(bytes.get(..read).unwrap_or_default()).ok();
    let Some(header) = header.filter(|header| header.id == id) else { return Ok(None) };
    let state = match header.kind {
        SegmentKind::Append => SegmentState::Open,
        SegmentKind::Compacted => {
            let len_bytes = u32::try_from(file.metadata()?.len_bytes).unwrap_or(u32::MAX);
            SegmentState::Sealed { len_bytes, records: 0, commits: 0 }
        }
    };
    Ok(Some(SegmentEntry::of(&header, state)))
}
