//! A fast engine in memory, a manual clock, and services on them.

#![allow(unreachable_pub, dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_auth::{
    AesGcmEncryptor, Argon2Params, Argon2SecretHasher, AuditVerdict, AuthOptions, AuthService, Enrolment, Factor,
    FactorCheck, GuessPolicy, PasswordPolicy,
};
use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, BatchRequirement, Command, Committed, Durability, Error, Keyspace,
    KeyspaceEngine, KeyspaceId, KvEngine, Rejected, Result, Value,
};
use hightower_seams::{Clock as _, ManualClock};
use parking_lot::Mutex;

/// One good password.
pub const PASSWORD: &str = "violet teapot orbit 9";
/// Another one.
pub const OTHER: &str = "four more random words";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// The service's records.
    pub entries: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    /// The keys of users.
    pub data: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    pub version: u64,
}

impl Image {
    fn of(&self, keyspace: KeyspaceId) -> &BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        if keyspace == KeyspaceId::DEFAULT { &self.data } else { &self.entries }
    }

    fn of_mut(&mut self, keyspace: KeyspaceId) -> &mut BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        if keyspace == KeyspaceId::DEFAULT { &mut self.data } else { &mut self.entries }
    }
}

/// One operation of an engine without the content: `get`, `scan` or `commit`, with the lengths of
/// keys and values, in bytes. Absent values have none.
pub type Operation = (&'static str, Vec<(usize, Option<usize>)>);

/// Called before every operation; may block.
pub type Hook = Box<dyn Fn() + Send + Sync>;

/// An engine in memory. Batches are atomic and conditional, and every operation sees one state.
#[derive(Default)]
pub struct MemEngine {
    image: Mutex<Image>,
    pub writes: AtomicU64,
    /// Images after each commit, if recorded.
    pub history: Mutex<Option<Vec<Image>>>,
    /// The operations, if recorded.
    pub trace: Mutex<Option<Vec<Operation>>>,
    /// Those that commits were asked for.
    pub durabilities: Mutex<Vec<Durability>>,
    pub hook: Option<Hook>,
}

impl MemEngine {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn with_image(image: Image) -> Arc<Self> {
        Arc::new(Self { image: Mutex::new(image), ..Self::default() })
    }

    pub fn with_hook(hook: Hook) -> Arc<Self> {
        Arc::new(Self { hook: Some(hook), ..Self::default() })
    }

    pub fn image(&self) -> Image {
        self.image.lock().clone()
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Changes a record without the service.
    pub fn tamper(&self, key: &[u8], value: Option<Vec<u8>>) {
        let mut image = self.image.lock();
        image.version += 1;
        let version = image.version;
        match value {
            Some(value) => drop(image.entries.insert(key.to_vec(), (value, version))),
            None => drop(image.entries.remove(key)),
        }
    }

    fn note(&self, what: &'static str, lens: impl IntoIterator<Item = (usize, Option<usize>)>) {
        if let Some(trace) = &mut *self.trace.lock() {
            trace.push((what, lens.into_iter().collect()));
        }
    }

    fn step(&self) {
        if let Some(hook) = &self.hook {
            hook();
        }
    }
}

impl KvEngine for MemEngine {
    fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        Ok(self.submit_batch([command])?.remove(0))
    }

    fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        let mut batch = Batch::new();
        for command in commands {
            batch.submit(&command);
        }
        match self.commit(&batch)? {
            BatchOutcome::Committed(Committed { outcomes, .. }) => Ok(outcomes),
            BatchOutcome::Rejected(_) => Err(Error::Conflict("rejected".into())),
        }
    }

    fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        self.step();
        let mut image = self.image.lock();
        for BatchRequirement { keyspace, key, expect, .. } in batch.requirements() {
            let found = image.of(keyspace).get(key).map(|(_, version)| *version);
            if !expect.holds(found) {
                let mut rejected = Rejected::new(key.to_vec(), expect, found);
                rejected.keyspace = keyspace;
                return Ok(BatchOutcome::Rejected(rejected));
            }
        }
        let (mut outcomes, mut versions) = (Vec::new(), Vec::new());
        for change in batch.changes() {
            let version = change.given.map_or(image.version + 1, |(version, _)| version);
            let held = image.of(change.keyspace).get(change.key).map_or(0, |(_, version)| *version);
            versions.push(version);
            if version <= held {
                outcomes.push(ApplyOutcome::IgnoredStale);
                continue;
            }
            image.version = image.version.max(version);
            match change.value {
                Some(value) => {
                    image.of_mut(change.keyspace).insert(change.key.to_vec(), (value.to_vec(), version));
                    outcomes.push(ApplyOutcome::Applied);
                }
                None => {
                    image.of_mut(change.keyspace).remove(change.key);
                    outcomes.push(ApplyOutcome::Removed);
                }
            }
        }
        self.note("commit", batch.changes().map(|change| (change.key.len(), change.value.map(<[u8]>::len))));
        self.writes.fetch_add(1, Ordering::SeqCst);
        if let Some(history) = &mut *self.history.lock() {
            history.push(image.clone());
        }
        Ok(BatchOutcome::Committed(Committed::new(image.version, outcomes, versions)))
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        self.durabilities.lock().push(durability);
        self.commit(batch)
    }

    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.commit(Batch::new().put(key, value)).map(|_| ApplyOutcome::Applied)
    }

    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.commit(Batch::new().delete(key)).map(|_| ApplyOutcome::Removed)
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        Ok(self.get_versioned(key)?.map(|(value, _)| value))
    }

    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.find(KeyspaceId::DEFAULT, key.as_ref())
    }

    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        let prefix = prefix.as_ref();
        let mut found = self.scan(Bound::Included(prefix), Bound::Unbounded, usize::MAX)?;
        found.retain(|(key, _)| key.starts_with(prefix));
        Ok(found)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        self.list(KeyspaceId::DEFAULT, from, to, limit)
    }
}

