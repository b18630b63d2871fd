//! Identifiers: 128 random bits, written as a prefix and 32 lower-case hexadecimal digits.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::hex;

/// Length of an identifier, in bytes.
pub(crate) const ID_LEN_BYTES: usize = 16;

/// The id of a user that always exists and can never log in. Logins and audit entries of unknown
/// users use it, so that both cases do the same work.
pub(crate) const NOBODY: [u8; ID_LEN_BYTES] = [0; ID_LEN_BYTES];

const PREFIX_LEN_BYTES: usize = 4;
const TEXT_LEN_BYTES: usize = PREFIX_LEN_BYTES + 2 * ID_LEN_BYTES;

macro_rules! identifier {
    ($(#[$docs:meta])* $name:ident, $prefix:literal, $shape:literal) => {
        $(#[$docs])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            bytes: [u8; ID_LEN_BYTES],
            text: String,
        }

        impl $name {
            pub(crate) fn from_bytes(bytes: [u8; ID_LEN_BYTES]) -> Self {
                let mut text = String::with_capacity(TEXT_LEN_BYTES);
                text.push_str($prefix);
                hex::encode(&bytes, &mut text);
                Self { bytes, text }
            }

            /// The 128 bits.
            pub fn as_bytes(&self) -> &[u8; ID_LEN_BYTES] {
                &self.bytes
            }

            /// The text form, which [`FromStr`] parses.
            pub fn as_str(&self) -> &str {
                &self.text
            }

            pub(crate) fn parse(text: &str) -> Option<Self> {
                let digits = text.strip_prefix($prefix)?;
                let mut bytes = [0; ID_LEN_BYTES];
                hex::decode_lower(digits.as_bytes(), &mut bytes).then(|| Self::from_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text).ok_or(Error::Validation($shape))
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
    };
}

identifier! {
    /// Identifies a user, also after renames: `usr_` and 32 digits.
    UserId, "usr_", "a user id is usr_ and 32 lower-case hexadecimal digits"
}

identifier! {
    /// Identifies an API key: `htk_` and 32 digits, the beginning of its token. Not secret.
    ApiKeyId, "htk_", "an API key id is htk_ and 32 lower-case hexadecimal digits"
}

identifier! {
    /// Identifies a session: `ses_` and 32 digits. Not secret, and no part of its token.
    SessionId, "ses_", "a session id is ses_ and 32 lower-case hexadecimal digits"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let id = UserId::from_bytes([0xa5; 16]);
        assert_eq!(id.as_str(), "usr_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5");
        assert_eq!(id.parse::<UserId>().unwrap(), id);
        for bad in ["", "usr_", "usr_a5", &id.to_uppercase(), &id.replace("usr", "htk"), &format!("{id}0")] {
            assert!(bad.parse::<UserId>().is_err(), "{bad}");
        }
    }
}
