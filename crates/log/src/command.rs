//! Commands: changes of one key.

/// One change of one key, owning its bytes.
///
/// For a key the command with the highest `version` wins, in any order of arrival. The `timestamp`
/// (Unix time in milliseconds) is stored and decides nothing.
///
/// ```
/// use hightower_log::Command;
///
/// let command = Command::Delete { key: b"jobs/17".to_vec(), version: 9, timestamp: 1_700_000_000_000 };
/// assert_eq!(command.key(), b"jobs/17");
/// assert_eq!(command.value(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Sets the value of a key.
    Set {
        /// The key, 1 to [`MAX_KEY_LEN_BYTES`](crate::limits::MAX_KEY_LEN_BYTES) bytes.
        key: Vec<u8>,
        /// The value, 0 to [`MAX_VALUE_LEN_BYTES`](crate::limits::MAX_VALUE_LEN_BYTES) bytes.
        value: Vec<u8>,
        /// The version: the highest one wins for a key. A caller's is at most
        /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION).
        version: u64,
        /// Unix time in milliseconds.
        timestamp: i64,
    },
    /// Deletes a key, and leaves a tombstone with this version.
    Delete {
        /// The key, 1 to [`MAX_KEY_LEN_BYTES`](crate::limits::MAX_KEY_LEN_BYTES) bytes.
        key: Vec<u8>,
        /// The version: the highest one wins for a key. A caller's is at most
        /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION).
        version: u64,
        /// Unix time in milliseconds.
        timestamp: i64,
    },
}

/// One change of one key, borrowing its bytes: the input and output of the codec. The layers match
/// it exhaustively, so that none of them can forget a new kind.
///
/// ```
/// use hightower_log::CommandRef;
///
/// let command = CommandRef::Set { key: b"k", value: b"v", version: 1, timestamp: 0 };
/// assert_eq!(command.to_owned().borrow(), command);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandRef<'a> {
    /// Sets the value of a key.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// The version: the highest one wins for a key. A caller's is at most
        /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION).
        version: u64,
        /// Unix time in milliseconds.
        timestamp: i64,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: &'a [u8],
        /// The version: the highest one wins for a key. A caller's is at most
        /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION).
        version: u64,
        /// Unix time in milliseconds.
        timestamp: i64,
    },
}

impl Command {
    /// A command that sets the value of `key`, with timestamp 0.
    ///
    /// ```
    /// use hightower_log::Command;
    ///
    /// let command = Command::set("jobs/17", "done", 9).at(1_700_000_000_000);
    /// assert_eq!((command.version(), command.timestamp()), (9, 1_700_000_000_000));
    /// ```
    #[must_use]
    pub fn set(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, version: u64) -> Self {
        Self::Set { key: key.into(), value: value.into(), version, timestamp: 0 }
    }

    /// A command that deletes `key`, with timestamp 0.
    #[must_use]
    pub fn delete(key: impl Into<Vec<u8>>, version: u64) -> Self {
        Self::Delete { key: key.into(), version, timestamp: 0 }
    }

    /// The same command with this timestamp: Unix time in milliseconds.
    #[must_use]
    pub fn at(mut self, timestamp_ms: i64) -> Self {
        let (Self::Set { timestamp, .. } | Self::Delete { timestamp, .. }) = &mut self;
        *timestamp = timestamp_ms;
        self
    }

    /// The same command, borrowed.
    #[must_use]
    pub fn borrow(&self) -> CommandRef<'_> {
        match self {
            Self::Set { key, value, version, timestamp } => {
                CommandRef::Set { key, value, version: *version, timestamp: *timestamp }
            }
            Self::Delete { key, version, timestamp } => {
                CommandRef::Delete { key, version: *version, timestamp: *timestamp }
            }
        }
    }

    /// The key of the command.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.borrow().key()
    }

    /// The value of a `Set`; `None` for a `Delete`.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.borrow().value()
    }

    /// The version: the highest one wins for a key.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.borrow().version()
    }

    /// Unix time in milliseconds.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.borrow().timestamp()
    }
}

impl<'a> CommandRef<'a> {
    /// A copy that owns its bytes. It costs one allocation for the key and one for a non-empty
    /// value.
    #[must_use]
    #[allow(clippy::wrong_self_convention, reason = "the type is Copy, as slices are, and slices spell it so")]
    pub fn to_owned(self) -> Command {
        match self {
            Self::Set { key, value, version, timestamp } => {
                Command::Set { key: key.to_vec(), value: value.to_vec(), version, timestamp }
            }
            Self::Delete { key, version, timestamp } => Command::Delete { key: key.to_vec(), version, timestamp },
        }
    }

    /// The key of the command.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match self {
            Self::Set { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The value of a `Set`; `None` for a `Delete`.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        match self {
            Self::Set { value, .. } => Some(value),
            Self::Delete { .. } => None,
        }
    }

    /// The version: the highest one wins for a key.
    #[must_use]
    pub fn version(&self) -> u64 {
        match self {
            Self::Set { version, .. } | Self::Delete { version, .. } => *version,
        }
    }

    /// Unix time in milliseconds.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        match self {
            Self::Set { timestamp, .. } | Self::Delete { timestamp, .. } => *timestamp,
        }
    }
}

impl<'a> From<&'a Command> for CommandRef<'a> {
    fn from(command: &'a Command) -> Self {
        command.borrow()
    }
}