impl KeyspaceEngine for MemEngine {
    fn get_versioned_in<K>(&self, keyspace: &Keyspace<K>, key: &[u8]) -> Result<Option<(Value, u64)>> {
        self.find(keyspace.id(), key)
    }

    fn scan_in<K>(
        &self,
        keyspace: &Keyspace<K>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>> {
        self.list(keyspace.id(), from, to, limit)
    }
}

impl MemEngine {
    fn find(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<(Value, u64)>> {
        self.step();
        let image = self.image.lock();
        let found = image.of(keyspace).get(key);
        self.note("get", [(key.len(), found.map(|(value, _)| value.len()))]);
        Ok(found.map(|(value, version)| (Value::from(value.as_slice()), *version)))
    }

    fn list(
        &self,
        keyspace: KeyspaceId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>> {
        self.step();
        let image = self.image.lock();
        let empty = match (from, to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        };
        if empty {
            return Ok(Vec::new());
        }
        let range = image.of(keyspace).range::<[u8], _>((from, to)).take(limit);
        self.note("scan", range.clone().map(|(key, (value, _))| (key.len(), Some(value.len()))));
        Ok(range.map(|(key, (value, _))| (key.clone(), Value::from(value.as_slice()))).collect())
    }
}

/// A clock that moves only when told.
pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(1_800_000_000_000))
}

pub type Service<E = Arc<MemEngine>> = AuthService<E, Argon2SecretHasher, Arc<AesGcmEncryptor>>;

pub fn cheap_hasher() -> Argon2SecretHasher {
    Argon2SecretHasher::with_params(Argon2Params::insecure(8, 1, 1).unwrap())
}

/// A hasher with stronger parameters: it replaces every hash of [`cheap_hasher`].
pub fn stronger_hasher() -> Argon2SecretHasher {
    Argon2SecretHasher::with_params(Argon2Params::insecure(16, 1, 1).unwrap())
}

pub fn encryptor() -> Arc<AesGcmEncryptor> {
    Arc::new(AesGcmEncryptor::new([7; 32]))
}

pub fn options(clock: &Arc<ManualClock>) -> AuthOptions {
    let clock = Arc::clone(clock) as Arc<_>;
    AuthOptions { clock, password_policy: PasswordPolicy::with_lengths(8, 64).unwrap(), ..AuthOptions::default() }
}

/// Delays that never begin.
pub fn no_delays() -> GuessPolicy {
    GuessPolicy {
        free_per_account_and_source: u32::MAX,
        free_per_source: u32::MAX,
        free_per_account: u32::MAX,
        ..GuessPolicy::default()
    }
}

pub fn service_on<E: KeyspaceEngine>(engine: E, clock: &Arc<ManualClock>) -> Service<E> {
    AuthService::with_options(engine, cheap_hasher(), encryptor(), options(clock)).unwrap()
}

pub fn service() -> (Arc<MemEngine>, Arc<ManualClock>, Service) {
    let (engine, clock) = (MemEngine::new(), clock());
    let service = service_on(Arc::clone(&engine), &clock);
    (engine, clock, service)
}

/// The one-time password of a secret in base32 at the clock's time.
pub fn totp_code(secret: &str, clock: &Arc<ManualClock>) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    totp.generate(u64::try_from(clock.now_ms() / 1000).unwrap()).to_string()
}

