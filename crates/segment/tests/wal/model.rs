//! Random workloads compared with a vector of byte strings, on the real and on the simulated file
//! system.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of workloads, `HIGHTOWER_TEST_SEED` the first.

use std::sync::Arc;

use hightower_segment::sim::{SeededEntropy, SimFs};
use hightower_segment::{AppendMode, RealFs, StoreOptions, Wal};

use crate::sweep::setting;
use crate::world::{Content, Step, World, workload};

/// The world compares after each step.
#[test]
fn the_log_is_the_vector_after_every_step() {
    let (first, cases) = (setting("HIGHTOWER_TEST_SEED", 0), setting("HIGHTOWER_TEST_CASES", 60));
    for seed in first..first + cases {
        let mode = if seed % 2 == 0 { AppendMode::Mapped } else { AppendMode::Positioned };
        let mut world = World::new(SimFs::new(), mode, seed);
        world.run(&workload(seed, 120)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.run(&[Step::Kill, Step::Reopen]).unwrap();
    }
}

#[test]
fn the_log_is_the_vector_on_real_files() {
    for seed in 1000..1000 + setting("HIGHTOWER_TEST_CASES", 3) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            segment_len_bytes: 4096,
            entropy: Arc::new(SeededEntropy::new(seed)),
            ..StoreOptions::default()
        };
        let open = || Wal::open_with(Arc::new(RealFs), dir.path(), options.clone()).unwrap().0;
        let (mut model, mut wal) = (Content::default(), open());
        for (number, step) in workload(seed, 150).into_iter().enumerate() {
            match step {
                Step::Append { len } => {
                    let entry = vec![(number % 256) as u8; len];
                    assert_eq!(wal.append(&entry).unwrap(), model.end());
                    model.entries.push(entry);
                }
                Step::Sync => wal.sync().unwrap(),
                Step::TruncateFront { count } => {
                    let position = model.front + count;
                    wal.truncate_front(position).unwrap();
                    model.truncate_front(position);
                }
                Step::TruncateBack { count } => {
                    let position = model.end().saturating_sub(count).max(model.front);
                    wal.truncate_back(position).unwrap();
                    model.truncate_back(position);
                }
                Step::Reopen => {
                    wal.close().unwrap();
                    wal = open();
                }
                Step::Kill => {
                    drop(wal);
                    wal = open();
                }
            }
            assert_eq!(Content::of(&wal).unwrap(), model, "seed {seed}, step {number}: {step:?}");
        }
    }
}
