//! The operations of storms, by name, with their frequencies.

/// All operations, as `--replay` and the figures spell them.
pub(super) const OPERATIONS: &[&str] = &[
    "put",
    "delete",
    "submit",
    "batch",
    "require",
    "async",
    "get",
    "multi_get",
    "range",
    "visit",
    "presence",
    "snapshot",
    "held",
    "stats",
    "flush",
    "checkpoint",
    "compact",
    "backup",
    "restore",
    "export",
    "salvage",
    "limits",
    "close",
    "drop",
    // Not calls, but special properties of some calls.
    TOGETHER,
    CLOSED_READS,
    CEILING_VERSIONS,
    UNSYNCED,
];

/// Concurrent closes.
pub(super) const TOGETHER: &str = "together";
/// Reads of a closed store, which fail.
pub(super) const CLOSED_READS: &str = "closed_reads";
/// Callers' versions from 2^63 on.
pub(super) const CEILING_VERSIONS: &str = "ceiling";

/// Writes that are acknowledged before they are synced.
pub(super) const UNSYNCED: &str = "unsynced";

/// The relative frequencies of the operations.
pub(super) type Mix = &'static [(&'static str, u64)];

/// All operations.
pub(super) const ALL: Mix = &[
    ("put", 300),
    ("delete", 60),
    ("submit", 60),
    ("batch", 60),
    ("require", 40),
    ("async", 60),
    ("get", 150),
    ("multi_get", 20),
    ("range", 10),
    ("visit", 10),
    ("presence", 40),
    ("snapshot", 20),
    ("held", 60),
    ("stats", 20),
    ("flush", 10),
    ("checkpoint", 5),
    ("compact", 8),
    ("backup", 3),
    ("restore", 1),
    ("export", 1),
    ("salvage", 1),
    ("limits", 10),
    ("close", 6),
    ("drop", 2),
];
