//! Random operations, reopens and kills on a simulated disk, beside the model.
#![no_main]

use std::sync::Arc;

use hightower_engine::{
    Command, Components, Durability, KvState, SingleNodeEngine, SnapshotEngine, StoreConfig,
};
use hightower_segment::sim::{SeededEntropy, SimFs};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Set { key: u8, len: u8, version: u16 },
    Delete { key: u8, version: u16 },
    Batch(Vec<(u8, u16)>),
    Close,
    Kill,
}

fn open(fs: &SimFs) -> SingleNodeEngine {
    let components =
        Components { fs: Arc::new(fs.clone()), entropy: Arc::new(SeededEntropy::new(5)), ..Components::default() };
    let config = StoreConfig { max_segment_size: 4096, durability: Some(Durability::Os), ..StoreConfig::at("/store") };
    SingleNodeEngine::with_components(config, components).expect("an undamaged store opens")
}

fn set(key: u8, len: u8, version: u16) -> Command {
    Command::Set { key: vec![b'k', key % 16], value: vec![key; len.into()], version: version.into(), timestamp: 0 }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut fs = SimFs::new();
    let mut engine = open(&fs);
    let mut model = KvState::new();
    for step in steps.iter().take(200) {
        match step {
            Step::Set { key, len, version } => {
                let command = set(*key, *len, *version);
                assert_eq!(model.apply(&command), engine.submit(command).expect("submit"));
            }
            Step::Delete { key, version } => {
                let command = Command::Delete { key: vec![b'k', key % 16], version: (*version).into(), timestamp: 0 };
                assert_eq!(model.apply(&command), engine.submit(command).expect("submit"));
            }
            Step::Batch(changes) => {
                let commands: Vec<_> = changes.iter().take(20).map(|(key, version)| set(*key, 9, *version)).collect();
                let expected: Vec<_> = commands.iter().map(|command| model.apply(command)).collect();
                assert_eq!(engine.submit_batch(commands).expect("submit"), expected);
            }
            Step::Close => {
                engine.close().expect("close");
                engine = open(&fs);
            }
            Step::Kill => {
                fs = fs.after_kill();
                engine = open(&fs);
            }
        }
    }
    assert_eq!(engine.snapshot_state().expect("read").digest(), model.digest());
});
