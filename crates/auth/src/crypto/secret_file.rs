//! Files with secrets as text: entries `id:hex`, one a line or separated by commas, and comments. Only their owner may be able to read them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Longest file of secrets, in bytes.
pub(super) const MAX_SECRET_FILE_LEN_BYTES: usize = 64 * 1024;

/// What is said of a file of one kind.
pub(super) struct SecretFile {
    shared: &'static str,
    too_long: &'static str,
    not_text: &'static str,
}

impl SecretFile {
    /// A file with master keys.
    pub(super) const KEYS: Self = Self {
        shared: "others can read the key file: chmod 600 it",
        too_long: "the key file is too long",
        not_text: "the key file is not text",
    };

    /// A file with peppers.
    pub(super) const PEPPERS: Self = Self {
        shared: "others can read the pepper file: chmod 600 it",
        too_long: "the pepper file is too long",
        not_text: "the pepper file is not text",
    };

    /// All of the file, wiped from memory when it is dropped.
    pub(super) fn read(&self, path: &Path) -> Result<Zeroizing<String>> {
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // The file that was opened is judged, not whatever has its name by now.
        self.refuse(&file.metadata().map_err(failed)?)?;
        let limit = MAX_SECRET_FILE_LEN_BYTES + 1;
        // Room for everything, so that no half of it is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(limit));
        match file.take(limit as u64).read_to_string(&mut text) {
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(Error::Validation(self.not_text)),
            Err(error) => Err(failed(error)),
            Ok(_) if text.len() == limit => Err(Error::Validation(self.too_long)),
            Ok(_) => Ok(text),
        }
    }

    fn refuse(&self, metadata: &std::fs::Metadata) -> Result<()> {
        if metadata.len() > MAX_SECRET_FILE_LEN_BYTES as u64 {
            return Err(Error::Validation(self.too_long));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            if metadata.permissions().mode() & 0o077 != 0 {
                return Err(Error::Validation(self.shared));
            }
        }
        Ok(())
    }
}

/// The entries of a text.
pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}
