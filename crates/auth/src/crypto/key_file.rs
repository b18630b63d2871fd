//! A file with master keys, which only its owner can read: loaded, extended and shortened.
//!
//! A lost master key is lost data, so a change writes a new file beside the old one, syncs it, puts
//! it in the old one's place and syncs the directory: after a crash there is one or the other. Whoever
//! makes the new file holds a lock on it, which ends with its process: what a crash has left is written over.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::aead::KEY_LEN_BYTES;
use super::key_ring::{KeyProvider, KeyRing, MasterKeyId, entry_text, parse_entry};
use super::secret_file::{MAX_SECRET_FILE_LEN_BYTES, SecretFile};
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::seam::{Entropy, random};

/// Longest key file, in bytes.
pub const MAX_KEY_FILE_LEN_BYTES: usize = MAX_SECRET_FILE_LEN_BYTES;

/// Master keys in a file, in the form that [`KeyRing::parse`] takes.
///
/// On Unix the file must not be readable by group or others.
///
/// # Examples
/// ```
/// use hightower_auth::OsEntropy;
/// use hightower_auth::crypto::{KeyFile, KeyProvider};
/// # let directory = tempfile::tempdir().unwrap();
/// let file = KeyFile::new(directory.path().join("keys"));
/// assert_eq!(file.add_random_key(&OsEntropy)?, 1);
/// assert_eq!(file.add_random_key(&OsEntropy)?, 2);
/// assert_eq!(file.load()?.current_id(), 2);
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// Keys from the file at `path`, read at each load.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Adds a new random key, whose id is one above the highest, and tells that id. Makes the file,
    /// readable by its owner only, if it is not there. When this returns the key is on disk.
    ///
    /// # Errors
    /// [`Error::KeyFile`] if the file cannot be read or written, [`Error::Validation`] if it is not a
    /// private key file, [`Error::LimitExceeded`] if it is full, [`Error::Randomness`].
    pub fn add_random_key(&self, entropy: &dyn Entropy) -> Result<MasterKeyId> {
        self.change(|old| {
            let full = Error::LimitExceeded("the key file has no room for another key; remove retired ones");
            let (old, id) = match old {
                Ok(text) => {
                    let mut ring = KeyRing::parse(&text)?;
                    let Some(id) = ring.current_id().checked_add(1) else { return Err(full) };
                    ring.insert(id, [0; KEY_LEN_BYTES])?; // whether there is room
                    (text, id)
                }
                Err(Error::KeyFile { source, .. }) if source.kind() == ErrorKind::NotFound => (Zeroizing::default(), 1),
                Err(error) => return Err(error),
            };
            let key = Zeroizing::new(random(entropy)?);
            let entry = entry_text(id, &key);
            let mut text = Zeroizing::new(String::with_capacity(old.len() + entry.len() + 2));
            text.push_str(&old);
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&entry);
            text.push('\n');
            if text.len() > MAX_KEY_FILE_LEN_BYTES { Err(full) } else { Ok((text, id)) }
        })
    }

    /// Removes a retired key from the file. What it still wraps, here or in a backup, can never be
    /// read again.
    ///
    /// # Errors
    /// As [`KeyRing::remove`], and [`Error::KeyFile`] if the file cannot be read or written.
    pub fn remove_key(&self, id: MasterKeyId) -> Result<()> {
        self.change(|old| {
            let old = old?;
            KeyRing::parse(&old)?.remove(id)?;
            let mut text = Zeroizing::new(String::with_capacity(old.len() + 1));
            for line in old.lines() {
                if !line.trim_start().starts_with('#') && !line.trim().is_empty() {
                    keep_others(line, id, &mut text)?;
                } else {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            Ok((text, ()))
        })
    }

    fn read(&self) -> Result<Zeroizing<String>> {
        SecretFile::KEYS.read(&self.path)
    }

    /// Puts what `edit` makes of the file in its place. The new file is claimed before the old one is read, and only one can have it: of two that
    /// change the file at once, neither loses the other's keys.
    fn change<T>(&self, edit: impl FnOnce(Result<Zeroizing<String>>) -> Result<(Zeroizing<String>, T)>) -> Result<T> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let file = claim(&new).map_err(|source| Error::KeyFile { path: new.clone(), source })?;
        let failed = |source| Error::KeyFile { path: self.path.clone(), source };
        let outcome = edit(self.read()).and_then(|(text, result)| {
            write_and_rename(file, &text, &new, &self.path).map_err(failed)?;
            Ok(result)
        });
        if outcome.is_err() {
            // The first error is the one to tell.
            let _left_behind = std::fs::remove_file(&new);
        }
        let result = outcome?;
        sync_directory_of(&self.path).map_err(failed)?;
        Ok(result)
    }
}

impl KeyProvider for KeyFile {
    fn load(&self) -> Result<KeyRing> {
        KeyRing::parse(&self.read()?)
    }
}

/// The new file: empty, readable by its owner only, and nobody else's until it is dropped.
fn claim(new: &Path) -> std::io::Result<File> {
    let taken = || std::io::Error::new(ErrorKind::AlreadyExists, "somebody else is changing the key file");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(new)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) if planted("key_file_not_claimed") => {}
        Err(TryLockError::WouldBlock) => return Err(taken()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Between the two steps somebody else may have put it in the key file's place.
    if !is_named(&file, new)? {
        return Err(taken());
    }
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.set_len(0)?;
    Ok(file)
}

