//! Builds the point table: sorts the entries by hash, in runs that spill to the scratch file, and
//! then fills one line after another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::append_file::AppendFile;
use crate::checksum::Salt;
use crate::error::TableError;
use crate::line::{LINE_LEN, LineShape, NO_THRESHOLD, PointLine};
use crate::list_line;
use crate::planted;
use crate::point_entry::PointEntry;
use crate::spill::{CHUNK_BYTES, Extent, Spill, SpillReader, SpillStream};

/// Sorts entries by hash in bounded memory.
#[derive(Debug)]
pub(crate) struct SortedRuns {
    entries: Vec<PointEntry>,
    capacity: usize,
    runs: Vec<Extent>,
}

impl SortedRuns {
    /// Keeps at most `memory_bytes` of entries in memory.
    pub(crate) fn new(memory_bytes: usize) -> Self {
        let capacity = (memory_bytes / PointEntry::LEN).max(64);
        Self { entries: Vec::new(), capacity, runs: Vec::new() }
    }

    pub(crate) fn push(&mut self, entry: PointEntry, spill: &mut Spill) -> Result<(), TableError> {
        self.entries.push(entry);
        if self.entries.len() >= self.capacity { self.spill_run(spill) } else { Ok(()) }
    }

    fn spill_run(&mut self, spill: &mut Spill) -> Result<(), TableError> {
        self.entries.sort_unstable();
        let mut extent = spill.begin();
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        for entries in self.entries.chunks(CHUNK_BYTES / PointEntry::LEN) {
            chunk.clear();
            entries.iter().for_each(|entry| chunk.extend_from_slice(&entry.encode()));
            spill.write_chunk(&mut extent, &chunk)?;
        }
        self.entries.clear();
        self.runs.push(extent);
        Ok(())
    }

    /// Calls `each` for all entries in the order of their hashes.
    pub(crate) fn for_each(
        mut self,
        spill: &mut Spill,
        mut each: impl FnMut(PointEntry, &mut Spill) -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        if self.runs.is_empty() {
            self.entries.sort_unstable();
            return self.entries.into_iter().try_for_each(|entry| each(entry, spill));
        }
        if !self.entries.is_empty() {
            self.spill_run(spill)?;
        }
        self.entries = Vec::new();
        let mut readers: Vec<SpillReader> = self.runs.iter().copied().map(SpillReader::of).collect();
        let mut heads = BinaryHeap::with_capacity(readers.len());
        for (run, reader) in readers.iter_mut().enumerate() {
            if let Some(entry) = next_of(reader, spill)? {
                heads.push(Reverse((entry, run)));
            }
        }
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((entry, run)) = *head;
            each(entry, spill)?;
            let next = readers.get_mut(run).map(|reader| next_of(reader, spill)).transpose()?.flatten();
            match next {
                Some(next) => *head = Reverse((next, run)),
                None => drop(PeekMut::pop(head)),
            }
        }
        Ok(())
    }
}

fn next_of(reader: &mut SpillReader, spill: &mut Spill) -> Result<Option<PointEntry>, TableError> {
    let mut bytes = [0; PointEntry::LEN];
    Ok(reader.read(&mut bytes, spill)?.then(|| PointEntry::decode(&bytes)))
}

/// Fills lines, one after the other, from entries in the order of their hashes.
#[derive(Debug)]
pub(crate) struct LineWriter<'a> {
    shape: LineShape,
    salt: Salt,
    /// The numbers of the table's segments, ascending.
    segments: &'a [u32],
    /// The number of the current line.
    line: u64,
    slots: Vec<(u64, u64)>,
    /// The entries that overflow to the next line.
    carried: Vec<(u64, u64)>,
    threshold: u16,
    has_listed: bool,
    listed: SpillStream,
    pub(crate) listed_count: u64,
}

impl<'a> LineWriter<'a> {
    pub(crate) fn new(shape: LineShape, salt: Salt, segments: &'a [u32]) -> Self {
        let slots = usize::from(shape.slots);
        Self {
            shape,
            salt,
            segments,
            line: 0,
            slots: Vec::with_capacity(slots),
            carried: Vec::with_capacity(slots),
            threshold: NO_THRESHOLD,
            has_listed: false,
            listed: SpillStream::default(),
            listed_count: 0,
        }
    }

    pub(crate) fn push(
        &mut self,
        entry: PointEntry,
        out: &mut AppendFile,
        spill: &mut Spill,
    ) -> Result<(), TableError> {
        let (home, rank) = self.shape.home(entry.hash);
        while self.line < home {
            self.end_line(out)?;
        }
        let segment = self.segments.partition_point(|segment| *segment < entry.pointer.segment) as u64;
        let slot = (self.shape.fingerprint(entry.hash), self.shape.pack(segment, entry.pointer.offset));
        let capacity = usize::from(self.shape.slots);
        if self.slots.len() < capacity {
            self.slots.push(slot);
            return Ok(());
        }
        if self.threshold == NO_THRESHOLD && !planted("table_threshold_missing") {
            self.threshold = rank;
        }
        if self.carried.len() < capacity {
            self.carried.push(slot);
            return Ok(());
        }
        self.has_listed = true;
        self.listed_count += 1;
        self.listed.push(&entry.encode(), spill)
    }

    fn end_line(&mut self, out: &mut AppendFile) -> Result<(), TableError> {
        let mut line = PointLine::new(&self.shape, &self.slots, self.threshold, self.has_listed);
        let check = self.salt.check(out.position(), &line.bytes[4..]);
        line.bytes[..4].copy_from_slice(&check.to_le_bytes());
        out.append(&line.bytes)?;
        self.line += 1;
        std::mem::swap(&mut self.slots, &mut self.carried);
        self.carried.clear();
        self.threshold = NO_THRESHOLD;
        self.has_listed = false;
        Ok(())
    }

    /// Writes the remaining lines, the overflow line after the last, and the list.
    pub(crate) fn finish(mut self, out: &mut AppendFile, spill: &mut Spill) -> Result<(), TableError> {
        while self.line <= self.shape.lines {
            self.end_line(out)?;
        }
        let mut reader = self.listed.into_reader();
        loop {
            let mut entries = Vec::with_capacity(list_line::ENTRIES);
            while entries.len() < list_line::ENTRIES
                && let Some(entry) = next_of(&mut reader, spill)?
            {
                entries.push(entry);
            }
            if entries.is_empty() {
                return Ok(());
            }
            let line: [u8; LINE_LEN] = list_line::encode(&entries, self.salt, out.position());
            out.append(&line)?;
        }
    }
}
