//! `auth audit`: read, verify and prune the trail.

use std::collections::VecDeque;
use std::time::Duration;

use clap::Subcommand;
use hightower_kv::auth::{
    Actor, AuditAction, AuditEntry, AuditFilter, AuditOutcome, AuditVerdict, Clock, MAX_AUDIT_PAGE, SystemClock, UserId,
};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::progress::Progress;
use crate::units::{count, date_time, parse_duration, parse_some};
use crate::verbs::auth::secret::confirm;
use crate::verbs::auth::service::{Auth, Context, user};
use crate::verbs::auth::view::{self, View};

pub(super) const EXAMPLES: &str = "\
Examples:
  htkvctl auth audit list --last 20
  htkvctl auth audit verify                  exit code 1 if an entry was changed, removed or added
  htkvctl auth audit anchor                  keep the anchor outside the store ...
  htkvctl auth audit verify --anchor \"$OLD\"   ... to detect a trail that was rolled back";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List entries, oldest first
    #[command(after_help = "Examples:
  htkvctl auth audit list                        the first 100
  htkvctl auth audit list --from 100 --limit 50  a page
  htkvctl auth audit list --last 20
  htkvctl auth audit list --user alice --action password_changed --action password_reset
  htkvctl auth audit list --refused --within 1d --last 20")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// From this number on
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = parse_some)]
        limit: usize,
        /// The last N entries
        #[arg(long, value_name = "N", conflicts_with_all = ["from", "limit"], value_parser = parse_some)]
        last: Option<usize>,
    },
    /// Print all entries as JSON Lines, oldest first
    #[command(after_help = "Examples:
  htkvctl auth audit export > trail.jsonl
  htkvctl auth audit export --user alice --within 30d | jq -c 'select(.source != null)'

