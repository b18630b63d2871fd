//! The verbs on one store: of the command line, and of the shell.

use clap::Subcommand;

use crate::failure::{Exit, Failure};
use crate::session::Session;
use crate::verbs::{
    add, auth, backup, check, compact, delete, export, get, import, keyspace, prefix, put, scan, segments, stats,
    tables,
};

/// The verbs on one store, on the command line and in the shell.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    Put(put::Args),
    Get(get::Args),
    Add(add::Args),
    Delete(delete::Args),
    Prefix(prefix::Args),
    Scan(scan::Args),
    Import(import::Args),
    Export(export::Args),
    Keyspace(keyspace::Args),
    Stats(stats::Args),
    Segments(segments::Args),
    Tables(tables::Args),
    Check(check::Args),
    Compact(compact::Args),
    Backup(backup::Args),
    Auth(Box<auth::Args>),
}

impl StoreVerb {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::Put(args) => args.run(session),
            Self::Get(args) => args.run(session),
            Self::Add(args) => args.run(session),
            Self::Delete(args) => args.run(session),
            Self::Prefix(args) => args.run(session),
            Self::Scan(args) => args.run(session),
            Self::Import(args) => args.run(session),
            Self::Export(args) => args.run(session),
            Self::Keyspace(args) => args.run(session),
            Self::Stats(args) => args.run(session),
            Self::Segments(args) => args.run(session),
            Self::Tables(args) => args.run(session),
            Self::Check(args) => args.run(session),
            Self::Compact(args) => args.run(session),
            Self::Backup(args) => args.run(session),
            Self::Auth(args) => args.run(session),
        }
    }
}
