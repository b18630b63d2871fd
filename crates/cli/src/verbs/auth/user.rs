//! `auth user`: create, find, rename, disable, enable, delete; and the metadata.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hightower_kv::auth::crypto::MAX_PLAINTEXT_LEN_BYTES;
use hightower_kv::auth::{Error, MAX_PAGE, UserId, UserRecord};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::notation::show;
use crate::records::Bytes;
use crate::screen::Screen;
use crate::units::parse_some;
use crate::verbs::auth::secret::{ask_new, confirm};
use crate::verbs::auth::service::{Context, user};
use crate::verbs::auth::view;

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth user create alice             prompts for the password, twice
  htkvctl auth user list
  htkvctl auth user disable alice            ends all her sessions, refuses her API keys
  htkvctl auth user delete alice             with her sessions and API keys, in one commit";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a user; prompts for the password, or reads the first line of standard input
    #[command(after_help = "Examples:
  htkvctl auth user create alice
  htkvctl auth user create alice --metadata alice.json     stored encrypted; 64 KiB at most
  pass show alice | htkvctl auth user create alice --json

A password has 15 to 256 characters, is not a common one, and does not contain the name. Exit code 1 if the name is taken, \
in any spelling with the same normal form: Alice, ALICE and alice have one.")]
    Create {
        /// The name: letters, digits and . _ - @ +
        name: String,
        /// Metadata from this file, byte for byte
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
    },
    /// List users, in the order of their ids
    #[command(after_help = "Examples:
  htkvctl auth user list
  htkvctl auth user list --limit 100 --after usr_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5   the next page
  htkvctl auth user list --json | jq -r .username")]
    List {
        /// Maximum number of users
        #[arg(long, value_name = "N", value_parser = parse_some)]
        limit: Option<usize>,
        /// Only users after this id
        #[arg(long, value_name = "ID")]
        after: Option<UserId>,
    },
    /// Show a user
    #[command(after_help = "Examples:
  htkvctl auth user show alice
  htkvctl auth user show usr_a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 --json")]
    Show {
        /// The name or id
        user: String,
    },
    /// Rename a user; the id does not change
    #[command(after_help = "Example:
  htkvctl auth user rename alice alice.liddell")]
    Rename {
        /// The name or id
        user: String,
        /// The new name
        name: String,
    },
    /// Enable a disabled user
    #[command(after_help = "Example:
  htkvctl auth user enable alice

The API keys are valid again; the sessions stay ended.")]
    Enable {
        /// The name or id
        user: String,
    },
    /// Disable a user
    #[command(after_help = "Example:
  htkvctl auth user disable alice

All sessions end, and the user's API keys are refused until `auth user enable`.")]
    Disable {
        /// The name or id
        user: String,
    },
    /// Clear a user's delay after wrong passwords
    #[command(after_help = "Examples:
  htkvctl auth user unlock alice
  htkvctl auth user unlock alice --source 192.0.2.7     also the source's delay at all users

A delay ends after at most 15 minutes. `auth password reset` clears it too.")]
    Unlock {
        /// The name or id
        user: String,
    },
    /// Delete a user with all sessions and API keys
    #[command(after_help = "Example:
  htkvctl auth user delete alice

The deletion is one atomic commit. The name is free afterwards; the id is never used again. Asks for confirmation on a terminal.")]
    Delete {
        /// The name or id
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Print, set or remove a user's encrypted metadata
    #[command(after_help = "Examples:
  htkvctl auth user metadata alice                    decrypted
  htkvctl auth user metadata alice --raw > alice.json
  htkvctl auth user metadata alice --set alice.json
  htkvctl auth user metadata alice --clear

Exit code 1 if the user has none to print.")]
    Metadata {
        /// The name or id
        user: String,
        /// Replace the metadata by the bytes of this file
        #[arg(long, value_name = "FILE", conflicts_with_all = ["clear", "raw"])]
        set: Option<PathBuf>,
        /// Remove it
        #[arg(long, conflicts_with = "raw")]
        clear: bool,
        /// Print the raw bytes: nothing escaped, no line feed added
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
}

#[derive(Serialize)]
struct Deleted<'a> {
    outcome: &'static str,
    user_id: &'a str,
}

