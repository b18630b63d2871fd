//! Records, for people and for programs. They contain no secrets.

use hightower_kv::auth::{ApiKeyAccess, ApiKeyRecord, RoleRecord, SessionRecord, Token, UserRecord};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::table::{pairs, text_table};
use crate::units::date_time;
use crate::verbs::auth::grant;

/// A printable record: an object for programs; pairs or a table row for people.
pub(super) trait View: Serialize {
    /// The heading of the table.
    const HEADING: &'static [&'static str];
    /// The row in the table.
    fn row(&self) -> Vec<String>;
    /// All fields, with names.
    fn pairs(&self) -> Vec<(&'static str, String)>;
}

/// Prints one record.
pub(super) fn one(screen: Screen, view: &impl View) -> Result<Exit, Failure> {
    screen.answer(view, || pairs(view.pairs()))?;
    Ok(Exit::Done)
}

/// Prints records: a table, or one object per line.
pub(super) fn many<V: View>(screen: Screen, views: &[V], none: &str) -> Result<Exit, Failure> {
    if screen.json {
        views.iter().try_for_each(|view| screen.answer(view, String::new))?;
    } else if views.is_empty() {
        screen.say(none)?;
    } else {
        screen.say(&text_table(V::HEADING, views.iter().map(View::row)))?;
    }
    Ok(Exit::Done)
}

/// An optional time.
pub(super) fn time_or(unix_ms: Option<i64>, none: &str) -> String {
    unix_ms.map_or_else(|| none.into(), date_time)
}

fn list_or(names: &[String], none: &str) -> String {
    if names.is_empty() { none.into() } else { names.join(" ") }
}

/// One word of a list, quoted as in a shell if necessary.
fn word(text: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !"'\"\\#$`*?;&|<>(){}[]!~".contains(c);
    match text.contains('\'') {
        _ if text.chars().all(is_plain) => text.into(),
        false => format!("'{text}'"),
        true => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A user.
#[derive(Serialize)]
pub(super) struct User<'a> {
    user_id: &'a str,
    username: &'a str,
    disabled: bool,
    roles: &'a [String],
    has_metadata: bool,
    created_at_ms: i64,
    password_changed_at_ms: i64,
    last_login_ms: Option<i64>,
}

impl<'a> From<&'a UserRecord> for User<'a> {
    fn from(user: &'a UserRecord) -> Self {
        Self {
            user_id: &user.user_id,
            username: &user.username,
            disabled: user.disabled,
            roles: &user.roles,
            has_metadata: user.has_metadata,
            created_at_ms: user.created_at_ms,
            password_changed_at_ms: user.password_changed_at_ms,
            last_login_ms: user.last_login_ms,
        }
    }
}

impl User<'_> {
    fn state(&self) -> String {
        if self.disabled { "disabled" } else { "enabled" }.into()
    }
}

impl View for User<'_> {
    const HEADING: &'static [&'static str] = &["id", "name", "state", "roles", "last login"];

    fn row(&self) -> Vec<String> {
        let last_login = time_or(self.last_login_ms, "never");
        vec![self.user_id.into(), self.username.into(), self.state(), list_or(self.roles, "-"), last_login]
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.user_id.into()),
            ("name", self.username.into()),
            ("state", self.state()),
            ("roles", list_or(self.roles, "none")),
            ("metadata", if self.has_metadata { "encrypted; see `auth user metadata`" } else { "none" }.into()),
            ("created", date_time(self.created_at_ms)),
            ("password set", date_time(self.password_changed_at_ms)),
            ("last login", time_or(self.last_login_ms, "never")),
        ]
    }
}

/// A factor of a session.
#[derive(Serialize)]
struct FactorSeen {
    factor: String,
    at_ms: i64,
}

/// A session.
#[derive(Serialize)]
pub(super) struct SessionView<'a> {
    session_id: &'a str,
    user_id: &'a str,
    created_at_ms: i64,
    last_seen_ms: i64,
    idle_expires_at_ms: i64,
    expires_at_ms: i64,
    source: Option<&'a str>,
    factors: Vec<FactorSeen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> SessionView<'a> {
    /// A new record, with its token, which is printed once.
    pub(super) fn with_token(session: &'a SessionRecord, token: &'a Token) -> Self {
        Self { token: Some(token.as_str()), ..Self::from(session) }
    }
}

impl<'a> From<&'a SessionRecord> for SessionView<'a> {
    fn from(session: &'a SessionRecord) -> Self {
        Self {
            session_id: &session.session_id,
            user_id: &session.user_id,
            created_at_ms: session.created_at_ms,
            last_seen_ms: session.last_seen_ms,
            idle_expires_at_ms: session.idle_expires_at_ms,
            expires_at_ms: session.expires_at_ms,
            source: session.source.as_deref(),
            factors: session
                .factors
                .iter()
                .map(|used| FactorSeen { factor: used.factor.to_string(), at_ms: used.at_ms })
                .collect(),
            token: None,
        }
    }
}

