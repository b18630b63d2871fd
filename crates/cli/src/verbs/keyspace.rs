//! `keyspace`: list, create, alter, rename, clear and drop keyspaces.

use clap::{ArgAction, ArgGroup};
use hightower_kv::{Durability, KeyspaceInfo, KeyspaceOptions};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  htkvctl keyspace create sessions
  htkvctl put 17 Ada --keyspace sessions
  htkvctl prefix '' --keyspace sessions
  htkvctl keyspace list
  htkvctl keyspace alter sessions --max-keys 10000
  htkvctl keyspace rename sessions logins
  htkvctl keyspace drop logins

A keyspace is a named set of keys of its own. The verbs on keys use the default one, or with --keyspace the named one. Exit \
code 1 if a keyspace is missing, or is there already.";

/// List, create, alter, rename, clear and drop keyspaces
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_value_name = "VERB", arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: KeyspaceVerb,
}

const LIST: &str = "\
Examples:
  htkvctl keyspace list
  htkvctl keyspace list --json           with ids, quotas and uses, one object per line

The use of each keyspace is counted: this reads all its keys and values.";

const CREATE: &str = "\
Examples:
  htkvctl keyspace create sessions
  htkvctl keyspace create orders --sync  each write waits for the disk
  htkvctl keyspace create tenant-7 --max-keys 10000 --max-bytes 64000000

Bytes are those of keys and values; deleted keys and replaced values do not count. A commit that would exceed a quota is refused \
as a whole.";

const ALTER: &str = "\
Examples:
  htkvctl keyspace alter tenant-7 --max-keys 20000
  htkvctl keyspace alter tenant-7 --max-keys none --max-bytes none
  htkvctl keyspace alter orders --sync false

Options that are not named stay as they are. A quota below what is there refuses only commits that add more.";

const RENAME: &str = "\
Examples:
  htkvctl keyspace rename config-next config";

const CLEAR: &str = "\
Examples:
  htkvctl keyspace clear cache           one commit, for any number of keys";

const DROP: &str = "\
Examples:
  htkvctl keyspace drop cache            one commit, for any number of keys";

#[derive(Debug, clap::Subcommand)]
enum KeyspaceVerb {
    /// List the keyspaces, sorted by name
    #[command(after_help = LIST)]
    List,
    /// Create a keyspace
    #[command(after_help = CREATE)]
    Create {
        /// The name: 1 to 255 bytes of text, not beginning with $
        name: String,

        /// Each write of a program that names no durability survives power loss
        #[arg(long)]
        sync: bool,

        /// The most keys
        #[arg(long, value_name = "NUMBER")]
        max_keys: Option<u64>,

        /// The most bytes of keys and values
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
    },
    /// Change the options of a keyspace
    #[command(after_help = ALTER, group = ArgGroup::new("option").required(true).multiple(true))]
    Alter {
        /// The name
        name: String,

        /// Whether each write of a program that names no durability survives power loss
        #[arg(long, group = "option", action = ArgAction::Set, value_name = "true|false", hide_possible_values = true)]
        sync: Option<bool>,

        /// The most keys; `none` for no limit
        #[arg(long, group = "option", value_name = "NUMBER|none", value_parser = parse_limit)]
        max_keys: Option<NewLimit>,

        /// The most bytes of keys and values; `none` for no limit
        #[arg(long, group = "option", value_name = "BYTES|none", value_parser = parse_limit)]
        max_bytes: Option<NewLimit>,
    },
    /// Give a keyspace another name
    #[command(after_help = RENAME)]
    Rename {
        /// The name
        name: String,

        /// The new name
        new_name: String,
    },
    /// Delete all keys of a keyspace
    #[command(after_help = CLEAR)]
    Clear {
        /// The name
        name: String,
    },
    /// Drop a keyspace with all its keys
    #[command(after_help = DROP)]
    Drop {
        /// The name
        name: String,
    },
}

/// A limit to be set.
#[derive(Clone, Copy, Debug)]
struct NewLimit(Option<u64>);

fn parse_limit(text: &str) -> Result<NewLimit, String> {
    match text {
        "none" => Ok(NewLimit(None)),
        number => number.parse().map(|limit| NewLimit(Some(limit))).map_err(|_| "a number, or none".into()),
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: u64,
    sync: bool,
    keys: u64,
    bytes: u64,
    max_keys: Option<u64>,
    max_bytes: Option<u64>,
}

#[derive(Serialize)]
struct KeyspaceChanged<'a> {
    outcome: &'static str,
    name: &'a str,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let (outcome, name) = match &self.verb {
            KeyspaceVerb::List => return list(session),
            KeyspaceVerb::Create { name, sync, max_keys, max_bytes } => {
                let mut options = KeyspaceOptions::default();
                options.durability = sync.then_some(Durability::Sync);
                (options.max_keys, options.max_bytes) = (*max_keys, *max_bytes);
                session.writer()?.finish(|store| Ok(store.create_keyspace(name, options).map(drop)?))?;
                ("created", name)
            }
            KeyspaceVerb::Alter { name, sync, max_keys, max_bytes } => {
                session.existing_writer()?.finish(|store| {
                    let mut options = store.keyspace(name)?.options();
                    if let Some(sync) = sync {
                        options.durability = sync.then_some(Durability::Sync);
                    }
                    options.max_keys = max_keys.map_or(options.max_keys, |limit| limit.0);
                    options.max_bytes = max_bytes.map_or(options.max_bytes, |limit| limit.0);
                    Ok(store.alter_keyspace(name, options)?)
                })?;
                ("altered", name)
            }
            KeyspaceVerb::Rename { name, new_name } => {
                session.existing_writer()?.finish(|store| Ok(store.rename_keyspace(name, new_name)?))?;
                ("renamed", name)
            }
            KeyspaceVerb::Clear { name } => {
                session.existing_writer()?.finish(|store| Ok(store.keyspace(name)?.clear()?))?;
                ("cleared", name)
            }
            KeyspaceVerb::Drop { name } => {
                session.existing_writer()?.finish(|store| Ok(store.drop_keyspace(name)?))?;
                ("dropped", name)
            }
        };
        session.screen.answer(&KeyspaceChanged { outcome, name }, || format!("{outcome} {name}"))?;
        Ok(Exit::Done)
    }
}

fn list(session: &Session) -> Result<Exit, Failure> {
    session.reader()?.finish(|store| {
        for KeyspaceInfo { name, id, options, .. } in &store.keyspaces()? {
            if !session.screen.json {
                session.screen.answer(&(), || name.clone())?;
                continue;
            }
            let used = store.keyspace(name)?.usage()?;
            let KeyspaceOptions { durability, max_keys, max_bytes, .. } = *options;
            let sync = durability == Some(Durability::Sync);
            let (id, keys, bytes) = (id.get(), used.keys, used.bytes);
            session.screen.answer(&Listed { name, id, sync, keys, bytes, max_keys, max_bytes }, String::new)?;
        }
        Ok(Exit::Done)
    })
}
