//! The verbs, one module each: `Args` with the help, and `run`.

pub(crate) mod add;
pub(crate) mod auth;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod damage;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod keyspace;
mod list;
pub(crate) mod man;
pub(crate) mod prefix;
pub(crate) mod put;
pub(crate) mod restore;
pub(crate) mod salvage;
pub(crate) mod scan;
pub(crate) mod segments;
pub(crate) mod shell;
pub(crate) mod stats;
pub(crate) mod tables;
