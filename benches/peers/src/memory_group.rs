//! Memory cgroups, the page cache, and the counters of bytes written: for stores larger than their
//! memory.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{major, minor, syncfs};

use crate::machine::anonymous_memory_bytes;

/// Where the hierarchies of version 1 and of version 2 are, and their names of the limit.
const HIERARCHIES: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// The pause between two samples of memory.
const SAMPLING: Duration = Duration::from_millis(20);

/// A memory cgroup, removed when it is dropped. In version 1, the page cache is charged to the
/// group that touched a page first.
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// A new group with a limit, which needs root.
    pub(crate) fn new(limit_bytes: u64) -> Result<Self> {
        let (root, limit) = HIERARCHIES
            .into_iter()
            .find(|(root, _)| Path::new(root).join("cgroup.procs").exists())
            .context("this machine has no memory cgroups")?;
        let group = Self(Path::new(root).join(format!("hightower-peers-{}", std::process::id())));
        if group.0.exists() {
            fs::remove_dir(&group.0)?;
        }
        fs::create_dir(&group.0).context("no memory cgroup can be made, which needs root")?;
        fs::write(group.0.join(limit), limit_bytes.to_string())?;
        Ok(group)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was killed leaves its group some time after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} could not be removed", self.0.display());
    }
}

/// Puts this process into a group.
pub(crate) fn join(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("{} could not be joined", group.display()))
}

/// Writes all dirty pages of the file system of `dir` to the device, and empties the page cache,
/// which needs root.
pub(crate) fn empty_page_cache(dir: &Path) -> Result<()> {
    syncfs(File::open(dir)?)?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("the page cache cannot be emptied, which needs root")
}

/// Reads all files under `dir` into the page cache.
pub(crate) fn fill_page_cache(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fill_page_cache(&entry.path())?;
        } else {
            std::io::copy(&mut File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

/// Bytes that went to and came from the device.
#[derive(Clone, Copy)]
pub(crate) struct DeviceBytes {
    /// Bytes that the whole device wrote, of other programs too: from /sys/dev/block.
    pub(crate) written: u64,
    /// Bytes of pages that this process made dirty: from /proc/self/io.
    pub(crate) dirtied: u64,
    /// Bytes that the device read for this process.
    pub(crate) read: u64,
}

impl DeviceBytes {
    /// The counters now, of the device that holds `dir`.
    pub(crate) fn now(dir: &Path) -> Result<Self> {
        let io = fs::read_to_string("/proc/self/io")?;
        let of_process = |name: &str| -> Result<u64> {
            let value = io.lines().find_map(|line| line.strip_prefix(name)).context("/proc/self/io has other lines")?;
            Ok(value.trim().parse()?)
        };
        let cancelled = of_process("cancelled_write_bytes:")?;
        let dirtied = of_process("write_bytes:")?.saturating_sub(cancelled);
        Ok(Self { written: written_bytes(dir)?, dirtied, read: of_process("read_bytes:")? })
    }

    /// The bytes since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            written: self.written - earlier.written,
            dirtied: self.dirtied.saturating_sub(earlier.dirtied),
            read: self.read - earlier.read,
        }
    }
}

/// Bytes that the device of `dir` has written since the machine started.
fn written_bytes(dir: &Path) -> Result<u64> {
    let device = fs::metadata(dir)?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: the directory must be on a disk"))?;
    let sectors: u64 = stat.split_whitespace().nth(6).context("a line without sectors written")?.parse()?;
    Ok(sectors * 512)
}

/// Samples the anonymous memory of this process.
pub(crate) struct MemorySampler {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl MemorySampler {
    /// Begins.
    pub(crate) fn start() -> Self {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&most));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(anonymous_memory_bytes()?, Ordering::Relaxed);
                thread::sleep(SAMPLING);
            }
            Ok(())
        });
        Self { stop, most, thread }
    }

    /// Ends; the highest sample in bytes.
    pub(crate) fn most_bytes(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sampler panicked"))??;
        let most = self.most.load(Ordering::Relaxed);
        ensure!(most > 0, "no sample of memory was taken");
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_sampled_at_its_highest() {
        let sampler = MemorySampler::start();
        let memory = vec![1u8; 64 << 20];
        thread::sleep(SAMPLING * 5);
        drop(memory);
        thread::sleep(SAMPLING * 2);
        assert!(sampler.most_bytes().unwrap() >= 64 << 20);
    }

    #[test]
    fn dirtied_bytes_are_counted() {
        let path = std::env::temp_dir().join(format!("peers-dirtied-{}", std::process::id()));
        let before = DeviceBytes::now(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let after = DeviceBytes::now(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap().since(before);
        fs::remove_file(&path).unwrap();
        // On tmpfs nothing is dirtied that would be written.
        assert!(after.dirtied == 0 || after.dirtied >= 1 << 20, "{}", after.dirtied);
    }
}