Each line has seq, at_ms, actor, action, target, user_id, source, outcome and suppressed.")]
    Export {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Verify that no entry is missing, changed or moved
    #[command(after_help = "Examples:
  htkvctl auth audit verify
  htkvctl auth audit verify --anchor \"$(tail -n 1 /mnt/elsewhere/anchors)\"

With --anchor also verify that the trail continues from the anchor. Without it, a trail that was rolled back as a whole to an \
earlier state, or erased and started again, is not detected. Prints the anchor of the trail's end. Exit code 1 if the trail \
is broken, or was pruned past the anchor, so that no comparison is possible.")]
    Verify,
    /// Print the anchor of the trail's end, to be kept outside the store
    #[command(after_help = "Example:
  htkvctl auth audit anchor >> /mnt/elsewhere/anchors

Every verb of `auth` that uses the store has the option --anchor, and refuses a trail that does not continue from it.")]
    Anchor,
    /// Remove old entries; the rest can still be verified
    #[command(after_help = "Example:
  htkvctl auth audit prune --before 1000

The removal is itself an entry of the trail. A broken trail is not pruned. Asks first on a terminal.")]
    Prune {
        /// Remove entries before this number
        #[arg(long, value_name = "SEQ")]
        before: u64,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// A filter of entries.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filter")]
pub(super) struct FilterArgs {
    /// Only entries of this user, or about the user's account; the id of a deleted user works too
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only this action, such as password_changed; may be given more than once
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<AuditAction>,
    /// Only entries of the last 500ms, 1s, 2m, 1h or 30d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "from_ms")]
    within: Option<Duration>,
    /// Only entries of this Unix time in ms or later
    #[arg(long, value_name = "MS")]
    from_ms: Option<i64>,
    /// Only entries before this Unix time in ms
    #[arg(long, value_name = "MS")]
    until_ms: Option<i64>,
    /// Only refusals
    #[arg(long)]
    refused: bool,
}

impl FilterArgs {
    fn filter(&self, auth: &Auth) -> Result<AuditFilter, Failure> {
        let user_id = |text: &String| match text.parse::<UserId>() {
            Ok(id) => Ok(id),
            Err(_) => Ok::<_, Failure>(user(auth, text)?.user_id),
        };
        let start_ms = |within: Duration| {
            SystemClock::new().now_ms().saturating_sub(i64::try_from(within.as_millis()).unwrap_or(i64::MAX))
        };
        Ok(AuditFilter {
            user: self.user.as_ref().map(user_id).transpose()?,
            actions: self.actions.clone(),
            from_ms: self.from_ms.or_else(|| self.within.map(start_ms)),
            until_ms: self.until_ms,
            outcome: self.refused.then_some(AuditOutcome::Refused),
        })
    }
}

#[derive(Serialize)]
struct Entry {
    seq: u64,
    at_ms: i64,
    actor: String,
    action: String,
    target: String,
    user_id: Option<String>,
    source: Option<String>,
    outcome: &'static str,
    suppressed: u32,
}

impl From<AuditEntry> for Entry {
    fn from(entry: AuditEntry) -> Self {
        Self {
            seq: entry.seq,
            at_ms: entry.at_ms,
            actor: match entry.actor {
                Actor::System => "system".into(),
                Actor::User(id) => id.to_string(),
                Actor::ApiKey(id) => id.to_string(),
            },
            action: entry.action.to_string(),
            target: entry.target,
            user_id: entry.user_id.map(|id| id.to_string()),
            source: entry.source,
            outcome: match entry.outcome {
                AuditOutcome::Done => "done",
                AuditOutcome::Refused => "refused",
            },
            suppressed: entry.suppressed,
        }
    }
}

impl View for Entry {
    const HEADING: &'static [&'static str] = &["seq", "time", "actor", "action", "outcome", "target", "source"];

    fn row(&self) -> Vec<String> {
        let outcome = match self.suppressed {
            0 => self.outcome.to_owned(),
            more => format!("{}, and {more} more", self.outcome),
        };
        let (source, target) = (self.source.clone().unwrap_or_else(|| "-".into()), self.target.clone());
        let (seq, time) = (self.seq.to_string(), date_time(self.at_ms));
        vec![seq, time, self.actor.clone(), self.action.clone(), outcome, target, source]
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        Self::HEADING.iter().copied().zip(self.row()).collect()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum TrailVerdict {
    Intact { entries: u64, anchor: String },
    PrunedPast { first_seq: u64 },
    Broken { seq: u64, problem: &'static str },
}

#[derive(Serialize)]
struct Anchor {
    anchor: String,
}

#[derive(Serialize)]
struct PrunedEntries {
    removed: u64,
}

impl Verb {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let screen = context.session.screen;
        match self {
            Self::List { filter, from, limit, last } => {
                let entries = context.read(|auth| list(auth, &filter.filter(auth)?, *from, *limit, *last))?;
                let views: Vec<_> = entries.into_iter().map(Entry::from).collect();
                view::many(screen, &views, "no entries")
            }
            Self::Export { filter } => {
                context.read(|auth| Ok(auth.export_audit(&filter.filter(auth)?, &mut screen.records())?))?;
                Ok(Exit::Done)
            }
            Self::Verify => verify(context),
            Self::Anchor => {
                let anchor = context.read(|auth| Ok(auth.audit_anchor()?))?.to_string();
                screen.answer(&Anchor { anchor: anchor.clone() }, || anchor)?;
                Ok(Exit::Done)
            }
            Self::Prune { before, yes } => {
                confirm(*yes, &format!("remove the entries before {before} for ever"))?;
                let removed = context.change(|auth| {
                    let _bar = Progress::spinner(screen, "removing entries");
                    prune(auth, *before)
                })?;
                screen.answer(&PrunedEntries { removed }, || format!("removed {}", entries_text(removed)))?;
                Ok(Exit::Done)
            }
        }
    }
}

fn list(
    auth: &Auth,
    filter: &AuditFilter,
    from: u64,
    limit: usize,
    last: Option<usize>,
) -> Result<VecDeque<AuditEntry>, Failure> {
    let mut seq = match last {
        // Without a filter the numbers of the last entries are known.
        Some(last) if *filter == AuditFilter::default() => auth.audit_anchor()?.next_seq.saturating_sub(last as u64),
        _ => from,
    };
    let mut entries = VecDeque::new();
    loop {
        interrupt::check()?;
        let page_len = if last.is_some() { MAX_AUDIT_PAGE } else { MAX_AUDIT_PAGE.min(limit - entries.len()) };
        let page = auth.find_audit(filter, seq, page_len)?;
        entries.extend(page.entries);
        if let Some(last) = last {
            entries.drain(..entries.len().saturating_sub(last));
        }
        match page.next_seq {
            Some(next) if last.is_some() || entries.len() < limit => seq = next,
            _ => return Ok(entries),
        }
    }
}

fn entries_text(entries: u64) -> String {
    if entries == 1 { "1 entry".into() } else { format!("{} entries", count(entries)) }
}

fn verify(context: &Context<'_>) -> Result<Exit, Failure> {
    let screen = context.session.screen;
    let since = context.options.anchor.as_ref();
    let context = &Context { checks_anchor: false, ..*context };
    let verdict = context.read(|auth| {
        let _bar = Progress::spinner(screen, "verifying the trail");
        Ok(auth.verify_audit(since)?)
    })?;
    match verdict {
        AuditVerdict::Intact { entries, anchor } => {
            let anchor = anchor.to_string();
            let answer = TrailVerdict::Intact { entries, anchor: anchor.clone() };
            screen.answer(&answer, || format!("the trail is intact: {}\n{anchor}", entries_text(entries)))?;
            if since.is_none() {
                screen.note(
                    "without --anchor, a trail that was rolled back to an earlier state, or started again, is not detected",
                );
            }
            Ok(Exit::Done)
        }
        AuditVerdict::PrunedPast { first_seq } => {
            screen.answer(&TrailVerdict::PrunedPast { first_seq }, || {
                format!(
                    "the trail was pruned past the anchor: it begins at entry {first_seq}, so no comparison is possible"
                )
            })?;
            Ok(Exit::Negative)
        }
        AuditVerdict::Broken { seq, problem } => {
            screen.answer(&TrailVerdict::Broken { seq, problem }, || {
                format!("the trail is broken at entry {seq}: {problem}")
            })?;
            Ok(Exit::Negative)
        }
    }
}

fn prune(auth: &Auth, before: u64) -> Result<u64, Failure> {
    // Each call adds an entry, which stays: without this limit the loop would not end.
    let before = before.min(auth.audit_anchor()?.next_seq);
    let mut removed = 0;
    loop {
        interrupt::check()?;
        match auth.prune_audit(before)? {
            0 => return Ok(removed),
            more => removed += more,
        }
    }
}
