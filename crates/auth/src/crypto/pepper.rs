//! Peppers: secrets that are an input of every password hash and are kept outside the store, so
//! that a stolen store alone does not allow guessing. Each pepper has an id, stored with the hash.
//! A login re-hashes with the current pepper.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use super::secret_file::{SecretFile, entries};
use crate::error::{Error, Result};

/// The id of a pepper; the highest is current.
pub type PepperId = u32;

/// Shortest pepper, in bytes.
pub const MIN_PEPPER_LEN_BYTES: usize = 16;

/// One or more peppers. New hashes use the one with the highest id.
///
/// # Examples
/// ```
/// use hightower_auth::crypto::Pepper;
/// let mut pepper = Pepper::new(1, vec![7; 32])?;
/// pepper.insert(2, vec![8; 32])?; // hashes with pepper 1 stay valid and move to 2 at login
/// # Ok::<(), hightower_auth::Error>(())
/// ```
pub struct Pepper {
    current: PepperId,
    secrets: BTreeMap<PepperId, SecretSlice<u8>>,
}

impl Pepper {
    /// One pepper.
    ///
    /// # Errors
    /// [`Error::Validation`] below [`MIN_PEPPER_LEN_BYTES`].
    pub fn new(id: PepperId, secret: Vec<u8>) -> Result<Self> {
        let mut pepper = Self { current: id, secrets: BTreeMap::new() };
        pepper.insert(id, secret)?;
        Ok(pepper)
    }

    /// Reads `id:hex` entries, one per line or separated by commas. Blank lines and lines that
    /// start with `#` are skipped.
    ///
    /// # Errors
    /// [`Error::Validation`] for another form, for no pepper, or for one below
    /// [`MIN_PEPPER_LEN_BYTES`]; [`Error::Conflict`] for a duplicate id.
    ///
    /// # Examples
    /// ```
    /// use hightower_auth::crypto::Pepper;
    /// let pepper = Pepper::parse("1:000102030405060708090a0b0c0d0e0f\n2:101112131415161718191a1b1c1d1e1f")?;
    /// assert_eq!(pepper.current_id(), 2);
    /// # Ok::<(), hightower_auth::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let mut pepper: Option<Self> = None;
        for entry in entries(text) {
            let (id, secret) = parse_entry(entry)?;
            match &mut pepper {
                Some(pepper) => pepper.insert(id, secret)?,
                None => pepper = Some(Self::new(id, secret)?),
            }
        }
        pepper.ok_or(Error::Validation("no pepper found; write one as id:hex-digits"))
    }

    /// Reads the peppers of a file, in the format of [`Pepper::parse`]. On Unix the file must not
    /// be readable by group or others.
    ///
    /// # Errors
    /// As [`Pepper::parse`], [`Error::Validation`] for a file that others can read or that is
    /// longer than 64 KiB, and [`Error::KeyFile`] if it cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::parse(&SecretFile::PEPPERS.read(path.as_ref())?)
    }

    /// Adds a pepper. The one with the highest id is current.
    ///
    /// # Errors
    /// [`Error::Validation`] below [`MIN_PEPPER_LEN_BYTES`], [`Error::Conflict`] if the id is
    /// taken.
    pub fn insert(&mut self, id: PepperId, secret: Vec<u8>) -> Result<()> {
        let secret = SecretSlice::from(secret);
        if secret.expose_secret().len() < MIN_PEPPER_LEN_BYTES {
            return Err(Error::Validation("a pepper has at least 16 bytes"));
        }
        if self.secrets.contains_key(&id) {
            return Err(Error::Conflict("another pepper has this id"));
        }
        self.secrets.insert(id, secret);
        self.current = self.current.max(id);
        Ok(())
    }

    /// The id of the pepper for new hashes.
    pub fn current_id(&self) -> PepperId {
        self.current
    }

    pub(super) fn secret(&self, id: PepperId) -> Result<&[u8]> {
        match self.secrets.get(&id) {
            Some(secret) => Ok(secret.expose_secret()),
            None => Err(Error::Crypto("the pepper of this password hash is not configured")),
        }
    }
}

fn parse_entry(entry: &str) -> Result<(PepperId, Vec<u8>)> {
    let shape = Error::Validation("a pepper is written id:hex-digits, at least 32 of them");
    let Some((id, hex)) = entry.split_once(':') else {
        return Err(shape);
    };
    let (Ok(id), hex) = (id.trim().parse(), hex.trim()) else {
        return Err(shape);
    };
    // Zeroized if it is refused; otherwise moved without a copy.
    let mut secret = Zeroizing::new(vec![0; hex.len() / 2]);
    if !crate::hex::decode(hex.as_bytes(), &mut secret) {
        return Err(shape);
    }
    Ok((id, std::mem::take(&mut *secret)))
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("current", &self.current).field("count", &self.secrets.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn parses_lines_commas_and_comments() {
        let pepper = Pepper::parse(&format!("# peppers\n\n7:{HEX}ff\n 2:{HEX} , 3:{}\n", HEX.to_uppercase())).unwrap();
        assert_eq!(pepper.current_id(), 7);
        assert_eq!(pepper.secret(7).unwrap().len(), 17);
        assert_eq!(pepper.secret(2).unwrap(), (0..16).collect::<Vec<u8>>());
        assert_eq!(pepper.secret(2).unwrap(), pepper.secret(3).unwrap());
        assert_eq!(pepper.secret(1).unwrap_err().code(), "crypto");
        assert!(!format!("{pepper:?}").contains("15, "), "{pepper:?}");
    }

    #[test]
    fn refuses_what_is_not_a_pepper() {
        for text in [
            "",
            "#",
            "1",
            "1:",
            HEX,
            &format!("x:{HEX}"),
            &format!("1:{HEX}0"),
            &format!("1:{HEX}0g"),
            &HEX[2..].replace("01", "1:01"),
        ] {
            assert_eq!(Pepper::parse(text).unwrap_err().code(), "validation", "{text}");
        }
        assert_eq!(Pepper::parse(&format!("1:{HEX},1:{HEX}")).unwrap_err().code(), "conflict");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peppers");
        assert_eq!(Pepper::from_file(&path).unwrap_err().code(), "io");
        std::fs::write(&path, format!("4:{HEX}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(Pepper::from_file(&path).unwrap_err().to_string().contains("others can read the pepper file"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(Pepper::from_file(&path).unwrap().current_id(), 4);
    }
}