impl View for SessionView<'_> {
    const HEADING: &'static [&'static str] = &["id", "begun", "last seen", "ends if idle", "ends", "source"];

    fn row(&self) -> Vec<String> {
        let times = [self.created_at_ms, self.last_seen_ms, self.idle_expires_at_ms, self.expires_at_ms];
        let mut row = vec![self.session_id.to_owned()];
        row.extend(times.map(date_time));
        row.push(self.source.unwrap_or("-").into());
        row
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("id", self.session_id.into()),
            ("user", self.user_id.into()),
            ("begun", date_time(self.created_at_ms)),
            ("last seen", date_time(self.last_seen_ms)),
            ("ends if idle", date_time(self.idle_expires_at_ms)),
            ("ends", date_time(self.expires_at_ms)),
            ("source", self.source.unwrap_or("unknown").into()),
        ];
        let at = |seen: &FactorSeen| ("authenticated", format!("{} {}", seen.factor, date_time(seen.at_ms)));
        pairs.extend(self.factors.iter().map(at));
        pairs.extend(self.token.map(|token| ("token", token.into())));
        pairs
    }
}

/// An API key.
#[derive(Serialize)]
pub(super) struct ApiKey<'a> {
    key_id: &'a str,
    owner_id: &'a str,
    label: Option<&'a str>,
    like_owner: bool,
    roles: &'a [String],
    grants: Vec<String>,
    has_metadata: bool,
    created_at_ms: i64,
    expires_at_ms: Option<i64>,
    last_used_ms: Option<i64>,
    previous_secret_until_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> ApiKey<'a> {
    /// A new record, with its token, which is printed once.
    pub(super) fn with_token(key: &'a ApiKeyRecord, token: &'a Token) -> Self {
        Self { token: Some(token.as_str()), ..Self::from(key) }
    }

    fn access(&self) -> String {
        if self.like_owner {
            return "all rights of the owner".into();
        }
        let grants: Vec<_> = self.grants.iter().map(|grant| word(grant)).collect();
        list_or(&[self.roles, &grants].concat(), "nothing")
    }
}

impl<'a> From<&'a ApiKeyRecord> for ApiKey<'a> {
    fn from(key: &'a ApiKeyRecord) -> Self {
        let (roles, grants) = match &key.access {
            ApiKeyAccess::LikeOwner => (&[][..], Vec::new()),
            ApiKeyAccess::Limited { roles, grants } => (&roles[..], grants.iter().map(grant::text).collect()),
        };
        Self {
            key_id: &key.key_id,
            owner_id: &key.owner_id,
            label: key.label.as_deref(),
            like_owner: key.access == ApiKeyAccess::LikeOwner,
            roles,
            grants,
            has_metadata: key.has_metadata,
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
            last_used_ms: key.last_used_ms,
            previous_secret_until_ms: key.previous_secret_until_ms,
            token: None,
        }
    }
}

impl View for ApiKey<'_> {
    const HEADING: &'static [&'static str] = &["id", "label", "access", "expires", "last used"];

    fn row(&self) -> Vec<String> {
        let (label, access) = (self.label.unwrap_or("-").to_owned(), self.access());
        let (expires, last_used) = (time_or(self.expires_at_ms, "never"), time_or(self.last_used_ms, "never"));
        vec![self.key_id.into(), label, access, expires, last_used]
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("id", self.key_id.into()),
            ("owner", self.owner_id.into()),
            ("label", self.label.unwrap_or("none").into()),
            ("access", self.access()),
            ("metadata", if self.has_metadata { "encrypted; see `auth key metadata`" } else { "none" }.into()),
            ("created", date_time(self.created_at_ms)),
            ("expires", time_or(self.expires_at_ms, "never")),
            ("last used", time_or(self.last_used_ms, "never")),
        ];
        pairs.extend(self.previous_secret_until_ms.map(|at_ms| ("old secret until", date_time(at_ms))));
        pairs.extend(self.token.map(|token| ("token", token.into())));
        pairs
    }
}

/// A role.
#[derive(Serialize)]
pub(super) struct Role<'a> {
    role: &'a str,
    grants: Vec<String>,
}

impl<'a> From<&'a RoleRecord> for Role<'a> {
    fn from(role: &'a RoleRecord) -> Self {
        Self { role: &role.name, grants: role.grants.iter().map(grant::text).collect() }
    }
}

impl Role<'_> {
    fn grants_text(&self) -> String {
        let grants: Vec<_> = self.grants.iter().map(|grant| word(grant)).collect();
        list_or(&grants, "nothing")
    }
}

impl View for Role<'_> {
    const HEADING: &'static [&'static str] = &["role", "grants"];

    fn row(&self) -> Vec<String> {
        vec![self.role.into(), self.grants_text()]
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        vec![("role", self.role.into()), ("grants", self.grants_text())]
    }
}
