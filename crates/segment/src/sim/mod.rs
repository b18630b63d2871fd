//! A file system in memory that crashes and fails on request, for tests of users of
//! [`Fs`](crate::Fs).
//!
//! It keeps the page cache (the view of running processes) apart from the disk (the content after a
//! crash). Every operation is recorded. [`SimFs::crash_states`] enumerates, for every operation
//! boundary, the possible contents of the disk:
//!
//! * each 512-byte sector written since the last sync of its file has the synced content, or any
//!   later one;
//! * each file's length likewise;
//! * of the creations, renames, links and removals since the last sync of the directory, any subset
//!   is done.
//!
//! If the combinations are few, all of them are visited; otherwise a sample, drawn from a seed.
//! Each state has a [`CrashPoint`], whose text form leads to the same state again. A workload runs
//! once, and all its crashes are explored.
//!
//! Mapped files work too: a map is the page cache, and an append through it is a recorded write
//! like any other.
//!
//! [`SimFs::inject`] makes calls fail, cuts writes short, interrupts, makes syncs fail or lie, and
//! flips bits.
//!
//! ```
//! use std::path::Path;
//! use hightower_segment::Fs;
//! use hightower_segment::sim::{CrashPlan, SimFs};
//!
//! # fn main() -> std::io::Result<()> {
//! let fs = SimFs::new();
//! fs.create_dir_all(Path::new("/db"))?;
//! let dir = fs.open_dir(Path::new("/db"))?;
//! let file = dir.create_new("file")?;
//! file.write_at(b"hello", 0)?;
//! file.sync_data()?;
//! // The bytes are durable, but the name is not: some crashes lose the file.
//! let lost = |fs: &SimFs| fs.read_file(Path::new("/db/file")).is_err();
//! assert!(fs.crash_states(CrashPlan::default()).any(|state| lost(&state.fs)));
//! dir.sync()?;
//! let now = fs.op_count();
//! assert!(!fs.crash_states(CrashPlan::default()).any(|state| state.point.op == now && lost(&state.fs)));
//! # Ok(())
//! # }
//! ```

mod crash;
mod dir;
mod disk;
mod fault;
mod file;
mod hooks;
mod page_cache;
mod rng;
mod simulated_fs;

pub use crate::mapping::run_in_fork;
pub use crash::{Choice, CrashPlan, CrashPoint, CrashState, CrashStates, ParseCrashPointError};
pub use fault::{Fault, FaultKind};
pub use hightower_seams::SeededEntropy;
pub use hooks::{FsHook, HookedFs};
pub use simulated_fs::SimFs;

/// Length of a sector, in bytes.
pub const SECTOR_LEN_BYTES: usize = 512;
