//! `auth key`: API keys, which programs authenticate with.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use hightower_kv::auth::{ApiKeyAccess, ApiKeyId, ApiKeyOptions, ApiKeyRecord, Clock, Error, SystemClock};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::units::parse_duration;
use crate::verbs::auth::grant::GrantText;
use crate::verbs::auth::secret::ask;
use crate::verbs::auth::service::{Auth, Context, user};
use crate::verbs::auth::user::{print_metadata, read_metadata};
use crate::verbs::auth::view;

/// Length of the id of an API key as text: htk_ and 32 digits.
const ID_LEN_BYTES: usize = 36;

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth key create alice --label ci --expires-in 90d
  htkvctl auth key list alice
  htkvctl auth key rotate htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 --overlap 1h
  htkvctl auth key revoke htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5
  printf '%s\\n' \"$API_KEY\" | htkvctl auth key authenticate

The id of a key is the beginning of its token, up to the second underscore. It is not secret.";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create an API key and print its token, once
    #[command(after_help = "Examples:
  htkvctl auth key create alice --label ci                       all rights of alice
  htkvctl auth key create alice --role operator --expires-in 90d only the rights of the role
  htkvctl auth key create alice --grant read:prefix:jobs/ --json | jq -r .token

A key never has more rights than its owner. The store keeps only a keyed hash of the token, so a lost token cannot be recovered.")]
    Create(Create),
    /// List a user's API keys
    #[command(after_help = "Example:
  htkvctl auth key list alice")]
    List {
        /// The name or id of the owner
        user: String,
    },
    /// Show an API key
    #[command(after_help = "Example:
  htkvctl auth key show htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5")]
    Show {
        /// The id of the key
        key: String,
    },
    /// Give an API key a new secret and print the new token, once
    #[command(after_help = "Examples:
  htkvctl auth key rotate htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5                the old one ends now
  htkvctl auth key rotate htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 --overlap 1h   it ends in an hour")]
    Rotate {
        /// The id of the key
        key: String,
        /// How long the old token stays valid: 30m, 1h, 7d
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        overlap: Option<Duration>,
    },
    /// Revoke an API key for ever
    #[command(after_help = "Examples:
  htkvctl auth key revoke htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5
  htkvctl auth key revoke                     asks for the token
  printf '%s\\n' \"$LEAKED\" | htkvctl auth key revoke

Exit code 1 if no such key exists. A token is not an argument, because others can read arguments. If only a part of a token \
leaked, its id, which is its beginning, is enough.")]
    Revoke {
        /// The id of the key; without it, the tool prompts for the token, or reads the first line
        /// of standard input
        key: Option<String>,
    },
    /// Whether a token is that of a valid API key, and of which
    #[command(after_help = "Examples:
  htkvctl auth key authenticate
  printf '%s\\n' \"$API_KEY\" | htkvctl auth key authenticate --json

Exit code 1 if not: mistyped, revoked, expired, or its owner is disabled. This does not count as a use of the key.")]
    Authenticate,
    /// Decrypt and print an API key's metadata
    #[command(after_help = "Example:
  htkvctl auth key metadata htk_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 --raw > key.json

Exit code 1 if the key has none.")]
    Metadata {
        /// The id of the key
        key: String,
        /// Print the raw bytes: nothing escaped, no line feed added
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The name or id of the owner
    user: String,

    /// A note for people
    #[arg(long)]
    label: Option<String>,

    /// Lifetime: 12h, 90d; without it, the key does not expire
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    expires_in: Option<Duration>,

    /// Limit the key to the rights of this role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,

    /// Limit the key to this grant; may be repeated. See `auth role define`
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<GrantText>,

    /// Metadata from this file, byte for byte; stored encrypted
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    outcome: &'static str,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Create(create) => create.run(context),
            Self::List { user: owner } => {
                let keys = context.read(|auth| Ok(auth.list_api_keys(&user(auth, owner)?.user_id)?))?;
                let views: Vec<_> = keys.iter().map(view::ApiKey::from).collect();
                view::many(screen, &views, "no API keys")
            }
            Self::Show { key } => view::one(screen, &view::ApiKey::from(&context.read(|auth| find(auth, key))?)),
            Self::Rotate { key, overlap } => {
                let overlap_ms = overlap.map_or(0, milliseconds);
                let (key, token) = context.change(|auth| Ok(auth.rotate_api_key(key, overlap_ms)?))?;
                view::one(screen, &view::ApiKey::with_token(&key, &token))
            }
            Self::Revoke { key: Some(key) } => revoke(context, key),
            Self::Revoke { key: None } => revoke(context, id_in(&ask("API key")?)),
            Self::Authenticate => authenticate(context),
            Self::Metadata { key, raw } => {
                let metadata = context.read(|auth| Ok(auth.decrypt_api_key_metadata(&find(auth, key)?)?))?;
                print_metadata(screen, key, metadata.as_deref(), *raw)
            }
        }
    }
}

impl Create {
    fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let metadata = self.metadata.as_deref().map(read_metadata).transpose()?;
        let options = ApiKeyOptions {
            label: self.label.as_deref(),
            access: self.access(),
            expires_at_ms: self.expires_in.map(|time| SystemClock::new().now_ms().saturating_add(milliseconds(time))),
            metadata: metadata.as_deref(),
        };
        let (key, token) =
            context.change(|auth| Ok(auth.create_api_key_with(&user(auth, &self.user)?.user_id, &options)?))?;
        view::one(context.session.screen, &view::ApiKey::with_token(&key, &token))
    }

    fn access(&self) -> ApiKeyAccess {
        if self.roles.is_empty() && self.grants.is_empty() {
            return ApiKeyAccess::LikeOwner;
        }
        let grants = self.grants.iter().map(|grant| grant.0.clone()).collect();
        ApiKeyAccess::Limited { roles: self.roles.clone(), grants }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn find(auth: &Auth, key_id: &str) -> Result<ApiKeyRecord, Failure> {
    Ok(auth.get_api_key(key_id)?.ok_or(Error::NotFound("no API key has this id"))?)
}

/// The id at the beginning of a token, or the text itself if it is no token.
fn id_in(token: &str) -> &str {
    let token = token.trim();
    token.get(..ID_LEN_BYTES).filter(|id| id.parse::<ApiKeyId>().is_ok()).unwrap_or(token)
}

fn revoke(context: &Context<'_>, key_id: &str) -> Result<Exit, Failure> {
    if id_in(key_id) != key_id {
        return Err(Failure::Usage(
            "a token must not be an argument, because others can read arguments: give its id, or the token on standard input".into(),
        ));
    }
    if !context.change(|auth| Ok(auth.revoke_api_key(key_id)?))? {
        return Err(Error::NotFound("no API key has this id").into());
    }
    context.session.screen.answer(&Answer { outcome: "revoked" }, || format!("revoked {key_id}"))?;
    Ok(Exit::Done)
}

fn authenticate(context: &Context<'_>) -> Result<Exit, Failure> {
    let token = ask("API key")?;
    match context.read(|auth| Ok(auth.authenticate_api_key(&token)?))? {
        Some(key) => view::one(context.session.screen, &view::ApiKey::from(&key)),
        None => {
            context.session.screen.answer(&Answer { outcome: "refused" }, || "refused: no valid API key".into())?;
            Ok(Exit::Negative)
        }
    }
}
