//! Usernames: what two spellings of one name have in common.
//!
//! The normal form is the toNFKC_Casefold idea of the Unicode Standard (section 3.13, caseless
//! matching): NFKC, full case folding and NFKC again until nothing changes, after trimming.
//! "Alice", "ALICE " and "ａｌｉｃｅ" are one name. Letters that merely look alike in different scripts
//! (Latin a, Cyrillic а) are different names.

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;

use crate::error::{Error, Result};

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

/// The normal form of `username`: the key under which it is unique.
///
/// Allowed are letters, marks, decimal digits and `. _ - @ +`, 1 to 64 code points.
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
    let name = fold(username.trim());
    if name.is_empty() {
        return Err(Error::Validation("the username is empty"));
    }
    if name.chars().count() > MAX_USERNAME_CODE_POINTS {
        return Err(Error::Validation("the username is longer than 64 characters"));
    }
    if !name.chars().all(allowed) {
        return Err(Error::Validation("a username has letters, digits and . _ - @ + only"));
    }
    Ok(NormalUsername(name))
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
            ("ﬁona", "FIONA"),
            ("e\u{301}mile", "Émile"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ] {
            assert_eq!(normal_form(one).unwrap(), normal_form(other).unwrap(), "{one} {other}");
        }
        assert_ne!(normal_form("a").unwrap(), normal_form("а").unwrap());
    }

    #[test]
    fn what_cannot_be_seen_or_typed_is_refused() {
        for bad in
            ["", "  ", "a b", "a\u{200b}b", "a\u{0}", "a/b", "a\u{202e}b", "a\u{e000}", "😀", "a\nb", "\u{feff}a"]
        {
            assert!(normal_form(bad).is_err(), "{bad:?}");
        }
        assert!(normal_form(&"a".repeat(64)).is_ok());
        assert!(normal_form(&"a".repeat(65)).is_err());
        assert!(normal_form(&"é".repeat(64)).is_ok());
        assert!(normal_form(&format!("{}a", " ".repeat(512))).is_err());
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
