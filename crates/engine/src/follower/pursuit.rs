//! The pursuit of a writer: reads its manifest and its log again and again, and keeps the replica
//! that readers use.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hightower_index::{Guard, PublishedArc, pin};

use hightower_seams::lock_order::{self, Rank};
use hightower_segment::{Continuation, FollowedDir, ForkGuard, Manifest};

use crate::components::Components;
use crate::error::{Error, Result};
use crate::feed::FeedLog;
use crate::files::io_error;
use crate::follower::config::FollowerConfig;
use crate::follower::feed_source::{FeedNeeds, FeedPlace, FeedSource, NewFeed};
use crate::follower::replica::{Replica, StartFailure};
use crate::follower::stats::FollowerStats;
use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::sync::Mutex;

/// The longest pause between two looks of a caller that waits.
pub(super) const WAIT_STEP: Duration = Duration::from_millis(1);

/// The number of attempts while the writer changes the manifest again and again.
const ATTEMPTS: usize = 100;

/// A followed store.
pub(super) struct Pursuit {
    components: Components,
    fork_guard: ForkGuard,
    /// What readers use: that of the current replica.
    read: PublishedArc<ReadPath>,
    max_feed_lag_bytes: u64,
    progress: Mutex<Progress>,
}

/// The owner of the replica, and its last manifest.
struct Progress {
    dir: FollowedDir,
    manifest: Manifest,
    /// Whether the replica has its tables and segments.
    is_adopted: bool,
    replica: Replica,
    caught_up_ms: i64,
    restarts: u64,
    divergences: u64,
    /// What the thread or a feed has met, for the next caller.
    untold: Option<Error>,
    /// The places of the feeds.
    feeds: Vec<Weak<FeedPlace>>,
    /// The logs of earlier replicas, while feeds read them.
    replaced_logs: Vec<Weak<FeedLog>>,
}

impl Pursuit {
    pub(super) fn start(config: &FollowerConfig, components: Components) -> Result<Self> {
        let FollowerConfig { data_dir, max_feed_lag_bytes, .. } = config;
        let max_feed_lag_bytes = *max_feed_lag_bytes;
        if data_dir.as_os_str().is_empty() {
            return Err(Error::Validation("data_dir is empty: name the directory of the store".into()));
        }
        let fork_guard = ForkGuard::new().map_err(|source| io_error("watch for forks of", data_dir, source))?;
        let components = components.guarded(&Arc::default());
        let mut dir = FollowedDir::open(&components.fs, data_dir)?;
        let caught_up_ms = components.clock.now_ms();
        let manifest = dir.manifest_if_changed()?;
        let manifest = manifest.ok_or(Error::Internal("the first look at a manifest found no change".into()))?;
        let (replica, manifest) = started(&mut dir, manifest, &components, fork_guard)?;
        let read = PublishedArc::new(Arc::clone(&replica.read));
        let progress = Progress {
            dir,
            manifest,
            is_adopted: true,
            replica,
            caught_up_ms,
            restarts: 0,
            divergences: 0,
            untold: None,
            feeds: Vec::new(),
            replaced_logs: Vec::new(),
        };
        Ok(Self { components, fork_guard, read, max_feed_lag_bytes, progress: Mutex::new(progress) })
    }

    /// What readers use now, for as long as the guard lives.
    #[inline]
    pub(super) fn read<'g>(&'g self, guard: &'g Guard) -> &'g ReadPath {
        self.read.load(guard)
    }

    /// The same, for longer.
    pub(super) fn read_path(&self) -> Arc<ReadPath> {
        self.read.load_arc(&pin())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.components.clock.elapsed()
    }

    pub(super) fn pause(&self, pause: Duration) {
        self.components.clock.sleep(pause);
    }

    /// Moves the replica forward. Returns the seqno of the last commit.
    pub(super) fn catch_up(&self) -> Result<u64> {
        self.check_not_forked()?;
        let _held = lock_order::take(Rank::Pursuit);
        let mut progress = self.progress.lock();
        let caught_up = self.go_on(&mut progress);
        match progress.untold.take() {
            Some(untold) => Err(untold),
            None => caught_up,
        }
    }

