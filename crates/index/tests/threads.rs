//! Readers and scanners beside a writer at full speed. Also for the sanitizers:
//!
//! ```sh
//! RUSTFLAGS=-Zsanitizer=thread cargo +nightly test -Zbuild-std --target x86_64-unknown-linux-gnu -p hightower-index --test threads
//! ```
//!
//! `HIGHTOWER_TEST_CASES=N` makes the writer do N rounds of its churn (default 6).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use hightower_index::{Cursor, Map, Published, Writer, pin};

/// Detects a read after its drop without a sanitizer.
struct Canary {
    number: u64,
    life: AtomicU64,
    boxed: Published<u64>,
}

const ALIVE: u64 = 0x00a1_17e0_00a1_17e0;

impl Canary {
    fn new(number: u64) -> Self {
        Self { number, life: AtomicU64::new(ALIVE), boxed: Published::new(number) }
    }

    fn check(&self, key: &[u8]) {
        assert_eq!(self.life.load(Relaxed), ALIVE, "a dropped value is in reach");
        assert_eq!(self.number, number_of(key), "a value under another's key");
        let guard = pin();
        assert!(self.boxed.load(&guard).is_some_and(|boxed| *boxed % 1_000_000 == self.number));
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.life.store(0, Relaxed);
    }
}

/// Keys of three kinds: dense, spread, and prefixes of each other.
fn key(number: u64) -> Vec<u8> {
    match number % 3 {
        0 => format!("d{number:06}").into_bytes(),
        1 => [&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..], &number.to_be_bytes()].concat(),
        _ => [&b"prefix/"[..], &vec![b'p'; usize::try_from(number % 200).unwrap()], &number.to_be_bytes()].concat(),
    }
}

fn number_of(key: &[u8]) -> u64 {
    if key[0] == b'd' && key.len() == 7 {
        return std::str::from_utf8(&key[1..]).unwrap().parse().unwrap();
    }
    u64::from_be_bytes(key[key.len() - 8..].try_into().unwrap())
}

/// Even numbers stay; odd ones are added and removed.
fn is_stable(number: u64) -> bool {
    number.is_multiple_of(2)
}

fn count() -> u64 {
    if cfg!(miri) { 60 } else { 6_000 }
}

fn rounds() -> u64 {
    let asked = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(if cfg!(miri) { 2 } else { 6 })
}

fn look_up(map: &Map<Canary>, stop: &AtomicBool, start: u64) {
    let mut number = start;
    while !stop.load(Relaxed) {
        number = (number * 7 + 1) % count();
        let key = key(number);
        let guard = pin();
        let found = map.get_entry(&key, &guard);
        assert!(found.is_some() || !is_stable(number), "lost {number}");
        if let Some(entry) = found {
            assert_eq!(entry.key(), key);
            entry.value().check(&key);
            // All hints are equal; this tests only their reads beside the writer.
            assert!(
                map.get_hinted(&key, &guard, |hint| assert_eq!(hint, 0)).is_none_or(|value| value.number == number)
            );
        }
    }
}

fn scan(map: &Map<Canary>, stop: &AtomicBool, forward: bool) {
    while !stop.load(Relaxed) {
        let guard = pin();
        let range = map.iter(&guard);
        let entries: Vec<_> = if forward { range.collect() } else { range.rev().collect() };
        entries.iter().for_each(|entry| entry.value().check(entry.key()));
        assert!(entries.is_sorted_by(|left, right| (left.key() < right.key()) == forward && left.key() != right.key()));
        let stable = entries.iter().filter(|entry| is_stable(entry.value().number)).count();
        assert_eq!(stable as u64, count() / 2);
    }
}

fn crawl(map: &Map<Canary>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let mut cursor = Cursor::prefix(b"");
        let mut stable = 0;
        loop {
            let guard = pin();
            let mut taken = 0;
            for entry in cursor.resume(map, &guard).take(50) {
                entry.value().check(entry.key());
                stable += u64::from(is_stable(entry.value().number));
                cursor.advance_past(entry.key());
                taken += 1;
            }
            if taken == 0 {
                break;
            }
        }
        assert_eq!(stable, count() / 2);
    }
}

