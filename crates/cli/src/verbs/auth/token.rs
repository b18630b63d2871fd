//! `auth token`: single-use tokens for password resets, invitations and verifications.

use clap::{Subcommand, ValueEnum};
use hightower_kv::auth::{Error, Token, TokenRecord, UserRecord};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::units::{count, date_time};
use crate::verbs::auth::secret::{ask, ask_new};
use crate::verbs::auth::service::{Context, user};
use crate::verbs::auth::view::{self, View};

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth token issue alice --for reset     prints a token, once; send it to alice
  htkvctl auth token use --for reset             prompts for the token and the new password
  htkvctl auth token invite bob                  creates a user, and a token to set the password
  htkvctl auth token revoke alice                revokes all her tokens";

/// The purpose of a token.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Purpose {
    /// Set a new password
    Reset,
    /// Set the first password
    Invitation,
    /// Prove that the user receives messages at an address
    Verification,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print a new token for a user, once
    #[command(after_help = "Examples:
  htkvctl auth token issue alice --for reset
  htkvctl auth token issue alice --for verification --subject alice@example.org

It is valid once: for 30 min (reset), 24 h (verification) or 7 days (invitation), and only while the password and the name are unchanged \
and the user is enabled.")]
    Issue {
        /// The name or id
        user: String,
        /// The purpose
        #[arg(long = "for", value_name = "PURPOSE")]
        purpose: Purpose,
        /// The address to verify
        #[arg(long, value_name = "ADDRESS", required_if_eq("purpose", "verification"))]
        subject: Option<String>,
    },
    /// Create a user without a password, and print the token that sets it
    #[command(after_help = "Example:
  htkvctl auth token invite bob")]
    Invite {
        /// The name: letters, digits and . _ - @ +
        name: String,
    },
    /// Use a token; prompts for the token and the new password
    #[command(after_help = "Examples:
  htkvctl auth token use --for reset
  printf '%s\\n' \"$TOKEN\" \"$PASSWORD\" | htkvctl auth token use --for invitation
  printf '%s\\n' \"$TOKEN\" | htkvctl auth token use --for verification --subject alice@example.org

Exit code 1 if the token is invalid. A reset ends all sessions of the user.")]
    Use {
        /// The purpose
        #[arg(long = "for", value_name = "PURPOSE")]
        purpose: Purpose,
        /// The current address
        #[arg(long, value_name = "ADDRESS", required_if_eq("purpose", "verification"))]
        subject: Option<String>,
    },
    /// List a user's valid tokens, oldest first
    #[command(after_help = "Example:
  htkvctl auth token list alice")]
    List {
        /// The name or id
        user: String,
    },
    /// Revoke all tokens of a user
    #[command(after_help = "Example:
  htkvctl auth token revoke alice")]
    Revoke {
        /// The name or id
        user: String,
    },
}

#[derive(Serialize)]
struct Row<'a> {
    purpose: String,
    user_id: &'a str,
    created_at_ms: i64,
    expires_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn new(record: &'a TokenRecord, token: Option<&'a Token>) -> Self {
        Self {
            purpose: record.purpose.to_string(),
            user_id: &record.user_id,
            created_at_ms: record.created_at_ms,
            expires_at_ms: record.expires_at_ms,
            token: token.map(Token::as_str),
        }
    }
}

impl View for Row<'_> {
    const HEADING: &'static [&'static str] = &["purpose", "user", "issued", "expires"];

    fn row(&self) -> Vec<String> {
        let times = [self.created_at_ms, self.expires_at_ms].map(date_time);
        [vec![self.purpose.clone(), self.user_id.to_owned()], times.to_vec()].concat()
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::HEADING.iter().copied().zip(self.row()).collect();
        pairs.extend(self.token.map(|token| ("token", token.into())));
        pairs
    }
}

#[derive(Serialize)]
struct Invited<'a> {
    user_id: &'a str,
    username: &'a str,
    token: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum Answer<'a> {
    Used { user_id: &'a str },
    Refused,
    Revoked { tokens: u64 },
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Issue { user: name, purpose, subject } => {
                let (record, token) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    Ok(match purpose {
                        Purpose::Reset => auth.issue_password_reset(&id)?,
                        Purpose::Invitation => auth.issue_invitation(&id)?,
                        Purpose::Verification => auth.issue_verification(&id, required(subject.as_deref())?)?,
                    })
                })?;
                view::one(screen, &Row::new(&record, Some(&token)))
            }
            Self::Invite { name } => {
                let (user, token) = context.create(|auth| Ok(auth.invite_user(name)?))?;
                let answer = Invited { user_id: &user.user_id, username: &user.username, token: &token };
                screen
                    .answer(&answer, || format!("invited {} ({})\ntoken  {}", user.username, user.user_id, &*token))?;
                Ok(Exit::Done)
            }
            Self::Use { purpose, subject } => redeem(context, *purpose, subject.as_deref()),
            Self::List { user: name } => {
                let tokens = context.read(|auth| Ok(auth.list_tokens(&user(auth, name)?.user_id)?))?;
                let rows: Vec<_> = tokens.iter().map(|record| Row::new(record, None)).collect();
                view::many(screen, &rows, "no valid tokens")
            }
            Self::Revoke { user: name } => {
                let tokens = context.change(|auth| Ok(auth.revoke_tokens(&user(auth, name)?.user_id)?))?;
                screen.answer(&Answer::Revoked { tokens }, || format!("revoked {} token(s)", count(tokens)))?;
                Ok(Exit::Done)
            }
        }
    }
}

fn required(subject: Option<&str>) -> Result<&str, Failure> {
    subject.ok_or_else(|| Failure::from(Error::Validation("a verification needs its --subject")))
}

fn redeem(context: &Context<'_>, purpose: Purpose, subject: Option<&str>) -> Result<Exit, Failure> {
    let token = ask("token")?;
    let password = match purpose {
        Purpose::Verification => None,
        Purpose::Reset | Purpose::Invitation => Some(ask_new("new password")?),
    };
    let used: Option<UserRecord> = context.change(|auth| {
        Ok(match (purpose, &password) {
            (Purpose::Reset, Some(password)) => auth.reset_password_with(&token, password)?,
            (Purpose::Invitation, Some(password)) => auth.accept_invitation(&token, password)?,
            _ => auth.verify_with(&token, required(subject)?)?,
        })
    })?;
    let screen = context.session.screen;
    let Some(user) = used else {
        screen.answer(&Answer::Refused, || "refused: the token is invalid".into())?;
        return Ok(Exit::Negative);
    };
    screen.answer(&Answer::Used { user_id: &user.user_id }, || match purpose {
        Purpose::Verification => format!("verified {} ({})", user.username, user.user_id),
        _ => format!("set the password of {} ({}); all sessions ended", user.username, user.user_id),
    })?;
    Ok(Exit::Done)
}
