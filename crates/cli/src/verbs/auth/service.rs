//! The options of all verbs of `auth`, and the service on the store.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_kv::SingleNodeEngine;
use hightower_kv::auth::crypto::{KeyEnvironment, KeyFile, MasterKeyId};
use hightower_kv::auth::{
    AesGcmEncryptor, Argon2Params, Argon2SecretHasher, AuditAnchor, AuditVerdict, AuthService, Error, KeyProvider,
    KeyRing, Pepper, UserRecord,
};

use crate::failure::Failure;
use crate::session::{Session, Store};

/// The environment variable with the master keys, if no file is named.
const KEY_VARIABLE: &str = "HTKV_MASTER_KEYS";

const NO_KEYS: &str = "no master keys: name their file with --key-file or HTKV_KEY_FILE, or put them into HTKV_MASTER_KEYS; \
                       `htkvctl auth keyring generate --key-file FILE` creates one";
const NO_RECORDS: &str =
    "the store has no users, roles or keys yet; create the first with `auth user create` or `auth role define`";

/// Options of every verb.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Service")]
pub(super) struct Options {
    /// The file with the master keys, one per line: id:64-hex-digits, where the id is a number.
    /// Only its owner may be able to read it. Without it the environment variable HTKV_MASTER_KEYS
    /// holds them, separated by commas
    #[arg(long, global = true, value_name = "FILE", env = "HTKV_KEY_FILE", hide_env_values = true)]
    key_file: Option<PathBuf>,

    /// The file with the peppers of the password hashes, if the service has any, one per line:
    /// id:hex-digits, where the id is a number. Only its owner may be able to read it
    #[arg(long, global = true, value_name = "FILE", env = "HTKV_PEPPER_FILE", hide_env_values = true)]
    pepper_file: Option<PathBuf>,

    /// Parameters of new password hashes: memory in KiB, iterations, lanes. See `auth calibrate`
    #[arg(long, global = true, value_name = "m=KIB,t=N,p=N", env = "HTKV_ARGON2", hide_env_values = true, default_value_t = Argon2Params::default())]
    argon2: Argon2Params,

    /// The source of the request, for the audit trail and the delays after wrong passwords
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(super) source: Option<String>,

    /// An earlier output of `auth audit anchor`: the audit trail must continue from it, otherwise
    /// the verb fails
    #[arg(long, global = true, value_name = "ANCHOR", env = "HTKV_AUDIT_ANCHOR", hide_env_values = true)]
    pub(super) anchor: Option<AuditAnchor>,
}

impl Options {
    pub(super) fn key_file(&self) -> Result<KeyFile, Failure> {
        match &self.key_file {
            Some(path) => Ok(KeyFile::new(path)),
            None => Err(Failure::Usage("this needs the file of the master keys: --key-file or HTKV_KEY_FILE".into())),
        }
    }

    fn secrets(&self) -> Result<Secrets, Failure> {
        Ok(Secrets { hasher: self.hasher()?, ring: self.key_ring()? })
    }

    fn hasher(&self) -> Result<Argon2SecretHasher, Failure> {
        let hasher = Argon2SecretHasher::with_params(self.argon2);
        match &self.pepper_file {
            Some(path) => Ok(hasher.pepper(Pepper::from_file(path).map_err(|error| name_file(path, error))?)),
            None => Ok(hasher),
        }
    }

    pub(super) fn key_ring(&self) -> Result<KeyRing, Failure> {
        match &self.key_file {
            Some(path) => KeyFile::new(path).load().map_err(|error| match error {
                Error::KeyFile { source, .. } if source.kind() == ErrorKind::NotFound => Failure::Usage(format!(
                    "{}: the key file does not exist; `htkvctl auth keyring generate --key-file {}` creates one",
                    path.display(),
                    path.display()
                )),
                error => name_file(path, error),
            }),
            None => match KeyEnvironment::new(KEY_VARIABLE).load() {
                Err(Error::NotFound(_)) => Err(Failure::Usage(NO_KEYS.into())),
                outcome => Ok(outcome?),
            },
        }
    }
}

