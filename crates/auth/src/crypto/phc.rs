//! The PHC string form of an Argon2id hash, parsed strictly:
//! `$argon2id$v=19$m=19456,t=2,p=1[,keyid=<base64 of the pepper's id>]$<salt>$<hash>`.
//!
//! Source: the PHC string format specification (C2SP). Each value has exactly one text.

use base64ct::{Base64Unpadded, Encoding};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::argon2_params::{Argon2Params, params};
use super::pepper::PepperId;
use crate::error::{Error, Result};

pub(super) const SALT_LEN_BYTES: usize = 16;
pub(super) const HASH_LEN_BYTES: usize = 32;
const MAX_TEXT_LEN_BYTES: usize = 256;
const HEAD: &str = "$argon2id$v=19$";

/// The fields of an Argon2id PHC string.
#[derive(Clone, Debug, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(super) struct Phc {
    #[zeroize(skip)]
    pub(super) params: Argon2Params,
    #[zeroize(skip)]
    pub(super) pepper: Option<PepperId>,
    pub(super) salt: Vec<u8>,
    pub(super) hash: [u8; HASH_LEN_BYTES],
}

impl Phc {
    pub(super) fn to_text(&self) -> String {
        let key_id = match self.pepper {
            Some(id) => format!(",keyid={}", Base64Unpadded::encode_string(&id.to_be_bytes())),
            None => String::new(),
        };
        let salt = Base64Unpadded::encode_string(&self.salt);
        let hash = Base64Unpadded::encode_string(&self.hash);
        format!("{HEAD}{}{key_id}${salt}${hash}", self.params)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        match parse(text) {
            Some(phc) if phc.params.within_ceiling() => Ok(phc),
            _ => Err(Error::Crypto("a password hash is not an acceptable Argon2id PHC string")),
        }
    }
}

fn parse(text: &str) -> Option<Phc> {
    if text.len() > MAX_TEXT_LEN_BYTES {
        return None;
    }
    let mut parts = text.strip_prefix(HEAD)?.split('$');
    let (settings, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let mut settings = settings.split(',');
    let params = params(&mut settings)?;
    let pepper = match settings.next() {
        Some(key_id) => Some(pepper_id(key_id)?),
        None => None,
    };
    if settings.next().is_some() {
        return None;
    }
    let salt = Base64Unpadded::decode_vec(salt).ok()?;
    let mut exact = [0; HASH_LEN_BYTES];
    let len = Base64Unpadded::decode(hash, &mut exact).ok()?.len();
    let fits = (8..=64).contains(&salt.len()) && len == HASH_LEN_BYTES;
    fits.then_some(Phc { params, pepper, salt, hash: exact })
}

fn pepper_id(text: &str) -> Option<PepperId> {
    let mut id = [0; 4];
    let decoded = Base64Unpadded::decode(text.strip_prefix("keyid=")?, &mut id).ok()?;
    (decoded.len() == 4).then(|| PepperId::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Phc {
        let params = Argon2Params { memory_kib: 19456, iterations: 2, lanes: 1 };
        Phc { params, pepper: Some(258), salt: (0..16).collect(), hash: [9; 32] }
    }

    #[test]
    fn one_value_one_text() {
        for pepper in [None, Some(0), Some(258), Some(u32::MAX)] {
            let mut phc = sample();
            phc.pepper = pepper;
            assert_eq!(Phc::parse(&phc.to_text()).unwrap(), phc);
        }
        assert!(sample().to_text().starts_with("$argon2id$v=19$m=19456,t=2,p=1,keyid=AAABAg$AAECAw"));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = sample().to_text();
        let bad = [
            String::new(),
            good.replace("argon2id", "argon2i"),
            good.replace("v=19", "v=16"),
            good.replace("m=19456", "m=019456"),
            good.replace("m=19456", "m=4294967295"),
            good.replace("m=19456", "m=+19456"),
            good.replace("t=2", "t=0"),
            good.replace("p=1", "p=99"),
            good.replace("keyid=", "data="),
            format!("{good}$"),
            format!("{good}A"),
            good.replace(",keyid=AAABAg", ",keyid=AAABAg,x=1"),
            good[..good.len() - 1].to_owned(),
        ];
        for text in bad {
            assert!(Phc::parse(&text).is_err(), "{text}");
        }
    }
}
