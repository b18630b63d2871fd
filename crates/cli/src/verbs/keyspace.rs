//! `keyspace`: list, create, rename, clear and drop keyspaces.

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
  htkvctl keyspace rename sessions logins
  htkvctl keyspace drop logins

A keyspace is a named set of keys of its own. The verbs on keys use the default one, or with --keyspace the named one. Exit \
code 1 if a keyspace is missing, or is there already.";

/// List, create, rename, clear and drop keyspaces
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, subcommand_value_name = "VERB", arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: KeyspaceVerb,
}

const LIST: &str = "\
Examples:
  htkvctl keyspace list
  htkvctl keyspace list --json           with ids, one object per line";

const CREATE: &str = "\
Examples:
  htkvctl keyspace create sessions
  htkvctl keyspace create orders --sync  each write waits for the disk";

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

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: u64,
    sync: bool,
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
            KeyspaceVerb::Create { name, sync } => {
                let options = KeyspaceOptions::default();
                let options = if *sync { options.with_durability(Durability::Sync) } else { options };
                session.writer()?.finish(|store| Ok(store.create_keyspace(name, options).map(drop)?))?;
                ("created", name)
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
    let keyspaces = session.reader()?.finish(|store| Ok(store.keyspaces()?))?;
    for KeyspaceInfo { name, id, options, .. } in &keyspaces {
        let listed = Listed { name, id: id.get(), sync: options.durability == Some(Durability::Sync) };
        session.screen.answer(&listed, || name.clone())?;
    }
    Ok(Exit::Done)
}
