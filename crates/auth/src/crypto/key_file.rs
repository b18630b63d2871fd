//! A file of master keys that only its owner can read: load, add, retire and prune keys.
//!
//! A lost master key is lost data. So each change writes a new file beside the old one, syncs it,
//! renames it over the old one and syncs the directory: after a crash, either the old or the new
//! file exists. The process that writes the new file holds a file lock on it, which ends with the
//! process. The next change overwrites an unfinished new file of a crashed process.
//!
//! A key that leaves the ring stays in the file as a comment, `#retired id:hex`, until
//! [`KeyFile::prune_retired`], so that a key that was retired by mistake can be restored.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use hightower_seams::Entropy;
use zeroize::Zeroizing;

use super::aead::KEY_LEN_BYTES;
use super::key_ring::{KeyProvider, KeyRing, MasterKeyId, entry_text, parse_entry};
use super::secret_file::{MAX_SECRET_FILE_LEN_BYTES, SecretFile, directory_of, open_itself};
use crate::entropy::random;
use crate::error::{Error, Result};
use crate::mutants::planted;

/// The prefix of a retired key's line.
const RETIRED: &str = "#retired ";

/// Longest key file, in bytes.
pub const MAX_KEY_FILE_LEN_BYTES: usize = MAX_SECRET_FILE_LEN_BYTES;

