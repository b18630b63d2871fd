//! `auth keyring`: the master keys in the key file, and their use in the store.

use std::collections::BTreeMap;

use clap::Subcommand;
use hightower_kv::auth::crypto::MasterKeyId;
use hightower_kv::auth::{Error, OsEntropy};
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
  htkvctl auth keyring generate              adds a key to the file, for all new records
  htkvctl auth keyring rotate                wraps the existing records' keys with it
  htkvctl auth keyring list                  the old key wraps no record any more
  htkvctl auth keyring remove 1              the file keeps it as retired; see `restore`
  htkvctl auth keyring prune                 if no backup and no other store needs it

Without the master keys the service's records are unreadable: keep a copy of the file, apart from the store and its \
backups. Programs that have the store open must get the new keys before `rotate` runs.";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a random master key to the key file; creates the file
    #[command(after_help = "Example:
  htkvctl auth keyring generate --key-file ~/.htkv-keys

The key is on disk when this returns. It has the highest id, so it is the current key.")]
    Generate,
    /// Wrap the keys of all records with the current key
    #[command(after_help = "Examples:
  htkvctl auth keyring rotate
  htkvctl auth keyring rotate --root       after an older key may have leaked

After an interruption, run it again. It re-wraps the data keys and does not re-encrypt data. An attacker with an \
older master key, an old copy of the store and write access could still forge records: --root replaces \
the root key that authenticates records, and seals each record again. It needs a newer master key than the one that wraps \
the root, so `generate` first and do not rotate without --root; then `remove` the older key.")]
    Rotate {
        /// Seal every record again, under a new root key
        #[arg(long)]
        root: bool,
    },
    /// List the ids of the master keys, with the number of records that each wraps
    #[command(after_help = "Example:
  htkvctl auth keyring list")]
    List,
    /// Retire an older master key; it stays in the key file
    #[command(after_help = "Examples:
  htkvctl auth keyring remove 1
  htkvctl auth keyring remove 1 --without-store     if no store needs the key

Refused, with exit code 1, for the current key and for one that still wraps a record of this store. Without the store \
this cannot be checked: confirm with --without-store that no store needs the key. Backups and other stores are \
not checked. `auth keyring restore` restores the key, until `auth keyring prune`.")]
    Remove {
        /// The id of the key
        id: MasterKeyId,
        /// Skip the check of the store: no store needs the key
        #[arg(long)]
        without_store: bool,
    },
    /// Restore a retired master key
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

Records that they still wrap, in a backup or another store, become unreadable. Asks for confirmation on a terminal.")]
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
struct PrunedKeys {
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
                let key_id = context.options.key_file()?.add_random_key(&OsEntropy)?;
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
    let text =
        || format!("master key {key_id} wraps all {}; {} rewrapped", counted(examined, "record"), count(rewrapped));
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

/// The number of records that each key wraps; `None` without a store, or in a store without the
/// service's records.
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
            "the current master key cannot be removed: `auth keyring generate` creates its successor, \
             `auth keyring rotate` moves this store to it",
        )
        .into());
    }
    let usage = if without_store { Some(BTreeMap::new()) } else { usage(context)? };
    match usage {
        None => {
            let dir = context.session.data_dir().display();
            return Err(Failure::Usage(format!(
                "{dir} contains no store with users, roles or keys: set --data-dir or HTKV_DATA_DIR to the store that \
                 uses the key; --without-store removes the key without this check"
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
    let text = || format!("removed master key {key_id}; `auth keyring restore {key_id}` restores it");
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
    context.session.screen.answer(&PrunedKeys { outcome: "pruned", key_ids }, text)?;
    Ok(Exit::Done)
}
