//! The rules for passwords, after NIST SP 800-63B-4 (3.1.1.2) and OWASP ASVS 5.0 (6.2): long
//! enough, not common, without the username, not breached. There are no rules on the kinds of
//! characters.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::username::{NormalUsername, fold, nfkc};

/// Minimum of [`PasswordPolicy::min_length`], in Unicode code points.
pub const MIN_PASSWORD_FLOOR: usize = 8;
/// Maximum length of a password, in bytes.
pub const MAX_PASSWORD_LEN_BYTES: usize = 1024;

const COMMON: &str = include_str!("common_passwords.txt");
const MIN_NAME_INSIDE: usize = 4;

/// Checks whether a password is known from a breach, for instance with a k-anonymity service.
pub trait BreachCheck: Send + Sync {
    /// Whether `password` is known to attackers.
    ///
    /// # Errors
    /// The check failed. The password is then not set.
    fn is_breached(&self, password: &str) -> Result<bool>;
}

/// The rules for new passwords. Existing passwords are not checked again.
///
/// # Examples
/// ```
/// use hightower_auth::PasswordPolicy;
/// let policy = PasswordPolicy::default();
/// assert!(policy.check("correct horse battery staple", "alice").is_ok());
/// assert!(policy.check("passwordpassword", "alice").is_err()); // common
/// assert!(policy.check("alice-in-wonderland", "alice").is_err()); // holds the username
/// assert!(policy.check("short", "alice").is_err());
/// ```
#[derive(Clone)]
pub struct PasswordPolicy {
    min_length: usize,
    max_length: usize,
    breach_check: Option<Arc<dyn BreachCheck>>,
}

impl Default for PasswordPolicy {
    /// 15 to 256 code points, no breach check.
    fn default() -> Self {
        Self { min_length: 15, max_length: 256, breach_check: None }
    }
}

impl PasswordPolicy {
    /// Lengths from `min_length` to `max_length`, in Unicode code points.
    ///
    /// # Errors
    /// [`Error::Validation`] unless 8 ≤ `min_length` and 64 ≤ `max_length` ≤ 256.
    pub fn with_lengths(min_length: usize, max_length: usize) -> Result<Self> {
        if min_length < MIN_PASSWORD_FLOOR || !(64..=256).contains(&max_length) || min_length > max_length {
            return Err(Error::Validation(
                "passwords need a minimum of at least 8 and a maximum of 64 to 256 characters",
            ));
        }
        Ok(Self { min_length, max_length, breach_check: None })
    }

    /// Runs `check` on every new password.
    #[must_use]
    pub fn breach_check(mut self, check: Arc<dyn BreachCheck>) -> Self {
        self.breach_check = Some(check);
        self
    }

    /// Minimum length of a password, in Unicode code points.
    pub fn min_length(&self) -> usize {
        self.min_length
    }

    /// Checks a new password of the user `username`.
    ///
    /// # Errors
    /// [`Error::Validation`] with the violated rule, or the error of the breach check.
    pub fn check(&self, password: &str, username: &str) -> Result<()> {
        let name = crate::username::normal_form(username)?;
        self.accept(password, &name).map(drop)
    }

    /// The normalized password, if it is acceptable.
    pub(crate) fn accept(&self, password: &str, name: &NormalUsername) -> Result<PreparedPassword> {
        let prepared = PreparedPassword::new(password)?;
        let length = prepared.0.chars().count();
        if length < self.min_length {
            return Err(Error::Validation("the password is too short"));
        }
        if length > self.max_length {
            return Err(Error::Validation("the password is too long"));
        }
        let folded = Zeroizing::new(fold(&prepared.0));
        if is_common(&folded) {
            return Err(Error::Validation("the password is common or easy to guess"));
        }
        let name = name.as_str();
        if *folded == name || (name.chars().count() >= MIN_NAME_INSIDE && folded.contains(name)) {
            return Err(Error::Validation("the password holds the username"));
        }
        match &self.breach_check {
            Some(check) if check.is_breached(&prepared.0)? => {
                Err(Error::Validation("the password is known from a breach"))
            }
            _ => Ok(prepared),
        }
    }
}

impl fmt::Debug for PasswordPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordPolicy")
            .field("min_length", &self.min_length)
            .field("max_length", &self.max_length)
            .field("breach_check", &self.breach_check.is_some())
            .finish()
    }
}

