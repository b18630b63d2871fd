//! `auth keyring`: the master keys, in their file and in use.

use std::collections::BTreeMap;

use clap::Subcommand;
use hightower_kv::auth::crypto::MasterKeyId;
use hightower_kv::auth::{Error, OsSecretEntropy};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::screen::Screen;
use crate::table::table;
use crate::units::{count, counted};
use crate::verbs::auth::secret::confirm;
use crate::verbs::auth::service::{Auth, Context};

pub(super) const EXAMPLES: &str = "\
To rotate the master key:
  htkvctl auth keyring generate              adds a key to the file; it wraps all that is new
  htkvctl auth keyring rotate                wraps everything else with it; data stays as it is
  htkvctl auth keyring list                  the old key wraps nothing any more
  htkvctl auth keyring remove 1              the file keeps it as retired; see `restore`
  htkvctl auth keyring prune                 when no backup and no other store needs it

Without a master key nothing of the service can be read again: keep a copy of the file, apart from the store and its \
backups. Programs that have the store open must get the new keys before `rotate` runs.";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a new random master key to the key file, or make the file
    #[command(after_help = "Example:
  htkvctl auth keyring generate --key-file ~/.htkv-keys

The key is on disk when this returns. It gets the highest id, and so becomes the current one.")]
    Generate,
    /// Wrap all that older keys wrap with the current key
    #[command(after_help = "Examples:
  htkvctl auth keyring rotate
  htkvctl auth keyring rotate --root       an older key may be in the wrong hands

Safe to run again after an interruption. Encrypted data is not touched, only the keys that it is encrypted with. Who has an \
older master key and a copy of the store from before could still forge records, if the store can be written: --root replaces \
the key against which all records are checked, and seals each anew. It needs a newer master key than the one that wraps \
the root, so `generate` first and do not rotate without --root; then `remove` the older key.")]
    Rotate {
        /// Seal every record anew, under a new root key
        #[arg(long)]
        root: bool,
    },
    /// List the ids of the master keys, and how many records each wraps
    #[command(after_help = "Example:
  htkvctl auth keyring list")]
    List,
    /// Take an older master key out of use; it stays in the key file as retired
    #[command(after_help = "Examples:
  htkvctl auth keyring remove 1
  htkvctl auth keyring remove 1 --without-store     no store has anything that it wraps

Refused, with exit code 1, for the current key and for one that still wraps something in this store. Without the store \
that uses the key nothing can be known about it: that has to be said with --without-store. Backups and other stores are \
not looked at. `auth keyring restore` takes the key back, until `auth keyring prune`.")]
    Remove {
        /// The id of the key
        id: MasterKeyId,
        /// Look at no store: you know that none needs the key
        #[arg(long)]
        without_store: bool,
    },
    /// Take a retired master key back into use
    #[command(after_help = "Example:
  htkvctl auth keyring restore 1

Exit code 1 if the key file has no retired key of this id.")]
    Restore {
        /// The id of the key
        id: MasterKeyId,
    },
    /// Remove the retired master keys from the key file for ever
    #[command(after_help = "Example:
  htkvctl auth keyring prune

What they still wrap, in a backup or another store, can never be read again. Asks first on a terminal.")]
    Prune {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Changed {
    outcome: &'static str,
    key_id: MasterKeyId,
}

#[derive(Serialize)]
struct Pruned {
    outcome: &'static str,
    key_ids: Vec<MasterKeyId>,
}

#[derive(Serialize)]
struct Rotated {
    outcome: &'static str,
    key_id: MasterKeyId,
    rewrapped: u64,
    examined: u64,
}

#[derive(Serialize)]
struct Key {
    key_id: MasterKeyId,
    current: bool,
    in_ring: bool,
    retired: bool,
    wraps: Option<u64>,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::Generate => {
                let key_id = context.options.key_file()?.add_random_key(&OsSecretEntropy)?;
                screen
                    .answer(&Changed { outcome: "generated", key_id }, || format!("generated master key {key_id}"))?;
                Ok(Exit::Done)
            }
            Self::Rotate { root } => rotate(context, *root),
            Self::List => list(context),
            Self::Remove { id, without_store } => remove(context, *id, *without_store),
            Self::Restore { id } => {
                context.options.key_file()?.restore_key(*id)?;
                let answer = Changed { outcome: "restored", key_id: *id };
                screen.answer(&answer, || format!("restored master key {id}"))?;
                Ok(Exit::Done)
            }
            Self::Prune { yes } => prune(context, *yes),
        }
    }
}

