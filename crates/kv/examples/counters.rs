//! Counters, and values that are merged by an operator of the program: updates of one key that do
//! not conflict, by any number of threads.
//!
//! `cargo run -p hightower-kv --example counters`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use hightower_kv::prelude::*;
use hightower_kv::{Components, MergeOperator, MergeOutcome, Result};

/// Keeps the highest and the lowest of the measured values, as text: `low high`.
#[derive(Debug)]
struct Extremes;

impl MergeOperator for Extremes {
    fn merge(&self, _key: &[u8], existing: Option<&[u8]>, operand: &[u8]) -> Result<MergeOutcome, String> {
        let measured = number(operand)?;
        let Some(existing) = existing else { return Ok(MergeOutcome::Put(format!("{measured} {measured}").into())) };
        let mut known = existing.split(|byte| *byte == b' ').map(number);
        let (Some(low), Some(high)) = (known.next().transpose()?, known.next().transpose()?) else {
            return Err("the value has no two numbers".into());
        };
        if (low..=high).contains(&measured) {
            return Ok(MergeOutcome::Keep);
        }
        Ok(MergeOutcome::Put(format!("{} {}", low.min(measured), high.max(measured)).into()))
    }
}

fn number(text: &[u8]) -> Result<i64, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{} is no number", text.escape_ascii()))
}

/// A sale is one commit: the record, its number, and the stock.
fn sell(engine: &SingleNodeEngine, item: &str, count: i64) -> Result<i64> {
    let number = engine.add("sales", 1)?;
    let mut sale = Batch::new();
    sale.put(format!("sales/{number:08}"), item).add(format!("stock/{item}"), -count).add("sold", count);
    engine.commit(&sale)?.committed()?;
    Ok(number)
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-counters-{}", std::process::id()));
    let components = Components::default().with_merge_operator("extremes", Arc::new(Extremes));
    let engine = SingleNodeEngine::builder(&dir).components(components).open()?;

    engine.put("stock/apples", "1000")?;
    std::thread::scope(|scope| {
        let sales = || (0..250).try_for_each(|_| sell(&engine, "apples", 1).map(drop));
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(sales)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Error::Closed)))
    })?;
    println!("sold {}, {} left", engine.add("sold", 0)?, engine.add("stock/apples", 0)?);
    assert_eq!((engine.add("sold", 0)?, engine.add("stock/apples", 0)?), (1_000, 0));

    for celsius in [19, 23, 17, 21] {
        engine.merge("temperature", "extremes", celsius.to_string())?;
    }
    println!("temperatures: {:?}", engine.get("temperature")?);
    assert_eq!(engine.get("temperature")?, Some("17 23".into()));
    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}
