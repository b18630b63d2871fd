//! The composition of an open store from its parts.

use std::sync::Arc;

use crate::commit::{WriteParts, WritePath};
use crate::commit_log::CommitLock;
use crate::compaction::{Compaction, CompactionParts, CompactionRunner, RunnerParts};
use crate::engine::SingleNodeEngine;
use crate::feed::{FeedHub, FeedLog, FeedParts};
use crate::keyspace::{Catalogue, CatalogueParts, KeyspaceRemoval};
use crate::lifecycle::{LifeParts, Lifecycle};
use crate::maintenance::{Maintenance, Turn};
use crate::memory_budget::MemoryBudget;
use crate::merger::Merger;
use crate::open::Opened;
use crate::open_index::OpenIndex;
use crate::open_store::OpenStore;
use crate::quota::DiskQuota;
use crate::read_path::ReadPath;
use crate::sync_path::SyncPath;
use crate::table_flusher::{FlushParts, TableFlusher};
use crate::tables::Tables;
use crate::tail_upkeep::{TailParts, TailUpkeep};

impl SingleNodeEngine {
    /// Each part depends only on earlier ones.
    pub(crate) fn compose(opened: Opened) -> Self {
        let Opened { config, components, panics, fork_guard, lock, report, .. } = opened;
        let durability = config.effective_durability();
        let turn = Turn::default();
        let (config, time) = (&Arc::new(config), &Arc::new(opened.time));
        let (segment_store, log) = opened.log.unzip();
        let index = OpenIndex::new(opened.state, fork_guard);
        let background = &Arc::default();
        let tables = &Arc::new(Tables::new(opened.tables, background));
        let read = &Arc::new(ReadPath::new(index, opened.segments, tables, config.data_dir.clone(), lock));
        let store = &Arc::new(OpenStore::new(segment_store, fork_guard));
        let log = &Arc::new(CommitLock::new(log));
        let maintenance = &Arc::new(Maintenance::new(turn, background, time.now_ms()));
        let bell = &Arc::default();
        let sync = &Arc::new(SyncPath::new(&components, read, store, bell));
        let segments = read.segments.all().into_iter().map(|tracked| Arc::clone(&tracked.segment));
        let feed_log = FeedLog::new(opened.history, segments, opened.retained);
        let parts = FeedParts { read, store, sync, bell };
        let feeds = &FeedHub::new(&components, config, feed_log, &parts);
        let quota = &Arc::new(DiskQuota::new(config, read, store, tables));
        let tail = &Arc::new(TailUpkeep::new(&components, &TailParts { config, time, read, log, store, quota }));
        let budget = &Arc::new(MemoryBudget::new(config, &components.clock, read, tables, maintenance));
        let parts = FlushParts { read, log, store, sync, tables, maintenance, budget };
        let flusher = &Arc::new(TableFlusher::new(&components, &parts));
        let merger = &Arc::new(Merger::new(&components, &panics));
        let parts =
            WriteParts { budget, flusher, time, read, log, store, sync, tail, quota, maintenance, feeds, bell, merger };
        let write = Arc::new(WritePath::new(config, &parts));
        let removal = &Arc::new(KeyspaceRemoval::new(read, &write));
        let parts = CatalogueParts { read, write: &write, maintenance, removal };
        let keyspaces = Catalogue::new(&parts, durability);
        let parts = RunnerParts { config, time, read, store, sync, quota, maintenance, feeds, tables, flusher };
        let runner = &Arc::new(CompactionRunner::new(&components, &parts));
        let panics = &panics;
        let parts = CompactionParts {
            config,
            panics,
            time,
            read,
            log,
            store,
            tail,
            maintenance,
            budget,
            flusher,
            runner,
            feeds,
            removal,
        };
        let compaction = Arc::new(Compaction::new(&components, &parts));
        let life = Lifecycle::new(LifeParts {
            panics: Arc::clone(panics),
            time: Arc::clone(time),
            read: Arc::clone(read),
            log: Arc::clone(log),
            store: Arc::clone(store),
            sync: Arc::clone(sync),
            tail: Arc::clone(tail),
            maintenance: Arc::clone(maintenance),
            flusher: Arc::clone(flusher),
            runner: Arc::clone(runner),
            feeds: Arc::clone(feeds),
        });
        Self {
            config: Arc::clone(config),
            panics: Arc::clone(panics),
            time: Arc::clone(time),
            read: Arc::clone(read),
            log: Arc::clone(log),
            store: Arc::clone(store),
            sync: Arc::clone(sync),
            maintenance: Arc::clone(maintenance),
            tables: Arc::clone(tables),
            budget: Arc::clone(budget),
            flusher: Arc::clone(flusher),
            keyspaces,
            life: Arc::new(life),
            components,
            write,
            compaction,
            feeds: Arc::clone(feeds),
            durability,
            report,
            transactions: Arc::default(),
        }
    }
}