fn rotate(context: &Context<'_>, root: bool) -> Result<Exit, Failure> {
    let key_id = context.options.key_ring()?.current_id();
    let rotation = context.change(|auth| {
        let _bar = Progress::spinner(context.session.screen, "wrapping keys");
        Ok(if root { auth.rotate_root()? } else { auth.rotate_master_key()? })
    })?;
    let (rewrapped, examined) = (rotation.rewrapped, rotation.examined);
    let text = || format!("master key {key_id} wraps all {}; {} anew", counted(examined, "record"), count(rewrapped));
    context.session.screen.answer(&Rotated { outcome: "rotated", key_id, rewrapped, examined }, text)?;
    Ok(Exit::Done)
}

fn list(context: &Context<'_>) -> Result<Exit, Failure> {
    let ring = context.options.key_ring()?;
    let retired = context.options.retired_keys()?;
    let usage = usage(context)?;
    let mut ids: Vec<_> = ring.ids().chain(retired.iter().copied()).collect();
    ids.extend(usage.iter().flat_map(BTreeMap::keys));
    ids.sort_unstable();
    ids.dedup();
    let keys = ids.into_iter().map(|key_id| Key {
        key_id,
        current: key_id == ring.current_id(),
        in_ring: ring.ids().any(|id| id == key_id),
        retired: retired.contains(&key_id),
        wraps: usage.as_ref().map(|usage| usage.get(&key_id).copied().unwrap_or(0)),
    });
    show(context.session.screen, &keys.collect::<Vec<_>>())
}

fn show(screen: Screen, keys: &[Key]) -> Result<Exit, Failure> {
    if screen.json {
        keys.iter().try_for_each(|key| screen.answer(key, String::new))?;
        return Ok(Exit::Done);
    }
    let row = |key: &Key| {
        let state = match (key.current, key.in_ring, key.retired) {
            (true, _, _) => "current",
            (false, true, _) => "older",
            (false, false, true) => "retired",
            (false, false, false) => "missing",
        };
        vec![key.key_id.to_string(), state.into(), key.wraps.map_or_else(|| "no store".into(), count)]
    };
    screen.say(&table(&["key", "state", "wraps records"], keys.iter().map(row)))?;
    Ok(Exit::Done)
}

/// How many records each key wraps; `None` where there is no store, or none with the service's
/// records.
fn usage(context: &Context<'_>) -> Result<Option<BTreeMap<MasterKeyId, u64>>, Failure> {
    if !context.session.data_dir().exists() {
        return Ok(None);
    }
    let count = |auth: &Auth| {
        let _bar = Progress::spinner(context.session.screen, "counting records");
        Ok(auth.master_key_usage()?)
    };
    match context.read(count) {
        Ok(usage) => Ok(Some(usage)),
        Err(Failure::Auth(Error::NotFound(_)) | Failure::NoStore(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn remove(context: &Context<'_>, key_id: MasterKeyId, without_store: bool) -> Result<Exit, Failure> {
    let file = context.options.key_file()?;
    if context.options.key_ring()?.current_id() == key_id {
        return Err(Error::Conflict(
            "the current master key cannot be removed: `auth keyring generate` makes its successor, \
             `auth keyring rotate` moves this store to it",
        )
        .into());
    }
    let usage = if without_store { Some(BTreeMap::new()) } else { usage(context)? };
    match usage {
        None => {
            let dir = context.session.data_dir().display();
            return Err(Failure::Usage(format!(
                "{dir} holds no store with users, roles or keys: --data-dir or HTKV_DATA_DIR says where the store is that \
                 used the key; --without-store removes the key without a look at any"
            )));
        }
        Some(usage) if usage.contains_key(&key_id) => {
            return Err(
                Error::Conflict("the key still wraps records of this store; run `auth keyring rotate` first").into()
            );
        }
        Some(_) => {}
    }
    file.retire_key(key_id)?;
    let text = || format!("removed master key {key_id}; `auth keyring restore {key_id}` takes it back");
    context.session.screen.answer(&Changed { outcome: "removed", key_id }, text)?;
    Ok(Exit::Done)
}

fn prune(context: &Context<'_>, yes: bool) -> Result<Exit, Failure> {
    let file = context.options.key_file()?;
    let count = file.retired_ids()?.len() as u64;
    if count > 0 {
        confirm(yes, &format!("remove {} from the key file for ever", counted(count, "retired master key")))?;
    }
    let key_ids = file.prune_retired()?;
    let count = key_ids.len() as u64;
    let text = || format!("removed {}", counted(count, "retired master key"));
    context.session.screen.answer(&Pruned { outcome: "pruned", key_ids }, text)?;
    Ok(Exit::Done)
}
