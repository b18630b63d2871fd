//! Second factors: time-based one-time passwords (TOTP, RFC 6238) and recovery codes.
//!
//! The record of a user's factors, under `f/` and the user's id:
//!
//! ```text
//! required u8 | pending: u8 0, or 1 and secret | active: u8 0, or 1, secret, last step u64
//!             | recovery codes: count u8, then a MAC [32] each
//! secret = encrypted blob with its length u32 | algorithm u8 | since_ms i64 | recovery codes (only if pending)
//! ```

use std::fmt;

use hightower_seams::Entropy;
use subtle::ConstantTimeEq;
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

use crate::codec::{FieldReader, FieldWriter};
use crate::crypto::{EncryptedBlob, MacKey, TAG_LEN_BYTES};
use crate::entropy::fill_random;
use crate::error::{Error, Result};
use crate::hex;
use crate::id::UserId;
use crate::mutants::planted;
use crate::role_names::{checked_role_names, decode_names, encode_names};
use crate::timestamp::Timestamp;
use crate::token::Token;

/// Number of recovery codes of a user.
pub const RECOVERY_CODES: usize = 10;
/// Largest [`TotpOptions::window_steps`].
pub const MAX_TOTP_WINDOW_STEPS: u8 = 4;
const TOTP_DIGITS: u8 = 6;
const TOTP_STEP_S: u64 = 30;
const MAX_ISSUER_LEN_BYTES: usize = 64;
/// 112 bits: enough for a fast keyed hash (OWASP ASVS 5.0, 6.5.2).
const RECOVERY_LEN_BYTES: usize = 14;
const RECOVERY_GROUP: usize = 4;

/// A factor of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// The password.
    Password,
    /// A time-based one-time password.
    Totp,
    /// A recovery code.
    RecoveryCode,
}

impl Factor {
    /// The factors that count as a second factor.
    pub const SECOND: [Self; 2] = [Self::Totp, Self::RecoveryCode];

    fn code(self) -> u8 {
        match self {
            Self::Password => 1,
            Self::Totp => 2,
            Self::RecoveryCode => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::Password),
            2 => Ok(Self::Totp),
            3 => Ok(Self::RecoveryCode),
            found => Err(Error::VersionUnsupported { what: "a factor", found, known: 3 }),
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Password => "password",
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery_code",
        })
    }
}

/// A factor of a session, and the time of its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorUse {
    /// The factor.
    pub factor: Factor,
    /// The time, in Unix ms.
    pub at_ms: Timestamp,
}

pub(crate) fn encode_uses(uses: &[FactorUse], writer: &mut FieldWriter) -> Result<()> {
    let Ok(count) = u8::try_from(uses.len()) else {
        return Err(Error::LimitExceeded("too many factors"));
    };
    writer.u8(count);
    for used in uses {
        writer.u8(used.factor.code()).i64(used.at_ms);
    }
    Ok(())
}

pub(crate) fn decode_uses(reader: &mut FieldReader<'_>) -> Result<Vec<FactorUse>> {
    let count = reader.u8()?;
    (0..count).map(|_| Ok(FactorUse { factor: Factor::from_code(reader.u8()?)?, at_ms: reader.i64()? })).collect()
}

/// The hash function of a one-time password. Most authenticator apps support only SHA-1; its
/// collisions do not weaken HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TotpAlgorithm {
    /// HMAC-SHA-1, with a secret of 20 bytes.
    #[default]
    Sha1,
    /// HMAC-SHA-256, with a secret of 32 bytes.
    Sha256,
    /// HMAC-SHA-512, with a secret of 64 bytes.
    Sha512,
}

