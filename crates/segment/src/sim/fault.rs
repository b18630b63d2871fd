//! Injected faults and their times.

/// The kind of the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The call fails with an I/O error. A failed sync also marks dirty pages as clean, as kernels
    /// do: a later sync succeeds without writing them.
    Io,
    /// Calls that need room fail for lack of it.
    NoSpace,
    /// The same calls fail because the user or group has used up its quota.
    NoQuota,
    /// The same calls fail because the file would be too long.
    TooLong,
    /// A write takes half of the bytes.
    ShortWrite,
    /// The call is interrupted by a signal. As a lasting fault it hits every second call.
    Interrupted,
    /// A sync reports success and does nothing.
    LyingSync,
    /// One bit of the read or written bytes is flipped.
    FlipBit,
    /// The process has no more file descriptors: calls that open a file or directory fail.
    NoDescriptors,
    /// The system has no more memory: everything fails except syncs, which need the device, and
    /// copies into maps.
    NoMemory,
    /// The call panics before it does anything.
    Panic,
}

impl FaultKind {
    /// All faults of a system. [`Panic`](Self::Panic) is a fault of a caller's file system.
    pub const ALL: [Self; 10] = [
        Self::Io,
        Self::NoSpace,
        Self::NoQuota,
        Self::TooLong,
        Self::ShortWrite,
        Self::Interrupted,
        Self::LyingSync,
        Self::FlipBit,
        Self::NoDescriptors,
        Self::NoMemory,
    ];
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The kind of the fault.
    pub kind: FaultKind,
    /// The number of the call to the file system, counted from 0; see
    /// [`SimFs::call_count`](super::SimFs::call_count). If the kind does not apply to that call,
    /// nothing happens.
    pub at_call: u64,
    /// Whether it affects every call from then on, instead of one.
    pub lasting: bool,
}

/// The kind of a call, which decides the faults that apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Reads metadata, or maps a file.
    Look,
    /// Opens an existing file or directory.
    Open,
    /// Creates and opens a file: needs room.
    Create,
    /// Reads bytes.
    Read,
    /// Writes bytes.
    Write,
    /// Creates a directory, links or allocates: needs room.
    Grow,
    /// Renames a file: its new name may need room in the directory.
    Rename,
    /// Removes a file, or renames a directory.
    Name,
    /// Syncs a file or a directory.
    Sync,
    /// Copies into a map, which cannot fail.
    Memory,
}

impl Fault {
    pub(crate) fn strikes(&self, call: Call, number: u64) -> bool {
        let due = if self.lasting { number >= self.at_call } else { number == self.at_call };
        due && match self.kind {
            FaultKind::Io | FaultKind::Panic => call != Call::Memory,
            FaultKind::NoSpace | FaultKind::NoQuota | FaultKind::TooLong => {
                matches!(call, Call::Write | Call::Grow | Call::Create | Call::Rename)
            }
            FaultKind::ShortWrite => call == Call::Write,
            FaultKind::Interrupted => {
                matches!(call, Call::Read | Call::Write | Call::Sync)
                    && (!self.lasting || (number - self.at_call).is_multiple_of(2))
            }
            FaultKind::LyingSync => call == Call::Sync,
            FaultKind::FlipBit => matches!(call, Call::Read | Call::Write),
            FaultKind::NoDescriptors => matches!(call, Call::Open | Call::Create),
            FaultKind::NoMemory => !matches!(call, Call::Sync | Call::Memory),
        }
    }
}
