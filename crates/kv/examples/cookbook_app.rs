//! A small application on one store: a queue with claims, a unique index, pages by cursor, a
//! counter, and sessions that end. Each part is a function that can be copied.
//!
//! `cargo run -p hightower-kv --example cookbook_app`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use hightower_kv::prelude::*;
use hightower_kv::{Rejected, Result};

/// The error of adding a user.
#[derive(Debug)]
enum AddUserError {
    /// Another user has the address.
    AddressTaken,
    /// An error of the store.
    Store(Error),
}

impl std::fmt::Display for AddUserError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddressTaken => formatter.write_str("the address belongs to another user"),
            Self::Store(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for AddUserError {}

impl From<Error> for AddUserError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<Rejected> for AddUserError {
    fn from(rejected: Rejected) -> Self {
        if rejected.key.starts_with(b"by_address/") { Self::AddressTaken } else { Self::Store(rejected.into()) }
    }
}

/// A unique index: the record and the entry of the index are one commit, which requires that the
/// address is free.
fn add_user(engine: &SingleNodeEngine, id: u64, address: &str) -> Result<(), AddUserError> {
    let (user, index) = (format!("users/{id:08}"), format!("by_address/{address}"));
    let mut batch = Batch::new();
    batch
        .require(&index, Expect::Absent)
        .put(&index, id.to_string())
        .require(&user, Expect::Absent)
        .put(&user, address);
    engine.commit(&batch)?.committed()?;
    Ok(())
}

fn user_by_address(engine: &SingleNodeEngine, address: &str) -> Result<Option<u64>> {
    let id = engine.get(format!("by_address/{address}"))?;
    Ok(id.and_then(|id| id.as_str().ok()?.parse().ok()))
}

/// One page of users, and the cursor of the next.
fn page_of_users(
    engine: &SingleNodeEngine,
    cursor: Option<&[u8]>,
    len: usize,
) -> Result<(Vec<String>, Option<Vec<u8>>)> {
    let mut users = engine.prefix("users/")?;
    if let Some(cursor) = cursor {
        users = users.after(cursor);
    }
    let page = users.collect_pairs(len)?;
    let next = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == len);
    Ok((page.iter().map(|(_, address)| String::from_utf8_lossy(address).into_owned()).collect(), next))
}

/// Puts a job at the end of the queue.
fn enqueue(engine: &SingleNodeEngine, job: &str) -> Result<()> {
    let number = engine.add("counters/jobs", 1)?;
    engine.put(format!("queue/{number:016x}"), job)?;
    Ok(())
}

/// Claims the first job: it moves from the queue to the worker's claims in one commit, so that no
/// two workers have it, and the job of a dead worker can be found.
fn claim(engine: &SingleNodeEngine, worker: &str) -> Result<Option<(Vec<u8>, Value)>> {
    for waiting in engine.prefix("queue/")? {
        let waiting = waiting?;
        let (key, job) = (waiting.key().to_vec(), waiting.value()?);
        let claim = [format!("claims/{worker}/").as_bytes(), &key["queue/".len()..]].concat();
        let mut batch = Batch::new();
        batch.require(&key, Expect::Version(waiting.version())).delete(&key).put(&claim, &job);
        // If another worker was faster, the next job is tried.
        if engine.commit(&batch)?.is_committed() {
            return Ok(Some((claim, job)));
        }
    }
    Ok(None)
}

/// A session ends at a time; the key of the second entry begins with it, so that the ended ones are
/// the first of a range.
fn log_in(engine: &SingleNodeEngine, token: &str, user: u64, ends_at_ms: u64) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(format!("sessions/{token}"), format!("{user} {ends_at_ms}"));
    batch.put(format!("sessions_by_end/{ends_at_ms:016x}/{token}"), token);
    engine.commit(&batch)?.committed()?;
    Ok(())
}

/// The user of a session that has not ended. It does not depend on the sweep.
fn user_of_session(engine: &SingleNodeEngine, token: &str, now_ms: u64) -> Result<Option<u64>> {
    let session = engine.get(format!("sessions/{token}"))?;
    Ok(session.and_then(|session| {
        let (user, ends_at_ms) = session.as_str().ok()?.split_once(' ')?;
        (ends_at_ms.parse::<u64>().ok()? > now_ms).then(|| user.parse().ok())?
    }))
}

/// Removes the sessions that have ended.
fn sweep_sessions(engine: &SingleNodeEngine, now_ms: u64) -> Result<usize> {
    let mut removed = 0;
    let end = format!("sessions_by_end/{:016x}", now_ms + 1);
    for entry in engine.range("sessions_by_end/"..end.as_str())? {
        let entry = entry?;
        let token = entry.value()?;
        let mut batch = Batch::new();
        batch.delete(entry.key()).delete([b"sessions/", &token[..]].concat());
        engine.commit(&batch)?.committed()?;
        removed += 1;
    }
    Ok(removed)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("hightower-cookbook-app-{}", std::process::id()));
    let engine = SingleNodeEngine::open(&dir)?;

    for id in 0..10 {
        add_user(&engine, id, &format!("user{id}@example.org"))?;
    }
    let again = add_user(&engine, 99, "user3@example.org");
    assert!(matches!(again, Err(AddUserError::AddressTaken)));
    assert_eq!(user_by_address(&engine, "user3@example.org")?, Some(3));

    let (mut cursor, mut pages) = (None, Vec::new());
    loop {
        let (page, next) = page_of_users(&engine, cursor.as_deref(), 4)?;
        pages.push(page.len());
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    println!("10 users on pages of {pages:?}");
    assert_eq!(pages, [4, 4, 2]);

    for job in ["resize", "send", "index"] {
        enqueue(&engine, job)?;
    }
    let claimed: Vec<_> = std::thread::scope(|scope| {
        let workers = ["a", "b", "c", "d"].map(|worker| {
            let engine = &engine;
            scope.spawn(move || claim(engine, worker))
        });
        workers.into_iter().filter_map(|worker| worker.join().ok()?.ok()?).collect()
    });
    println!("{} of 4 workers have a job", claimed.len());
    assert_eq!((claimed.len(), engine.prefix("queue/")?.count()), (3, 0));

    log_in(&engine, "t1", 3, 1_000)?;
    log_in(&engine, "t2", 4, 2_000)?;
    assert_eq!(user_of_session(&engine, "t1", 500)?, Some(3));
    assert_eq!(user_of_session(&engine, "t1", 1_500)?, None);
    assert_eq!(sweep_sessions(&engine, 1_500)?, 1);
    assert_eq!(user_of_session(&engine, "t2", 1_500)?, Some(4));

    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}