impl TotpAlgorithm {
    fn code(self) -> u8 {
        match self {
            Self::Sha1 => 1,
            Self::Sha256 => 2,
            Self::Sha512 => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self> {
        match code {
            1 => Ok(Self::Sha1),
            2 => Ok(Self::Sha256),
            3 => Ok(Self::Sha512),
            found => Err(Error::VersionUnsupported { what: "a one-time password", found, known: 3 }),
        }
    }

    fn secret_len_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    fn of_crate(self) -> totp_rs::Algorithm {
        match self {
            Self::Sha1 => totp_rs::Algorithm::SHA1,
            Self::Sha256 => totp_rs::Algorithm::SHA256,
            Self::Sha512 => totp_rs::Algorithm::SHA512,
        }
    }
}

/// Parameters of one-time passwords. A code has 6 digits and a period of 30 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotpOptions {
    /// The issuer that an authenticator app shows; 1 to 64 bytes, no colon. Default `Hightower`.
    pub issuer: String,
    /// The hash function for new secrets; default [`TotpAlgorithm::Sha1`].
    pub algorithm: TotpAlgorithm,
    /// The tolerated error of a device's clock in either direction, in steps of 30 s: 0 to 4,
    /// default 1.
    pub window_steps: u8,
}

impl Default for TotpOptions {
    fn default() -> Self {
        Self { issuer: "Hightower".into(), algorithm: TotpAlgorithm::default(), window_steps: 1 }
    }
}

impl TotpOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Validation`] for a setting out of range.
    pub fn validate(&self) -> Result<()> {
        let fine = |c: char| c != ':' && !c.is_control();
        if self.issuer.is_empty() || self.issuer.len() > MAX_ISSUER_LEN_BYTES || !self.issuer.chars().all(fine) {
            return Err(Error::Validation("an issuer has 1 to 64 bytes, no colon and no control characters"));
        }
        if self.window_steps > MAX_TOTP_WINDOW_STEPS {
            return Err(Error::Validation("the window of a one-time password is 0 to 4 steps"));
        }
        Ok(())
    }
}

/// The users who need a second factor. Users who have one always need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactorPolicy {
    /// All users.
    pub everyone: bool,
    /// Users with one of these roles; at most 64 roles.
    pub roles: Vec<String>,
}

impl FactorPolicy {
    pub(crate) fn checked(&self) -> Result<Self> {
        Ok(Self { everyone: self.everyone, roles: checked_role_names(&self.roles)? })
    }

    pub(crate) fn requires(&self, roles: &[String]) -> bool {
        self.everyone || roles.iter().any(|role| self.roles.contains(role))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u8(self.everyone.into());
        encode_names(&self.roles, &mut writer)?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(mut reader: FieldReader<'_>) -> Result<Self> {
        let policy = Self { everyone: reader.flag()?, roles: decode_names(&mut reader)? };
        reader.end()?;
        Ok(policy)
    }
}

/// The secret of a new one-time password and new recovery codes. Show them once: the store keeps
/// the secret encrypted, and only keyed hashes of the recovery codes.
#[derive(Debug)]
#[non_exhaustive]
pub struct Enrolment {
    /// The secret in base32, for typing.
    pub secret: Token,
    /// The same as an `otpauth://` URI, for a QR code.
    pub uri: Token,
    /// The recovery codes. Each is valid once, after the confirmation of the enrolment.
    pub recovery_codes: Vec<Token>,
}

/// The second factors of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FactorStatus {
    /// When the one-time password was confirmed, in Unix ms; each login since requires it.
    pub totp_since_ms: Option<Timestamp>,
    /// Whether an enrolment waits for its confirmation.
    pub pending: bool,
    /// Number of unused recovery codes.
    pub recovery_codes_left: usize,
    /// Whether this user is named as one who needs a second factor.
    pub required: bool,
    /// Whether a login requires a second factor, for any reason.
    pub asked: bool,
}

/// The secret of a one-time password, encrypted.
#[derive(Clone, Debug)]
pub(crate) struct TotpSecret {
    pub(crate) blob: EncryptedBlob,
    pub(crate) algorithm: TotpAlgorithm,
    pub(crate) since_ms: Timestamp,
}

