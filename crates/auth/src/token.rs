//! Tokens of API keys and sessions, and single-use tokens.
//!
//! ```text
//! htk_<id: 32 digits>_<secret: 64 digits>_<checksum: 8 digits>      an API key
//! hts_<secret: 64 digits>_<checksum: 8 digits>                      a session
//! hto_<secret: 64 digits>_<checksum: 8 digits>                      a single-use token
//! ```
//!
//! All digits are lower-case hexadecimal, so that each token has one text. The fixed prefixes let
//! secret scanners find leaked tokens. The checksum, CRC-32 of all before its underscore, detects
//! typos without a look-up; it is no protection.

use std::fmt;
use std::ops::Deref;

use hightower_seams::Entropy;
use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

use crate::entropy::fill_random;
use crate::error::Result;
use crate::hex;
use crate::id::{ApiKeyId, ID_LEN_BYTES};

/// Length of the secret in a token, in bytes.
pub const SECRET_LEN_BYTES: usize = 32;

pub(crate) const API_KEY_PREFIX: &str = "htk_";
pub(crate) const SESSION_PREFIX: &str = "hts_";
pub(crate) const SINGLE_USE_PREFIX: &str = "hto_";
const CHECKSUM_LEN_BYTES: usize = 4;
const CHECKSUM_DIGITS: usize = 2 * CHECKSUM_LEN_BYTES;

/// The secret part of a token, wiped when dropped.
pub(crate) type TokenSecret = SecretBox<[u8; SECRET_LEN_BYTES]>;

/// A token or code for its owner. It is shown once: the store has only a keyed hash of it, or
/// encrypts it.
///
/// It dereferences to its text. `Debug` does not show it, and its memory is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

pub(crate) fn random_secret(entropy: &dyn Entropy) -> Result<TokenSecret> {
    let mut outcome = Ok(());
    let secret = TokenSecret::init_with_mut(|bytes: &mut [u8; SECRET_LEN_BYTES]| outcome = fill_random(entropy, bytes));
    outcome.map(|()| secret)
}

pub(crate) fn api_key_token(id: &ApiKeyId, secret: &TokenSecret) -> Token {
    let mut text = String::with_capacity(160);
    text.push_str(id);
    finish(text, secret)
}

pub(crate) fn session_token(secret: &TokenSecret) -> Token {
    let mut text = String::with_capacity(160);
    text.push_str("hts");
    finish(text, secret)
}

pub(crate) fn single_use_token(secret: &TokenSecret) -> Token {
    let mut text = String::with_capacity(160);
    text.push_str("hto");
    finish(text, secret)
}

fn finish(mut text: String, secret: &TokenSecret) -> Token {
    text.push('_');
    hex::encode(secret.expose_secret(), &mut text);
    let checksum = crc32fast::hash(text.as_bytes());
    text.push('_');
    hex::encode(&checksum.to_be_bytes(), &mut text);
    Token::new(text)
}

/// The id bytes and secret of a well-formed API key token.
pub(crate) fn parse_api_key(token: &str) -> Option<([u8; ID_LEN_BYTES], TokenSecret)> {
    let body = checked_body(token)?.strip_prefix(API_KEY_PREFIX.as_bytes())?;
    let (id_digits, rest) = body.split_at_checked(2 * ID_LEN_BYTES)?;
    let mut id = [0; ID_LEN_BYTES];
    let secret = parse_secret(rest.strip_prefix(b"_")?)?;
    hex::decode_lower(id_digits, &mut id).then_some((id, secret))
}

/// The secret of a well-formed session token.
pub(crate) fn parse_session(token: &str) -> Option<TokenSecret> {
    parse_secret(checked_body(token)?.strip_prefix(SESSION_PREFIX.as_bytes())?)
}

/// The secret of a well-formed single-use token.
pub(crate) fn parse_single_use(token: &str) -> Option<TokenSecret> {
    parse_secret(checked_body(token)?.strip_prefix(SINGLE_USE_PREFIX.as_bytes())?)
}

fn checked_body(token: &str) -> Option<&[u8]> {
    let (head, digits) = token.as_bytes().split_at_checked(token.len().checked_sub(CHECKSUM_DIGITS)?)?;
    let body = head.strip_suffix(b"_")?;
    let mut checksum = [0; CHECKSUM_LEN_BYTES];
    let fits = body.len() <= 128
        && hex::decode_lower(digits, &mut checksum)
        && u32::from_be_bytes(checksum) == crc32fast::hash(body);
    fits.then_some(body)
}

fn parse_secret(digits: &[u8]) -> Option<TokenSecret> {
    let mut fits = false;
    let secret =
        TokenSecret::init_with_mut(|bytes: &mut [u8; SECRET_LEN_BYTES]| fits = hex::decode_lower(digits, bytes));
    fits.then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hightower_seams::OsEntropy;

    #[test]
    fn tokens_round_trip() {
        let secret = random_secret(&OsEntropy).unwrap();
        let id = ApiKeyId::from_bytes([0x5a; 16]);
        let token = api_key_token(&id, &secret);
        let text = &*token;
        assert_eq!(text.len(), 110);
        assert!(text.starts_with(id.as_str()));
        let (parsed, back) = parse_api_key(text).unwrap();
        assert_eq!((&parsed, back.expose_secret()), (id.as_bytes(), secret.expose_secret()));
        assert!(parse_session(text).is_none());
        let session = session_token(&secret);
        assert_eq!(parse_session(&session).unwrap().expose_secret(), secret.expose_secret());
        assert!(parse_api_key(&session).is_none() && parse_single_use(&session).is_none());
        let single = single_use_token(&secret);
        assert_eq!(parse_single_use(&single).unwrap().expose_secret(), secret.expose_secret());
        assert!(parse_api_key(&single).is_none() && parse_session(&single).is_none());
    }

    #[test]
    fn every_single_character_typo_is_refused() {
        let secret = random_secret(&OsEntropy).unwrap();
        let token = api_key_token(&ApiKeyId::from_bytes([1; 16]), &secret);
        let text = &*token;
        for at in 0..text.len() {
            for c in ['0', '1', 'a', 'f', 'F', '_', 'z'] {
                if text[at..].starts_with(c) {
                    continue;
                }
                let typo = format!("{}{c}{}", &text[..at], &text[at + 1..]);
                assert!(parse_api_key(&typo).is_none(), "{at} {c}");
            }
            assert!(parse_api_key(&text[..at]).is_none());
        }
        for odd in ["", "_", "htk_", "ü", "htk__", &"é".repeat(60), &"0".repeat(100_000)] {
            assert!(parse_api_key(odd).is_none() && parse_session(odd).is_none());
        }
    }
}
