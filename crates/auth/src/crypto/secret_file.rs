//! Text files with secrets: entries `id:hex`, one per line or separated by commas, and comments.
//!
//! On Unix a file of secrets is a regular file (no symbolic link), belongs to the user of this
//! process, is readable by that user only, and is in a directory where only that user or root can
//! replace it. Any other file is refused.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Result};
#[cfg(unix)]
use crate::mutants::planted;

/// Longest file of secrets, in bytes.
pub(super) const MAX_SECRET_FILE_LEN_BYTES: usize = 64 * 1024;

/// The kind of a file, with the messages of its errors.
pub(super) struct SecretFile {
    shared: &'static str,
    too_long: &'static str,
    not_text: &'static str,
    not_regular: &'static str,
    foreign: &'static str,
    exposed: &'static str,
}

impl SecretFile {
    /// A file with master keys.
    pub(super) const KEYS: Self = Self {
        shared: "others can read the key file: chmod 600 it",
        too_long: "the key file is too long",
        not_text: "the key file is not text",
        not_regular: "the key file is not a regular file: a link, a pipe or a directory is refused",
        foreign: "the key file belongs to another user",
        exposed: "others can replace the key file: its directory must be the owner's or root's, and \
                  writable by no one else (chmod go-w)",
    };

    /// A file with peppers.
    pub(super) const PEPPERS: Self = Self {
        shared: "others can read the pepper file: chmod 600 it",
        too_long: "the pepper file is too long",
        not_text: "the pepper file is not text",
        not_regular: "the pepper file is not a regular file: a link, a pipe or a directory is refused",
        foreign: "the pepper file belongs to another user",
        exposed: "others can replace the pepper file: its directory must be the owner's or root's, and \
                  writable by no one else (chmod go-w)",
    };

    /// The content of the file, zeroized when dropped.
    pub(super) fn read(&self, path: &Path) -> Result<Zeroizing<String>> {
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        let file = open_itself(path, OpenOptions::new().read(true)).map_err(failed)?;
        let Some(file) = file else { return Err(Error::Validation(self.not_regular)) };
        // Checks the open file, because the name may belong to another file by now.
        self.refuse(&file.metadata().map_err(failed)?)?;
        self.refuse_directory_of(path)?;
        let limit = MAX_SECRET_FILE_LEN_BYTES + 1;
        // The full capacity at once: a reallocation would leave a copy of a secret in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(limit));
        match file.take(limit as u64).read_to_string(&mut text) {
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(Error::Validation(self.not_text)),
            Err(error) => Err(failed(error)),
            Ok(_) if text.len() == limit => Err(Error::Validation(self.too_long)),
            Ok(_) => Ok(text),
        }
    }

    /// Refuses a directory in which other users could replace the file.
    pub(super) fn refuse_directory_of(&self, path: &Path) -> Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let directory = directory_of(path);
            let metadata =
                std::fs::metadata(directory).map_err(|source| Error::KeyFile { path: directory.to_owned(), source })?;
            let is_ours = metadata.uid() == 0 || is_own(metadata.uid());
            if !is_ours || metadata.mode() & 0o022 != 0 {
                return Err(Error::Validation(self.exposed));
            }
        }
        Ok(())
    }

    fn refuse(&self, metadata: &std::fs::Metadata) -> Result<()> {
        if !metadata.is_file() {
            return Err(Error::Validation(self.not_regular));
        }
        if metadata.len() > MAX_SECRET_FILE_LEN_BYTES as u64 {
            return Err(Error::Validation(self.too_long));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            if !is_own(metadata.uid()) {
                return Err(Error::Validation(self.foreign));
            }
            if metadata.permissions().mode() & 0o077 != 0 {
                return Err(Error::Validation(self.shared));
            }
        }
        Ok(())
    }
}

/// Opens the file of this name without following a symbolic link and without waiting for the other
/// end of a pipe. `None` for a link, a directory or a pipe, where the system reports it.
pub(super) fn open_itself(path: &Path, options: &mut OpenOptions) -> std::io::Result<Option<File>> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // The bits of `open`'s flags are those of C's `int`.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        if !planted("auth_key_file_followed") {
            std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
        }
    }
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        #[cfg(unix)]
        Err(error) if is_no_regular_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the error means a symbolic link, a directory opened for writing, or a pipe without a
/// reader.
#[cfg(unix)]
fn is_no_regular_file(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::LOOP, Errno::ISDIR, Errno::NXIO].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| known.contains(&code))
}

#[cfg(unix)]
fn is_own(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The entries of a text.
pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}