/// Keyed hashes of recovery codes.
pub(crate) type RecoveryMacs = Vec<[u8; TAG_LEN_BYTES]>;

#[derive(Clone, Debug)]
pub(crate) struct PendingFactor {
    pub(crate) secret: TotpSecret,
    pub(crate) recovery: RecoveryMacs,
}

#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) secret: TotpSecret,
    /// The step of the last accepted code. Codes of this step and earlier ones are refused.
    pub(crate) last_step: u64,
}

/// The stored record of a user's second factors.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredFactors {
    pub(crate) required: bool,
    pub(crate) pending: Option<PendingFactor>,
    pub(crate) active: Option<Active>,
    pub(crate) recovery: RecoveryMacs,
}

impl StoredFactors {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u8(self.required.into()).u8(self.pending.is_some().into());
        if let Some(PendingFactor { secret, recovery }) = &self.pending {
            secret.encode(&mut writer)?;
            encode_macs(recovery, &mut writer)?;
        }
        writer.u8(self.active.is_some().into());
        if let Some(Active { secret, last_step }) = &self.active {
            secret.encode(&mut writer)?;
            writer.u64(*last_step);
        }
        encode_macs(&self.recovery, &mut writer)?;
        Ok(writer.finish())
    }

    pub(crate) fn decode(mut reader: FieldReader<'_>) -> Result<Self> {
        let required = reader.flag()?;
        let pending = if reader.flag()? {
            Some(PendingFactor { secret: TotpSecret::decode(&mut reader)?, recovery: decode_macs(&mut reader)? })
        } else {
            None
        };
        let active = if reader.flag()? {
            Some(Active { secret: TotpSecret::decode(&mut reader)?, last_step: reader.u64()? })
        } else {
            None
        };
        let recovery = decode_macs(&mut reader)?;
        reader.end()?;
        Ok(Self { required, pending, active, recovery })
    }

    /// The encrypted secrets, for re-wrapping.
    pub(crate) fn secrets_mut(&mut self) -> impl Iterator<Item = &mut TotpSecret> {
        let pending = self.pending.iter_mut().map(|pending| &mut pending.secret);
        pending.chain(self.active.iter_mut().map(|active| &mut active.secret))
    }

    /// Removes a recovery code; `false` if it is not one of them.
    pub(crate) fn take_recovery(&mut self, mac: &[u8; TAG_LEN_BYTES]) -> bool {
        let found = self.recovery.iter().position(|held| held.ct_eq(mac).into());
        if let Some(at) = found
            && !planted("auth_recovery_code_stays")
        {
            self.recovery.remove(at);
        }
        found.is_some()
    }
}

impl TotpSecret {
    fn encode(&self, writer: &mut FieldWriter) -> Result<()> {
        writer.bytes(&self.blob.to_bytes())?.u8(self.algorithm.code()).i64(self.since_ms);
        Ok(())
    }

    fn decode(reader: &mut FieldReader<'_>) -> Result<Self> {
        let blob = EncryptedBlob::from_bytes(reader.bytes()?)?;
        Ok(Self { blob, algorithm: TotpAlgorithm::from_code(reader.u8()?)?, since_ms: reader.i64()? })
    }
}

fn encode_macs(macs: &RecoveryMacs, writer: &mut FieldWriter) -> Result<()> {
    let Ok(count) = u8::try_from(macs.len()) else {
        return Err(Error::LimitExceeded("too many recovery codes"));
    };
    writer.u8(count);
    for mac in macs {
        writer.raw(mac);
    }
    Ok(())
}

fn decode_macs(reader: &mut FieldReader<'_>) -> Result<RecoveryMacs> {
    let count = reader.u8()?;
    (0..count).map(|_| reader.array()).collect()
}

/// A typed code.
pub(crate) enum Code {
    Totp(Zeroizing<String>),
    Recovery(Zeroizing<[u8; RECOVERY_LEN_BYTES]>),
}

