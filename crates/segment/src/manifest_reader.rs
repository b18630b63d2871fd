//! Reads the numbers of a manifest, and defines the errors of its bytes.

use thiserror::Error;

/// The manifest version of this build.
pub const MANIFEST_VERSION: u16 = 1;
/// The error of bytes that are not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are invalid.
    #[error("offset {offset}: {reason}")]
    Damaged {
        /// The offset.
        offset: u64,
        /// The reason.
        reason: &'static str,
    },
    /// Written by a later version.
    #[error("manifest version {found} is newer than {MANIFEST_VERSION}")]
    UnsupportedVersion {
        /// The version.
        found: u16,
    },
    /// Has features that this build does not know.
    #[error("manifest needs features {found:#010x}")]
    UnsupportedFeatures {
        /// The unknown bits.
        found: u32,
    },
}

/// Reads numbers from the front of a byte string.
pub(crate) struct ManifestReader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl ManifestReader<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        let array = found.ok_or_else(|| self.damaged("it is cut short"))?;
        self.at += N;
        Ok(array)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ManifestError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ManifestError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ManifestError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn damaged(&self, reason: &'static str) -> ManifestError {
        ManifestError::Damaged { offset: self.at as u64, reason }
    }
}
