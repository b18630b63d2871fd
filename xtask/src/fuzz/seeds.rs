//! The initial inputs of the fuzzers: real segments, records, manifests and tables of a small
//! store, a few KiB for each target. They are committed in `fuzz/seeds`, and generated again when a
//! format changes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hightower_engine::{AppendMode, Batch, SingleNodeEngine, StoreConfig};
use hightower_log::{SegmentHeader, decode};

use crate::command::root;

/// Maximum number of records among the seeds.
const RECORDS: usize = 12;

pub(super) fn write() -> Result<()> {
    let seeds = root().join("fuzz/seeds");
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("store");
    fill(&dir)?;
    let mut names: Vec<_> = fs::read_dir(&dir)?.collect::<Result<_, _>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    let mut records = 0;
    for entry in names {
        let (name, bytes) = (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        if name == "MANIFEST" {
            save(&seeds.join("manifest_open"), &name, &bytes)?;
        } else if name.ends_with(".tbl") {
            save(&seeds.join("store_table"), &name, &bytes)?;
        } else if name.ends_with(".seg") {
            // The first byte of an input selects the segment of the target's store that the other
            // bytes replace.
            save(&seeds.join("segment_bytes"), &name, &[&[0], &bytes[..]].concat())?;
            records += save_records(&seeds.join("record_decode"), &bytes, RECORDS - records)?;
        }
    }
    println!("wrote the seeds to fuzz/seeds, with {records} records");
    Ok(())
}

/// A store with sealed segments and a table.
fn fill(dir: &Path) -> Result<()> {
    let config = StoreConfig::at(dir).with_max_segment_size(4096).with_append_mode(AppendMode::Positioned);
    let engine = SingleNodeEngine::with_config(config)?;
    for number in 0..30_u8 {
        let value = vec![number; usize::from(number)];
        let mut batch = Batch::new();
        batch.put([b'k', number % 7], &value).delete([b'd', number % 5]);
        anyhow::ensure!(engine.commit(&batch)?.is_committed(), "a batch without requirements was rejected");
    }
    engine.checkpoint()?;
    engine.close()?;
    Ok(())
}

/// Each record behind its context in the form of the target: salt, base version, base timestamp and
/// offset.
fn save_records(dir: &Path, segment: &[u8], most: usize) -> Result<usize> {
    let header = SegmentHeader::decode(segment).context("the header of a segment")?;
    let context = header.context();
    let mut offset = SegmentHeader::LEN;
    let mut saved = 0;
    while saved < most {
        let at = u32::try_from(offset)?;
        let Ok(record) = decode(&segment[offset..], &context, at) else { break };
        let end = offset + record.len as usize;
        let mut seed = header.salt.to_le_bytes().to_vec();
        seed.extend(header.base_version.to_le_bytes());
        seed.extend(header.base_timestamp.to_le_bytes());
        seed.extend(at.to_le_bytes());
        seed.extend(&segment[offset..end]);
        save(dir, &format!("{}-{offset}", header.id), &seed)?;
        offset = end;
        saved += 1;
    }
    Ok(saved)
}

fn save(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(name), bytes).with_context(|| format!("write {name}"))
}