/// Whether this is the file of that name, and of no other.
#[cfg(unix)]
fn is_named(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino(), metadata.nlink());
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(identity(&named) == identity(&file.metadata()?) && named.nlink() == 1),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_named(_file: &File, _path: &Path) -> std::io::Result<bool> {
    Ok(true)
}

/// Appends the entries of a line but the one with this id.
fn keep_others(line: &str, id: MasterKeyId, text: &mut String) -> Result<()> {
    for entry in line.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        if parse_entry(entry)?.0 != id {
            text.push_str(entry);
            text.push('\n');
        }
    }
    Ok(())
}

fn write_and_rename(mut file: File, text: &str, new: &Path, path: &Path) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory_of(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::seam::OsEntropy;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[cfg(unix)]
    fn set_mode(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_must_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, format!("1:{HEX}\n")).unwrap();
        set_mode(&path, 0o644);
        assert_eq!(KeyFile::new(&path).load().unwrap_err().kind(), ErrorKind::Validation);
        assert_eq!(KeyFile::new(&path).add_random_key(&OsEntropy).unwrap_err().kind(), ErrorKind::Validation);
        set_mode(&path, 0o600);
        assert_eq!(KeyFile::new(&path).load().unwrap().current_id(), 1);
        let missing = KeyFile::new(directory.path().join("none")).load().unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_added_and_removed_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let file = KeyFile::new(&path);
        assert_eq!(file.add_random_key(&OsEntropy).unwrap(), 1);
        std::fs::write(&path, format!("# ours\n3:{HEX}, 7:{}", HEX.replace('1', "2"))).unwrap();
        set_mode(&path, 0o600);
        assert_eq!(file.add_random_key(&OsEntropy).unwrap(), 8);
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [3, 7, 8]);
        assert_eq!(file.remove_key(8).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(file.remove_key(4).unwrap_err().kind(), ErrorKind::NotFound);
        file.remove_key(3).unwrap();
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [7, 8]);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("# ours\n7:"));
        assert!(file.load().is_ok(), "the new file is private too");
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn two_changes_at_once_are_refused_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let file = KeyFile::new(&path);
        file.add_random_key(&OsEntropy).unwrap();
        let new = directory.path().join("keys.new");
        std::fs::write(&new, "somebody else's").unwrap();
        let somebody_else = File::open(&new).unwrap();
        somebody_else.lock().unwrap();
        let refused = file.add_random_key(&OsEntropy).unwrap_err();
        assert!(refused.to_string().contains("keys.new"), "{refused}");
        assert_eq!(file.load().unwrap().current_id(), 1);
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "somebody else's");
        // Whoever it was died.
        drop(somebody_else);
        assert_eq!(file.add_random_key(&OsEntropy).unwrap(), 2);
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [1, 2]);
        assert!(!new.exists());
    }

    /// What a crash left may be longer than what is written now, and readable by others.
    #[cfg(unix)]
    #[test]
    fn what_a_crash_left_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let (path, new) = (directory.path().join("keys"), directory.path().join("keys.new"));
        let file = KeyFile::new(&path);
        std::fs::write(&new, format!("9:{HEX}\n").repeat(20)).unwrap();
        set_mode(&new, 0o644);
        assert_eq!(file.add_random_key(&OsEntropy).unwrap(), 1);
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [1], "private, and nothing of the old");
        assert!(!new.exists());
        // But never into a file that has another name, or is somewhere else.
        let other = directory.path().join("other");
        std::fs::write(&other, "theirs").unwrap();
        std::fs::hard_link(&other, &new).unwrap();
        assert!(file.add_random_key(&OsEntropy).is_err());
        std::fs::remove_file(&new).unwrap();
        std::os::unix::fs::symlink(&other, &new).unwrap();
        assert!(file.add_random_key(&OsEntropy).is_err());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs");
        assert_eq!(file.load().unwrap().current_id(), 1);
    }

    #[test]
    fn of_two_that_add_keys_at_once_neither_loses_the_others() {
        const ADDED_BY_EACH: usize = 20;
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::new(directory.path().join("keys"));
        let is_taken = |refused: &Error| match refused {
            Error::KeyFile { source, .. } => source.kind() == std::io::ErrorKind::AlreadyExists,
            _ => false,
        };
        let add = || -> Vec<MasterKeyId> {
            // While another is at it, the change is refused, however long that takes; a file that they have spoilt refuses all, so this ends.
            std::iter::repeat_with(|| file.add_random_key(&OsEntropy))
                .take_while(|added| added.as_ref().err().is_none_or(is_taken))
                .filter_map(Result::ok)
                .take(ADDED_BY_EACH)
                .collect()
        };
        let (mut mine, theirs) = std::thread::scope(|scope| {
            let other = scope.spawn(add);
            (add(), other.join().unwrap())
        });
        mine.extend(theirs);
        mine.sort_unstable();
        assert_eq!(mine, file.load().unwrap().ids().collect::<Vec<_>>());
        assert_eq!(mine.len(), 2 * ADDED_BY_EACH);
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        for (bytes, words) in [
            (vec![0xff; 10], "not text"),
            (vec![b'#'; MAX_KEY_FILE_LEN_BYTES + 1], "too long"),
            (b"# nothing\n".to_vec(), "no master key"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            #[cfg(unix)]
            set_mode(&path, 0o600);
            let refused = KeyFile::new(&path).load().unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }
}
