//! Snapshots, iterators, entries and values that are held while the whole store is rewritten,
//! closed, dropped and opened again.

use anyhow::Result;
use hightower_engine::Components;

use crate::hostile::operations::Mix;
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};

const MIX: Mix = &[
    ("put", 100),
    ("delete", 30),
    ("batch", 30),
    ("snapshot", 30),
    ("range", 10),
    ("visit", 20),
    ("get", 20),
    ("held", 60),
    ("checkpoint", 4),
    ("compact", 15),
    ("close", 6),
    ("drop", 4),
];

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let mut config = config(&mut random, &round.store_dir());
    // No grace: tombstones are dropped as early as possible.
    config.compaction.tombstone_grace = std::time::Duration::ZERO;
    let store = Store::open(config, Components::default(), &round.scratch(), model(2000), &round.plan)?;
    storm(&store, &round.plan, &mut random, MIX)?;
    store.finish(1)
}
