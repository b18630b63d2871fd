//! The oracle: the possible values of each key, given all begun calls and their outcomes.
//!
//! Every write has a number, which its value contains. A read thus names the write that it saw. It
//! is a violation if that write was never made, had no effect, or was certainly overtaken before
//! the read began. The model uses no time: stamps come from one counter, taken before and after
//! each call, so only calls that did not overlap have an order.
//!
//! A journal lets the model outlive its process: each write is recorded there before and after its
//! call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hightower_engine::{ApplyOutcome, limits};

use super::random::mix;
use super::watch::lock;

/// Callers' versions from this one on are refused.
pub(super) const CEILING: u64 = limits::MAX_SUBMITTED_VERSION + 1;
/// If a key has more writes than this, the model forgets those that no read can see any more.
const PRUNE_AT: usize = 40;

/// The effect of a write on each of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) is_set: bool,
    /// The caller's version; `None` if the engine assigns one.
    pub(super) given: Option<u64>,
}

/// The outcome of a write for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Unknown: the call has not returned, or has returned an error that leaves the outcome open.
    Unknown,
    /// It was refused, or it is stale.
    None,
    /// It took effect.
    Applied,
}

#[derive(Clone, Debug)]
struct Written {
    number: u64,
    change: Change,
    version: Option<u64>,
    began: u64,
    /// `u64::MAX` while it may still take effect.
    ended: u64,
    /// The stamp of the return of the call, with any result.
    returned: u64,
    effect: Effect,
}

impl Written {
    /// Whether `self` certainly wins over `other`.
    fn is_newer_than(&self, other: &Self) -> bool {
        match (self.version, other.version) {
            (Some(mine), Some(others)) => mine > others,
            // The engine assigns a version above all that it has seen.
            _ => self.change.given.is_none() && other.ended < self.began,
        }
    }
}

/// A write whose call has begun.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    keys: Vec<String>,
}

/// The known facts about a store's content.
#[derive(Debug)]
pub(super) struct Model {
    stamps: AtomicU64,
    numbers: AtomicU64,
    keys: BTreeMap<String, Mutex<Vec<Written>>>,
    /// Length of the longest values.
    max_value_len: u64,
    journal: Option<Mutex<File>>,
    /// The stamps of running reads: the model keeps everything that they may see.
    reads: Mutex<BTreeMap<u64, u64>>,
    /// Versions of a key that a committed batch has required and replaced.
    taken: Mutex<BTreeSet<(String, u64)>>,
    /// Tombstones may be forgotten, because the clock has passed the end of their grace.
    pub(super) forgets_tombstones: AtomicBool,
}

impl Model {
    pub(super) fn new(keys: impl IntoIterator<Item = String>, max_value_len: u64) -> Self {
        Self {
            stamps: AtomicU64::new(1),
            numbers: AtomicU64::new(1),
            keys: keys.into_iter().map(|key| (key, Mutex::default())).collect(),
            max_value_len,
            journal: None,
            reads: Mutex::default(),
            taken: Mutex::default(),
            forgets_tombstones: AtomicBool::new(false),
        }
    }

    /// The same model, which also reads the journal and continues it.
    pub(super) fn with_journal(mut self, path: &Path) -> Result<Self> {
        let known = std::fs::read_to_string(path).unwrap_or_default();
        // A kill may have cut off the last line.
        for line in known.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            self.take_up(line).with_context(|| format!("the journal says {line:?}"))?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if !known.is_empty() && !known.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        file.write_all(b"s\n")?;
        self.settle_all();
        self.journal = Some(Mutex::new(file));
        Ok(self)
    }

