//! A log of any valid records, and then patches anywhere: opening it is an error, or yields a log
//! that can be read, continued and opened again.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use hightower_log::{Command, Placement, SegmentHeader, encode};
use hightower_segment::sim::{SeededEntropy, SimFs};
use hightower_segment::{Fs, SegmentError, StoreOptions, Wal, WalRecovery, segment_name};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/log";

/// A record of the log.
#[derive(Arbitrary, Debug)]
enum Written {
    Entry { position: u16, bytes: Vec<u8> },
    /// An entry at the next position.
    Next { bytes: Vec<u8> },
    Bounds { front: u16, end: u16 },
    Set { key: Vec<u8>, value: Vec<u8>, version: u64, timestamp: i64 },
    Delete { key: Vec<u8>, version: u64 },
}

fn open(fs: &SimFs) -> Result<(Wal, WalRecovery), SegmentError> {
    let entropy = Arc::new(SeededEntropy::new(5));
    let options = StoreOptions { segment_len_bytes: 4096, entropy, ..StoreOptions::default() };
    Wal::open_with(Arc::new(fs.clone()), Path::new(DIR), options)
}

/// The manifest and the first segment of a log that is empty and open, and the segment's header.
fn template() -> &'static (Vec<u8>, Vec<u8>, SegmentHeader) {
    static TEMPLATE: OnceLock<(Vec<u8>, Vec<u8>, SegmentHeader)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let fs = SimFs::new();
        let opened = open(&fs).expect("an empty file system takes a log");
        let read = |name: &str| fs.read_file(&Path::new(DIR).join(name)).expect("it was just written");
        let (manifest, segment) = (read("MANIFEST"), read(&segment_name(1)));
        drop(opened);
        let header = SegmentHeader::decode(&segment).expect("the header of a segment");
        (manifest, segment, header)
    })
}

fn command(written: Written, next: u64) -> Command {
    let set = |key: Vec<u8>, value, version| Command::Set { key, value, version, timestamp: 0 };
    match written {
        Written::Entry { position, bytes } => set(vec![1], bytes, position.into()),
        Written::Next { bytes } => set(vec![1], bytes, next),
        Written::Bounds { front, end } => set(vec![2], u64::from(front).to_le_bytes().to_vec(), end.into()),
        Written::Set { key, value, version, timestamp } => Command::Set { key, value, version, timestamp },
        Written::Delete { key, version } => Command::Delete { key, version, timestamp: 0 },
    }
}

fuzz_target!(|input: (Vec<Written>, Vec<(bool, u16, u8)>)| {
    let (records, patches) = input;
    let (manifest, segment, header) = template();
    let (mut manifest, mut bytes) = (manifest.clone(), segment[..SegmentHeader::LEN].to_vec());
    let mut next = 0;
    for record in records {
        let command = command(record, next);
        let offset = u32::try_from(bytes.len()).expect("inputs are short");
        let placement = Placement::Appended { durable: 0, continues: false };
        if encode(&mut bytes, &header.context(), offset, &command.borrow(), placement).is_ok() {
            next = command.version().wrapping_add(u64::from(command.key() == [1]));
        }
    }
    bytes.resize(bytes.len().max(segment.len()), 0);
    for (in_segment, at, with) in patches {
        let file = if in_segment { &mut bytes } else { &mut manifest };
        let at = usize::from(at) % file.len();
        file[at] ^= with;
    }
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("an empty file system takes a directory");
    fs.plant(&Path::new(DIR).join("MANIFEST"), &manifest);
    fs.plant(&Path::new(DIR).join(segment_name(1)), &bytes);
    check(&fs);
});

fn check(fs: &SimFs) {
    let Ok((mut wal, recovery)) = open(fs) else { return };
    let positions = wal.positions();
    assert_eq!(recovery.positions, positions);
    let read = |wal: &Wal| -> Vec<Vec<u8>> {
        let entries = wal.read(wal.positions().start).expect("the first position is in the log");
        entries.map(|entry| entry.expect("a replayed record can be read").bytes.to_vec()).collect()
    };
    let mut entries = read(&wal);
    assert_eq!(entries.len() as u64, positions.end - positions.start);
    if wal.append(b"more").is_ok() {
        entries.push(b"more".to_vec());
    }
    wal.close().expect("close");
    let (wal, recovery) = open(fs).expect("a log that was closed opens");
    assert!(!recovery.unclean);
    assert_eq!((read(&wal), wal.positions().start), (entries, positions.start));
}
