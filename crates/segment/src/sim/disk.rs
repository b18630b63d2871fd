//! The disk under the simulated page cache: its durable content, and its possible content.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SECTOR_LEN_BYTES;
use super::rng::Rng;

pub(crate) type Inode = u64;

/// The target of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskNode {
    File(Inode),
    Dir,
}

/// Names that are added or removed in one step.
pub(crate) type NameChanges = Vec<(PathBuf, Option<DiskNode>)>;

/// A recorded operation.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write {
        inode: Inode,
        offset: usize,
        bytes: Box<[u8]>,
    },
    SetLen {
        inode: Inode,
        len: usize,
    },
    /// `None` for the whole file, with its length.
    Sync {
        inode: Inode,
        range: Option<Range<usize>>,
    },
    /// A failed sync: dirty pages are no longer dirty.
    FailedSync {
        inode: Inode,
    },
    Names {
        dir: PathBuf,
        changes: NameChanges,
    },
    SyncDir {
        dir: PathBuf,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Durable names.
    pub(crate) names: BTreeMap<PathBuf, DiskNode>,
    /// Pending changes of names.
    pub(crate) pending_names: Vec<(PathBuf, NameChanges)>,
    pub(crate) files: BTreeMap<Inode, DiskFile>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DiskFile {
    /// Durable sectors.
    pub(crate) durable: Arc<Vec<u8>>,
    pub(crate) durable_len: usize,
    /// The content of the page cache.
    current: Arc<Vec<u8>>,
    /// The contents of each dirty sector since its last durable one, oldest first.
    dirty: BTreeMap<usize, Vec<Box<[u8]>>>,
    /// Lengths since the last sync.
    lens: Vec<usize>,
    /// Dirty sectors that a failed sync forgot: no later sync writes them, unless they are written
    /// again.
    forgotten: BTreeSet<usize>,
}

impl DiskFile {
    /// A file with durable content.
    pub(crate) fn settled(content: Vec<u8>) -> Self {
        let durable_len = content.len();
        let content = Arc::new(content);
        Self { durable: Arc::clone(&content), durable_len, current: content, ..Self::default() }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.set_len(end);
        }
        let current = Arc::make_mut(&mut self.current);
        current[offset..end].copy_from_slice(bytes);
        self.touch(offset..end);
    }

    /// Records the current content of the sectors of a range.
    fn touch(&mut self, range: Range<usize>) {
        for sector in range.start / SECTOR_LEN_BYTES..range.end.div_ceil(SECTOR_LEN_BYTES) {
            let image = sector_of(&self.current, sector);
            self.dirty.entry(sector).or_default().push(image);
            self.forgotten.remove(&sector);
        }
    }

    fn set_len(&mut self, len: usize) {
        let old = self.current.len();
        Arc::make_mut(&mut self.current).resize(len, 0);
        self.lens.push(len);
        // After a truncation and an extension, the old content is replaced by zeros.
        let reused =
            self.durable.len().max(self.dirty.keys().next_back().map_or(0, |last| (last + 1) * SECTOR_LEN_BYTES));
        if old < len.min(reused) {
            self.touch(old..len.min(reused));
        }
    }

    fn sync(&mut self, range: Option<Range<usize>>) {
        const PAGE: usize = 4096;
        let sectors = match &range {
            None => 0..usize::MAX,
            Some(range) => {
                range.start / PAGE * PAGE / SECTOR_LEN_BYTES..range.end.div_ceil(PAGE) * PAGE / SECTOR_LEN_BYTES
            }
        };
        let synced: Vec<usize> = self
            .dirty
            .keys()
            .copied()
            .filter(|sector| sectors.contains(sector) && !self.forgotten.contains(sector))
            .collect();
        let durable = Arc::make_mut(&mut self.durable);
        for sector in synced {
            self.dirty.remove(&sector);
            put_sector(durable, sector, &sector_of(&self.current, sector));
        }
        if range.is_none() {
            self.durable_len = self.current.len();
            self.lens.clear();
        }
    }

    fn content(&self, picks: &mut Picks<'_>) -> Vec<u8> {
        let mut content = self.durable.as_ref().clone();
        for (sector, images) in &self.dirty {
            if let Some(image) = picks.next(images.len()).and_then(|pick| images.get(pick)) {
                put_sector(&mut content, *sector, image);
            }
        }
        let len = picks.next(self.lens.len()).and_then(|pick| self.lens.get(pick)).copied();
        content.resize(len.unwrap_or(self.durable_len), 0);
        content
    }
}

fn sector_of(content: &[u8], sector: usize) -> Box<[u8]> {
    let start = sector * SECTOR_LEN_BYTES;
    let mut image = vec![0; SECTOR_LEN_BYTES];
    let there = content.get(start..content.len().min(start + SECTOR_LEN_BYTES)).unwrap_or_default();
    image[..there.len()].copy_from_slice(there);
    image.into()
}

