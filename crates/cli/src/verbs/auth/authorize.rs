//! `auth authorize`: whether a token allows an action on a key.

use hightower_kv::auth::Action;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::notation::{Text, show};
use crate::records::Bytes;
use crate::verbs::auth::grant::{action, action_name};
use crate::verbs::auth::secret::ask;
use crate::verbs::auth::service::Context;

const EXAMPLES: &str = "\
Examples:
  htkvctl auth authorize read jobs/7
  printf '%s\\n' \"$API_KEY\" | htkvctl auth authorize write jobs/7 --json

Exit code 1 if not: no grant allows it, or the token is invalid. This does not count as a use of the token.";

/// Whether an API key or session token allows an action on a key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// read, write or admin
    #[arg(value_parser = action)]
    action: Action,

    /// The key
    #[arg(value_parser = Text::parser())]
    key: Text,
}

#[derive(Serialize)]
struct Answer<'a> {
    outcome: &'static str,
    action: &'static str,
    key: Bytes<'a>,
    user_id: Option<&'a str>,
}

impl Args {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let token = ask("token")?;
        let found = context.read(|auth| {
            let Some(principal) = auth.authenticate(&token)? else {
                return Ok(None);
            };
            let allowed = auth.authorize(&principal, self.action, &self.key.0)?;
            Ok(Some((principal.user_id().clone(), allowed)))
        })?;
        let (outcome, exit) = match &found {
            Some((_, true)) => ("allowed", Exit::Done),
            Some((_, false)) => ("denied", Exit::Negative),
            None => ("refused", Exit::Negative),
        };
        let user_id = found.as_ref().map(|(user_id, _)| user_id.as_str());
        let (action, key) = (action_name(self.action), &self.key.0[..]);
        let answer = Answer { outcome, action, key: Bytes::of(key), user_id };
        context.session.screen.answer(&answer, || match user_id {
            Some(_) => format!("{outcome}: {action} {}", show(key)),
            None => "refused: the token is invalid".into(),
        })?;
        Ok(exit)
    }
}
