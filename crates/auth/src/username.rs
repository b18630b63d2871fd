//! Usernames: their rules and their normal form.
//!
//! A username must be one of RFC 8265's profile UsernameCaseMapped: no invisible or compatibility
//! characters, no direction marks, and right-to-left text must satisfy the Bidi Rule. It must
//! neither begin with a combining mark nor have the form of an id. Names are unique in their normal
//! form, which folds more than the profile: the profile's form, then NFKC and full case folding
//! until nothing changes (toNFKC_Casefold, the Unicode Standard, section 3.13). "Alice", "ALICE "
//! and "ａｌｉｃｅ" are one name, and so are "Straße" and "STRASSE".
//!
//! Names that look alike (Latin a, Cyrillic а) have the same skeleton (Unicode Technical Standard
//! 39), in normal form or as they were given: see [`LookAlikes`].

use std::collections::BTreeSet;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use icu_properties::CodePointMapData;
use icu_properties::CodePointSetData;
use icu_properties::props::{BidiControl, GeneralCategory};
use precis_profiles::UsernameCaseMapped;
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use unicode_security::confusable_detection::skeleton;

use crate::error::{Error, Result};
use crate::id::{ApiKeyId, SessionId, UserId};
use crate::mutants::planted;

/// The policy for a new name that is confusable with another user's name (UTS 39).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookAlikes {
    /// Refuse it: "а1ice" (with a Cyrillic а and a digit 1) once there is "alice", and "ALlCE"
    /// (with a small L) once there is "ALICE". Both the lower-case forms and the given forms are
    /// compared.
    #[default]
    Refuse,
    /// Accept it.
    Allow,
}

/// Longest username after normalisation, in Unicode code points.
pub const MAX_USERNAME_CODE_POINTS: usize = 64;
/// Longest username as given, in bytes.
pub const MAX_USERNAME_LEN_BYTES: usize = 512;

const MAX_ROUNDS: usize = 4;

/// A username in normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NormalUsername(String);