    /// The same for the thread: the next caller learns of a divergence.
    pub(super) fn refresh(&self) {
        let _held = lock_order::take(Rank::Pursuit);
        let mut progress = self.progress.lock();
        // Any other failure is met again by the next caller.
        if let Err(diverged @ Error::Diverged { .. }) = self.go_on(&mut progress) {
            progress.untold.get_or_insert(diverged);
        }
    }

    /// Catches up for a feed. Returns the log, the seq of its last commit, and the one before its
    /// next commit.
    ///
    /// A divergence is also another caller's: the feed sees by itself whether it has returned what
    /// was lost.
    pub(super) fn feed_source(&self) -> Result<(FeedSource, u64, u64)> {
        self.check_not_forked()?;
        let _held = lock_order::take(Rank::Pursuit);
        let mut progress = self.progress.lock();
        self.source_for_feed(&mut progress)
    }

    /// The same for a new feed after this seqno. What the feed has not read is kept from now on.
    pub(super) fn add_feed(&self, after: u64) -> Result<NewFeed> {
        self.check_not_forked()?;
        let _held = lock_order::take(Rank::Pursuit);
        let mut progress = self.progress.lock();
        let place = Arc::new(FeedPlace::new(after));
        progress.feeds.retain(|feed| feed.strong_count() > 0);
        progress.feeds.push(Arc::downgrade(&place));
        let (source, last_seq, latest_seq) = self.source_for_feed(&mut progress)?;
        Ok(NewFeed { place, source, last_seq, latest_seq })
    }

    fn source_for_feed(&self, progress: &mut Progress) -> Result<(FeedSource, u64, u64)> {
        match self.go_on(progress) {
            Err(diverged @ Error::Diverged { .. }) => _ = progress.untold.get_or_insert(diverged),
            went_on => _ = went_on?,
        }
        let Progress { replica, manifest, dir, .. } = progress;
        let source = replica.feed_source(dir.dir().as_ref(), manifest)?;
        Ok((source, replica.last_seq(), replica.latest_seq()))
    }

