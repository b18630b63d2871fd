//! For the fuzz targets: every decoder of stored bytes and typed text, without the MAC check in
//! front.
//!
//! A decoded value must encode to bytes that decode to the same value.

use crate::audit::{AuditAnchor, AuditEntry, Head};
use crate::codec::FieldReader;
use crate::crypto::{Argon2Params, EncryptedBlob, KeyRing};
use crate::error::Result;
use crate::factor::{Code, FactorPolicy, StoredFactors};
use crate::record::{RoleRecord, StoredApiKey, StoredSession, StoredUser};
use crate::service::Meta;
use crate::single_use::StoredToken;
use crate::token::{parse_api_key, parse_session, parse_single_use};
use crate::username::normalize_username;

/// The number of input kinds.
pub const KINDS: u8 = 15;

/// Decodes `bytes` as an input of `kind`, which must be below [`KINDS`].
///
/// # Panics
/// If a decoded value does not encode to bytes that decode to the same value.
pub fn decode(kind: u8, bytes: &[u8]) {
    let id = [7; 16];
    let text = String::from_utf8_lossy(bytes);
    match kind {
        0 => again(bytes, |bytes| StoredUser::decode(id, FieldReader::new(bytes))?.encode()),
        1 => again(bytes, |bytes| StoredApiKey::decode(id, FieldReader::new(bytes))?.encode()),
        2 => again(bytes, |bytes| StoredSession::decode(FieldReader::new(bytes))?.encode()),
        3 => again(bytes, |bytes| RoleRecord::decode("role", FieldReader::new(bytes))?.encode()),
        4 => again(bytes, |bytes| AuditEntry::decode(bytes).and_then(|(entry, previous)| entry.encode(&previous))),
        5 => again(bytes, |bytes| Ok(Head::decode(FieldReader::new(bytes))?.encode())),
        6 => again(bytes, |bytes| Meta::decode(bytes)?.encode()),
        7 => again(bytes, |bytes| Ok(EncryptedBlob::from_bytes(bytes)?.to_bytes())),
        8 => again(bytes, |bytes| Ok(parsed::<AuditAnchor>(bytes)?.to_string().into_bytes())),
        9 => again(bytes, |bytes| Ok(parsed::<Argon2Params>(bytes)?.to_string().into_bytes())),
        10 => again(bytes, |bytes| Ok(normalize_username(&String::from_utf8_lossy(bytes))?.into_bytes())),
        11 => again(bytes, |bytes| StoredFactors::decode(FieldReader::new(bytes))?.encode()),
        12 => again(bytes, |bytes| Ok(StoredToken::decode(FieldReader::new(bytes))?.encode())),
        13 => again(bytes, |bytes| FactorPolicy::decode(FieldReader::new(bytes))?.encode()),
        _ => {
            let _code = Code::parse(&text);
            let _single_use = parse_single_use(&text);
            let _ring = KeyRing::parse(&text);
            let _key = parse_api_key(&text);
            let _session = parse_session(&text);
        }
    }
}

fn parsed<T: std::str::FromStr<Err = crate::Error>>(bytes: &[u8]) -> Result<T> {
    String::from_utf8_lossy(bytes).parse()
}

/// Decodes and encodes twice. The second round must change nothing.
#[allow(clippy::panic, reason = "a fuzz target fails by panicking")]
fn again(bytes: &[u8], recode: impl Fn(&[u8]) -> Result<Vec<u8>>) {
    let Ok(first) = recode(bytes) else { return };
    match recode(&first) {
        Ok(second) => assert_eq!(first, second, "an encoded value decodes to another value"),
        Err(error) => panic!("an encoded value does not decode: {error}"),
    }
}
