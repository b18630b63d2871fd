//! A concurrent ordered map from byte strings to small values: one writer, any number of readers
//! that never wait.
//!
//! Each key and its value share one leaf, reached two ways: through an adaptive radix tree, in key
//! order, and through a hash table of eight-byte slots, for lookups. A lookup that hits costs two
//! cache misses, one that misses costs one; scans fetch ahead. Readers take no lock and run no
//! retry loop; memory that they may still see is reclaimed by epochs.
//!
//! ```
//! use hightower_index::{new, pin};
//!
//! let (mut writer, map) = new::<u64>();
//! writer.insert(b"/pods/a", 1);
//! writer.insert(b"/pods/b", 2);
//! writer.insert(b"/nodes/x", 3);
//!
//! let guard = pin();
//! assert_eq!(map.get(b"/pods/b", &guard), Some(&2));
//! let pods: Vec<u64> = map.prefix(b"/pods/", &guard).map(|entry| *entry.value()).collect();
//! assert_eq!(pods, [1, 2]);
//! ```
//!
//! Values never move and are shared with readers, so a value that changes in place does so through
//! atomics or [`Published`] cells inside it: an overwrite is then a lookup and a store, without a
//! new leaf.
//!
//! # What it is not
//!
//! Durable, transactional, or for many writers (put the [`Writer`] behind a lock for that).
//! Iterators are weakly consistent; snapshots are for the layer above.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | keys up to [`MAX_KEY_LEN_BYTES`], the empty one too; 64-bit machines |
//! | durability | none: it lives in memory |
//! | memory | a leaf of key and value for each key, and its share of nodes and table; [`Map::memory_bytes`] counts all of it |
//! | threads | one [`Writer`]; any number of [`Map`]s, cloned to any thread, which never wait |
//! | features | none |
//! | format | none: nothing of it is written |

#![deny(missing_docs)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("hightower-index keeps a hint in the top bits of 64-bit pointers");

mod arena;
#[cfg_attr(all(loom, not(test)), allow(dead_code, reason = "under loom only its models use it"))]
mod barrier;
mod bucket;
mod bulk;
mod bulk_builder;
mod bytes;
#[cfg_attr(loom, allow(dead_code, reason = "under loom only its models use it"))]
mod collector;
mod cursor;
mod deferred_free;
mod directory;
mod entry_ref;
mod epoch;
mod hash;
mod leaf;
mod map;
mod node;
mod node_kind;
mod panics;
mod pointee;
mod prefetch;
mod published;
mod range;
mod region;
mod reserve;
mod search;
mod sync;
mod table;
mod tagged_ptr;
mod tree;
mod walk;
mod writer;

use hightower_seams::mutants;

pub use bucket::HINT_BITS;
pub use bulk::{BulkError, SortedRun};
pub use cursor::Cursor;
pub use entry_ref::EntryRef;
pub use epoch::{Guard, pin};
pub use hash::{KeyHasher, SeededHasher};
pub use leaf::MAX_KEY_LEN_BYTES;
pub use map::{Awaited, Map};
pub use prefetch::prefetch_read;
pub use published::Published;
pub use range::Range;
pub use writer::{Writer, new, with_hasher, with_hasher_and_hints, with_hasher_seed, with_hints};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
