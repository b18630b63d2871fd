//! Writers and followers in processes of their own, killed at any moment.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hightower_engine::{Batch, Follower, FollowerConfig, SingleNodeEngine, StoreConfig};

use crate::common::setting;

const WRITER: &str = "HIGHTOWER_FOLLOWED_WRITER";
const READER: &str = "HIGHTOWER_FOLLOWING_READER";
/// The keys that each batch sets to its number, among others.
const KEYS: [&str; 3] = ["a", "m", "z"];

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir)
        .with_max_segment_size(64 << 10)
        .with_min_segment_size(16 << 10)
        .with_index_memory_bytes(512 << 10)
        .with_compaction_interval(Duration::from_millis(5))
}

fn number(value: Option<hightower_engine::Value>) -> u64 {
    value.map_or(0, |value| String::from_utf8(value.to_vec()).unwrap().parse().unwrap())
}

/// Writes batches and prints each number after its commit, until it is killed.
fn write(dir: &Path) -> ! {
    let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
    for next in number(engine.get(KEYS[0]).unwrap()) + 1.. {
        let mut batch = Batch::new();
        KEYS.iter().for_each(|key| _ = batch.put(key, next.to_string()));
        batch.put(format!("key/{:03}", next * 7 % 500), vec![b'.'; 300]);
        batch.delete(format!("key/{:03}", next * 11 % 500));
        engine.commit(&batch).unwrap().committed().unwrap();
        println!("{next}");
        match next % 700 {
            100 => engine.checkpoint().unwrap(),
            300 => _ = engine.run_compaction_now().unwrap(),
            500 => {
                engine.close().unwrap();
                write(dir);
            }
            _ => {}
        }
    }
    unreachable!("numbers do not end");
}

/// What a follower shows is one batch. Returns its number.
fn one_batch(follower: &Follower) -> u64 {
    let snapshot = follower.snapshot().unwrap();
    let shown: Vec<u64> = KEYS.iter().map(|key| number(snapshot.get(key).unwrap())).collect();
    assert!(shown.iter().all(|each| *each == shown[0]), "a torn batch: {shown:?}");
    let keys: Vec<_> = snapshot.prefix("key/").map(|entry| entry.unwrap().into_pair().unwrap()).collect();
    assert!(keys.iter().all(|(_, value)| value.len() == 300));
    if shown[0] > 0 {
        let last = format!("key/{:03}", shown[0] * 7 % 500);
        let is_deleted = shown[0] * 7 % 500 == shown[0] * 11 % 500;
        assert_eq!(snapshot.contains_key(last).unwrap(), !is_deleted, "batch {}", shown[0]);
    }
    shown[0]
}

fn child(dir: &Path, role: &str, name: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(role, dir);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn kill(child: &mut Child) {
    assert!(child.try_wait().unwrap().is_none(), "it has ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_writer_is_killed_again_and_again_under_its_follower() {
    const NAME: &str = "processes::a_writer_is_killed_again_and_again_under_its_follower";
    if let Some(dir) = std::env::var_os(WRITER) {
        write(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    SingleNodeEngine::with_config(config(dir.path())).unwrap().close().unwrap();
    let follower = Follower::open(dir.path()).unwrap();
    let refresh = FollowerConfig::at(dir.path()).with_refresh_interval(Duration::from_millis(1));
    let refreshing = Follower::with_config(refresh).unwrap();
    let (mut shown, mut looks) = (0, 0);
    for life in 0..setting("HIGHTOWER_TEST_CASES", 8) {
        let mut writer = child(dir.path(), WRITER, NAME);
        let out = BufReader::new(writer.stdout.take().unwrap());
        // The output is read by a thread, so that the pipe never fills.
        let told = std::thread::spawn(move || {
            let numbers = out.lines().map_while(Result::ok).filter_map(|line| line.parse::<u64>().ok());
            numbers.last().unwrap_or(0)
        });
        let until = Instant::now() + Duration::from_millis(300 + 97 * (life % 5));
        while Instant::now() < until {
            follower.catch_up().unwrap();
            let now = one_batch(&follower);
            assert!(now >= shown, "from {shown} back to {now}");
            (shown, looks) = (now, looks + 1);
            one_batch(&refreshing);
        }
        kill(&mut writer);
        let told = told.join().unwrap();
        follower.catch_up().unwrap();
        let now = one_batch(&follower);
        assert!(now >= told.max(shown), "shows {now} of {told} commits");
        let fresh = Follower::open(dir.path()).unwrap();
        assert_eq!(one_batch(&fresh), now);
        assert!(refreshing.wait_for(follower.latest_seq(), Duration::from_secs(10)).unwrap());
        assert_eq!(one_batch(&refreshing), now);
        shown = now;
    }
    let stats = follower.stats();
    println!("{shown} batches, {looks} looks, {stats:?}");
    assert!(shown > 100 && stats.divergences == 0, "{shown}, {stats:?}");
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    assert_eq!(number(engine.get(KEYS[0]).unwrap()), shown);
}

#[test]
fn a_follower_that_is_killed_leaves_nothing_behind() {
    const NAME: &str = "processes::a_follower_that_is_killed_leaves_nothing_behind";
    if let Some(dir) = std::env::var_os(READER) {
        let follower = Follower::open(Path::new(&dir)).unwrap();
        loop {
            follower.catch_up().unwrap();
            println!("{}", one_batch(&follower));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    let mut next = 0_u64;
    for _ in 0..3 {
        let mut reader = child(dir.path(), READER, NAME);
        let mut out = BufReader::new(reader.stdout.take().unwrap());
        let until = Instant::now() + Duration::from_millis(400);
        let drained = std::thread::spawn(move || {
            let (mut line, mut most) = (String::new(), 0);
            while out.read_line(&mut line).is_ok_and(|read| read > 0) {
                most = line.trim().parse::<u64>().unwrap_or(most);
                line.clear();
            }
            most
        });
        while Instant::now() < until {
            next += 1;
            let mut batch = Batch::new();
            KEYS.iter().for_each(|key| _ = batch.put(key, next.to_string()));
            batch.put(format!("key/{:03}", next * 7 % 500), vec![b'.'; 300]);
            batch.delete(format!("key/{:03}", next * 11 % 500));
            engine.commit(&batch).unwrap().committed().unwrap();
            if next.is_multiple_of(400) {
                _ = engine.run_compaction_now().unwrap();
            }
        }
        kill(&mut reader);
        let most = drained.join().unwrap();
        assert!(most > 0 && most <= next, "the follower shows {most} of {next}");
    }
    engine.close().unwrap();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    assert!(!engine.open_report().was_unclean());
}
