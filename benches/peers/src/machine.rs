//! The machine of the measurements, from /proc, and the memory and files of the process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::stores::Entry;

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// Logical processors.
    pub(crate) processors: usize,
    /// Memory in mebibytes.
    pub(crate) memory_mib: u64,
    /// The kernel's version.
    pub(crate) kernel: String,
    /// The type of the file system that the stores were on.
    pub(crate) file_system: String,
    /// The compiler's version.
    pub(crate) compiler: String,
}

impl Machine {
    /// This machine, with the stores in `dir`.
    pub(crate) fn here(dir: &Path) -> Result<Self> {
        let memory = field("/proc/meminfo", "MemTotal")?;
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name")?,
            processors: std::thread::available_parallelism()?.get(),
            memory_mib: kibibytes(&memory)? / 1024,
            kernel: format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()),
            file_system: file_system(dir)?,
            compiler: compiler(),
        })
    }
}

/// The first line `name: value` of a file of /proc.
fn field(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    Ok(value.with_context(|| format!("{path} has no {name}"))?.trim().to_owned())
}

fn kibibytes(value: &str) -> Result<u64> {
    Ok(value.trim_end_matches("kB").trim().parse()?)
}

/// The type of the mount with the longest path above `dir`.
fn file_system(dir: &Path) -> Result<String> {
    let dir = dir.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    Ok(above.max().context("no mount holds the directory")?.1.to_owned())
}

fn compiler() -> String {
    match Command::new("rustc").arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("unknown ({error})"),
    }
}

/// The anonymous memory of this process, in bytes.
pub(crate) fn anonymous_memory_bytes() -> Result<u64> {
    Ok(kibibytes(&field("/proc/self/status", "RssAnon")?)? * 1024)
}

/// The disk space of the files under `dir`, in bytes: blocks, not lengths, so that holes do not
/// count.
pub(crate) fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// The version of a store's package in the lock file of this build.
pub(crate) fn version_of(entry: &Entry) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let wanted = format!("name = \"{}\"", entry.package);
    let mut lines = lock.lines();
    while lines.any(|line| line == wanted) {
        let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        if let Some(version) = version.filter(|version| version.starts_with(entry.version)) {
            return version.to_owned();
        }
    }
    "unknown".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_can_be_described() {
        let machine = Machine::here(Path::new(".")).unwrap();
        assert!(machine.memory_mib > 0 && machine.processors > 0 && !machine.file_system.is_empty());
    }

    #[test]
    fn every_store_has_a_version() {
        for entry in crate::stores::entries() {
            assert_ne!(version_of(&entry), "unknown", "{}", entry.id);
        }
    }
}
