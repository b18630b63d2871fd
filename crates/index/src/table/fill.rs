//! Bulk filling of an empty table: all buckets for the leaves, each written by one thread, and
//! published together.
//!
//! The threads that create the leaves partition them by the leading bits of their hashes
//! ([`Parted`]), so that the buckets of one part stay in the cache while they are filled.

use core::ops::Range;
use core::ptr::NonNull;

use super::{PointTable, Tools};
use crate::arena::Arena;
use crate::bucket::{FULL_CLASS, FULL_SLOTS, HashBucket, slots_limit, slots_of_class};
use crate::deferred_free::Garbage;
use crate::directory::{BlockRole, Directory, TableBlock, directory_index};
use crate::hash::KeyHasher;
use crate::leaf::Leaf;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

const PART_BITS: u32 = 6;
const PARTS: usize = 1 << PART_BITS;
/// Maximum average number of leaves per bucket. The rest is room for unevenly spread hashes, and
/// for some inserts.
const FILL_LEAVES: usize = FULL_SLOTS * 7 / 10;

/// A leaf for the table. Packed, because millions of them are in memory together.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Hashed {
    hash: u64,
    leaf: *mut u8,
    hint: u32,
}

/// Leaves, partitioned by the leading bits of their hashes.
pub(crate) struct Parted {
    arena: Arena,
    parts: [FillPart; PARTS],
}

/// The leaves of one part, in blocks of [`BLOCK_LEN`]. The last block may be partly filled.
#[derive(Default)]
struct FillPart {
    blocks: Vec<NonNull<Hashed>>,
    room: usize,
}

const BLOCK_LEN: usize = 101;

// SAFETY: filling copies the leaves' addresses; only their owner touches the values, under its own
// bounds on `V`.
unsafe impl Send for Parted {}
// SAFETY: see above.
unsafe impl Sync for Parted {}

impl Parted {
    pub(crate) fn new() -> Self {
        Self { arena: Arena::bulk(), parts: core::array::from_fn(|_| FillPart::default()) }
    }

    #[inline(always)]
    pub(crate) fn push<V>(&mut self, hash: u64, leaf: Leaf<'_, V>, hint: u32) {
        let part = &mut self.parts[directory_index(hash, PART_BITS)];
        if part.room == 0 {
            part.blocks.push(self.arena.alloc(BLOCK_LEN * size_of::<Hashed>()).cast());
            part.room = BLOCK_LEN;
        }
        if let Some(block) = part.blocks.last() {
            // SAFETY: the block has room for as many, behind those that it holds.
            unsafe { block.add(BLOCK_LEN - part.room).write(Hashed { hash, leaf: leaf.as_raw(), hint }) };
            part.room -= 1;
        }
    }

    /// The addresses of all leaves, as they were pushed.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = *mut u8> {
        self.parts.iter().flat_map(FillPart::iter).map(|hashed| hashed.leaf)
    }
}

impl FillPart {
    fn iter(&self) -> impl Iterator<Item = &Hashed> {
        let last = self.blocks.len().wrapping_sub(1);
        self.blocks.iter().enumerate().flat_map(move |(at, block)| {
            let len = if at == last { BLOCK_LEN - self.room } else { BLOCK_LEN };
            // SAFETY: the block lives as long as the arena beside the part, and its first `len`
            // have been written.
            unsafe { core::slice::from_raw_parts(block.as_ptr(), len) }
        })
    }
}

/// The result of one thread.
struct Filled {
    arena: Arena,
    buckets: Vec<*mut u8>,
    /// Leaves without room, because many hashes have the same leading bits.
    left_over: Vec<Hashed>,
}

// SAFETY: nobody else knows the buckets yet, and the addresses of leaves are only copied.
unsafe impl Send for Filled {}

/// The plan of the buckets.
#[derive(Clone, Copy)]
struct Shape {
    depth: u32,
    class: usize,
}

impl Shape {
    fn for_leaves(leaves: usize) -> Self {
        let depth = leaves.div_ceil(FILL_LEAVES).next_power_of_two().ilog2();
        let fits = |class: &usize| leaves <= slots_limit(slots_of_class(*class));
        let class = if depth == 0 { (0..FULL_CLASS).find(fits).unwrap_or(FULL_CLASS) } else { FULL_CLASS };
        Self { depth, class }
    }

    /// Units of work: sets of buckets in the same parts, without common parts.
    fn units(self) -> usize {
        1 << self.depth.min(PART_BITS)
    }
}