/// Master keys in a file, in the format of [`KeyRing::parse`].
///
/// On Unix the file must be a regular file of this process's user, readable by that user only, in a
/// directory that nobody but that user and root can write to.
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
    /// Keys from the file at `path`. Each load reads the file again.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Adds a random key with the next higher id, and returns the id. Creates the file, readable by
    /// its owner only, if it does not exist. When this returns, the key is on disk.
    ///
    /// # Errors
    /// [`Error::KeyFile`] if the file cannot be read or written, [`Error::Validation`] if it is not
    /// a private key file, [`Error::LimitExceeded`] if the file is full, [`Error::Randomness`].
    pub fn add_random_key(&self, entropy: &dyn Entropy) -> Result<MasterKeyId> {
        self.change(|old| {
            let full = Error::LimitExceeded("the key file has no room for another key; remove retired ones");
            let (old, id) = match old {
                Ok(text) => {
                    let mut ring = KeyRing::parse(&text)?;
                    let Some(id) = ring.current_id().checked_add(1) else { return Err(full) };
                    ring.insert(id, [0; KEY_LEN_BYTES])?; // checks the limit of keys
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

    /// Retires a key: the ring no longer has it. The key stays in the file as a comment until
    /// [`KeyFile::prune_retired`]; [`KeyFile::restore_key`] restores it.
    ///
    /// # Errors
    /// As [`KeyRing::remove`], and [`Error::KeyFile`] if the file cannot be read or written.
    pub fn retire_key(&self, id: MasterKeyId) -> Result<()> {
        self.change(|old| {
            let old = old?;
            KeyRing::parse(&old)?.remove(id)?;
            let mut text = Zeroizing::new(String::with_capacity(old.len() + RETIRED.len() + 2));
            for line in old.lines() {
                if !line.trim_start().starts_with('#') && !line.trim().is_empty() {
                    retire_one(line, id, &mut text)?;
                } else {
                    push_line(&mut text, &[line]);
                }
            }
            if text.len() > MAX_KEY_FILE_LEN_BYTES {
                return Err(Error::LimitExceeded("the key file has no room for the mark of a retired key"));
            }
            Ok((text, ()))
        })
    }

    /// Restores a retired key.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no retired key has this id, [`Error::Conflict`] if another key of the
    /// ring has this id, [`Error::KeyFile`] if the file cannot be read or written.
    pub fn restore_key(&self, id: MasterKeyId) -> Result<()> {
        self.change(|old| {
            let old = old?;
            let mut text = Zeroizing::new(String::with_capacity(old.len() + 1));
            let mut found = false;
            for line in old.lines() {
                match retired_entry(line) {
                    Some((retired, entry)) if retired == id => {
                        found = true;
                        push_line(&mut text, &[entry]);
                    }
                    _ => push_line(&mut text, &[line]),
                }
            }
            if !found {
                return Err(Error::NotFound("no retired master key has this id"));
            }
            KeyRing::parse(&text)?;
            Ok((text, ()))
        })
    }

    /// Removes all retired keys from the file for ever, and returns their ids. Data that they still
    /// wrap, in another store or in a backup, becomes unreadable.
    ///
    /// # Errors
    /// [`Error::KeyFile`] if the file cannot be read or written, [`Error::Validation`] if it is not
    /// a private key file.
    pub fn prune_retired(&self) -> Result<Vec<MasterKeyId>> {
        self.change(|old| {
            let old = old?;
            let mut text = Zeroizing::new(String::with_capacity(old.len() + 1));
            let mut pruned = Vec::new();
            for line in old.lines() {
                match retired_entry(line) {
                    Some((id, _)) => pruned.push(id),
                    None => push_line(&mut text, &[line]),
                }
            }
            Ok((text, pruned))
        })
    }

    /// The ids of the retired keys in the file, in the order of the file.
    ///
    /// # Errors
    /// As [`KeyFile::prune_retired`].
    pub fn retired_ids(&self) -> Result<Vec<MasterKeyId>> {
        Ok(self.read()?.lines().filter_map(|line| Some(retired_entry(line)?.0)).collect())
    }

    fn read(&self) -> Result<Zeroizing<String>> {
        SecretFile::KEYS.read(&self.path)
    }

    /// Replaces the file by the result of `edit`. The new file is locked before the old one is
    /// read, so of two concurrent changes neither loses the other's keys.
    fn change<T>(&self, edit: impl FnOnce(Result<Zeroizing<String>>) -> Result<(Zeroizing<String>, T)>) -> Result<T> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        SecretFile::KEYS.refuse_directory_of(&self.path)?;
        let file = claim(&new).map_err(|source| Error::KeyFile { path: new.clone(), source })?;
        let failed = |source| Error::KeyFile { path: self.path.clone(), source };
        let outcome = edit(self.read()).and_then(|(text, result)| {
            write_and_rename(file, &text, &new, &self.path).map_err(failed)?;
            Ok(result)
        });
        if outcome.is_err() {
            // Report the first error.
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

/// The new file: empty, readable by its owner only, and locked until it is dropped.
fn claim(new: &Path) -> std::io::Result<File> {
    let taken = || std::io::Error::new(ErrorKind::AlreadyExists, "another process is changing the key file");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let no_file = || std::io::Error::new(ErrorKind::AlreadyExists, "it is not a regular file: remove it");
    let file = open_itself(new, &mut options)?.ok_or_else(no_file)?;
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) if planted("key_file_not_claimed") => {}
        Err(TryLockError::WouldBlock) => return Err(taken()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Between the two steps another process may have renamed it over the key file.
    if !is_named(&file, new)? {
        return Err(taken());
    }
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.set_len(0)?;
    Ok(file)
}

/// Whether the open file has this name, and no other.
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

/// Appends the entries of a line; the entry with this id becomes a retired one.
fn retire_one(line: &str, id: MasterKeyId, text: &mut String) -> Result<()> {
    for entry in line.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let is_it = parse_entry(entry)?.0 == id;
        push_line(text, &[if is_it { RETIRED } else { "" }, entry]);
    }
    Ok(())
}

/// The id and entry of a line with a retired key.
fn retired_entry(line: &str) -> Option<(MasterKeyId, &str)> {
    let entry = line.trim().strip_prefix(RETIRED)?.trim();
    Some((parse_entry(entry).ok()?.0, entry))
}

fn push_line(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
    text.push('\n');
}

fn write_and_rename(mut file: File, text: &str, new: &Path, path: &Path) -> std::io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory_of(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hightower_seams::OsEntropy;

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
        assert_eq!(KeyFile::new(&path).load().unwrap_err().code(), "validation");
        assert_eq!(KeyFile::new(&path).add_random_key(&OsEntropy).unwrap_err().code(), "validation");
        set_mode(&path, 0o600);
        assert_eq!(KeyFile::new(&path).load().unwrap().current_id(), 1);
        let missing = KeyFile::new(directory.path().join("none")).load().unwrap_err();
        assert_eq!(missing.code(), "io");
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
        assert_eq!(file.retire_key(8).unwrap_err().code(), "conflict");
        assert_eq!(file.retire_key(4).unwrap_err().code(), "not_found");
        file.retire_key(3).unwrap();
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [7, 8]);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("# ours\n#retired 3:"));
        assert_eq!(file.retired_ids().unwrap(), [3]);
        assert_eq!(file.restore_key(9).unwrap_err().code(), "not_found");
        file.restore_key(3).unwrap();
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [3, 7, 8]);
        file.retire_key(3).unwrap();
        assert_eq!(file.prune_retired().unwrap(), [3]);
        assert!(file.prune_retired().unwrap().is_empty());
        assert!(!std::fs::read_to_string(&path).unwrap().contains("3:"), "pruned for ever");
        assert!(file.load().is_ok(), "the new file is private too");
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    /// Only a regular file of this user, under its own name, in a directory where nobody else can
    /// replace it.
    #[cfg(unix)]
    #[test]
    fn what_is_not_a_private_regular_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let refused = |path: &Path, words: &str| {
            let file = KeyFile::new(path);
            for error in [file.load().unwrap_err(), file.add_random_key(&OsEntropy).unwrap_err()] {
                assert!(error.to_string().contains(words), "{error}");
            }
        };
        std::fs::write(at("real"), format!("1:{HEX}\n")).unwrap();
        set_mode(&at("real"), 0o600);
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        refused(&at("link"), "not a regular file");
        assert!(at("link").is_symlink(), "a link is not replaced by a file");
        std::fs::create_dir(at("directory")).unwrap();
        refused(&at("directory"), "not a regular file");
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        set_mode(&at("pipe"), 0o600);
        refused(&at("pipe"), "not a regular file");
        // A dangling link beside the file creates nothing.
        std::os::unix::fs::symlink(at("elsewhere"), at("real.new")).unwrap();
        let error = KeyFile::new(at("real")).add_random_key(&OsEntropy).unwrap_err();
        assert!(error.to_string().contains("real.new"), "{error}");
        assert!(!at("elsewhere").exists());
        std::fs::remove_file(at("real.new")).unwrap();
        set_mode(directory.path(), 0o770);
        refused(&at("real"), "others can replace the key file");
        set_mode(directory.path(), 0o700);
        assert_eq!(KeyFile::new(at("real")).add_random_key(&OsEntropy).unwrap(), 2);
        // Another user's file: only root can create one for this test.
        if std::os::unix::fs::chown(at("real"), Some(12_345), None).is_ok() {
            refused(&at("real"), "belongs to another user");
        }
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
        // The other process has died.
        drop(somebody_else);
        assert_eq!(file.add_random_key(&OsEntropy).unwrap(), 2);
        assert_eq!(file.load().unwrap().ids().collect::<Vec<_>>(), [1, 2]);
        assert!(!new.exists());
    }

    /// A leftover of a crash may be longer than the new content, and readable by others.
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
        // But a file with another name, or in another directory, is never written to.
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
            Error::KeyFile { source, .. } => source.kind() == ErrorKind::AlreadyExists,
            _ => false,
        };
        let add = || -> Vec<MasterKeyId> {
            // A change is refused while another one runs, so each is repeated. A spoilt file would
            // refuse all changes, so the loop ends.
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
