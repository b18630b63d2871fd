//! A round's file systems: created, mounted, and unmounted in any case.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A mounted file system; dropping this unmounts it.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) dir: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The round's parent unmounts the rest.
        let _unmounted = quietly("umount", &[&self.dir.display().to_string()]);
    }
}

/// Runs a program; its output is the error's text.
fn quietly(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{program} {}: {told}", arguments.join(" "));
    Ok(())
}

/// The kinds of file systems for a round.
pub(super) const KINDS: &[&str] = &["tmpfs", "inodes", "ext4", "xfs", "btrfs", "overlay"];

/// The directory below `parent` on which [`mount`] mounts a file system of this kind.
pub(super) fn mount_point(kind: &str, parent: &Path) -> PathBuf {
    parent.join(format!("mount-{kind}"))
}

/// Mounts a new, empty file system of `len_bytes`, or of the minimum of its kind.
pub(super) fn mount(kind: &str, parent: &Path, len_bytes: u64) -> Result<Mount> {
    let dir = mount_point(kind, parent);
    std::fs::create_dir_all(&dir)?;
    let target = dir.display().to_string();
    match kind {
        "tmpfs" => quietly("mount", &["-t", "tmpfs", "-o", &format!("size={len_bytes}"), "none", &target])?,
        // A tmpfs with room for few files: 13 on 1 MiB, 76 on 64 MiB.
        "inodes" => {
            let files = 12 + (len_bytes >> 20);
            quietly("mount", &["-t", "tmpfs", "-o", &format!("size={len_bytes},nr_inodes={files}"), "none", &target])?;
        }
        "ext4" | "xfs" | "btrfs" => {
            let image = parent.join(format!("image-{kind}"));
            std::fs::File::create(&image)?.set_len(len_bytes.max(least_len_bytes(kind)))?;
            let image = image.display().to_string();
            quietly(&format!("mkfs.{kind}"), &["-q", &image])?;
            quietly("mount", &["-o", "loop", &image, &target])?;
        }
        "overlay" => {
            let base = mount("tmpfs", parent, len_bytes)?;
            let part = |name: &str| {
                let part = base.dir.join(name);
                std::fs::create_dir_all(&part).map(|()| part.display().to_string())
            };
            let options = format!("lowerdir={},upperdir={},workdir={}", part("lower")?, part("upper")?, part("work")?);
            quietly("mount", &["-t", "overlay", "overlay", "-o", &options, &target])?;
            // Its upper layer is unmounted by the round's parent, after it.
            std::mem::forget(base);
        }
        other => bail!("there is no file system {other}"),
    }
    Ok(Mount { dir })
}

/// Makes a mounted ext4 read-only, as the kernel does after an error of the device: unsynced writes
/// are lost.
pub(super) fn abort(mount: &Mount) -> Result<()> {
    quietly("mount", &["-o", "remount,abort", &mount.dir.display().to_string()])
}

/// Unmounts an ext4, repairs it as an operator does, and mounts it again.
pub(super) fn repair(mount: &Mount, parent: &Path) -> Result<()> {
    let (target, image) = (mount.dir.display().to_string(), parent.join("image-ext4").display().to_string());
    quietly("umount", &[&target])?;
    // Its exit status is 1 if there was something to repair.
    let repaired = Command::new("e2fsck").args(["-fy", &image]).output().context("start e2fsck")?;
    ensure!(repaired.status.code().is_some_and(|code| code <= 1), "e2fsck ends with {}", repaired.status);
    quietly("mount", &["-o", "loop", &image, &target])
}

/// The minimum length of a file system of this kind, in bytes.
fn least_len_bytes(kind: &str) -> u64 {
    match kind {
        "xfs" => 300 << 20,
        "btrfs" => 114 << 20,
        _ => 1 << 20,
    }
}

/// Unmounts all file systems of a round, the last one first.
pub(super) fn unmount_below(dir: &Path) -> Result<()> {
    let mounted = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below: Vec<&str> = mounted
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| Path::new(target).starts_with(dir))
        .collect();
    for target in below.into_iter().rev() {
        // Lazily if it is still in use: it disappears from the tree at once, and is released after
        // its last use.
        if quietly("umount", &[target]).is_err() {
            quietly("umount", &["-l", target])?;
        }
    }
    Ok(())
}
