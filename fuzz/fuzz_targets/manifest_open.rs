//! Any bytes as the manifest of a store: an error or a store, never a panic.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use hightower_segment::sim::SimFs;
use hightower_segment::{Fs, ReadOnlyStore, SegmentStore, StoreOptions, Tolerance};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = Path::new("/store");
    let fs = SimFs::new();
    fs.create_dir_all(dir).expect("an empty file system takes a directory");
    fs.plant(&dir.join("MANIFEST"), bytes);
    let fs: Arc<dyn Fs> = Arc::new(fs);
    for tolerance in [Tolerance::Strict, Tolerance::Salvage] {
        let _ = ReadOnlyStore::open(&fs, dir, tolerance);
    }
    let _ = SegmentStore::open(fs, dir, StoreOptions { segment_len_bytes: 4096, ..StoreOptions::default() });
});