fn churn(writer: &mut Writer<Canary>) {
    for round in 0..rounds() {
        for number in (1..count()).step_by(2) {
            writer.insert(&key(number), Canary::new(number));
        }
        for number in (0..count()).step_by(6) {
            writer.insert(&key(number), Canary::new(number));
            let value = writer.get(&key(number)).unwrap();
            value.boxed.store(Some(Box::new(number + round % 5 * 1_000_000)), &pin());
        }
        for number in (1..count()).step_by(2) {
            assert!(writer.remove(&key(number)));
        }
    }
}

#[test]
fn readers_and_scanners_beside_a_writer() {
    let (mut writer, map) = hightower_index::new();
    for number in (0..count()).step_by(2) {
        writer.insert(&key(number), Canary::new(number));
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [
            scope.spawn(|| look_up(&map, &stop, 1)),
            scope.spawn(|| look_up(&map, &stop, 2)),
            scope.spawn(|| scan(&map, &stop, true)),
            scope.spawn(|| scan(&map, &stop, false)),
            scope.spawn(|| crawl(&map, &stop)),
        ];
        churn(&mut writer);
        stop.store(true, Relaxed);
        // Joined here, where a thread sanitizer sees it even if the standard library is not
        // instrumented.
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(map.len() as u64, count() / 2);
}

/// Unreachable memory is freed while the map is in use.
#[test]
fn what_was_replaced_is_given_back() {
    let (mut writer, map) = hightower_index::new();
    let mut fill = |value: u64| {
        for number in 0..count() {
            writer.insert(&key(number), value);
        }
    };
    fill(0);
    let once = map.memory_bytes();
    (1..20).for_each(fill);
    // Readers of the other tests delay frees, and memory is allocated in regions.
    const REGIONS: usize = 4 * (2 << 20);
    let now = map.memory_bytes();
    assert!(now < 3 * once + REGIONS, "{now} bytes, {once} after the first round");
}

/// Each value is dropped once, whether it is in the map, among deferred frees or under a guard.
#[test]
fn every_value_is_dropped_once() {
    struct Counted<'a>(&'a AtomicU64);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let dropped = AtomicU64::new(0);
    let (mut writer, map) = hightower_index::new();
    for number in 0..count() {
        writer.insert(&key(number), Counted(&dropped));
        writer.insert(&key(number / 2), Counted(&dropped));
        if number % 3 == 0 {
            writer.remove(&key(number));
        }
    }
    drop(writer);
    drop(map);
    assert_eq!(dropped.load(Relaxed), 2 * count());
}

/// If the system refuses `membarrier`, as in some sandboxes, both sides of the collector use a
/// fence.
#[cfg(all(target_os = "linux", not(miri)))]
mod without_membarrier {
    use std::io;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const IS_REFUSED: &str = "HIGHTOWER_TEST_MEMBARRIER_IS_REFUSED";

    /// Makes the system refuse the call from now on, in this process and in programs that it
    /// executes.
    fn refuse() -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "codes of 16 bits, and the number of a system call")]
        // SAFETY: the filter's instructions are numbers; `prctl` copies the targets of both
        // pointers.
        let is_done = unsafe {
            let (load, jump, give) = (
                libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                libc::BPF_RET,
            );
            let mut filter = [
                libc::BPF_STMT(load as u16, 0),
                libc::BPF_JUMP(jump as u16, libc::SYS_membarrier as u32, 0, 1),
                libc::BPF_STMT(give as u16, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
                libc::BPF_STMT(give as u16, libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if is_done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[test]
    fn all_of_it_once_more() {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.args(["--skip", "all_of_it_once_more"]).env(IS_REFUSED, "1");
        // SAFETY: between fork and exec it makes two system calls and accesses nothing under a
        // lock.
        unsafe { tests.pre_exec(refuse) };
        match tests.status() {
            Ok(status) => assert!(status.success()),
            // An existing filter may forbid another one.
            Err(error) => println!("SKIPPED: this system lets no test refuse a call: {error}"),
        }
    }

    /// Checks the setup of the process above.
    #[test]
    fn it_is_refused_when_it_should_be() {
        if std::env::var_os(IS_REFUSED).is_some() {
            // SAFETY: the call takes three numbers and touches no memory of ours.
            let answer = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
            assert_eq!((answer, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)));
        }
    }
}
