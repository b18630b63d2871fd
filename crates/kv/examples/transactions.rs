//! Transactions: a transfer, a queue with claims, a unique index, and a bound on a range.
//!
//! `cargo run -p hightower-kv --example transactions`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::thread;

use hightower_kv::Result;
use hightower_kv::prelude::*;

fn number(value: Option<&Value>) -> u64 {
    value.and_then(|value| value.as_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Moves an amount, unless the account has less. Of two concurrent transfers from one account, the
/// second reads what the first has left.
fn transfer(engine: &SingleNodeEngine, from: &str, to: &str, amount: u64) -> Result<bool> {
    engine.update(|accounts| {
        let (source, target) = (number(accounts.get(from)?.as_ref()), number(accounts.get(to)?.as_ref()));
        if source < amount {
            return Ok(false);
        }
        accounts.put(from, (source - amount).to_string())?;
        accounts.put(to, (target + amount).to_string())?;
        Ok(true)
    })
}

/// Claims the first job. Only the beginning of the queue is read, so writers at its end don't
/// disturb.
fn claim(engine: &SingleNodeEngine, worker: &str) -> Result<Option<Vec<u8>>> {
    engine.update(|queue| {
        let Some(first) = queue.prefix("queue/")?.next().transpose()? else { return Ok(None) };
        let (key, job) = first.into_pair()?;
        queue.delete(&key)?;
        queue.put([format!("claims/{worker}/").as_bytes(), &key["queue/".len()..]].concat(), &job)?;
        Ok(Some(job.into_vec()))
    })
}

/// Changes the address of a user; the index holds each address once. `false` if another user has
/// it.
fn set_address(engine: &SingleNodeEngine, user: u64, address: &str) -> Result<bool> {
    let (record, index) = (format!("users/{user:08}"), format!("by_address/{address}"));
    engine.update(|users| {
        if users.contains_key(&index)? {
            return Ok(false);
        }
        if let Some(before) = users.get(&record)? {
            users.delete([b"by_address/", before.as_bytes()].concat())?;
        }
        users.put(&record, address)?;
        users.put(&index, user.to_string())?;
        Ok(true)
    })
}

/// Takes a seat while there are some. The count reads the whole range, so no seat comes unnoticed.
fn take_seat(engine: &SingleNodeEngine, name: &str, seats: usize) -> Result<bool> {
    engine.update(|room| {
        if room.prefix("seats/")?.count() >= seats {
            return Ok(false);
        }
        room.put(format!("seats/{name}"), "")?;
        Ok(true)
    })
}

/// Tries two changes, and takes the second back where it does not fit.
fn book(engine: &SingleNodeEngine, name: &str) -> Result<()> {
    let mut booking = engine.transaction()?;
    booking.put(format!("bookings/{name}"), "journey")?;
    let journey_only = booking.savepoint();
    booking.put(format!("hotel/{name}"), "room 7")?;
    if booking.contains_key("hotel/closed")? {
        booking.rollback_to(&journey_only)?;
    }
    match booking.commit() {
        Ok(_) => Ok(()),
        Err(Error::TransactionConflict(conflict)) => {
            println!("the hotel has just changed: {conflict}");
            book(engine, name)
        }
        Err(failure) => Err(failure),
    }
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-transactions-{}", std::process::id()));
    let engine = SingleNodeEngine::open(&dir)?;

    engine.put("accounts/alice", "100")?;
    engine.put("accounts/bob", "0")?;
    let sent: Result<Vec<bool>> = thread::scope(|scope| {
        let send = |_| scope.spawn(|| transfer(&engine, "accounts/alice", "accounts/bob", 30));
        let transfers: Vec<_> = (0..5).map(send).collect();
        transfers.into_iter().map(|it| it.join().unwrap_or(Err(Error::Aborted("a thread")))).collect()
    });
    let sent = sent?.into_iter().filter(|was_sent| *was_sent).count();
    assert_eq!((sent, number(engine.get("accounts/alice")?.as_ref())), (3, 10));

    for job in 0..4 {
        engine.put(format!("queue/{job}"), format!("job {job}"))?;
    }
    assert_eq!(claim(&engine, "worker-1")?.as_deref(), Some(&b"job 0"[..]));
    assert_eq!(claim(&engine, "worker-2")?.as_deref(), Some(&b"job 1"[..]));

    assert!(set_address(&engine, 1, "a@example.org")?);
    assert!(!set_address(&engine, 2, "a@example.org")?);
    assert!(set_address(&engine, 1, "b@example.org")? && set_address(&engine, 2, "a@example.org")?);

    let seated: Vec<bool> =
        ["alice", "bob", "carol"].into_iter().map(|name| take_seat(&engine, name, 2)).collect::<Result<_>>()?;
    assert_eq!(seated, [true, true, false]);

    book(&engine, "alice")?;
    assert!(engine.contains_key("hotel/alice")?);
    println!("{} keys, {} conflicts", engine.len(), engine.stats().transactions.conflicts);
    engine.close()?;
    std::fs::remove_dir_all(&dir).map_err(|source| Error::Io { action: "remove".into(), source: source.into() })
}