    pub(super) fn check_not_forked(&self) -> Result<()> {
        if self.fork_guard.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    pub(super) fn stats(&self) -> FollowerStats {
        let _held = lock_order::take(Rank::Pursuit);
        let progress = self.progress.lock();
        let state = progress.replica.state();
        let keys = state.key_bounds();
        FollowerStats {
            seqno: progress.replica.last_seq(),
            caught_up_ms: progress.caught_up_ms,
            keys_at_most: keys.at_most,
            keys_at_least: keys.at_least,
            index_memory_bytes: state.memtable_bytes() as u64,
            tables: progress.replica.table_stats(),
            segments: progress.manifest.segments.len() as u64,
            held_segments: progress.replica.held_ids().count() as u64,
            restarts: progress.restarts,
            divergences: progress.divergences,
        }
    }

    fn go_on(&self, progress: &mut Progress) -> Result<u64> {
        let began_ms = self.components.clock.now_ms();
        let mut last_kept = None;
        for attempt in 0..ATTEMPTS {
            if let Some(manifest) = progress.dir.manifest_if_changed()? {
                (progress.manifest, progress.is_adopted) = (manifest, false);
            }
            match self.follow(progress) {
                Ok(diverged) => {
                    last_kept = last_kept.or(diverged);
                    break;
                }
                // The writer may have replaced what the manifest named: look at it again.
                Err(failure) => match progress.dir.manifest_if_changed()? {
                    Some(manifest) if attempt + 1 < ATTEMPTS => {
                        (progress.manifest, progress.is_adopted) = (manifest, false);
                    }
                    _ => return Err(failure),
                },
            }
        }
        progress.caught_up_ms = began_ms;
        match last_kept {
            Some(last_kept) => Err(Error::Diverged { last_kept }),
            None => Ok(progress.replica.last_seq()),
        }
    }

    /// Brings the replica to the end of the log under its last manifest. Returns the last kept seq
    /// if it has diverged, and has started anew.
    fn follow(&self, progress: &mut Progress) -> Result<Option<u64>> {
        if !progress.is_adopted {
            let Progress { replica, manifest, dir, .. } = progress;
            match replica.continuation(manifest) {
                Continuation::GoesOn => {}
                Continuation::Anew => return self.start_anew(progress, None),
                Continuation::Diverged { .. } if planted("follower_ignores_divergence") => {}
                Continuation::Diverged { last_kept } => return self.start_anew(progress, Some(last_kept)),
            }
            replica.take_over(dir.dir().as_ref(), manifest)?;
        }
        let Progress { replica, manifest, dir, .. } = progress;
        if planted("follower_adopts_tables_early") && !progress.is_adopted {
            replica.adopt_tables(dir.dir().as_ref(), &manifest.tables).map_err(StartFailure::into_error)?;
            progress.is_adopted = true;
            return Ok(None);
        }
        let read_on = replica.read_on(dir.dir().as_ref());
        if !progress.is_adopted {
            if !replica.has_reached(&manifest.tables.covered) {
                return self.start_anew(progress, None);
            }
            read_on?;
            replica.adopt_tables(dir.dir().as_ref(), &manifest.tables).map_err(StartFailure::into_error)?;
            progress.is_adopted = true;
        } else {
            read_on?;
        }
        progress.replica.free_unused();
        self.give_up_removed(progress);
        Ok(None)
    }

    /// Gives up removed segments that nothing needs any more, also those of earlier replicas.
    fn give_up_removed(&self, progress: &mut Progress) {
        let Progress { replica, manifest, feeds, replaced_logs, .. } = progress;
        let read_up_to = feeds.iter().filter_map(Weak::upgrade).map(|place| place.get()).collect();
        let needs = FeedNeeds { read_up_to, max_lag_bytes: self.max_feed_lag_bytes };
        if let Some(log) = replica.feed_log() {
            let history_after = if manifest.retained.is_empty() { u64::MAX } else { manifest.history.complete_after };
            needs.give_up_removed(log, history_after);
        }
        replaced_logs.retain(|log| {
            let log = log.upgrade().filter(|_| !planted("follower_keeps_replaced_logs"));
            log.is_some_and(|log| {
                log.note_existing(|id| manifest.segment(id).is_some() || manifest.retained(id).is_some());
                needs.give_up_removed(&log, u64::MAX);
                true
            })
        });
    }

    /// Replaces the replica by a new one of the last manifest. Snapshots keep the old one.
    fn start_anew(&self, progress: &mut Progress, diverged: Option<u64>) -> Result<Option<u64>> {
        let Progress { dir, manifest, replica, .. } = progress;
        let before = replica.last_seq();
        let (started, manifest) = started(dir, manifest.clone(), &self.components, self.fork_guard)?;
        // The manifest may be older than the loss.
        let last_seq = started.last_seq();
        let diverged = diverged.or((last_seq < before).then_some(last_seq));
        self.read.store(Arc::clone(&started.read), &pin());
        progress.replaced_logs.extend(progress.replica.feed_log().map(Arc::downgrade));
        (progress.replica, progress.manifest, progress.is_adopted) = (started, manifest, true);
        progress.restarts += 1;
        progress.divergences += u64::from(diverged.is_some());
        Ok(diverged)
    }
}

/// A replica of a manifest, or of a later one if that changes meanwhile; and that manifest.
fn started(
    dir: &mut FollowedDir,
    mut manifest: Manifest,
    components: &Components,
    fork_guard: ForkGuard,
) -> Result<(Replica, Manifest)> {
    let mut uses_tables = true;
    for _ in 0..ATTEMPTS {
        let failure = match Replica::start(dir.dir(), &manifest, components, fork_guard, uses_tables) {
            Ok(replica) => return Ok((replica, manifest)),
            Err(failure) => failure,
        };
        match (dir.manifest_if_changed()?, failure) {
            (Some(changed), _) => (manifest, uses_tables) = (changed, true),
            // A table is damaged: the log has everything.
            (None, StartFailure::Tables(_)) => uses_tables = false,
            (None, StartFailure::Other(failure)) => return Err(failure),
        }
    }
    Err(Error::Io {
        action: format!("cannot open {}", dir.dir().path().display()),
        source: Arc::new(std::io::Error::other("the writer changes the list of its files again and again")),
    })
}
