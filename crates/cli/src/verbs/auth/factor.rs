//! `auth factor`: second factors of users, and the policy of required ones.

use clap::Subcommand;
use hightower_kv::auth::{Enrolment, FactorCheck, FactorPolicy, FactorStatus, Token};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::table::pairs;
use crate::units;
use crate::verbs::auth::secret::ask;
use crate::verbs::auth::service::{Context, user};
use crate::verbs::auth::view::time_or;

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth factor enrol alice            a secret for an authenticator app, and recovery codes
  htkvctl auth factor confirm alice          prompts for a code; from then on each login does
  htkvctl auth factor codes alice            new recovery codes
  htkvctl auth factor disable alice          after the loss of a device; ends all sessions
  htkvctl auth factor policy --role operator required for all operators";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a one-time password and recovery codes, and print them once
    #[command(after_help = "Examples:
  htkvctl auth factor enrol alice
  htkvctl auth factor enrol alice --json | jq -r .uri | qrencode -t UTF8

The enrolment has no effect until `auth factor confirm`.")]
    Enrol {
        /// The name or id
        user: String,
    },
    /// Confirm an enrolment by a code
    #[command(after_help = "Examples:
  htkvctl auth factor confirm alice
  printf '123456\\n' | htkvctl auth factor confirm alice

Exit code 1 if the code is wrong. Sessions without a second factor end.")]
    Confirm {
        /// The name or id
        user: String,
    },
    /// Verify a code of the user; it is valid once
    #[command(after_help = "Example:
  htkvctl auth factor verify alice

Exit code 1 if the code is wrong or was used before.")]
    Verify {
        /// The name or id
        user: String,
    },
    /// Remove all second factors of a user, and end all sessions
    #[command(after_help = "Example:
  htkvctl auth factor disable alice")]
    Disable {
        /// The name or id
        user: String,
    },
    /// Print new recovery codes; the old ones become invalid
    #[command(after_help = "Example:
  htkvctl auth factor codes alice")]
    Codes {
        /// The name or id
        user: String,
    },
    /// Show the second factors of a user
    #[command(after_help = "Example:
  htkvctl auth factor status alice")]
    Status {
        /// The name or id
        user: String,
    },
    /// Require a second factor from a user
    #[command(after_help = "Examples:
  htkvctl auth factor require alice
  htkvctl auth factor require alice --off

Sessions without a second factor end; a user without one enrols at the next login.")]
    Require {
        /// The name or id
        user: String,
        /// Remove the requirement for this user
        #[arg(long)]
        off: bool,
    },
    /// Show or set the policy of required second factors
    #[command(after_help = "Examples:
  htkvctl auth factor policy
  htkvctl auth factor policy --role operator --role auditor
  htkvctl auth factor policy --everyone
  htkvctl auth factor policy --nobody

The new policy replaces the old one. It takes effect at once, also for existing sessions.")]
    Policy {
        /// Required for all users
        #[arg(long, conflicts_with_all = ["roles", "nobody"])]
        everyone: bool,
        /// Required for users with this role; may be given more than once
        #[arg(long = "role", value_name = "ROLE", conflicts_with = "nobody")]
        roles: Vec<String>,
        /// Required for no one; users with a second factor still need it
        #[arg(long)]
        nobody: bool,
    },
}

#[derive(Serialize)]
struct Enrolled<'a> {
    user_id: &'a str,
    secret: &'a str,
    uri: &'a str,
    recovery_codes: Vec<&'a str>,
}

#[derive(Serialize)]
struct Codes<'a> {
    user_id: &'a str,
    recovery_codes: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum Checked<'a> {
    Accepted { user_id: &'a str, factor: String },
    Refused,
    Delayed { retry_after_ms: i64 },
}

#[derive(Serialize)]
struct Outcome<'a> {
    outcome: &'static str,
    user_id: &'a str,
}

#[derive(Serialize)]
struct Status<'a> {
    user_id: &'a str,
    totp_since_ms: Option<i64>,
    pending: bool,
    recovery_codes_left: usize,
    required: bool,
    asked: bool,
}