/// A password in its normal form (NFKC), of limited length, zeroized when dropped.
pub(crate) struct PreparedPassword(Zeroizing<String>);

impl PreparedPassword {
    pub(crate) fn new(password: &str) -> Result<Self> {
        let password = if password.len() <= MAX_PASSWORD_LEN_BYTES {
            Zeroizing::new(nfkc(password))
        } else {
            Zeroizing::default()
        };
        if password.is_empty() || password.len() > MAX_PASSWORD_LEN_BYTES {
            return Err(Error::Validation("a password has 1 to 1024 bytes"));
        }
        Ok(Self(password))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Whether a case-folded password is on the list of common passwords (with or without digits and
/// signs at its ends), repeats a unit of up to four characters, or is an ascending or descending
/// run of code points.
fn is_common(folded: &str) -> bool {
    let core = folded.trim_matches(|c: char| !c.is_alphabetic());
    COMMON.lines().any(|common| common == folded || (!core.is_empty() && common == core))
        || repeats_a_unit(folded)
        || is_a_run(folded)
}

fn repeats_a_unit(text: &str) -> bool {
    let characters = Zeroizing::new(text.chars().collect::<Vec<_>>());
    (1..=4).any(|unit| {
        characters.len() >= 2 * unit && characters.iter().skip(unit).zip(characters.iter()).all(|(a, b)| a == b)
    })
}

fn is_a_run(text: &str) -> bool {
    let step = |by: i64| {
        let pairs = text.chars().zip(text.chars().skip(1));
        pairs.fold(true, |run, (a, b)| run && i64::from(u32::from(b)) - i64::from(u32::from(a)) == by)
    };
    step(1) || step(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &PasswordPolicy, password: &str) -> bool {
        match policy.check(password, "Gwendolyn") {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.code(), "validation");
                assert!(password.is_empty() || !error.to_string().contains(password));
                true
            }
        }
    }

    #[test]
    fn weak_passwords_are_refused() {
        let policy = PasswordPolicy::with_lengths(8, 64).unwrap();
        for weak in [
            "",
            "1234567",
            "12345678",
            "Password",
            "password1",
            "!!PASSWORD123!!",
            "aaaaaaaaaaaa",
            "abcdabcdabcd",
            "ｐａｓｓｗｏｒｄ",
            "abcdefghijkl",
            "987654321",
            "gwendolyn",
            "xxGWENDOLYN77",
            "qwertyuiop",
            &"ab3$x".repeat(13),
        ] {
            assert!(refused(&policy, weak), "{weak}");
        }
        for fine in ["gwen likes tea", "tr0ub4dor&3x", "пароль длинный", "ten little 0wls"] {
            assert!(!refused(&policy, fine), "{fine}");
        }
    }

    #[test]
    fn lengths_count_code_points_and_have_floors() {
        let policy = PasswordPolicy::default();
        assert!(refused(&policy, "fourteen chars"));
        assert!(!refused(&policy, "fifteen chars !"));
        assert!(!refused(&policy, "äöü und noch was"));
        assert!(PasswordPolicy::with_lengths(7, 64).is_err());
        assert!(PasswordPolicy::with_lengths(8, 63).is_err());
        assert!(PasswordPolicy::with_lengths(8, 257).is_err());
    }

    #[test]
    fn the_breach_check_decides_and_its_failure_refuses() {
        struct Known;
        impl BreachCheck for Known {
            fn is_breached(&self, password: &str) -> Result<bool> {
                match password {
                    "leaked long password" => Ok(true),
                    "service is down today" => Err(Error::NotFound("breach service")),
                    _ => Ok(false),
                }
            }
        }
        let policy = PasswordPolicy::default().breach_check(Arc::new(Known));
        assert!(refused(&policy, "leaked long password"));
        assert_eq!(policy.check("service is down today", "u").unwrap_err().code(), "not_found");
        assert!(policy.check("never seen before this", "u").is_ok());
    }

    #[test]
    fn the_list_is_in_the_form_it_is_compared_in() {
        assert!(COMMON.lines().count() > 300);
        for line in COMMON.lines() {
            assert_eq!(fold(line), line);
            assert!(line.chars().count() >= 6, "{line}");
        }
    }
}