impl Code {
    /// Ignores spaces, dashes and case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The longest code with a separator behind each character is shorter.
        if text.len() > 4 * RECOVERY_LEN_BYTES {
            return None;
        }
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(text.chars().filter(|c| *c != ' ' && *c != '-'));
        if plain.len() == usize::from(TOTP_DIGITS) && plain.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Totp(plain));
        }
        let mut bytes = Zeroizing::new([0; RECOVERY_LEN_BYTES]);
        hex::decode(plain.as_bytes(), bytes.as_mut_slice()).then_some(Self::Recovery(bytes))
    }
}

/// New recovery codes, and their keyed hashes.
pub(crate) fn new_recovery_codes(
    entropy: &dyn Entropy,
    key: &MacKey,
    user_id: &UserId,
) -> Result<(Vec<Token>, RecoveryMacs)> {
    let (mut codes, mut macs) = (Vec::with_capacity(RECOVERY_CODES), RecoveryMacs::with_capacity(RECOVERY_CODES));
    for _ in 0..RECOVERY_CODES {
        let mut bytes = Zeroizing::new([0; RECOVERY_LEN_BYTES]);
        fill_random(entropy, bytes.as_mut_slice())?;
        let mut text = String::with_capacity(3 * RECOVERY_LEN_BYTES);
        for group in bytes.chunks(RECOVERY_GROUP / 2) {
            if !text.is_empty() {
                text.push('-');
            }
            hex::encode(group, &mut text);
        }
        codes.push(Token::new(text));
        macs.push(recovery_mac(key, user_id, &bytes));
    }
    Ok((codes, macs))
}

/// The id has a fixed length, so the concatenation of id and code is unambiguous.
pub(crate) fn recovery_mac(key: &MacKey, user_id: &UserId, code: &[u8; RECOVERY_LEN_BYTES]) -> [u8; TAG_LEN_BYTES] {
    key.tag(&[user_id.as_bytes(), code])
}

/// A new secret, of the length of the hash.
pub(crate) fn new_totp_secret(entropy: &dyn Entropy, algorithm: TotpAlgorithm) -> Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(vec![0; algorithm.secret_len_bytes()]);
    fill_random(entropy, &mut secret)?;
    Ok(secret)
}

fn totp(secret: &[u8], algorithm: TotpAlgorithm, window_steps: u8) -> Result<Totp> {
    let builder = Builder::new().with_algorithm(algorithm.of_crate()).with_digits(TOTP_DIGITS);
    let builder = builder.with_step_duration(TOTP_STEP_S).with_skew(window_steps.into());
    let built = builder.with_secret(Secret::new(secret.into())).build();
    built.map_err(|_| Error::Crypto("the secret of a one-time password is too short"))
}

/// The step of a code, if it is within the window around the current step.
pub(crate) fn totp_step(
    secret: &[u8],
    algorithm: TotpAlgorithm,
    window_steps: u8,
    code: &str,
    now_ms: Timestamp,
) -> Result<Option<u64>> {
    let now_s = u64::try_from(now_ms / 1000).unwrap_or(0);
    Ok(totp(secret, algorithm, window_steps)?.check(code, now_s))
}

/// The secret in base32, and the `otpauth://` URI for it.
pub(crate) fn totp_texts(secret: &[u8], options: &TotpOptions, username: &str) -> (Token, Token) {
    let base32 = Token::new(Secret::new(secret.into()).to_base32());
    let (issuer, label) = (percent_encoded(&options.issuer), percent_encoded(username));
    let mut uri = String::with_capacity(128 + 2 * issuer.len() + label.len() + base32.len());
    for part in ["otpauth://totp/", &issuer, ":", &label, "?secret=", &base32, "&issuer=", &issuer] {
        uri.push_str(part);
    }
    for part in ["&algorithm=", options.algorithm.name(), "&digits=6&period=30"] {
        uri.push_str(part);
    }
    (base32, Token::new(uri))
}

