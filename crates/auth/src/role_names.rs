//! Names of roles, and lists of them in records.

use crate::codec::{FieldReader, FieldWriter};
use crate::error::{Error, Result};

/// Longest role name, in bytes.
pub const MAX_ROLE_NAME_LEN_BYTES: usize = 128;
/// Maximum number of roles of one user or API key.
pub const MAX_ROLES: usize = 64;

pub(crate) fn encode_names(names: &[String], writer: &mut FieldWriter) -> Result<()> {
    let Ok(count) = u16::try_from(names.len()) else {
        return Err(Error::LimitExceeded("too many roles"));
    };
    writer.u16(count);
    names.iter().try_for_each(|name| writer.bytes(name.as_bytes()).map(drop))
}

pub(crate) fn decode_names(reader: &mut FieldReader<'_>) -> Result<Vec<String>> {
    let count = reader.u16()?;
    (0..count).map(|_| Ok(reader.text()?.to_owned())).collect()
}

/// The names, sorted and without duplicates, if all are valid.
pub(crate) fn checked_role_names(names: &[String]) -> Result<Vec<String>> {
    names.iter().try_for_each(|name| check_role_name(name))?;
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    if names.len() > MAX_ROLES { Err(Error::LimitExceeded("more than 64 roles")) } else { Ok(names) }
}

pub(crate) fn check_role_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if name.is_empty() || name.len() > MAX_ROLE_NAME_LEN_BYTES || !name.chars().all(fine) {
        return Err(Error::Validation("a role name has 1 to 128 ASCII letters, digits and . _ - :"));
    }
    Ok(())
}
