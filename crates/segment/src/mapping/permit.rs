//! The permit for mapping a file.

/// The promise that nobody truncates a mapped file or writes to lent bytes, which no type can
/// guarantee. Each map consumes one permit, and only `unsafe` code creates one. An implementation
/// of [`File`](crate::File) passes it on to its own file, and to no other.
///
/// Without it none of these compiles. A write under a borrowed slice:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, MapPermit, Mapping};
/// # let path = "file";
/// let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
/// let map = Mapping::of_file(&file, 4096, Access::Read, MapPermit::new()).unwrap();
/// map.publish(&mut map.writer().unwrap(), 4096).unwrap();
/// let lent = map.slice(0..1).unwrap();
/// std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap();
/// println!("{lent:?}");
/// ```
///
/// A second map of the same file, through the seam:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, Fs, MapPermit, RealFs};
/// let dir = RealFs.open_dir(std::path::Path::new("dir")).unwrap();
/// let file = dir.open("file", Access::Write).unwrap();
/// let first = file.map(4096, Access::Read, MapPermit::new());
/// let second = file.map(4096, Access::Write, MapPermit::new());
/// ```
///
/// A mapped file that is truncated, which would end the process by a signal:
///
/// ```compile_fail,E0133
/// use hightower_segment::{Access, Fs, MapPermit, RealFs};
/// let dir = RealFs.open_dir(std::path::Path::new("dir")).unwrap();
/// let file = dir.open("file", Access::Write).unwrap();
/// let map = file.map(4096, Access::Read, MapPermit::new()).unwrap();
/// map.publish(&mut map.writer().unwrap(), 4096).unwrap();
/// file.set_len(0).unwrap();
/// println!("{:?}", map.slice(0..1));
/// ```
///
/// A permit cannot be forged or used twice:
///
/// ```compile_fail,E0423
/// let permit = hightower_segment::MapPermit(());
/// ```
///
/// ```compile_fail,E0382
/// fn twice(file: &dyn hightower_segment::File, permit: hightower_segment::MapPermit) {
///     let first = file.map(1, hightower_segment::Access::Read, permit);
///     let second = file.map(1, hightower_segment::Access::Read, permit);
/// }
/// ```
#[derive(Debug)]
pub struct MapPermit(KeptBy);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeptBy {
    /// The creator of the permit keeps the promise.
    Holder,
    /// [`Mapping::of_file`](super::Mapping::of_file) must ensure it.
    Mapping,
}

impl MapPermit {
    /// The promise for one map.
    ///
    /// # Safety
    ///
    /// While the mapping lives, no process truncates the mapped part of the file, except behind all
    /// bytes that are ever published. No process writes, through a file or a mapping, to a byte
    /// that this or another mapping of the file has published.
    #[must_use]
    pub unsafe fn new() -> Self {
        Self(KeptBy::Holder)
    }

    /// The promise for a file of a store, by the rules of this crate. The store's lock excludes
    /// other stores and other processes that use this crate, except for followers: these publish
    /// only complete commits of a file that the manifest names, which no writer changes, and which
    /// recovery leaves as they are. One writer appends to a file, behind the published bytes. A
    /// file is truncated only where nothing is published and nothing will be appended, and reused
    /// only after all its mappings are dropped. The rules do not bind code that writes to the
    /// store's files by their paths.
    pub(crate) fn of_store() -> Self {
        // SAFETY: the rules above.
        unsafe { Self::new() }
    }

    /// For a read-only map of a complete file. The crate ensures it: while the map lives, this
    /// process does not open the file for writing by a [`File`](crate::File), and while the file is
    /// open for writing, it is not mapped. Code that does not use this crate is not bound: another
    /// process, or a `std::fs::File` of this one.
    pub(crate) fn of_complete_file() -> Self {
        Self(KeptBy::Mapping)
    }

    pub(super) fn is_enforced(&self) -> bool {
        self.0 == KeptBy::Mapping
    }
}