/// A one-time password for a user, confirmed; the clock is a step further, so that the next code is
/// another.
pub fn with_totp<E: KeyspaceEngine>(auth: &Service<E>, clock: &Arc<ManualClock>, user_id: &str) -> Enrolment {
    let enrolment = auth.enrol_totp(user_id).unwrap();
    let code = totp_code(&enrolment.secret, clock);
    assert_eq!(auth.confirm_totp(user_id, &code).unwrap(), FactorCheck::Accepted(Factor::Totp));
    clock.shift_ms(30_000);
    enrolment
}

pub const FACTORS: &[u8] = b"f/";
pub const SINGLE_USES: &[u8] = b"t/";
pub const SINGLE_USE_INDEX: &[u8] = b"T/";
pub const USERS: &[u8] = b"u/";
pub const NAMES: &[u8] = b"n/";
pub const KEYS: &[u8] = b"k/";
pub const KEY_INDEX: &[u8] = b"K/";
pub const SESSIONS: &[u8] = b"s/";
pub const SESSION_INDEX: &[u8] = b"S/";

pub fn under<'i>(image: &'i Image, prefix: &'i [u8]) -> impl Iterator<Item = &'i [u8]> {
    image.entries.keys().filter_map(move |key| key.strip_prefix(prefix))
}

/// Checks that users and names, and keys, sessions and index entries match in both directions, that
/// every record is authentic, and that the audit trail is intact.
pub fn check(image: &Image) {
    if image.entries.is_empty() {
        return;
    }
    check_by(&service_on(MemEngine::with_image(image.clone()), &clock()), image);
}

/// As [`check`], by a service on a copy of the image.
pub fn check_by(auth: &Service, image: &Image) {
    let has = |prefix: &[u8], rest: &[u8]| image.entries.contains_key(&[prefix, rest].concat());
    let mut users = 0;
    for user in auth.list_users(None, 1000).unwrap() {
        users += 1;
        let found = auth.find_user(&user.username).unwrap().expect("a user without a name");
        assert_eq!(found.user_id, user.user_id);
        for key in auth.list_api_keys(&user.user_id).unwrap() {
            assert_eq!(key.owner_id, user.user_id);
        }
    }
    assert_eq!(under(image, USERS).count(), users + 1);
    assert_eq!(under(image, NAMES).count(), users + 1, "a name without a user, or two of one user");
    assert_eq!(under(image, KEYS).count(), under(image, KEY_INDEX).count());
    for entry in under(image, KEY_INDEX) {
        assert!(has(USERS, &entry[..16]) && has(KEYS, &entry[16..]), "an orphaned API key");
    }
    assert_eq!(under(image, SESSIONS).count(), under(image, SESSION_INDEX).count());
    for entry in under(image, SESSION_INDEX) {
        assert!(has(USERS, &entry[..16]), "an orphaned session");
    }
    assert_eq!(under(image, SINGLE_USES).count(), under(image, SINGLE_USE_INDEX).count());
    for entry in under(image, SINGLE_USE_INDEX) {
        assert!(has(USERS, &entry[..16]) && has(SINGLE_USES, &entry[16..]), "an orphaned single-use token");
    }
    for user in under(image, FACTORS) {
        assert!(has(USERS, user), "factors of nobody");
    }
    assert!(matches!(auth.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
}
