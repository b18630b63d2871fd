//! `auth password`: change, reset, verify.

use clap::Subcommand;
use hightower_kv::auth::{PasswordCheck, UserRecord};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::units;
use crate::verbs::auth::secret::{ask, ask_new};
use crate::verbs::auth::service::{Context, unless_uncheckable, user};

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth password change alice         prompts for the old and the new password
  htkvctl auth password reset alice          without the old password, for operators
  htkvctl auth password verify alice         exit code 1 if it is wrong";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Change a password, given the old one; ends all sessions of the user
    #[command(after_help = "Examples:
  htkvctl auth password change alice
  printf '%s\\n' \"$OLD\" \"$NEW\" | htkvctl auth password change alice

Exit code 1 if the old password is wrong. Failures count, as at a login.")]
    Change {
        /// The name or id
        user: String,
    },
    /// Set a password without the old one; ends all sessions of the user
    #[command(after_help = "Examples:
  htkvctl auth password reset alice
  printf '%s\\n' \"$NEW\" | htkvctl auth password reset alice")]
    Reset {
        /// The name or id
        user: String,
    },
    /// Verify a password
    #[command(after_help = "Examples:
  htkvctl auth password verify alice
  printf '%s\\n' \"$PASSWORD\" | htkvctl auth password verify alice --source 192.0.2.7

Exit code 1 if not. Unknown and disabled users get the same answer, after the same time. After too many \
failures the answer is `delayed`, and the password is not checked.")]
    Verify {
        /// The name or id
        user: String,
    },
}

/// The outcome of a password check. A refusal does not reveal its reason.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(super) enum Answer<'a> {
    Accepted { user_id: &'a str },
    Changed { user_id: &'a str },
    Refused,
    Delayed { retry_after_ms: i64 },
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Change { user: name } => change(context, name),
            Self::Reset { user: name } => reset(context, name),
            Self::Verify { user: name } => verify(context, name),
        }
    }
}

fn change(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    let (old, new) = (ask("old password")?, ask_new("new password")?);
    let (user, changed) = context.change(|auth| {
        let user = user(auth, name)?;
        let changed = auth.change_password(&user.username, &old, &new)?;
        unless_uncheckable(auth)?;
        Ok((user, changed))
    })?;
    if changed { tell_changed(context.session.screen, &user) } else { tell_refused(context.session.screen, None) }
}

fn reset(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    let new = ask_new("new password")?;
    let user = context.change(|auth| {
        let user = user(auth, name)?;
        auth.reset_password(&user.user_id, &new)?;
        Ok(user)
    })?;
    tell_changed(context.session.screen, &user)
}

fn tell_changed(screen: Screen, user: &UserRecord) -> Result<Exit, Failure> {
    let text = || format!("set the password of {}; all sessions ended", user.username);
    screen.answer(&Answer::Changed { user_id: &user.user_id }, text)?;
    Ok(Exit::Done)
}

fn verify(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    let password = ask("password")?;
    let check = context.change(|auth| {
        // An unknown name is passed on too, so that its answer is that of a wrong password.
        let name = user(auth, name).map_or_else(|_| name.to_owned(), |user| user.username);
        let check = auth.check_password(&name, &password)?;
        unless_uncheckable(auth)?;
        Ok(check)
    })?;
    let screen = context.session.screen;
    match check {
        PasswordCheck::Accepted(user) => {
            let text = || format!("the password is right: {} ({})", user.username, user.user_id);
            screen.answer(&Answer::Accepted { user_id: &user.user_id }, text)?;
            Ok(Exit::Done)
        }
        PasswordCheck::Refused => tell_refused(screen, None),
        PasswordCheck::Delayed { retry_after_ms } => tell_refused(screen, Some(retry_after_ms)),
    }
}

/// Reports a refused or delayed password.
pub(super) fn tell_refused(screen: Screen, retry_after_ms: Option<i64>) -> Result<Exit, Failure> {
    match retry_after_ms {
        None => screen.answer(&Answer::Refused, || "refused: wrong user or password".into())?,
        Some(retry_after_ms) => {
            let wait = std::time::Duration::from_millis(retry_after_ms.unsigned_abs());
            let text = || format!("too many wrong passwords: try again in {}", units::duration(wait));
            screen.answer(&Answer::Delayed { retry_after_ms }, text)?;
        }
    }
    Ok(Exit::Negative)
}
