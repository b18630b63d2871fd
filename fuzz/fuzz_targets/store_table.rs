//! Any bytes instead of the table that a manifest names, and changed bytes of it: tables are
//! disposable, so the store opens with its latest content.
#![no_main]

mod template;

use hightower_engine::SingleNodeEngine;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use template::{components, config, planted, template};

#[derive(Arbitrary, Debug)]
enum Input {
    Bytes(Vec<u8>),
    Patches(Vec<(u16, u8)>),
}

fuzz_target!(|input: Input| {
    let (files, written) = template();
    let mut files = files.clone();
    let (_, table) = files.iter_mut().find(|(name, _)| name.ends_with(".tbl")).expect("the template has a table");
    match input {
        Input::Bytes(bytes) => *table = bytes,
        Input::Patches(patches) => {
            for (place, byte) in patches {
                let place = usize::from(place) % table.len();
                table[place] ^= byte;
            }
        }
    }
    let fs = planted(&files);
    let engine = SingleNodeEngine::with_components(config(), components(&fs)).expect("no table keeps a store from opening");
    assert_eq!(engine.len(), written.len());
    for (key, values) in written {
        let found = engine.get(key).expect("a replayed record can be read");
        assert_eq!(found.as_deref(), values.last().map(Vec::as_slice), "{key:?}");
    }
});
