//! The bytes of a small log are the golden ones.

use std::fmt::Write;
use std::path::Path;

use hightower_segment::AppendMode;
use hightower_segment::sim::SimFs;

use crate::world::{DIR, open, options};

#[test]
fn the_bytes_are_the_golden_ones() {
    let (fs, options) = (SimFs::new(), options(AppendMode::Mapped, 11));
    let (mut wal, _) = open(&fs, &options).unwrap();
    for entry in ["", "entry", "void"] {
        wal.append(entry.as_bytes()).unwrap();
    }
    wal.truncate_back(2).unwrap();
    wal.append(b"instead").unwrap();
    wal.truncate_front(1).unwrap();
    wal.close().unwrap();
    let mut text = String::new();
    let names = fs.names_in(Path::new(DIR)).unwrap();
    // The content of the reserves has no meaning.
    for name in names.iter().filter(|name| !name.ends_with(".spare")) {
        let bytes = fs.read_file(&Path::new(DIR).join(name)).unwrap();
        writeln!(text, "{name}").unwrap();
        for line in bytes.chunks(32) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{hex}").unwrap();
        }
    }
    let golden = include_str!("../golden/wal.txt");
    assert!(text == golden, "the log is now\n{text}");
}