/// RFC 3986 percent-encoding of all but unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push('%');
            hex::encode(&[byte], &mut encoded);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use hightower_seams::OsEntropy;

    /// RFC 6238, appendix B: the last six of its eight digits.
    #[test]
    fn the_codes_of_the_rfc() {
        let seed = |len: usize| b"1234567890".iter().copied().cycle().take(len).collect::<Vec<_>>();
        let vectors = [
            (59, ["94287082", "46119246", "90693936"]),
            (1_111_111_109, ["07081804", "68084774", "25091201"]),
            (1_111_111_111, ["14050471", "67062674", "99943326"]),
            (1_234_567_890, ["89005924", "91819424", "93441116"]),
            (2_000_000_000, ["69279037", "90698825", "38618901"]),
            (20_000_000_000, ["65353130", "77737706", "47863826"]),
        ];
        let algorithms = [TotpAlgorithm::Sha1, TotpAlgorithm::Sha256, TotpAlgorithm::Sha512];
        for (at_s, codes) in vectors {
            for (algorithm, code) in algorithms.into_iter().zip(codes) {
                let secret = seed(algorithm.secret_len_bytes());
                let step = |code: &str, now_s: i64, window| {
                    totp_step(&secret, algorithm, window, code, now_s * 1000 + 999).unwrap()
                };
                let own = u64::try_from(at_s / 30).unwrap();
                assert_eq!(step(&code[2..], at_s, 0), Some(own), "{algorithm:?} at {at_s}");
                assert_eq!(step(code, at_s, 0), None, "eight digits are not six");
                for (off, window, found) in [(30, 0, false), (30, 1, true), (60, 1, false), (60, 2, true)] {
                    assert_eq!(step(&code[2..], at_s + off, window).is_some(), found, "{off} s late");
                    let early = at_s - off;
                    assert_eq!(early >= 0 && step(&code[2..], early, window).is_some(), found && early >= 0);
                }
            }
        }
    }

    #[test]
    fn a_uri_is_what_apps_read() {
        let options = TotpOptions { issuer: "Tower & Sons".into(), ..TotpOptions::default() };
        let (secret, uri) = totp_texts(b"12345678901234567890", &options, "al+ice@example.org");
        assert_eq!(&*secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(
            &*uri,
            "otpauth://totp/Tower%20%26%20Sons:al%2bice%40example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Tower%20%26%20Sons&algorithm=SHA1&digits=6&period=30"
        );
        assert_eq!(format!("{uri:?}"), "Token(redacted)");
        for bad in ["", "a:b", "a\nb", &"x".repeat(65)] {
            assert!(TotpOptions { issuer: bad.into(), ..TotpOptions::default() }.validate().is_err(), "{bad}");
        }
        assert!(TotpOptions { window_steps: 5, ..TotpOptions::default() }.validate().is_err());
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let key = MacKey::new(&[1; 32]).unwrap();
        let user = UserId::from_bytes([1; 16]);
        let (codes, macs) = new_recovery_codes(&OsEntropy, &key, &user).unwrap();
        assert_eq!((codes.len(), macs.len()), (RECOVERY_CODES, RECOVERY_CODES));
        for (code, mac) in codes.iter().zip(&macs) {
            assert_eq!(code.len(), 34);
            for typed in [code.to_string(), code.to_uppercase(), code.replace('-', " "), code.replace('-', "")] {
                let Some(Code::Recovery(bytes)) = Code::parse(&typed) else { panic!("{typed}") };
                assert_eq!(recovery_mac(&key, &user, &bytes), *mac);
                assert_ne!(recovery_mac(&key, &UserId::from_bytes([2; 16]), &bytes), *mac, "another user's");
            }
        }
        assert!(matches!(Code::parse("123 456"), Some(Code::Totp(digits)) if *digits == "123456"));
        for bad in ["", "12345", "1234567", "12345a", "１２３４５６", &"0".repeat(27), &"-".repeat(9999)] {
            assert!(Code::parse(bad).is_none(), "{bad}");
        }
    }
}