    fn take_up(&self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["b", number, is_set, given, ref keys @ ..] => {
                let number: u64 = number.parse()?;
                self.numbers.fetch_max(number + 1, Ordering::Relaxed);
                let change = Change { is_set: is_set == "set", given: given.parse().ok() };
                let _pending = self.note(number, keys.iter().map(|key| (*key).to_owned()).collect(), change)?;
            }
            ["e", number, ref effects @ ..] => {
                let number: u64 = number.parse()?;
                let mut effects = effects.chunks_exact(3);
                effects.try_for_each(|effect| -> Result<()> {
                    let pending = Pending { number, keys: vec![effect[0].to_owned()] };
                    let what = match effect[1] {
                        "applied" => Effect::Applied,
                        "none" => Effect::None,
                        _ => Effect::Unknown,
                    };
                    self.end(&pending, &[(what, effect[2].parse().ok())])
                })?;
            }
            // Another process has begun: calls that the previous one did not end have had an effect
            // or not.
            ["s"] => self.settle_all(),
            // Cut off by a kill, and completed by the next writer.
            _ => {}
        }
        Ok(())
    }

    fn tell(&self, line: &str) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        // One write call, so that another process reads it whole, or cut off by a kill.
        lock(journal).write_all(format!("{line}\n").as_bytes()).context("write the journal")
    }

    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.keys.keys()
    }

    /// The value of the write with this number.
    pub(super) fn value(&self, number: u64) -> Vec<u8> {
        let spread = mix(number);
        let longest = if spread.is_multiple_of(16) { self.max_value_len } else { (self.max_value_len / 8).min(900) };
        let len = 8 + usize::try_from((spread >> 8) % longest.max(1)).unwrap_or(0);
        let mut value = vec![spread.to_le_bytes()[3]; len];
        value[..8].copy_from_slice(&number.to_le_bytes());
        value
    }

    /// The number of the write with this value.
    pub(super) fn number_of(&self, value: &[u8]) -> Result<u64> {
        let number = u64::from_le_bytes(value.first_chunk().copied().context("a value shorter than any written")?);
        ensure!(value == self.value(number), "write {number} has another value than the one written");
        Ok(number)
    }

    /// Call this before the write.
    pub(super) fn begin(&self, keys: Vec<String>, change: Change) -> Result<Pending> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let kind = if change.is_set { "set" } else { "delete" };
        let given = change.given.map_or("-".to_owned(), |version| version.to_string());
        self.tell(&format!("b {number} {kind} {given} {}", keys.join(" ")))?;
        self.note(number, keys, change)
    }

    fn note(&self, number: u64, keys: Vec<String>, change: Change) -> Result<Pending> {
        let began = self.stamp();
        for key in &keys {
            let written = Written {
                number,
                change,
                version: change.given,
                began,
                ended: u64::MAX,
                returned: u64::MAX,
                effect: Effect::Unknown,
            };
            lock(self.history(key)?).push(written);
        }
        Ok(Pending { number, keys })
    }

    /// Call this after the return of the write, with its outcome for each key, and its version if
    /// it is known.
    pub(super) fn end(&self, pending: &Pending, effects: &[(Effect, Option<u64>)]) -> Result<()> {
        let ended = self.stamp();
        let horizon = lock(&self.reads).first_key_value().map_or(ended, |(oldest, _)| *oldest);
        let mut line = format!("e {}", pending.number);
        for (key, (effect, version)) in pending.keys.iter().zip(effects) {
            let mut history = lock(self.history(key)?);
            let written = history.iter_mut().find(|written| written.number == pending.number);
            // It is already forgotten if it was overtaken meanwhile.
            if let Some(written) = written {
                written.effect = *effect;
                written.returned = ended;
                written.ended = if *effect == Effect::Unknown { u64::MAX } else { ended };
                written.version = written.version.or(*version);
            }
            history.retain(|written| written.effect != Effect::None);
            if history.len() > PRUNE_AT {
                prune(&mut history, horizon);
            }
            let (word, version) = (word(*effect), version.map_or("-".to_owned(), |version| version.to_string()));
            line.push_str(&format!(" {key} {word} {version}"));
        }
        self.tell(&line)
    }

    /// Ends a write of one key with the engine's outcome, which is also checked.
    pub(super) fn end_with(&self, pending: &Pending, outcomes: &[ApplyOutcome], versions: &[u64]) -> Result<()> {
        ensure!(outcomes.len() == pending.keys.len(), "{} outcomes for {} keys", outcomes.len(), pending.keys.len());
        let mut effects = Vec::new();
        for (at, (key, outcome)) in pending.keys.iter().zip(outcomes).enumerate() {
            let version = versions.get(at).copied();
            let is_applied = *outcome != ApplyOutcome::IgnoredStale;
            self.check_outcome(key, pending, *outcome, version)
                .with_context(|| format!("write {} of {key} came to {outcome:?}", pending.number))?;
            effects.push((if is_applied { Effect::Applied } else { Effect::None }, version));
        }
        self.end(pending, &effects)
    }

    fn check_outcome(&self, key: &str, pending: &Pending, outcome: ApplyOutcome, version: Option<u64>) -> Result<()> {
        let history = lock(self.history(key)?);
        let Some(mine) = history.iter().find(|written| written.number == pending.number) else { return Ok(()) };
        let expected = if mine.change.is_set { ApplyOutcome::Applied } else { ApplyOutcome::Removed };
        ensure!(outcome == expected || outcome == ApplyOutcome::IgnoredStale, "that is of another kind of command");
        let Some(given) = mine.change.given else {
            // It is committed with a version above all versions that the store has seen.
            ensure!(outcome == expected, "a version of the engine's choice is never stale");
            if let Some(version) = version {
                let above = history.iter().find(|other| {
                    let is_before = other.effect == Effect::Applied && other.ended < mine.began;
                    is_before && other.version.is_some_and(|known| known >= version)
                });
                ensure!(above.is_none(), "its version {version} is not above that of {above:?}, which was there");
            }
            return Ok(());
        };
        ensure!(version.is_none_or(|version| version == given), "its version is {version:?}, not {given}");
        let others = || history.iter().filter(|other| other.number != mine.number && other.effect != Effect::None);
        if outcome == ApplyOutcome::IgnoredStale {
            let can_overtake = |other: &Written| other.version.is_none_or(|version| version >= given);
            ensure!(others().any(can_overtake), "nothing has overtaken version {given}");
            return Ok(());
        }
        // A tombstone that may be forgotten hides no write that it has overtaken any more.
        let is_forgetful = self.forgets_tombstones.load(Ordering::Relaxed);
        let deletes = is_forgetful && others().any(|other| !other.change.is_set);
        let above = others().find(|other| {
            let is_before = other.effect == Effect::Applied && other.ended < mine.began;
            is_before && other.version.is_some_and(|version| version >= given)
        });
        ensure!(deletes || above.is_none(), "version {given} is not above {above:?}, which was there");
        Ok(())
    }

    /// Records that a committed batch has required this version of a key. Returns whether it is the
    /// first such batch.
    pub(super) fn take_version(&self, key: &str, version: u64) -> bool {
        lock(&self.taken).insert((key.to_owned(), version))
    }

    fn history(&self, key: &str) -> Result<&Mutex<Vec<Written>>> {
        self.keys.get(key).with_context(|| format!("nobody has written {key:?}"))
    }

    /// Call this before the read.
    pub(super) fn read(&self) -> Reading<'_> {
        let mut reads = lock(&self.reads);
        let began = self.stamp();
        reads.insert(began, began);
        Reading { model: self, began }
    }

    /// The store was closed and opened since: failed calls with an open outcome have no later
    /// effect.
    pub(super) fn settle(&self) {
        let now = self.stamp();
        for history in self.keys.values() {
            for written in lock(history).iter_mut().filter(|written| written.returned < now) {
                written.ended = written.ended.min(now);
            }
        }
    }

    /// After the end of the writing process: each call that did not return has had an effect or
    /// not.
    fn settle_all(&self) {
        let now = self.stamp();
        for history in self.keys.values() {
            for written in lock(history).iter_mut() {
                written.returned = written.returned.min(now);
                written.ended = written.ended.min(now);
            }
        }
    }

    /// The number of keys that must have a value, and of those that may have one. Exact while
    /// nobody writes.
    pub(super) fn counts(&self) -> (usize, usize) {
        let (mut least, mut most) = (0, 0);
        for history in self.keys.values() {
            let history = lock(history);
            let candidates = || {
                history.iter().filter(|written| {
                    let is_beaten = |other: &Written| other.effect == Effect::Applied && other.is_newer_than(written);
                    !history.iter().any(is_beaten)
                })
            };
            let can_be_absent = candidates().any(|written| !written.change.is_set)
                || !history.iter().any(|written| written.effect == Effect::Applied);
            least += usize::from(!can_be_absent);
            most += usize::from(candidates().any(|written| written.change.is_set));
        }
        (least, most)
    }
}