impl NormalUsername {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The normal form of `username`, which is unique among users.
///
/// A name has 1 to 64 code points: letters, marks, decimal digits and `. _ - @ +`.
///
/// # Errors
/// [`Error::Validation`] for anything else.
///
/// # Examples
/// ```
/// use hightower_auth::normalize_username;
/// assert_eq!(normalize_username("  Straße@Example.org ")?, "strasse@example.org");
/// assert!(normalize_username("two words").is_err());
/// # Ok::<(), hightower_auth::Error>(())
/// ```
pub fn normalize_username(username: &str) -> Result<String> {
    normal_form(username).map(|name| name.0)
}

pub(crate) fn normal_form(username: &str) -> Result<NormalUsername> {
    if username.len() > MAX_USERNAME_LEN_BYTES {
        return Err(Error::Validation("the username is longer than 512 bytes"));
    }
    let username = username.trim();
    if username.is_empty() {
        return Err(Error::Validation("the username is empty"));
    }
    const PROFILE: Error = Error::Validation(
        "the username has a character that RFC 8265 refuses: an invisible or compatibility character, or one that breaks the text direction",
    );
    let refused = |text: &str| UsernameCaseMapped::enforce(text).is_err() && !planted("auth_invisible_names");
    if refused(username) {
        return Err(PROFILE);
    }
    let name = fold(username);
    if refused(&name) {
        return Err(PROFILE);
    }
    if name.chars().count() > MAX_USERNAME_CODE_POINTS {
        return Err(Error::Validation("the username is longer than 64 characters"));
    }
    if !name.chars().all(allowed) {
        return Err(Error::Validation("a username has letters, digits and . _ - @ + only"));
    }
    if name.chars().next().is_some_and(is_mark) {
        return Err(Error::Validation("a username must not begin with a combining mark"));
    }
    if UserId::parse(&name).is_some() || ApiKeyId::parse(&name).is_some() || SessionId::parse(&name).is_some() {
        return Err(Error::Validation("a username must not have the form of an id"));
    }
    Ok(NormalUsername(name))
}

impl NormalUsername {
    /// The skeletons of its normal form and of its given form. Confusable names have a common
    /// skeleton. Both forms are needed: a capital I looks like a small L, a small i does not.
    pub(crate) fn skeletons(&self, given: &str) -> BTreeSet<String> {
        let given = nfkc(given.trim());
        let given = if planted("auth_looks_of_lower_case") { &self.0 } else { &given };
        [&self.0, given].into_iter().map(|form| skeleton(form).collect()).collect()
    }
}

/// Whether a text changes the direction or the line breaks of the text around it.
pub(crate) fn disturbs_text(text: &str) -> bool {
    text.chars().any(disturbs)
}

/// Whether a character changes the direction or the line breaks.
pub(crate) fn disturbs(c: char) -> bool {
    let bidi = CodePointSetData::new::<BidiControl>();
    c.is_control() || bidi.contains(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

fn is_mark(c: char) -> bool {
    use GeneralCategory as Category;
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    matches!(category, Category::NonspacingMark | Category::SpacingMark | Category::EnclosingMark)
}

/// NFKC and full case folding, to a fixed point.
pub(crate) fn fold(text: &str) -> String {
    let normalizer = ComposingNormalizer::new_nfkc();
    let folder = CaseMapper::new();
    let mut name = normalizer.normalize(text).into_owned();
    for _ in 0..MAX_ROUNDS {
        let next = normalizer.normalize(&folder.fold_string(&name)).into_owned();
        if next == name {
            break;
        }
        name = next;
    }
    name
}

/// NFKC, for passwords (NIST SP 800-63B-4, 3.1.1.2).
pub(crate) fn nfkc(text: &str) -> String {
    ComposingNormalizer::new_nfkc().normalize(text).into_owned()
}

fn allowed(c: char) -> bool {
    use GeneralCategory as Category;
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || "._-@+".contains(c);
    }
    matches!(
        CodePointMapData::<GeneralCategory>::new().get(c),
        Category::LowercaseLetter
            | Category::UppercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter
            | Category::NonspacingMark
            | Category::SpacingMark
            | Category::DecimalNumber
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_name_meet() {
        for (one, other) in [
            ("Alice", "aLICE"),
            (" alice\t", "alice"),
            ("ａｌｉｃｅ", "alice"),
            ("Straße", "STRASSE"),
            ("e\u{301}mile", "Émile"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ] {
            assert_eq!(normal_form(one).unwrap(), normal_form(other).unwrap(), "{one} {other}");
        }
        assert_ne!(normal_form("a").unwrap(), normal_form("а").unwrap());
    }

    #[test]
    fn what_cannot_be_seen_or_typed_is_refused() {
        for bad in [
            "",
            "  ",
            "a b",
            "a\u{200b}b",
            "a\u{0}",
            "a/b",
            "a\u{202e}b",
            "a\u{e000}",
            "😀",
            "a\nb",
            "\u{feff}a",
            "ﬁona",
        ] {
            assert!(normal_form(bad).is_err(), "{bad:?}");
        }
        assert!(normal_form(&"a".repeat(64)).is_ok());
        assert!(normal_form(&"a".repeat(65)).is_err());
        assert!(normal_form(&"é".repeat(64)).is_ok());
        assert!(normal_form(&format!("{}a", " ".repeat(512))).is_err());
    }

    /// Default-ignorable code points, marks in front, text in both directions, and ids.
    #[test]
    fn two_names_that_are_printed_alike_are_not_both_names() {
        for ignorable in ["\u{fe0f}", "\u{34f}", "\u{3164}", "\u{115f}", "\u{ffa0}", "\u{ad}", "\u{e0100}", "\u{200d}"]
        {
            for bad in [format!("alice{ignorable}"), format!("{ignorable}alice"), ignorable.repeat(3)] {
                assert!(normal_form(&bad).is_err(), "{bad:?}");
            }
        }
        for bad in ["\u{301}alice", "\u{5d0}a", "a\u{5d0}", "\u{5d0}\u{5d1}1a"] {
            assert!(normal_form(bad).is_err(), "{bad:?}");
        }
        for id in ["usr_", "HTK_", "ses_"].map(|prefix| format!("{prefix}{}", "a5".repeat(16))) {
            assert!(normal_form(&id).is_err() && normal_form(&id[1..]).is_ok(), "{id}");
        }
        for fine in [
            "\u{5d0}\u{5d1}\u{5d2}",
            "محمد",
            "李小龍",
            "नेहा",
            "ольга",
            "o'brien".trim_matches('\'').split('\'').next().unwrap(),
        ] {
            assert!(normal_form(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn look_alikes_have_one_skeleton() {
        let look_alike = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|name| normal_form(name).unwrap().skeletons(name));
            !one.is_disjoint(&other)
        };
        for (one, other) in [
            ("alice", "аlice"),
            ("alice", "a1ice"),
            ("paypal", "раураl"),
            ("modern", "rnodern"),
            ("ALICE", "ALlCE"),
            ("Alice", "AIice"),
        ] {
            assert!(look_alike(one, other), "{one} {other}");
        }
        for (one, other) in [("alice", "alicf"), ("allce", "ALICE"), ("bob", "BOB2")] {
            assert!(!look_alike(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_a_fixed_point(text in "\\PC{0,40}") {
            if let Ok(name) = normal_form(&text) {
                prop_assert_eq!(normal_form(name.as_str()).unwrap(), name);
            }
        }
    }
}
