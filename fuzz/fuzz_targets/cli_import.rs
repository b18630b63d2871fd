//! Any line as an input of the tool's import: no panic, and a record that is read and written again
//! reads the same, in both formats.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The tool is a program without a library, so the target compiles its modules.
#[allow(dead_code)]
#[path = "../../crates/cli/src/notation.rs"]
mod notation;
#[allow(dead_code)]
#[path = "../../crates/cli/src/records.rs"]
mod records;

use records::Format;

fuzz_target!(|line: &[u8]| {
    if let Ok(bytes) = notation::parse(line) {
        let shown = notation::show(&bytes).into_owned();
        assert_eq!(notation::parse(shown.as_bytes()).ok().as_deref(), Some(&*bytes));
    }
    for format in [Format::Tsv, Format::Jsonl] {
        let Ok(record) = format.parse(line) else { continue };
        for other in [Format::Tsv, Format::Jsonl] {
            let mut written = Vec::new();
            if other.write(&mut written, &record.key, &record.value).is_err() {
                panic!("a record in memory cannot be written");
            }
            let written = written.strip_suffix(b"\n").unwrap_or(&written);
            assert_eq!(other.parse(written).ok().as_ref(), Some(&record));
        }
    }
});
