//! Reads the manifest of a store that another process may be writing, again and again.
//!
//! A writer replaces the manifest by a rename, or appends an edit to it. So the content has changed
//! if the first bytes, the check behind them or the length have. An incomplete edit at the end has
//! not happened yet.

use std::io;
use std::sync::Arc;

use crate::error::SegmentError;
use crate::fs::{Access, Dir, File, read_full_at};
use crate::manifest::{Content, Manifest};
use crate::names::MANIFEST;
use crate::recovery::{manifest_bytes, manifest_error, refuse_unfinished};
use crate::store::{expect_content, list};

/// The number of bytes at the front that tell one manifest from another: magic, lengths, store id,
/// generation.
const FRONT_LEN_BYTES: usize = 48;
/// The offset of the manifest's own length.
const LEN_AT: usize = 16;
const CHECK_LEN_BYTES: u64 = 4;
/// The number of attempts to read a manifest that changes meanwhile.
const ATTEMPTS: usize = 16;

/// The manifest of a store, as far as a reader without a lock knows it.
#[derive(Debug)]
pub(crate) struct ManifestWatch {
    dir: Arc<dyn Dir>,
    known: Option<Face>,
}

/// What tells whether the manifest has changed.
#[derive(Debug, PartialEq, Eq)]
struct Face {
    front: [u8; FRONT_LEN_BYTES],
    check: [u8; 4],
    /// The length of the file, if all of it was understood.
    len_bytes: Option<u64>,
}

impl ManifestWatch {
    pub(crate) fn new(dir: Arc<dyn Dir>) -> Self {
        Self { dir, known: None }
    }

    /// The manifest, if it is not the one that the last call has returned.
    ///
    /// # Errors
    ///
    /// [`SegmentError::NoStore`], [`SegmentError::Unfinished`], [`SegmentError::OtherContent`],
    /// [`SegmentError::Corrupt`], [`SegmentError::VersionUnsupported`], [`SegmentError::Io`].
    pub(crate) fn read_if_changed(&mut self) -> Result<Option<Manifest>, SegmentError> {
        let path = self.dir.path().join(MANIFEST);
        let read = |error| SegmentError::io("read", &path, error);
        let mut damaged: Option<(Vec<u8>, SegmentError)> = None;
        for _ in 0..ATTEMPTS {
            let file = match self.dir.open(MANIFEST, Access::Read) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.missing()),
                Err(error) => return Err(SegmentError::io("open", &path, error)),
            };
            let face = Face::of(file.as_ref()).map_err(read)?;
            if face.is_some() && face == self.known {
                return Ok(None);
            }
            let bytes = manifest_bytes(file.as_ref(), &path)?;
            let (manifest, end) = match Manifest::decode_to_end(&bytes) {
                Ok(decoded) => decoded,
                // A read during a write may have mixed old bytes with new ones: it is damage only
                // if it stays.
                Err(error) => {
                    if damaged.as_ref().is_some_and(|(before, _)| *before == bytes) {
                        break;
                    }
                    damaged = Some((bytes, manifest_error(&path, error)));
                    continue;
                }
            };
            let manifest = expect_content(manifest, Content::KeyValue, self.dir.path())?;
            // The face is of the bytes that were read: the file may have grown since.
            self.known = face.map(|face| Face { len_bytes: (end == bytes.len()).then_some(end as u64), ..face });
            return Ok(Some(manifest));
        }
        let path = path.clone();
        Err(damaged.map_or(SegmentError::MissingManifest { path }, |(_, error)| error))
    }

    /// The next call returns the manifest, changed or not.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    fn missing(&self) -> SegmentError {
        let dir = self.dir.path().to_owned();
        match list(self.dir.as_ref()).and_then(|names| refuse_unfinished(self.dir.as_ref(), &names)) {
            Ok(()) => SegmentError::NoStore { dir },
            Err(error) => error,
        }
    }
}

impl Face {
    /// `None` for a file that is too short for a manifest.
    fn of(file: &dyn File) -> io::Result<Option<Self>> {
        let len_bytes = Some(file.metadata()?.len_bytes);
        let (mut front, mut check) = ([0; FRONT_LEN_BYTES], [0; 4]);
        if read_full_at(file, &mut front, 0)? < front.len() {
            return Ok(None);
        }
        let whole = front.get(LEN_AT..).and_then(|rest| rest.first_chunk()).map_or(0, |len| u64::from_le_bytes(*len));
        let read = read_full_at(file, &mut check, whole.saturating_sub(CHECK_LEN_BYTES))?;
        Ok((read == check.len()).then_some(Self { front, check, len_bytes }))
    }
}
