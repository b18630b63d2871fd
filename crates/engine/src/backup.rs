//! Copies of a store: backups, which can be opened directly, and streams for transfers.

mod copy;
mod destination;
mod stream;

pub(crate) use copy::BackupSource;
pub use copy::{BackupReport, RestoreReport, restore, restore_with_progress};
pub(crate) use destination::Destination;
pub use stream::{ExportReport, ImportReport, import_snapshot};
pub(crate) use stream::{ExportSource, commit};