#[derive(Serialize)]
struct Metadata<'a> {
    id: &'a str,
    metadata: Bytes<'a>,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Create { name, metadata } => create(context, name, metadata.as_deref()),
            Self::List { limit, after } => list(context, limit.unwrap_or(usize::MAX), after.clone()),
            Self::Show { user: name } => view::one(screen, &view::User::from(&context.read(|auth| user(auth, name))?)),
            Self::Rename { user: old, name } => {
                let done = context.change(|auth| Ok(auth.rename_user(&user(auth, old)?.user_id, name)?))?;
                tell(screen, &done, "renamed to")
            }
            Self::Enable { user: name } => {
                let done = context.change(|auth| Ok(auth.enable_user(&user(auth, name)?.user_id)?))?;
                tell(screen, &done, "enabled")
            }
            Self::Disable { user: name } => {
                let done = context.change(|auth| Ok(auth.disable_user(&user(auth, name)?.user_id)?))?;
                tell(screen, &done, "disabled")
            }
            Self::Unlock { user: name } => {
                let done = context.change(|auth| {
                    let user = user(auth, name)?;
                    auth.clear_delays(&user.user_id)?;
                    context.options.source.as_deref().map_or(Ok(()), |source| auth.clear_source_delays(source))?;
                    Ok(user)
                })?;
                tell(screen, &done, "unlocked")
            }
            Self::Delete { user: name, yes } => delete(context, name, *yes),
            Self::Metadata { user: name, set, clear, raw } => match (set, clear) {
                (Some(file), _) => set_metadata(context, name, Some(file)),
                (None, true) => set_metadata(context, name, None),
                (None, false) => show_metadata(context, name, *raw),
            },
        }
    }
}

fn create(context: &Context<'_>, name: &str, metadata: Option<&Path>) -> Result<Exit, Failure> {
    let metadata = metadata.map(read_metadata).transpose()?;
    let password = ask_new("password")?;
    let work =
        |auth: &super::service::Auth| Ok(auth.create_user_with_metadata(name, &password, metadata.as_deref())?);
    tell(context.session.screen, &context.create(work)?, "created")
}

fn tell(screen: Screen, user: &UserRecord, done: &str) -> Result<Exit, Failure> {
    screen.answer(&view::User::from(user), || format!("{done} {} ({})", user.username, user.user_id))?;
    Ok(Exit::Done)
}

fn list(context: &Context<'_>, limit: usize, after: Option<UserId>) -> Result<Exit, Failure> {
    let is_first_page = after.is_none();
    let users = context.read(|auth| {
        let (mut users, mut after) = (Vec::new(), after);
        while users.len() < limit {
            interrupt::check()?;
            let page = auth.list_users(after.as_ref(), MAX_PAGE.min(limit - users.len()))?;
            let Some(last) = page.last() else { break };
            after = Some(last.user_id.clone());
            users.extend(page);
        }
        Ok(users)
    })?;
    let views: Vec<_> = users.iter().map(view::User::from).collect();
    view::many(context.session.screen, &views, if is_first_page { "no users" } else { "no more users" })
}

fn delete(context: &Context<'_>, name: &str, yes: bool) -> Result<Exit, Failure> {
    confirm(yes, &format!("delete {} with all sessions and API keys", show(name.as_bytes())))?;
    let user = context.change(|auth| {
        let user = user(auth, name)?;
        match auth.delete_user(&user.user_id)? {
            true => Ok(user),
            false => Err(Error::NotFound("the user was deleted meanwhile").into()),
        }
    })?;
    let answer = Deleted { outcome: "deleted", user_id: &user.user_id };
    context.session.screen.answer(&answer, || format!("deleted {} ({})", user.username, user.user_id))?;
    Ok(Exit::Done)
}

fn set_metadata(context: &Context<'_>, name: &str, file: Option<&PathBuf>) -> Result<Exit, Failure> {
    let metadata = file.map(|file| read_metadata(file)).transpose()?;
    let done = context.change(|auth| Ok(auth.set_user_metadata(&user(auth, name)?.user_id, metadata.as_deref())?))?;
    tell(context.session.screen, &done, if metadata.is_some() { "set metadata of" } else { "removed metadata of" })
}

fn show_metadata(context: &Context<'_>, name: &str, raw: bool) -> Result<Exit, Failure> {
    let (id, metadata) = context.read(|auth| {
        let user = user(auth, name)?;
        Ok((user.user_id.clone(), auth.decrypt_user_metadata(&user)?))
    })?;
    print_metadata(context.session.screen, &id, metadata.as_deref(), raw)
}

/// Prints decrypted metadata; exit code 1 if there is none.
pub(super) fn print_metadata(screen: Screen, id: &str, metadata: Option<&[u8]>, raw: bool) -> Result<Exit, Failure> {
    let Some(metadata) = metadata else {
        screen.error("not_found", &format!("{id} has no metadata"));
        return Ok(Exit::Negative);
    };
    if raw {
        let mut out = screen.records();
        out.write_all(metadata)?;
        out.flush()?;
    } else {
        screen.answer(&Metadata { id, metadata: Bytes::of(metadata) }, || show(metadata).into_owned())?;
    }
    Ok(Exit::Done)
}

/// A file's bytes, up to one byte over the limit, so that the service reports its limit.
pub(super) fn read_metadata(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failed = |source| Failure::File { action: format!("read {}", path.display()), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_PLAINTEXT_LEN_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
