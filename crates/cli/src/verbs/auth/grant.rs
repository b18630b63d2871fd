//! The text form of a grant: `read,write:prefix:jobs/`.
//!
//! ```text
//! grant   = actions [ quota ] ":" keys
//! quota   = { "," ( "max-keys=" NUMBER | "max-bytes=" NUMBER ) }
//! actions = action { "," action }              action = "read" | "write" | "admin"
//!                                                     | "view-users" | "manage-users" | "manage-roles" | "read-audit"
//! keys    = "all" | "prefix:" KEY | "key:" KEY | "range:" [ KEY ] ".." [ KEY ]
//! ```
//!
//! A KEY is in the common [notation]; before `..` it must be a literal if it contains a dot. A
//! range includes its start and excludes its end; an omitted bound is open.

use std::str::FromStr;

use hightower_kv::auth::{Action, Grant, KeyRange, Quota};

use crate::notation::{self, show};

const SHAPE: &str =
    "a grant is actions and keys: read,write:prefix:jobs/, read:key:motd, admin:all, or read:range:a..f";

/// A typed grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GrantText(pub(super) Grant);

impl FromStr for GrantText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (actions, keys) = text.split_once(':').ok_or(SHAPE)?;
        let words = || actions.split(',').filter(|word| !word.contains('='));
        let grant = Grant::new(words().map(action).collect::<Result<Vec<_>, _>>()?, range(keys)?);
        let limits = actions.split(',').filter_map(|word| word.split_once('='));
        let grant = grant.map_err(|bad| bad.to_string())?;
        match quota(limits)? {
            Some(quota) => grant.with_quota(quota).map(Self).map_err(|bad| bad.to_string()),
            None => Ok(Self(grant)),
        }
    }
}

fn quota<'a>(limits: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Option<Quota>, String> {
    let (mut max_keys, mut max_bytes) = (None, None);
    for (name, number) in limits {
        let limit = match name {
            "max-keys" => &mut max_keys,
            "max-bytes" => &mut max_bytes,
            _ => return Err(format!("{name:?} is not a limit of a quota: max-keys or max-bytes")),
        };
        let number = number.parse().map_err(|_| format!("{name}={number}: {number:?} is not a number from 0 on"))?;
        if limit.replace(number).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    if max_keys.is_none() && max_bytes.is_none() {
        return Ok(None);
    }
    Quota::new(max_keys, max_bytes).map(Some).map_err(|bad| bad.to_string())
}

pub(super) fn action(name: &str) -> Result<Action, String> {
    match name {
        "read" => Ok(Action::Read),
        "write" => Ok(Action::Write),
        "admin" => Ok(Action::Admin),
        "view-users" => Ok(Action::ViewUsers),
        "manage-users" => Ok(Action::ManageUsers),
        "manage-roles" => Ok(Action::ManageRoles),
        "read-audit" => Ok(Action::ReadAudit),
        _ => Err(format!(
            "{name:?} is not an action: read, write or admin, on keys; view-users, manage-users, manage-roles or read-audit, on names"
        )),
    }
}

pub(super) fn action_name(action: Action) -> &'static str {
    match action {
        Action::Read => "read",
        Action::Write => "write",
        Action::Admin => "admin",
        Action::ViewUsers => "view-users",
        Action::ManageUsers => "manage-users",
        Action::ManageRoles => "manage-roles",
        Action::ReadAudit => "read-audit",
    }
}

fn range(keys: &str) -> Result<KeyRange, String> {
    if keys == "all" {
        return Ok(KeyRange::all());
    }
    match keys.split_once(':') {
        Some(("prefix", prefix)) => Ok(KeyRange::prefix(key(prefix)?)),
        Some(("key", only)) => Ok(KeyRange::key(&key(only)?)),
        Some(("range", ends)) => {
            let at = end_of_first_key(ends);
            let (from, to) = ends[at..].split_once("..").ok_or(SHAPE)?;
            let from = key(&[&ends[..at], from].concat())?;
            Ok(KeyRange::new(from, if to.is_empty() { None } else { Some(key(to)?) }))
        }
        _ => Err(SHAPE.into()),
    }
}

fn key(text: &str) -> Result<Vec<u8>, String> {
    notation::parse(text.as_bytes()).map(|bytes| bytes.into_owned()).map_err(|bad| bad.to_string())
}