/// A begun read.
pub(super) struct Reading<'a> {
    model: &'a Model,
    began: u64,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        lock(&self.model.reads).remove(&self.began);
    }
}

impl Reading<'_> {
    /// Call this after the return of the read: checks its result.
    pub(super) fn check(&self, key: &str, seen: Option<&[u8]>, version: Option<u64>) -> Result<()> {
        self.check_seen(key, seen, version).map_err(|error| {
            let history = self.model.history(key).map(|history| lock(history).clone()).unwrap_or_default();
            let tail = &history[history.len().saturating_sub(6)..];
            anyhow!("{key}: {error:#}; it was read since {}; the last writes: {tail:?}", self.began)
        })
    }

    fn check_seen(&self, key: &str, seen: Option<&[u8]>, version: Option<u64>) -> Result<()> {
        let number = seen.map(|value| self.model.number_of(value)).transpose()?;
        let mut history = lock(self.model.history(key)?);
        let overtaken_by = |written: Option<&Written>| {
            let is_over = |other: &&Written| {
                let is_before = other.effect == Effect::Applied && other.ended < self.began;
                is_before && written.is_none_or(|written| other.is_newer_than(written))
            };
            history.iter().find(is_over).cloned()
        };
        let Some(number) = number else {
            // Absent: it never existed, or a delete removed it.
            let deletes = history.iter().filter(|written| !written.change.is_set);
            if deletes.into_iter().any(|delete| overtaken_by(Some(delete)).is_none()) {
                return Ok(());
            }
            return match overtaken_by(None) {
                None => Ok(()),
                Some(written) => bail!("it is absent, but write {} was there before", written.number),
            };
        };
        let Some(at) = history.iter().position(|written| written.number == number && written.change.is_set) else {
            bail!("it has the value of write {number}, which was never made, was refused, or is long overtaken");
        };
        if let Some(newer) = overtaken_by(Some(&history[at])) {
            bail!("it has the value of write {number}, which write {} has overtaken", newer.number);
        }
        let known = history[at].version;
        if let (Some(version), Some(known)) = (version, known) {
            ensure!(version == known, "write {number} has version {version} here, and {known} elsewhere");
        }
        history[at].version = known.or(version);
        Ok(())
    }

    /// Checks that a key has a value, or has none.
    pub(super) fn check_presence(&self, key: &str, is_there: bool) -> Result<()> {
        if !is_there {
            return self.check(key, None, None);
        }
        let history = lock(self.model.history(key)?);
        ensure!(history.iter().any(|written| written.change.is_set), "{key} is there, but nobody gave it a value");
        Ok(())
    }
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Unknown => "unknown",
        Effect::None => "none",
        Effect::Applied => "applied",
    }
}

