//! `dump`: the records of the log in the order of the files.

use std::io::Write;
use std::ops::ControlFlow;

use hightower_kv::{CommandRef, Components, KeyspaceId, RawRecord, dump};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::notation::{Text, show};
use crate::records::Bytes;
use crate::session::Session;
use crate::units::counted;

const EXAMPLES: &str = "\
Examples:
  htkvctl dump | less
  htkvctl dump --segment 7 --json
  htkvctl dump --key pods/web-0        the history of one key, as far as compaction kept it

One line per valid record, in the order of files and offsets, including old versions: segment, offset, length, commit (- if compaction \
wrote the record; + if more records of the commit follow), version, time in Unix ms, set or delete, the id of the keyspace unless it is the default one, key, and the length of the value, or with \
--values the value, but not of the records of the authentication service (keyspace 2), which hold password hashes. Damaged places are skipped and counted at the end: exit code 1 if there are any.";

/// Show the raw records of the log
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only records of this segment
    #[arg(long, value_name = "NUMBER")]
    segment: Option<u32>,

    /// Only records of this key
    #[arg(long, value_name = "KEY", value_parser = Text::parser())]
    key: Option<Text>,

    /// Print values instead of their lengths
    #[arg(long)]
    values: bool,

    /// With --values: also the values of the records of users, sessions, API keys and roles
    #[arg(long, requires = "values")]
    auth_records: bool,
}

#[derive(Serialize)]
struct DumpLine<'a> {
    segment: u32,
    offset: u32,
    len_bytes: u32,
    seq: Option<u64>,
    continues: bool,
    version: u64,
    timestamp_ms: i64,
    kind: &'static str,
    /// The id of the keyspace; 0 for the default one, 1 for the store's own records, 2 for those of
    /// the authentication service.
    keyspace: u64,
    key: Bytes<'a>,
    value_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Bytes<'a>>,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let mut out = session.screen.records();
        let mut stopped = Ok(());
        let mut is_there = false;
        let damaged = dump(&Components::default(), session.data_dir(), &mut |record| {
            is_there |= self.segment.is_none_or(|segment| record.segment == segment);
            stopped = interrupt::check().and_then(|()| match self.is_wanted(&record) {
                true => self.write(&mut out, session.screen.json, &record),
                false => Ok(()),
            });
            if stopped.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .map_err(|error| session.unless_missing(error.into()))?;
        stopped?;
        out.flush()?;
        drop(out);
        if damaged > 0 {
            let places = counted(damaged, "damaged place");
            session.screen.error("corrupt", &format!("{places}: `htkvctl check` lists them"));
            return Ok(Exit::Negative);
        }
        if let Some(segment) = self.segment.filter(|_| !is_there) {
            session.screen.error("not_found", &format!("no record in a segment {segment}; see `htkvctl segments`"));
            return Ok(Exit::Negative);
        }
        Ok(Exit::Done)
    }

    fn is_wanted(&self, record: &RawRecord<'_>) -> bool {
        self.segment.is_none_or(|segment| record.segment == segment)
            && self.key.as_ref().is_none_or(|key| record.command.key() == key.0)
    }

    fn write(&self, out: &mut dyn Write, json: bool, record: &RawRecord<'_>) -> Result<(), Failure> {
        let RawRecord { segment, offset, len_bytes, seq, continues, command, keyspace, .. } = *record;
        let kind = if matches!(command, CommandRef::Set { .. }) { "set" } else { "delete" };
        let (key, value) = (command.key(), command.value());
        let shows_value = self.values && (self.auth_records || !keyspace.is_reserved());
        if json {
            let line = DumpLine {
                segment,
                offset,
                len_bytes,
                seq,
                continues,
                version: command.version(),
                timestamp_ms: command.timestamp(),
                kind,
                keyspace: keyspace.get(),
                key: Bytes(key.into()),
                value_bytes: value.map(<[u8]>::len),
                value: value.filter(|_| shows_value).map(|value| Bytes(value.into())),
            };
            serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
            return Ok(out.write_all(b"\n")?);
        }
        let commit = seq.map_or("-".into(), |seq| format!("{seq}{}", if continues { "+" } else { "" }));
        let value = match value {
            Some(value) if shows_value => show(value).into_owned(),
            Some(value) => format!("{} B", value.len()),
            None => String::new(),
        };
        let (version, timestamp) = (command.version(), command.timestamp());
        let of = if keyspace == KeyspaceId::DEFAULT { String::new() } else { format!("keyspace {keyspace} ") };
        let line = format!(
            "{segment:010} {offset:>10} {len_bytes:>6} {commit:>8} {version:>8} {timestamp} {kind:<6} {of}{}\t{value}",
            show(key)
        );
        Ok(writeln!(out, "{}", line.trim_end())?)
    }
}