#[derive(Serialize)]
struct Policy<'a> {
    everyone: bool,
    roles: &'a [String],
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Enrol { user: name } => {
                let (id, enrolment) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    let enrolment = auth.enrol_totp(&id)?;
                    Ok((id, enrolment))
                })?;
                show_enrolment(screen, &id, &enrolment)
            }
            Self::Confirm { user: name } => {
                let code = ask("code")?;
                let (id, check) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    let check = auth.confirm_totp(&id, &code)?;
                    Ok((id, check))
                })?;
                show_check(screen, &id, check, "confirmed; each login requires a code from now on")
            }
            Self::Verify { user: name } => {
                let code = ask("code")?;
                let (id, check) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    let check = auth.verify_second_factor(&id, &code)?;
                    Ok((id, check))
                })?;
                show_check(screen, &id, check, "the code is right; it is used now")
            }
            Self::Disable { user: name } => {
                let (id, is_done) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    let is_done = auth.disable_second_factor(&id)?;
                    Ok((id, is_done))
                })?;
                if !is_done {
                    screen.error("not_found", "the user has no second factor");
                    return Ok(Exit::Negative);
                }
                let answer = Outcome { outcome: "disabled", user_id: &id };
                screen.answer(&answer, || "removed all second factors; all sessions ended".into())?;
                Ok(Exit::Done)
            }
            Self::Codes { user: name } => {
                let (id, codes) = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    let codes = auth.regenerate_recovery_codes(&id)?;
                    Ok((id, codes))
                })?;
                screen.answer(&Codes { user_id: &id, recovery_codes: texts(&codes) }, || texts(&codes).join("\n"))?;
                Ok(Exit::Done)
            }
            Self::Status { user: name } => {
                let (id, status) = context.read(|auth| {
                    let id = user(auth, name)?.user_id;
                    let status = auth.factor_status(&id)?;
                    Ok((id, status))
                })?;
                show_status(screen, &id, &status)
            }
            Self::Require { user: name, off } => {
                let id = context.change(|auth| {
                    let id = user(auth, name)?.user_id;
                    auth.require_second_factor(&id, !off)?;
                    Ok(id)
                })?;
                let text = if *off {
                    "a second factor is no longer required for this user"
                } else {
                    "a second factor is required"
                };
                let answer = Outcome { outcome: if *off { "not_required" } else { "required" }, user_id: &id };
                screen.answer(&answer, || text.into())?;
                Ok(Exit::Done)
            }
            Self::Policy { everyone, roles, nobody } => policy(context, *everyone, roles, *nobody),
        }
    }
}

fn texts(codes: &[Token]) -> Vec<&str> {
    codes.iter().map(Token::as_str).collect()
}

fn show_enrolment(screen: Screen, id: &str, enrolment: &Enrolment) -> Result<Exit, Failure> {
    let recovery_codes = texts(&enrolment.recovery_codes);
    let text = || {
        let codes = recovery_codes.join("\n  ");
        format!(
            "secret  {}\nuri     {}\nrecovery codes, each for one login:\n  {codes}\nNone of this is shown again. Confirm it with `auth factor confirm`.",
            &*enrolment.secret, &*enrolment.uri
        )
    };
    let (secret, uri) = (&*enrolment.secret, &*enrolment.uri);
    screen.answer(&Enrolled { user_id: id, secret, uri, recovery_codes: recovery_codes.clone() }, text)?;
    Ok(Exit::Done)
}

fn show_check(screen: Screen, id: &str, check: FactorCheck, accepted: &str) -> Result<Exit, Failure> {
    match check {
        FactorCheck::Accepted(factor) => {
            let answer = Checked::Accepted { user_id: id, factor: factor.to_string() };
            screen.answer(&answer, || accepted.into())?;
            Ok(Exit::Done)
        }
        FactorCheck::Refused => {
            screen.answer(&Checked::Refused, || "refused: the code is wrong or was used".into())?;
            Ok(Exit::Negative)
        }
        FactorCheck::Delayed { retry_after_ms } => {
            let wait = std::time::Duration::from_millis(retry_after_ms.unsigned_abs());
            let text = || format!("delayed: too many wrong codes; try again in {}", units::duration(wait));
            screen.answer(&Checked::Delayed { retry_after_ms }, text)?;
            Ok(Exit::Negative)
        }
    }
}

fn show_status(screen: Screen, id: &str, status: &FactorStatus) -> Result<Exit, Failure> {
    let FactorStatus { totp_since_ms, pending, recovery_codes_left, required, asked, .. } = *status;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let text = || {
        pairs(vec![
            ("user", id.to_owned()),
            ("one-time password since", time_or(totp_since_ms, "never")),
            ("enrolment pending", yes(pending)),
            ("recovery codes left", recovery_codes_left.to_string()),
            ("required for this user", yes(required)),
            ("required at login", yes(asked)),
        ])
    };
    screen.answer(&Status { user_id: id, totp_since_ms, pending, recovery_codes_left, required, asked }, text)?;
    Ok(Exit::Done)
}

fn policy(context: &Context<'_>, everyone: bool, roles: &[String], nobody: bool) -> Result<Exit, Failure> {
    let policy = if everyone || nobody || !roles.is_empty() {
        let policy = FactorPolicy { everyone, roles: roles.to_vec() };
        context.create(|auth| Ok(auth.set_factor_policy(&policy)?))?;
        policy
    } else {
        context.read(|auth| Ok(auth.factor_policy()?))?
    };
    let text = || match (policy.everyone, &policy.roles[..]) {
        (true, _) => "a second factor is required for all users".into(),
        (false, []) => "a second factor is required only for users named by `auth factor require`".into(),
        (false, roles) => format!("a second factor is required for users with one of the roles: {}", roles.join(", ")),
    };
    context.session.screen.answer(&Policy { everyone: policy.everyone, roles: &policy.roles }, text)?;
    Ok(Exit::Done)
}
