//! `auth session`: log in, check, list, revoke.

use clap::Subcommand;
use hightower_kv::auth::{Error, Login};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::verbs::auth::password::tell_refused;
use crate::verbs::auth::secret::ask;
use crate::verbs::auth::service::{Context, unless_uncheckable, user};
use crate::verbs::auth::view;

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth session create alice          prompts for the password, prints the token
  htkvctl auth session check                 prompts for a token
  htkvctl auth session list alice
  htkvctl auth session revoke alice --all";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Log a user in: check the password, and print the new session's token once
    #[command(after_help = "Examples:
  htkvctl auth session create alice
  printf '%s\\n' \"$PASSWORD\" | htkvctl auth session create alice --json | jq -r .token

Exit code 1 if the password is refused. The store keeps only a keyed hash of the token.")]
    Create {
        /// The name or id
        user: String,
    },
    /// Whether a token is that of a live session, and of which user
    #[command(after_help = "Examples:
  htkvctl auth session check
  printf '%s\\n' \"$TOKEN\" | htkvctl auth session check --json

Exit code 1 if not. This does not count as a use of the session.")]
    Check,
    /// List a user's live sessions, oldest first
    #[command(after_help = "Example:
  htkvctl auth session list alice")]
    List {
        /// The name or id
        user: String,
    },
    /// End a session of a user, or all of them
    #[command(after_help = "Examples:
  htkvctl auth session revoke alice ses_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5
  htkvctl auth session revoke alice --all

Exit code 1 if there is no such session.")]
    Revoke {
        /// The name or id
        user: String,
        /// The id of the session
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        session: Option<String>,
        /// All sessions of the user
        #[arg(long)]
        all: bool,
    },
    /// End the session of a token
    #[command(after_help = "Example:
  printf '%s\\n' \"$TOKEN\" | htkvctl auth session end

Exit code 1 if there is no such session.")]
    End,
}

#[derive(Serialize)]
struct Answer {
    outcome: &'static str,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Create { user } => create(context, user),
            Self::Check => check(context),
            Self::List { user } => list(context, user),
            Self::Revoke { user, session, .. } => revoke(context, user, session.as_deref()),
            Self::End => end(context),
        }
    }
}

fn create(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    let password = ask("password")?;
    let login = context.change(|auth| {
        let name = user(auth, name).map_or_else(|_| name.to_owned(), |user| user.username);
        let login = auth.login(&name, &password)?;
        unless_uncheckable(auth)?;
        Ok(login)
    })?;
    let screen = context.session.screen;
    match login {
        Login::Accepted { session, token, .. } => view::one(screen, &view::SessionView::with_token(&session, &token)),
        Login::FactorRequired { enrolled: false, .. } => {
            let text = || "refused: a second factor is required and none is enrolled: `auth factor enrol`".into();
            screen.answer(&Answer { outcome: "factor_required" }, text)?;
            Ok(Exit::Negative)
        }
        Login::FactorRequired { token, .. } => complete(context, &token),
        Login::Refused => tell_refused(screen, None),
        Login::Delayed { retry_after_ms } => tell_refused(screen, Some(retry_after_ms)),
    }
}

/// The second step of a login: by a one-time password or a recovery code.
fn complete(context: &Context<'_>, token: &str) -> Result<Exit, Failure> {
    let code = ask("code")?;
    let screen = context.session.screen;
    match context.change(|auth| Ok(auth.complete_login(token, &code)?))? {
        Login::Accepted { session, token, .. } => view::one(screen, &view::SessionView::with_token(&session, &token)),
        Login::Refused | Login::FactorRequired { .. } => {
            screen.answer(&Answer { outcome: "refused" }, || "refused: the code is wrong or was used".into())?;
            Ok(Exit::Negative)
        }
        Login::Delayed { retry_after_ms } => tell_refused(screen, Some(retry_after_ms)),
    }
}

fn check(context: &Context<'_>) -> Result<Exit, Failure> {
    let token = ask("token")?;
    match context.read(|auth| Ok(auth.authenticate_session(&token)?))? {
        Some(session) => view::one(context.session.screen, &view::SessionView::from(&session)),
        None => {
            context.session.screen.answer(&Answer { outcome: "refused" }, || "refused: no live session".into())?;
            Ok(Exit::Negative)
        }
    }
}

fn list(context: &Context<'_>, name: &str) -> Result<Exit, Failure> {
    let sessions = context.read(|auth| Ok(auth.list_sessions(&user(auth, name)?.user_id)?))?;
    let views: Vec<_> = sessions.iter().map(view::SessionView::from).collect();
    view::many(context.session.screen, &views, "no live sessions")
}

fn revoke(context: &Context<'_>, name: &str, session: Option<&str>) -> Result<Exit, Failure> {
    context.change(|auth| {
        let user_id = user(auth, name)?.user_id;
        match session {
            None => Ok(auth.revoke_all_sessions(&user_id)?),
            Some(session) if auth.revoke_session(&user_id, session)? => Ok(()),
            Some(_) => Err(Error::NotFound("the user has no session with this id").into()),
        }
    })?;
    let text = || if session.is_some() { "ended the session" } else { "ended all sessions" }.into();
    context.session.screen.answer(&Answer { outcome: "ended" }, text)?;
    Ok(Exit::Done)
}

fn end(context: &Context<'_>) -> Result<Exit, Failure> {
    let token = ask("token")?;
    if !context.change(|auth| Ok(auth.logout(&token)?))? {
        return Err(Error::NotFound("no session has this token").into());
    }
    context.session.screen.answer(&Answer { outcome: "ended" }, || "ended the session".into())?;
    Ok(Exit::Done)
}
