//! A concurrent ordered map from byte strings to small values, with one writer and any number of
//! wait-free readers.
//!
//! Each key and its value share one leaf, which two structures point to: an adaptive radix tree for
//! key order, and a hash table of eight-byte slots for lookups. A lookup of a present key costs two
//! cache misses, one of an absent key costs one; scans prefetch. Readers take no lock and have no
//! retry loop; removed memory is reclaimed by epochs.
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
//! Values never move and are shared with readers. A value can change in place through atomics or
//! [`Published`] cells inside it: such an overwrite is a lookup and a store, without a new leaf.
//!
//! # What it is not
//!
//! It is not durable or transactional, and has one writer (for several, put the [`Writer`] behind a
//! lock). Iterators are weakly consistent; snapshots belong to the layer above.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | keys of 0 to [`MAX_KEY_LEN_BYTES`] bytes; 64-bit machines |
//! | durability | none: it is in memory |
//! | memory | per key a leaf with key and value, and its share of nodes and table; [`Map::memory_bytes`] counts all of it |
//! | threads | one [`Writer`]; any number of [`Map`] handles on any thread, which never wait |
//! | features | none |
//! | format | none: it writes no files |

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
mod published_arc;
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
pub use epoch::{Guard, pin, synchronize};
pub use hash::{KeyHasher, SeededHasher};
pub use leaf::MAX_KEY_LEN_BYTES;
pub use map::{Awaited, Map};
pub use prefetch::prefetch_read;
pub use published::Published;
pub use published_arc::PublishedArc;
pub use range::MapRange;
pub use writer::{Writer, new, with_hasher, with_hasher_and_hints, with_hasher_seed, with_hints};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
