//! Small devices, filled to the last block by the store and by others; then deletes, compaction and
//! opens on them.
//!
//! If root may mount, they are separate file systems. Otherwise, a quota of the store takes their
//! place.

use std::fs;
use std::io::Write as _;

use anyhow::{Context, Result, bail, ensure};
use hightower_engine::{AppendMode, Components, Durability, SingleNodeEngine, StoreConfig};

use crate::hostile::model::{Change, Effect, Model};
use crate::hostile::mounts::{KINDS, Mount, mount};
use crate::hostile::random::Random;
use crate::hostile::round::Round;
use crate::hostile::store::{Called, Handle, Store};
use crate::hostile::storm::config;

/// Room that xfs does not give to data: the store keeps 121 blocks of it to create files for
/// deletes and compaction, and the last 47 blocks admit no file for new data.
const NAMES_BYTES: u64 = 168 * 4096;

/// From this size on, the store must be able to use half of a device.
const USEFUL_FROM_BYTES: u64 = 4 << 20;

fn key(number: u64) -> String {
    format!("key/{number:06}")
}

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let len_bytes = random.pick(&[1, 2, 3, 4, 8, 16, 16, 48, 64_u64]) << 20;
    let drawn = random.pick(&["tmpfs", "tmpfs", "ext4", "ext4", "quota", "overlay", "xfs", "btrfs", "inodes"]);
    let is_wanted = |kind: &str| !round.plan.without.contains(kind);
    let device = if is_wanted(drawn) { drawn } else { "quota" };
    debug_assert!(device == "quota" || KINDS.contains(&device), "only those are known");
    let len_bytes = if device == "quota" { len_bytes.min(16 << 20) } else { len_bytes };
    let mounted = match device {
        "quota" => None,
        kind => match mount(kind, &round.dir, len_bytes).and_then(|mounted| {
            // On btrfs others can always free some room. On xfs the store keeps room for names.
            let (more, least) =
                (if kind == "xfs" { NAMES_BYTES } else { 0 }, if kind == "btrfs" { 16 << 20 } else { 0 });
            leave(mounted, len_bytes + more, least)
        }) {
            Ok(mounted) => Some(mounted),
            Err(error) => {
                println!("skipped {kind} cannot be mounted here: {}", format!("{error:#}").replace('\n', " "));
                None
            }
        },
    };
    let device = if mounted.is_some() { device } else { "quota" };
    println!("device {device} {} MiB", len_bytes >> 20);
    let dir = mounted.as_ref().map_or_else(|| round.store_dir(), |mounted| mounted.dir.join("store"));
    let mut config = if random.once_in(2) { StoreConfig::at(&dir) } else { config(&mut random, &dir) };
    config.compaction_interval = random.pick(&[std::time::Duration::ZERO, std::time::Duration::from_millis(20)]);
    config.worker_threads = 0;
    if len_bytes > 8 << 20 {
        // Thousands of files would take too long.
        config.max_segment_size = config.max_segment_size.max(256 << 10);
        config.min_segment_size = config.min_segment_size.max(64 << 10);
    }
    if mounted.is_none() {
        config.max_disk_bytes = Some(len_bytes);
    }
    if matches!(device, "btrfs" | "overlay") && config.append_mode == AppendMode::Mapped {
        // These file systems do not guarantee preallocated room, and the docs say that mapped
        // appends end the process there when the device is full.
        config.append_mode = AppendMode::Auto;
    }
    if config.durability == Some(Durability::Sync) {
        // A sync for each of about ten thousand writes would take minutes.
        config.durability = Some(Durability::Os);
    }
    // 1.5 times as much as fits, in values that are longer on larger devices.
    let max_value_len: u64 = match len_bytes >> 20 {
        0..4 => 2000,
        4..32 => 16_000,
        _ => 64_000,
    };
    let mean_len = (max_value_len / 16).min(450) + max_value_len / 32;
    let keys = len_bytes * 3 / 2 / mean_len;
    let model = Model::new((0..keys).map(key), max_value_len);
    let store = Store::unopened(config, Components::default(), &round.scratch(), model, &round.plan)?;
    let keeps_room = device != "btrfs";
    store.allow(&["full"]);
    if !keeps_room {
        // A full btrfs also fails writes with EAGAIN, which changes nothing. It may end a write
        // half-way, and then the store refuses writes until the next open.
        store.allow(&["io", "poisoned"]);
    }
    let is_open = store.open_again(None)?;
    ensure!(is_open || len_bytes < 2 << 20, "a store does not open on an empty device of {len_bytes} bytes");
    if !is_open {
        return Ok(());
    }
    let is_short_of_bytes = device != "inodes";
    let device = Device { round, store, mounted, len_bytes, keys, keeps_room, is_short_of_bytes };
    device.attack(&mut random).with_context(|| format!("on {drawn} of {} MiB: {}", len_bytes >> 20, device.portrait()))
}

