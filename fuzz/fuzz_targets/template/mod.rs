//! A killed store, for targets that damage it.
#![allow(dead_code, reason = "each target uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use hightower_engine::{Batch, Components, Durability, SingleNodeEngine, StoreConfig};
use hightower_segment::sim::{SeededEntropy, SimFs};

pub const DIR: &str = "/store";

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;
/// All values that each key ever had.
pub type Written = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

pub fn components(fs: &SimFs) -> Components {
    Components::default().with_fs(Arc::new(fs.clone())).with_entropy(Arc::new(SeededEntropy::new(5)))
}

pub fn config() -> StoreConfig {
    StoreConfig::at(DIR).with_max_segment_size(4096).with_durability(Durability::Os)
}

/// Sealed segments, an open one, a table; and every value that was ever written.
pub fn template() -> &'static (Files, Written) {
    static TEMPLATE: OnceLock<(Files, Written)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let fs = SimFs::new();
        let engine = SingleNodeEngine::with_components(config(), components(&fs)).expect("open an empty store");
        let mut written = Written::new();
        for number in 0..60_u32 {
            let key = format!("key/{}", number % 17).into_bytes();
            let value = vec![number.to_le_bytes()[0]; 40 + number as usize];
            let mut batch = Batch::new();
            batch.put(&key, &value).put("same", &value);
            assert!(engine.commit(&batch).expect("commit").is_committed());
            written.entry(key).or_default().push(value.clone());
            written.entry(b"same".to_vec()).or_default().push(value);
            if number == 40 {
                engine.checkpoint().expect("a table");
            }
        }
        let killed = fs.after_kill();
        let dir = Path::new(DIR);
        let names = killed.names_in(dir).expect("list");
        let files = names.into_iter().filter(|name| name != "LOCK");
        let files = files.map(|name| (name.clone(), killed.read_file(&dir.join(&name)).expect("read"))).collect();
        (files, written)
    })
}

/// A file system with these files.
pub fn planted(files: &Files) -> SimFs {
    let fs = SimFs::new();
    let dir = Path::new(DIR);
    hightower_segment::Fs::create_dir_all(&fs, dir).expect("an empty file system takes a directory");
    files.iter().for_each(|(name, content)| fs.plant(&dir.join(name), content));
    fs
}

/// Opens the store. If it opens, it has only written values, and after a close and another open the
/// same ones.
pub fn check(fs: &SimFs) {
    let (_, written) = template();
    let Ok(engine) = SingleNodeEngine::with_components(config(), components(fs)) else { return };
    let mut count = 0;
    for entry in engine.range(..).unwrap() {
        let entry = entry.expect("a replayed record can be read");
        let value = entry.value().expect("a replayed record can be read").to_vec();
        let known = written.get(entry.key()).is_some_and(|values| values.contains(&value));
        assert!(known, "a value that was never written: {entry:?}");
        count += 1;
    }
    engine.close().expect("close");
    let again = SingleNodeEngine::with_components(config(), components(fs)).expect("a store that was closed opens");
    assert!(!again.open_report().was_unclean());
    assert_eq!(again.get_prefix("").expect("read").len(), count);
}
