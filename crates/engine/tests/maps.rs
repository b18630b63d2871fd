//! A process without free memory maps (`vm.max_map_count`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends here, and says what it saw")]
#![cfg(target_os = "linux")]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use hightower_engine::{CheckLevel, Components, SingleNodeEngine, StoreConfig, check};
use hightower_segment::sim::run_in_fork;
use memmap2::{Advice, MmapMut, MmapOptions};

const PAGE_BYTES: usize = 4096;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir)
        .with_max_segment_size(16 << 10)
        .with_min_segment_size(4096)
        .with_compaction_interval(Duration::ZERO)
}

fn fill(engine: &SingleNodeEngine, keys: std::ops::Range<u32>) {
    keys.for_each(|key| {
        engine.put(format!("key {key:05}"), [7; 200]).unwrap();
    });
}

/// Takes all memory maps of this process except `free` of them: pages with other advice than their
/// neighbours are separate maps.
fn hoard(free: usize) -> MmapMut {
    let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    let pages = MmapOptions::new().len((2 * limit + 2) * PAGE_BYTES).map_anon().unwrap();
    let split = |page: usize, advice| pages.advise_range(advice, page * PAGE_BYTES, PAGE_BYTES);
    let refused = (1..).step_by(2).find(|page| split(*page, Advice::Random).is_err()).unwrap();
    // Each released page merges three maps into one.
    (0..free.div_ceil(2)).for_each(|back| split(refused - 2 * (back + 1), Advice::Normal).unwrap());
    pages
}

/// In child processes, because the limit applies to the whole process.
#[test]
fn a_process_without_maps_compacts_and_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    for free in [0, 1, 2, 3, 4, 5, 8, 20] {
        let dir = temp.path().join(free.to_string());
        let done = run_in_fork(|| {
            let engine = SingleNodeEngine::with_config(config(&dir)).unwrap();
            fill(&engine, 0..600);
            (0..600).step_by(3).for_each(|key| {
                engine.put(format!("key {key:05}"), [8; 200]).unwrap();
            });
            let hoard = hoard(free);
            let mut puts = 0..100_000_u32;
            let refused = puts.find_map(|key| engine.put(format!("key {key:05}"), [9; 200]).err()).unwrap();
            let written = puts.start - 1;
            assert_eq!(refused.code(), "io");
            assert!(refused.to_string().contains("vm.max_map_count"), "{refused}");
            assert_eq!(engine.get("key 00599").unwrap().unwrap()[..], [if written > 599 { 9 } else { 7 }; 200]);

            let report = engine.run_compaction_now().unwrap();
            assert!(report.freed_bytes > 0, "{report:?}");
            fill(&engine, 0..100);
            drop(hoard);
            fill(&engine, 600..700);
            engine.close().unwrap();
            drop(engine);
            let mut watch = |_| ControlFlow::Continue(());
            assert!(check(&Components::default(), &dir, CheckLevel::Tables, &mut watch).unwrap().is_whole());
            let again = SingleNodeEngine::with_config(config(&dir)).unwrap();
            assert!(!again.open_report().was_unclean());
            assert_eq!(again.len(), 700.max(written.try_into().unwrap()));
            true
        });
        assert!(done.unwrap(), "with {free} free maps");
    }
}

/// A store that needs more maps than are free is not opened, and its files are unchanged.
#[test]
fn an_open_without_maps_names_the_limit() {
    let temp = tempfile::tempdir().unwrap();
    fill(&SingleNodeEngine::with_config(config(temp.path())).unwrap(), 0..2000);
    let done = run_in_fork(|| {
        let hoard = hoard(20);
        let refused = SingleNodeEngine::with_config(config(temp.path())).err().unwrap();
        assert_eq!(refused.code(), "io");
        assert!(refused.to_string().contains("vm.max_map_count"), "{refused}");
        drop(hoard);
        true
    });
    assert!(done.unwrap());
    assert_eq!(SingleNodeEngine::with_config(config(temp.path())).unwrap().len(), 2000);
}