/// If a file system cannot be that small, another program's file takes all but `len_bytes` of it,
/// and at least `least_bytes`.
fn leave(mounted: Mount, len_bytes: u64, least_bytes: u64) -> Result<Mount> {
    let free = rustix::fs::statvfs(&mounted.dir)?;
    let taken = (free.f_bavail * free.f_frsize).saturating_sub(len_bytes);
    let taken = if taken >= 32 << 20 { taken.max(least_bytes) } else { least_bytes };
    if taken > 0 {
        let file = fs::File::create(mounted.dir.join("ballast"))?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken)?;
    }
    Ok(mounted)
}

struct Device<'a> {
    round: &'a Round,
    store: Store,
    mounted: Option<Mount>,
    len_bytes: u64,
    keys: u64,
    /// Whether the file system keeps preallocated room: not if each write needs new blocks.
    keeps_room: bool,
    /// Whether the device lacks bytes, not names for files.
    is_short_of_bytes: bool,
}

impl Device<'_> {
    fn attack(&self, random: &mut Random) -> Result<()> {
        let mut live_bytes = self.fill(random, 0, u64::MAX)?.1;
        if self.len_bytes >= USEFUL_FROM_BYTES && self.keeps_room && self.is_short_of_bytes {
            ensure!(
                live_bytes * 2 >= self.len_bytes,
                "an empty device of {} bytes is full with {live_bytes} bytes of values",
                self.len_bytes
            );
        }
        for turn in 0..3 {
            if random.once_in(2) && self.keeps_room {
                self.fill_by_others()?;
            }
            if random.once_in(2) && !self.new_life(random).context("a new life on a full device")? {
                break;
            }
            let part = random.pick(&[2, 3]);
            self.delete(part).with_context(|| format!("deletes on a full device, turn {turn}"))?;
            if random.once_in(3) && !self.new_life(random).context("a new life after deletes")? {
                break;
            }
            let handle = self.handle()?;
            let before = handle.engine.stats();
            let compacted =
                self.store.call(&handle, "compact", "on a full device", SingleNodeEngine::run_compaction_now)?;
            let after = handle.engine.stats();
            let what = format!(
                "dead bytes {} and disk bytes {} before a compaction, {} and {} after it: {compacted:?}",
                before.dead_bytes, before.disk_bytes, after.dead_bytes, after.disk_bytes
            );
            if !self.keeps_room && !matches!(compacted, Called::Done(_)) {
                break;
            }
            ensure!(matches!(compacted, Called::Done(_)), "compaction does not work on a full device: {what}");
            ensure!(
                !self.keeps_room || before.dead_bytes < 64 << 10 || after.dead_bytes <= before.dead_bytes * 3 / 4,
                "compaction frees next to nothing: {what}"
            );
            // The freed room can be used; that of files which the report says are in use, soon.
            let (mut written, mut bytes) = self.fill(random, 0, 64)?;
            let are_in_use = matches!(&compacted, Called::Done(report) if report.waiting_segments > 0);
            for _ in 0..100 {
                if written > 0 || !are_in_use {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
                (written, bytes) = self.fill(random, 0, 64)?;
            }
            if !self.keeps_room && written == 0 {
                break;
            }
            // Fewer files may need as many names.
            ensure!(
                written > 0 || !self.is_short_of_bytes,
                "nothing can be put after half was deleted and compacted: {what}"
            );
            live_bytes = bytes;
            if turn < 2 {
                self.fill(random, self.keys / 2, u64::MAX)?;
            }
        }
        let _last = live_bytes;
        self.give_room()?;
        if self.keeps_room {
            return self.store.finish(1);
        }
        // The last record of a segment may find no block even now. Then the next open recovers.
        let _closed = self.store.close(1)?;
        self.store.check_files()?;
        ensure!(self.store.open_again(None)?, "the store does not open where others have given room");
        let handle = self.handle()?;
        self.store.verify(&handle.engine, &self.store.model.read())
    }

    /// Removes the files of others from the device. If each write needs new blocks, waits until
    /// there are some: the file system frees blocks with a later commit of its own.
    fn give_room(&self) -> Result<()> {
        let _others = fs::remove_file(self.others());
        let files = (0..).map(|number: u64| fs::remove_file(self.others().with_extension(number.to_string())));
        let _files = files.take_while(std::io::Result::is_ok).count();
        let Some(mounted) = self.mounted.as_ref().filter(|_| !self.keeps_room) else { return Ok(()) };
        let _ballast = fs::remove_file(mounted.dir.join("ballast"));
        let probe = mounted.dir.join("probe");
        for _ in 0..100 {
            rustix::fs::syncfs(fs::File::open(&mounted.dir)?)?;
            let has_room = fs::write(&probe, vec![1; 1 << 20]).and_then(|()| fs::File::open(&probe)?.sync_all());
            let _probe = fs::remove_file(&probe);
            if has_room.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        rustix::fs::syncfs(fs::File::open(&mounted.dir)?)?;
        Ok(())
    }

    /// For the report of a finding: the room, the store's files with their lengths and blocks, and
    /// its statistics.
    fn portrait(&self) -> String {
        let dir = &self.store.config.data_dir;
        let (mut others, mut segments, mut segment_bytes) = (Vec::new(), 0_u64, 0);
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let (name, found) = (entry.file_name(), entry.metadata());
            let blocks = found.as_ref().map_or(0, std::os::unix::fs::MetadataExt::blocks);
            if name.as_encoded_bytes().ends_with(b".seg") {
                segments += 1;
                segment_bytes += blocks * 512;
            } else {
                others.push(format!(
                    "{} of {} ({} taken)",
                    name.display(),
                    found.map_or(0, |found| found.len()),
                    blocks * 512
                ));
            }
        }
        others.sort();
        let free = rustix::fs::statvfs(dir).map_or(0, |free| free.f_bavail * free.f_frsize);
        let mut stats = self.store.handle().map(|handle| handle.engine.stats());
        stats.iter_mut().for_each(|stats| stats.segments.clear());
        format!(
            "{free} bytes are free, {segments} segments take {segment_bytes}; {}; {:?}; {stats:?}",
            others.join(", "),
            self.store.config
        )
    }

    fn handle(&self) -> Result<std::sync::Arc<Handle>> {
        self.store.handle().context("the store is open")
    }

    /// Puts until the device is full, or at most a number of times; returns the number of puts and
    /// of the bytes of their values.
    fn fill(&self, random: &mut Random, from: u64, most: u64) -> Result<(u64, u64)> {
        let store = &self.store;
        let handle = self.handle()?;
        let (mut written, mut bytes, mut refused) = (0, 0, 0);
        for number in from..self.keys.min(from.saturating_add(most)) {
            let pending = store.model.begin(vec![key(number)], Change { is_set: true, given: None })?;
            let value = store.model.value(pending.number);
            match store.call(&handle, "put", "to fill", |engine| engine.put(key(number), &value))? {
                Called::Done(outcome) => {
                    store.model.end_with(&pending, &[outcome], &[])?;
                    written += 1;
                    bytes += value.len() as u64;
                    refused = 0;
                }
                Called::Failed(_) => {
                    store.model.end(&pending, &[(Effect::None, None)])?;
                    refused += 1;
                    // Some more may fit, because they are shorter, or because background compaction
                    // frees room.
                    if refused == 20 + random.below(20) {
                        break;
                    }
                }
            }
        }
        Ok((written, bytes))
    }

    fn others(&self) -> std::path::PathBuf {
        self.mounted.as_ref().map_or_else(|| self.round.dir.join("none"), |mounted| mounted.dir.join("others"))
    }

    /// Another program's file takes the remaining room.
    fn fill_by_others(&self) -> Result<()> {
        if self.mounted.is_none() {
            return Ok(());
        }
        if !self.is_short_of_bytes {
            let files = (0..1000).map(|number| fs::File::create(self.others().with_extension(number.to_string())));
            let _taken = files.take_while(std::io::Result::is_ok).count();
            return Ok(());
        }
        // There may be no room for a file, and so nothing to take.
        let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(self.others()) else { return Ok(()) };
        for len in [64 << 10, 4096, 512, 1] {
            let block = vec![1; len];
            let mut most = (256 << 20) / len;
            while file.write_all(&block).is_ok() && most > 0 {
                most -= 1;
            }
        }
        Ok(())
    }

    /// Checks that every delete of one in `part` of the existing keys succeeds.
    fn delete(&self, part: u64) -> Result<()> {
        let store = &self.store;
        let handle = self.handle()?;
        let mut deleted = 0;
        for number in (0..self.keys).filter(|number| number % part != 0) {
            if !handle.engine.contains_key(key(number))? {
                continue;
            }
            let pending = store.model.begin(vec![key(number)], Change { is_set: false, given: None })?;
            match store.call(&handle, "delete", "on a full device", |engine| engine.delete(key(number)))? {
                Called::Done(outcome) => store.model.end_with(&pending, &[outcome], &[])?,
                Called::Failed(kind) => {
                    store.model.end(&pending, &[(Effect::None, None)])?;
                    // Tombstones also take room, so deletes and compactions alternate.
                    let compacted =
                        store.call(&handle, "compact", "between deletes", SingleNodeEngine::run_compaction_now)?;
                    if !self.keeps_room {
                        return Ok(());
                    }
                    let Called::Done(_) = compacted else {
                        bail!("delete {deleted} fails with {kind:?}, and compaction with {compacted:?}");
                    };
                    let pending = store.model.begin(vec![key(number)], Change { is_set: false, given: None })?;
                    match store.call(&handle, "delete", "after compaction", |engine| engine.delete(key(number)))? {
                        Called::Done(outcome) => store.model.end_with(&pending, &[outcome], &[])?,
                        Called::Failed(kind) => {
                            store.model.end(&pending, &[(Effect::None, None)])?;
                            bail!("delete {deleted} fails with {kind:?}, also after a compaction");
                        }
                    }
                }
            }
            deleted += 1;
        }
        Ok(())
    }

    /// Closes or drops the store, and opens it again with the same content. Returns whether the
    /// device is still full: others free their room only once.
    fn new_life(&self, random: &mut Random) -> Result<bool> {
        let mut is_full = true;
        // A dropped store is opened again at once, and there may be no room for that here.
        let is_closed = random.once_in(2) || !self.keeps_room;
        if is_closed {
            let outcome = self.store.close(1)?.flatten();
            let may_fail = !self.keeps_room || outcome == Some("full");
            ensure!(outcome.is_none() || may_fail, "close comes to {outcome:?}");
            if !self.store.open_again(None)? {
                // If each write needs new blocks, there may be none for the new segment.
                ensure!(!self.keeps_room, "the store does not open on the full device");
                self.give_room()?;
                is_full = false;
                ensure!(self.store.open_again(None)?, "the store does not open where others have given room");
            }
        } else {
            self.store.drop_and_open()?;
        }
        let handle = self.handle()?;
        self.store.verify(&handle.engine, &self.store.model.read())?;
        Ok(is_full)
    }
}
