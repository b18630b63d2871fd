//! Any bytes instead of a checkpoint, which is disposable: the store opens with its latest content.
#![no_main]

mod template;

use hightower_engine::SingleNodeEngine;
use libfuzzer_sys::fuzz_target;
use template::{components, config, planted, template};

fuzz_target!(|bytes: &[u8]| {
    let (files, written) = template();
    let mut files = files.clone();
    let (_, checkpoint) =
        files.iter_mut().find(|(name, _)| name.ends_with(".ckpt")).expect("the template has a checkpoint");
    *checkpoint = bytes.to_vec();
    let fs = planted(&files);
    let engine = SingleNodeEngine::with_components(config(), components(&fs)).expect("no checkpoint keeps a store from opening");
    assert_eq!(engine.len(), written.len());
    for (key, values) in written {
        let found = engine.get(key).expect("what was replayed can be read");
        assert_eq!(found.as_deref(), values.last().map(Vec::as_slice), "{key:?}");
    }
});
