//! A store whose files were patched anywhere: opening it is an error, or gives values that were written, and a second open agrees.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use hightower_engine::{Batch, Components, Durability, SingleNodeEngine, StoreConfig};
use hightower_segment::sim::{SeededEntropy, SimFs};
use libfuzzer_sys::fuzz_target;

fn components(fs: &SimFs) -> Components {
    Components { fs: Arc::new(fs.clone()), entropy: Arc::new(SeededEntropy::new(5)), ..Components::default() }
}

fn config() -> StoreConfig {
    StoreConfig { max_segment_size: 4096, durability: Some(Durability::Os), ..StoreConfig::at("/store") }
}

/// A killed store with a sealed and an open segment, by file; and every value that was ever written.
fn template() -> &'static (BTreeMap<String, Vec<u8>>, BTreeMap<Vec<u8>, Vec<Vec<u8>>>) {
    static TEMPLATE: OnceLock<(BTreeMap<String, Vec<u8>>, BTreeMap<Vec<u8>, Vec<Vec<u8>>>)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let fs = SimFs::new();
        let engine = SingleNodeEngine::with_components(config(), components(&fs)).expect("open an empty store");
        let mut written: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for number in 0..60_u32 {
            let key = format!("key/{}", number % 17).into_bytes();
            let value = vec![number.to_le_bytes()[0]; 40 + number as usize];
            let batch = Batch::new().put(&key, &value).put("same", &value);
            assert!(engine.commit(batch).expect("commit").is_committed());
            written.entry(key).or_default().push(value.clone());
            written.entry(b"same".to_vec()).or_default().push(value);
        }
        let killed = fs.after_kill();
        let dir = Path::new("/store");
        let names = hightower_segment::Fs::list(&killed, dir).expect("list");
        let files = names.into_iter().filter(|name| name != "LOCK");
        let files = files.map(|name| (name.clone(), killed.read_file(&dir.join(&name)).expect("read"))).collect();
        (files, written)
    })
}

fuzz_target!(|patches: Vec<(u8, u16, Vec<u8>)>| {
    let (files, written) = template();
    let mut files = files.clone();
    for (file, at, bytes) in &patches {
        let nth = usize::from(*file) % files.len();
        if let Some(content) = files.values_mut().nth(nth) {
            let at = usize::from(*at).min(content.len());
            let end = (at + bytes.len()).min(content.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
    }
    let fs = SimFs::new();
    let dir = Path::new("/store");
    hightower_segment::Fs::create_dir_all(&fs, dir).expect("an empty file system takes a directory");
    files.iter().for_each(|(name, content)| fs.plant(&dir.join(name), content));
    let Ok(engine) = SingleNodeEngine::with_components(config(), components(&fs)) else { return };
    let mut seen = Vec::new();
    for entry in engine.range::<&[u8]>(..) {
        let value = entry.value().expect("what was replayed can be read").to_vec();
        let known = written.get(entry.key()).is_some_and(|values| values.contains(&value));
        assert!(known, "a value that was never written: {entry:?}");
        seen.push((entry.key().to_vec(), value));
    }
    engine.close().expect("close");
    let again = SingleNodeEngine::with_components(config(), components(&fs)).expect("a store that was closed opens");
    assert!(!again.open_report().was_unclean());
    assert_eq!(again.get_prefix("").expect("read").len(), seen.len());
});