impl PointTable {
    /// Puts leaves of different keys into an empty table, with `threads` threads. For the writer
    /// only. All of them appear atomically; if the hasher panics, none.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`].
    pub(crate) unsafe fn fill<V, H: KeyHasher>(
        &self,
        runs: &[&Parted],
        leaves: usize,
        threads: usize,
        tools: &mut Tools<'_, H>,
    ) {
        let shape = Shape::for_leaves(leaves);
        let filled = fill_units::<V>(runs, shape, threads);
        let new = Directory::alloc(tools.arena, shape.depth);
        let mut left_over = Vec::new();
        let mut at = 0;
        for each in filled {
            tools.arena.absorb(each.arena);
            for bucket in each.buckets {
                new.place(at).store(bucket, Ordering::Relaxed);
                at += 1;
            }
            left_over.extend(each.left_over);
        }
        let filled = Self { directory: AtomicPtr::new(new.tagged()), buckets: AtomicUsize::new(new.len()) };
        if crate::mutants::planted("bulk_published_early") {
            // SAFETY: the caller is the writer.
            unsafe { self.take_over(&filled, tools) };
        }
        for Hashed { hash, leaf, hint } in left_over {
            // SAFETY: the leaf is alive and new to the table; nobody else knows the table.
            unsafe { filled.insert::<V, H>(hash, (Leaf::from_raw(leaf), hint), leaves, tools) };
        }
        // SAFETY: the caller is the writer.
        unsafe { self.take_over(&filled, tools) };
    }

    /// Publishes the content of another table, and retires the content of this one.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`]; what the old buckets hold is not lost.
    unsafe fn take_over<H>(&self, new: &Self, tools: &mut Tools<'_, H>) {
        // SAFETY: only the writer retires directories.
        let old = unsafe { self.directory() };
        self.directory.store(new.directory.load(Ordering::Relaxed), Ordering::Release);
        self.buckets.store(new.buckets.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut at = 0;
        while at < old.len() {
            let bucket = old.bucket(at);
            at += old.places_of(at, bucket.depth()).len();
            super::retire_bucket(bucket, tools.deferred_frees);
        }
        tools.deferred_frees.push(Garbage::TableBlock(TableBlock { tagged: old.tagged(), role: BlockRole::Directory }));
    }
}

fn fill_units<V>(runs: &[&Parted], shape: Shape, threads: usize) -> Vec<Filled> {
    let units = shape.units();
    let threads = threads.clamp(1, units);
    let share = |number: usize| number * units / threads..(number + 1) * units / threads;
    if threads == 1 {
        return vec![fill_share::<V>(runs, shape, share(0))];
    }
    std::thread::scope(|scope| {
        let start = |units: Range<usize>| {
            let fill = move || fill_share::<V>(runs, shape, units);
            std::thread::Builder::new().spawn_scoped(scope, fill)
        };
        let others: Vec<_> = (1..threads).map(|number| (number, start(share(number)))).collect();
        let own = fill_share::<V>(runs, shape, share(0));
        let others = others.into_iter().map(|(number, other)| match other {
            Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // The system refuses a new thread: this one does the work.
            Err(_) => fill_share::<V>(runs, shape, share(number)),
        });
        [own].into_iter().chain(others).collect()
    })
}

fn fill_share<V>(runs: &[&Parted], shape: Shape, units: Range<usize>) -> Filled {
    let mut filled = Filled { arena: Arena::bulk(), buckets: Vec::new(), left_over: Vec::new() };
    for unit in units {
        fill_unit::<V>(runs, shape, unit, &mut filled);
    }
    filled
}

fn fill_unit<V>(runs: &[&Parted], shape: Shape, unit: usize, filled: &mut Filled) {
    let count = (1 << shape.depth) / shape.units();
    let buckets: Vec<_> = (0..count).map(|_| HashBucket::alloc(&mut filled.arena, shape.class, shape.depth)).collect();
    let parts = PARTS / shape.units();
    for run in runs {
        for &hashed in run.parts[unit * parts..][..parts].iter().flat_map(FillPart::iter) {
            let bucket = buckets[directory_index(hashed.hash, shape.depth) - unit * count];
            let has_room = bucket.taken() < slots_limit(bucket.slots());
            if crate::mutants::planted("bulk_slot_lost") && bucket.leaves() == 5 {
                continue;
            }
            if has_room {
                // SAFETY: the leaf is alive; its address is only copied.
                bucket.put(hashed.hash, unsafe { Leaf::<V>::from_raw(hashed.leaf) }, hashed.hint);
            } else {
                filled.left_over.push(hashed);
            }
        }
    }
    filled.buckets.extend(buckets.into_iter().map(HashBucket::tagged));
}
