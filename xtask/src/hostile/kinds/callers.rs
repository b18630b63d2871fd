//! Threads that call every operation at any time: each call concurrent with each other, several
//! closes, a drop in each state.

use anyhow::Result;
use hightower_engine::Components;

use crate::hostile::operations::ALL;
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let config = config(&mut random, &round.store_dir());
    let max_value_len = random.pick(&[100, 1000, 8000]);
    let store = Store::open(config, Components::default(), &round.scratch(), model(max_value_len), &round.plan)?;
    storm(&store, &round.plan, &mut random, ALL)?;
    store.finish(1 + random.below(3))
}