impl Options {
    /// The ids of the retired keys in the key file; none if the keys come from the environment.
    pub(super) fn retired_keys(&self) -> Result<Vec<MasterKeyId>, Failure> {
        let ids = self.key_file.as_ref().map(|path| KeyFile::new(path).retired_ids());
        Ok(ids.transpose()?.unwrap_or_default())
    }
}

/// Adds the file's name to an error of its content.
fn name_file(path: &Path, error: Error) -> Failure {
    match error {
        Error::Validation(problem) => Failure::Usage(format!("{}: {problem}", path.display())),
        other => other.into(),
    }
}

/// The keys and options of the service, read before the store is opened or created.
struct Secrets {
    hasher: Argon2SecretHasher,
    ring: KeyRing,
}

/// The service type on the tool's store.
pub(super) type Auth = AuthService<Arc<SingleNodeEngine>, Argon2SecretHasher, AesGcmEncryptor>;

/// The context of a verb of `auth`.
pub(super) struct Context<'a> {
    pub(super) session: &'a Session,
    pub(super) options: &'a Options,
    /// Whether the trail is compared with the anchor before the verb runs.
    pub(super) checks_anchor: bool,
}

impl Context<'_> {
    /// Runs `work` on a store opened for reading. Writes of last uses are skipped.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Auth) -> Result<T, Failure>) -> Result<T, Failure> {
        let secrets = self.options.secrets()?;
        self.session.reader()?.finish(|store| work(&self.begun(store, secrets)?))
    }

    /// Runs `work`, which changes an existing store.
    pub(super) fn change<T>(&self, work: impl FnOnce(&Auth) -> Result<T, Failure>) -> Result<T, Failure> {
        let secrets = self.options.secrets()?;
        self.session.existing_writer()?.finish(|store| work(&self.begun(store, secrets)?))
    }

    /// Runs `work`, which may create the store and its first record.
    pub(super) fn create<T>(&self, work: impl FnOnce(&Auth) -> Result<T, Failure>) -> Result<T, Failure> {
        let secrets = self.options.secrets()?;
        self.session.writer()?.finish(|store| work(&self.anchored(self.service(store, secrets)?)?))
    }

    fn begun(&self, store: &Store, secrets: Secrets) -> Result<Auth, Failure> {
        let auth = self.service(store, secrets)?;
        if auth.is_initialised()? { self.anchored(auth) } else { Err(Error::NotFound(NO_RECORDS).into()) }
    }

    /// The service, if its audit trail continues from the given anchor.
    fn anchored(&self, auth: Auth) -> Result<Auth, Failure> {
        let Some(anchor) = self.options.anchor.as_ref().filter(|_| self.checks_anchor) else { return Ok(auth) };
        match auth.verify_audit(Some(anchor))? {
            AuditVerdict::Intact { .. } => Ok(auth),
            AuditVerdict::PrunedPast { .. } => {
                Err(Error::Conflict("the audit trail was pruned past the anchor: no comparison is possible").into())
            }
            AuditVerdict::Broken { problem, .. } => {
                self.session.screen.note(problem);
                Err(Error::Conflict("the audit trail does not continue from the anchor: nothing was done").into())
            }
        }
    }

    fn service(&self, store: &Store, Secrets { hasher, ring }: Secrets) -> Result<Auth, Failure> {
        let auth = AuthService::new(store.engine(), hasher, AesGcmEncryptor::with_ring(ring));
        match &self.options.source {
            Some(source) => Ok(auth.from_source(source)?),
            None => Ok(auth),
        }
    }
}

/// Reports a password that could not be checked, which the service answers like a wrong one.
pub(super) fn unless_uncheckable(auth: &Auth) -> Result<(), Failure> {
    match auth.stats().passwords_uncheckable {
        0 => Ok(()),
        _ => Err(Error::Crypto("the pepper of this password hash is not configured: set --pepper-file").into()),
    }
}

/// The user with this id or name. An id takes precedence over a name of the same text.
pub(super) fn user(auth: &Auth, name_or_id: &str) -> Result<UserRecord, Failure> {
    if let Some(user) = auth.get_user(name_or_id)? {
        return Ok(user);
    }
    match auth.find_user(name_or_id) {
        Ok(Some(user)) => Ok(user),
        Ok(None) | Err(Error::Validation(_)) => Err(Error::NotFound("no user has this name or id").into()),
        Err(error) => Err(error.into()),
    }
}
