//! Who may map a file.

/// The promise that a map of a file needs, and that no type can make: that nobody cuts the file or
/// writes to what is lent. Each map uses one up, and only `unsafe` code makes one; an
/// implementation of [`File`](crate::File) passes it on to the file that it stands for, and to no
/// other.
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
/// A file that is cut to nothing while it is mapped, which would end the process by a signal:
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
/// Nor can one be made up, or used twice:
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
    /// Who made the permit keeps it.
    Holder,
    /// [`Mapping::of_file`](super::Mapping::of_file) has to see that it is kept.
    Mapping,
}

impl MapPermit {
    /// The promise for one map.
    ///
    /// # Safety
    ///
    /// As long as the mapping lives, nobody makes the file shorter than what is mapped of it, but
    /// for the part behind all that is ever published; and nobody writes to a byte of it that
    /// this mapping, or another one of the file, has published: neither through a file nor through
    /// a mapping, in no process.
    #[must_use]
    pub unsafe fn new() -> Self {
        Self(KeptBy::Holder)
    }

    /// The promise for a file of a store, by the rules of this crate: the store's lock keeps other
    /// stores and other processes of this kind away; a file is appended to by one writer,
    /// behind what it has published; it is cut only where nobody has published and nobody will
    /// append; it is used again only when its mapping is nobody's any more. What the rules cannot
    /// rule out is somebody who does not know them: a program that writes to the store's files,
    /// or this one, by their paths.
    pub(crate) fn of_store() -> Self {
        // SAFETY: the rules above.
        unsafe { Self::new() }
    }

    /// For a map, for reading, of a file that is complete. Nothing is promised: while the map
    /// lives, this process opens the file for writing through no [`File`](crate::File), and while
    /// it has it open so, it does not map it. What remains is who knows nothing of this crate:
    /// another process, or a `std::fs::File` of this one.
    pub(crate) fn of_complete_file() -> Self {
        Self(KeptBy::Mapping)
    }

    pub(super) fn is_enforced(&self) -> bool {
        self.0 == KeptBy::Mapping
    }
}
