//! `auth keyring`: the master keys, in their file and in use.

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
use crate::verbs::auth::service::{Auth, Context};

pub(super) const EXAMPLES: &str = "\
To rotate the master key:
  htkvctl auth keyring generate              adds a key to the file; it wraps all that is new
  htkvctl auth keyring rotate                wraps everything else with it; data stays as it is
  htkvctl auth keyring list                  the old key wraps nothing any more
  htkvctl auth keyring remove 1              once no backup and no other store needs it either

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
    #[command(after_help = "Example:
  htkvctl auth keyring rotate

Safe to run again after an interruption. Encrypted data is not touched, only the keys that it is encrypted with.")]
    Rotate,
    /// List the ids of the master keys, and how many records each wraps
    #[command(after_help = "Example:
  htkvctl auth keyring list")]
    List,
    /// Remove a retired master key from the key file
    #[command(after_help = "Example:
  htkvctl auth keyring remove 1

Refused, with exit code 1, for the current key and for one that still wraps something in this store. Backups and other \
stores are not looked at.")]
    Remove {
        /// The id of the key
        id: MasterKeyId,
    },
}

#[derive(Serialize)]
struct Changed {
    outcome: &'static str,
    key_id: MasterKeyId,
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
            Self::Rotate => rotate(context),
            Self::List => list(context),
            Self::Remove { id } => remove(context, *id),
        }
    }
}

fn rotate(context: &Context<'_>) -> Result<Exit, Failure> {
    let key_id = context.options.key_ring()?.current_id();
    let rotation = context.change(|auth| {
        let _bar = Progress::spinner(context.session.screen, "wrapping keys");
        Ok(auth.rotate_master_key()?)
    })?;
    let (rewrapped, examined) = (rotation.rewrapped, rotation.examined);
    let text = || format!("master key {key_id} wraps all {}; {} anew", counted(examined, "record"), count(rewrapped));
    context.session.screen.answer(&Rotated { outcome: "rotated", key_id, rewrapped, examined }, text)?;
    Ok(Exit::Done)
}

fn list(context: &Context<'_>) -> Result<Exit, Failure> {
    let ring = context.options.key_ring()?;
    let usage = usage(context)?;
    let mut ids: Vec<_> = ring.ids().collect();
    ids.extend(usage.iter().flat_map(BTreeMap::keys));
    ids.sort_unstable();
    ids.dedup();
    let keys = ids.into_iter().map(|key_id| Key {
        key_id,
        current: key_id == ring.current_id(),
        in_ring: ring.ids().any(|id| id == key_id),
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
        let state = match (key.current, key.in_ring) {
            (true, _) => "current",
            (false, true) => "older",
            (false, false) => "missing",
        };
        vec![key.key_id.to_string(), state.into(), key.wraps.map_or_else(|| "no store".into(), count)]
    };
    screen.say(&table(&["key", "state", "wraps records"], keys.iter().map(row)))?;
    Ok(Exit::Done)
}

/// How many records each key wraps; `None` where there is no store yet.
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
        Err(Failure::Auth(Error::NotFound(_))) => Ok(Some(BTreeMap::new())),
        Err(failure) => Err(failure),
    }
}

fn remove(context: &Context<'_>, key_id: MasterKeyId) -> Result<Exit, Failure> {
    let file = context.options.key_file()?;
    let wraps = usage(context)?.and_then(|usage| usage.get(&key_id).copied());
    if wraps.is_some() {
        return Err(
            Error::Conflict("the key still wraps records of this store; run `auth keyring rotate` first").into()
        );
    }
    file.remove_key(key_id)?;
    context
        .session
        .screen
        .answer(&Changed { outcome: "removed", key_id }, || format!("removed master key {key_id}"))?;
    Ok(Exit::Done)
}