fn put_sector(content: &mut Vec<u8>, sector: usize, image: &[u8]) {
    let (start, end) = (sector * SECTOR_LEN_BYTES, (sector + 1) * SECTOR_LEN_BYTES);
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(image);
}

impl Disk {
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { inode, offset, bytes } => self.file(*inode).write(*offset, bytes),
            Op::SetLen { inode, len } => self.file(*inode).set_len(*len),
            Op::Sync { inode, range } => self.file(*inode).sync(range.clone()),
            Op::FailedSync { inode } => {
                let file = self.file(*inode);
                file.forgotten = file.dirty.keys().copied().collect();
            }
            Op::Names { dir, changes } => self.pending_names.push((dir.clone(), changes.clone())),
            Op::SyncDir { dir } => self.sync_dir(dir),
        }
    }

    fn file(&mut self, inode: Inode) -> &mut DiskFile {
        self.files.entry(inode).or_default()
    }

    fn sync_dir(&mut self, dir: &Path) {
        let pending = std::mem::take(&mut self.pending_names);
        for (at, changes) in pending {
            if at == dir {
                change_names(&mut self.names, &changes);
            } else {
                self.pending_names.push((at, changes));
            }
        }
    }

    /// The files that may have a name after a crash now.
    fn reachable(&self) -> BTreeSet<Inode> {
        let pending =
            self.pending_names.iter().flat_map(|(_, changes)| changes.iter().filter_map(|(_, node)| node.as_ref()));
        let inode = |node: &DiskNode| match node {
            DiskNode::File(inode) => Some(*inode),
            DiskNode::Dir => None,
        };
        self.names.values().chain(pending).filter_map(inode).collect()
    }

    /// The number of alternatives of each pending item, in the order of [`settle`](Self::settle).
    pub(crate) fn alternatives(&self) -> Vec<usize> {
        let mut alternatives = vec![2; self.pending_names.len()];
        for inode in self.reachable() {
            let Some(file) = self.files.get(&inode) else { continue };
            alternatives.extend(file.dirty.values().map(|images| images.len() + 1));
            if !file.lens.is_empty() {
                alternatives.push(file.lens.len() + 1);
            }
        }
        alternatives
    }

    /// The disk after a crash: durable items, and the alternatives of `picks` for the others.
    /// Nothing is pending on it.
    pub(crate) fn settle(&self, picks: &mut Picks<'_>) -> Self {
        let mut names = self.names.clone();
        for (_, changes) in &self.pending_names {
            if picks.next(1).is_some() {
                change_names(&mut names, changes);
            }
        }
        let mut files = BTreeMap::new();
        for inode in self.reachable() {
            let content = self.files.get(&inode).map(|file| file.content(picks)).unwrap_or_default();
            files.insert(inode, DiskFile::settled(content));
        }
        drop_unreachable(&mut names);
        let used: BTreeSet<Inode> = names
            .values()
            .filter_map(|node| if let DiskNode::File(inode) = node { Some(*inode) } else { None })
            .collect();
        files.retain(|inode, _| used.contains(inode));
        Self { names, pending_names: Vec::new(), files }
    }
}

fn change_names(names: &mut BTreeMap<PathBuf, DiskNode>, changes: &NameChanges) {
    for (path, node) in changes {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

/// A name in a lost directory is lost too.
fn drop_unreachable(names: &mut BTreeMap<PathBuf, DiskNode>) {
    loop {
        let orphan = names.keys().find(|path| path.parent().is_some_and(|parent| !names.contains_key(parent))).cloned();
        let Some(orphan) = orphan else { return };
        names.remove(&orphan);
    }
}

/// Decides the outcome of each pending item in order.
pub(crate) enum Picks<'a> {
    /// Given for each: 0 for the durable content, `n` for the `n`-th later one.
    Given(std::slice::Iter<'a, usize>),
    /// Drawn: the newest content with probability `newest_in_16` / 16, otherwise any.
    Drawn { rng: Rng, newest_in_16: u64 },
}

impl Picks<'_> {
    /// The index of the chosen one of `later` contents; `None` for the durable one.
    fn next(&mut self, later: usize) -> Option<usize> {
        if later == 0 {
            return None;
        }
        match self {
            Self::Given(picks) => picks.next()?.checked_sub(1),
            Self::Drawn { rng, newest_in_16 } => {
                if rng.below(16) < *newest_in_16 {
                    return Some(later - 1);
                }
                usize::try_from(rng.below(later as u64 + 1)).ok()?.checked_sub(1)
            }
        }
    }
}