/// The position from which to search the `..` behind a key: behind its closing quote, if it is a
/// literal.
fn end_of_first_key(text: &str) -> usize {
    if !text.starts_with("b\"") {
        return 0;
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(2) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Writes a grant in the form that [`GrantText`] reads.
pub(super) fn text(grant: &Grant) -> String {
    let mut words: Vec<String> = grant.actions().map(|action| action_name(action).to_owned()).collect();
    words.extend(grant.quota().and_then(Quota::max_keys).map(|most| format!("max-keys={most}")));
    words.extend(grant.quota().and_then(Quota::max_bytes).map(|most| format!("max-bytes={most}")));
    format!("{}:{}", words.join(","), range_text(grant.range()))
}

fn range_text(range: &KeyRange) -> String {
    let start = range.start();
    if *range == KeyRange::all() {
        "all".into()
    } else if *range == KeyRange::prefix(start) {
        format!("prefix:{}", show(start))
    } else if *range == KeyRange::key(start) {
        format!("key:{}", show(start))
    } else {
        let from = if start.contains(&b'.') { notation::literal(start).into() } else { show(start) };
        format!("range:{from}..{}", range.end().map(show).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::{GrantText, text};
    use hightower_kv::auth::{Action, Grant, KeyRange, Quota};
    use proptest::prelude::*;

    #[test]
    fn grants_are_read() {
        let all = Action::ALL;
        for (typed, actions, range) in [
            ("read:all", &all[..1], KeyRange::all()),
            ("read,write,admin:prefix:jobs/", &all, KeyRange::prefix("jobs/")),
            ("write,write:key:a:b", &all[1..2], KeyRange::key(b"a:b")),
            ("admin:prefix:", &all[2..], KeyRange::all()),
            ("read:range:a..f", &all[..1], KeyRange::new("a", Some(b"f".to_vec()))),
            ("read:range:..f..g", &all[..1], KeyRange::new("", Some(b"f..g".to_vec()))),
            ("read:range:m..", &all[..1], KeyRange::new("m", None)),
            (r#"read:range:b"\"..\\"..b"\xff""#, &all[..1], KeyRange::new(&b"\"..\\"[..], Some(vec![0xff]))),
        ] {
            let expected = Grant::new(actions.iter().copied(), range).unwrap();
            assert_eq!(typed.parse::<GrantText>().unwrap().0, expected, "{typed}");
        }
    }

    #[test]
    fn quotas_are_read() {
        for (typed, max_keys, max_bytes) in [
            ("write,max-keys=7:all", Some(7), None),
            ("write,max-bytes=0:all", None, Some(0)),
            ("max-bytes=18446744073709551615,write,max-keys=1:all", Some(1), Some(u64::MAX)),
        ] {
            let quota = Quota::new(max_keys, max_bytes).unwrap();
            let expected = Grant::new([Action::Write], KeyRange::all()).unwrap().with_quota(quota).unwrap();
            assert_eq!(typed.parse::<GrantText>().unwrap().0, expected, "{typed}");
        }
        let grant: GrantText = "max-bytes=5,write,max-keys=3:prefix:max-keys=1:".parse().unwrap();
        assert_eq!(text(&grant.0), "write,max-keys=3,max-bytes=5:prefix:max-keys=1:");
    }

    #[test]
    fn anything_else_is_refused() {
        for typed in [
            "",
            "read",
            "all",
            ":all",
            "run:all",
            "read:",
            "read:everything",
            "read:prefix",
            "read:range:a",
            "read:range:f..a",
            "read:range:a..a",
            r#"read:range:b"a..b"#,
            r#"read:prefix:b"x"#,
            "max-keys=1:all",
            "read,max-keys=1:all",
            "manage-users,max-keys=1:all",
            "write,max-keys=:all",
            "write,max-keys=-1:all",
            "write,max-keys=18446744073709551616:all",
            "write,max-keys=1,max-keys=2:all",
            "write,max-disk=1:all",
            "write,=1:all",
        ] {
            assert!(typed.parse::<GrantText>().is_err(), "{typed:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            actions in prop::sample::subsequence(Action::ALL.to_vec(), 1..=3),
            start in prop::collection::vec(prop::sample::select(&b"ab.\":\\\x00\xff"[..]), 0..6),
            end in prop::option::of(prop::collection::vec(prop::sample::select(&b"ab.\":\\\x00\xff"[..]), 0..6)),
            kind in 0..3,
            limits in prop::option::of((prop::option::of(any::<u64>()), prop::option::of(any::<u64>()))),
        ) {
            let range = match kind {
                0 => KeyRange::prefix(start),
                1 => KeyRange::key(&start),
                _ => KeyRange::new(start, end),
            };
            if let Ok(mut grant) = Grant::new(actions, range) {
                if let Some(quota) = limits.and_then(|(keys, bytes)| Quota::new(keys, bytes).ok()) {
                    grant = grant.clone().with_quota(quota).unwrap_or(grant);
                }
                let written = text(&grant);
                prop_assert_eq!(written.parse::<GrantText>().map(|read| read.0), Ok(grant), "{}", written);
            }
        }

        #[test]
        fn no_text_makes_it_panic(typed in "(read:range:)?(b\")?[\\PC\"\\\\.:é]{0,16}") {
            let _outcome = typed.parse::<GrantText>();
        }
    }
}