/// Forgets the writes that no running read can see: those that were overtaken before the oldest
/// read began.
fn prune(history: &mut Vec<Written>, horizon: u64) {
    let winners: Vec<Written> = history
        .iter()
        .filter(|written| written.effect == Effect::Applied && written.ended < horizon)
        .cloned()
        .collect();
    history.retain(|written| !winners.iter().any(|winner| winner.is_newer_than(written)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    const PUT: Change = Change { is_set: true, given: None };
    const DELETE: Change = Change { is_set: false, given: None };

    fn model() -> Model {
        Model::new(["a".to_owned(), "b".to_owned()], 1000)
    }

    fn put(model: &Model, key: &str) -> u64 {
        let pending = model.begin(vec![key.to_owned()], PUT).unwrap();
        model.end_with(&pending, &[ApplyOutcome::Applied], &[]).unwrap();
        pending.number
    }

    #[test]
    fn a_lost_write_and_an_old_one_are_seen() {
        let model = model();
        let first = put(&model, "a");
        assert!(model.read().check("a", None, None).is_err(), "lost");
        let second = put(&model, "a");
        assert!(model.read().check("a", Some(&model.value(first)), None).is_err(), "overtaken");
        assert!(model.read().check("a", Some(&model.value(second)), None).is_ok());
        assert!(model.read().check("b", Some(&model.value(second)), None).is_err(), "of another key");
        assert!(model.read().check("a", Some(&model.value(77)), None).is_err(), "never made");
        let mut flipped = model.value(second);
        flipped[7] ^= 1;
        assert!(model.read().check("a", Some(&flipped), None).is_err(), "flipped");
    }

    #[test]
    fn what_overlaps_or_failed_may_be_there_or_not() {
        let model = model();
        let first = put(&model, "a");
        let reading = model.read();
        let second = put(&model, "a");
        assert!(reading.check("a", Some(&model.value(first)), None).is_ok());
        assert!(reading.check("a", Some(&model.value(second)), None).is_ok());
        let open = model.begin(vec!["a".to_owned()], DELETE).unwrap();
        model.end(&open, &[(Effect::Unknown, None)]).unwrap();
        assert!(model.read().check("a", None, None).is_ok());
        assert!(model.read().check("a", Some(&model.value(second)), None).is_ok());
        let refused = model.begin(vec!["a".to_owned()], PUT).unwrap();
        model.end(&refused, &[(Effect::None, None)]).unwrap();
        assert!(model.read().check("a", Some(&model.value(refused.number)), None).is_err());
    }

    #[test]
    fn versions_decide_and_a_deleted_key_stays_deleted() {
        let model = model();
        let submit =
            |version| model.begin(vec!["a".to_owned()], Change { is_set: true, given: Some(version) }).unwrap();
        let high = submit(9);
        model.end_with(&high, &[ApplyOutcome::Applied], &[]).unwrap();
        let low = submit(8);
        assert!(model.end_with(&low, &[ApplyOutcome::Applied], &[]).is_err());
        model.end_with(&low, &[ApplyOutcome::IgnoredStale], &[]).unwrap();
        let higher = submit(10);
        assert!(model.end_with(&higher, &[ApplyOutcome::IgnoredStale], &[]).is_err());
        let delete = model.begin(vec!["a".to_owned()], DELETE).unwrap();
        assert!(model.end_with(&delete, &[ApplyOutcome::IgnoredStale], &[]).is_err());
    }

    #[test]
    fn a_journal_outlives_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let model = model().with_journal(&path).unwrap();
        let first = put(&model, "a");
        let open = model.begin(vec!["b".to_owned()], PUT).unwrap();
        drop(model);
        let model = self::model().with_journal(&path).unwrap();
        assert!(model.read().check("a", None, None).is_err());
        assert!(model.read().check("a", Some(&model.value(first)), None).is_ok());
        assert!(model.read().check("b", Some(&model.value(open.number)), None).is_ok());
        assert!(model.read().check("b", None, None).is_ok());
        assert!(put(&model, "b") > open.number);
    }
}
