//! `auth`: users, sessions, API keys, roles and the audit trail of a store.
//!
//! One module per noun, each with its verbs. The shared modules:
//!
//! * [`service`] — the options of all verbs, and the service on the store;
//! * [`secret`] — passwords and tokens, typed without echo or read from standard input;
//! * [`grant`] — the text form of grants; [`view`] — records, for people and for programs.
//!
//! The library decides on permissions and on the format of records.

mod api_key;
mod audit;
mod authorize;
mod calibrate;
mod factor;
mod grant;
mod keyring;
mod password;
mod purge;
mod role;
mod secret;
mod service;
mod session;
mod token;
mod user;
mod view;

use clap::Subcommand;

use crate::failure::{Exit, Failure};
use crate::session::Session;
use crate::verbs::auth::service::{Context, Options};

const GUIDE: &str = "\
First steps:
  export HTKV_KEY_FILE=~/.htkv-keys          the file of the master keys: keep a copy elsewhere
  htkvctl auth keyring generate              creates that file, readable by you only
  htkvctl auth user create alice             prompts for the password, without echo
  htkvctl auth role define operator read,write:prefix:jobs/
  htkvctl auth role grant alice operator
  htkvctl auth key create alice --label ci   prints the API key, once
  htkvctl auth authorize write jobs/7        prompts for a token: whether it allows this
  htkvctl auth audit verify                  whether the audit trail is intact

Passwords and tokens are never arguments: others could read them in the list of processes and in the history of the \
shell. The tool prompts for them on the terminal. If standard input is not a terminal, they are its first lines:
  printf '%s\\n' \"$PASSWORD\" | htkvctl auth user create alice

If the program that uses the store has a pepper for its passwords, set the same with --pepper-file: without it, no password can be checked or set. To create one: (umask 077; echo \"1:$(openssl rand -hex 32)\" > ~/.htkv-peppers)

A USER is a name, in any spelling with the same normal form, or an id (usr_...). The exit code is 1 for refused, unknown and taken.";

/// Users, sessions, API keys, roles and the audit trail of a store
#[derive(Debug, clap::Args)]
#[command(after_help = GUIDE, subcommand_value_name = "NOUN", subcommand_help_heading = "Nouns")]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Create, find, rename, disable and delete users
    #[command(subcommand, after_help = user::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    User(user::Verb),
    /// Change, reset and verify passwords
    #[command(subcommand, after_help = password::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Password(password::Verb),
    /// Log users in, list and end sessions
    #[command(subcommand, after_help = session::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Session(session::Verb),
    /// Second factors: one-time passwords and recovery codes
    #[command(subcommand, after_help = factor::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Factor(factor::Verb),
    /// Single-use tokens: password resets, invitations, verifications
    #[command(subcommand, after_help = token::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Token(token::Verb),
    /// API keys, for the authentication of programs
    #[command(subcommand, after_help = api_key::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Key(api_key::Verb),
    /// Roles: the rights of users and API keys
    #[command(subcommand, after_help = role::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Role(role::Verb),
    Authorize(authorize::Args),
    /// The master keys that wrap the store's secrets
    #[command(subcommand, after_help = keyring::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Keyring(keyring::Verb),
    /// The audit trail
    #[command(subcommand, after_help = audit::EXAMPLES, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
    Audit(audit::Verb),
    Purge(purge::Args),
    Calibrate(calibrate::Args),
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let context = Context { session, options: &self.options, checks_anchor: true };
        match &self.noun {
            Noun::User(verb) => verb.run(&context),
            Noun::Password(verb) => verb.run(&context),
            Noun::Session(verb) => verb.run(&context),
            Noun::Factor(verb) => verb.run(&context),
            Noun::Token(verb) => verb.run(&context),
            Noun::Key(verb) => verb.run(&context),
            Noun::Role(verb) => verb.run(&context),
            Noun::Authorize(args) => args.run(&context),
            Noun::Keyring(verb) => verb.run(&context),
            Noun::Audit(verb) => verb.run(&context),
            Noun::Purge(args) => args.run(&context),
            Noun::Calibrate(args) => args.run(&context),
        }
    }
}
