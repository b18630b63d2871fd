//! An unknown user costs the same time as a wrong password (Welch's t-test), and concurrent hashes
//! take bounded memory. Run it with `HIGHTOWER_TEST_TIMING=1` on an idle machine.
//! `HIGHTOWER_TEST_PAIRS` sets the number of compared pairs of hashes with the default parameters
//! (default 300).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;
use std::time::Instant;

use hightower_auth::{AesGcmEncryptor, Argon2Params, Argon2SecretHasher, AuthOptions, AuthService};
use support::{MemEngine, OTHER, PASSWORD, Service, no_delays, options};

mod support;

fn wanted() -> bool {
    std::env::var_os("HIGHTOWER_TEST_TIMING").is_some()
}

fn service_with(hasher: Argon2SecretHasher) -> Service {
    let clock = support::clock();
    let options = AuthOptions { guess_policy: no_delays(), ..options(&clock) };
    AuthService::with_options(MemEngine::new(), hasher, Arc::new(AesGcmEncryptor::new([7; 32])), options).unwrap()
}

fn time(auth: &Service, username: &str) -> f64 {
    let start = Instant::now();
    assert!(!auth.verify_password(username, OTHER).unwrap());
    start.elapsed().as_secs_f64()
}

fn mean_and_variance(samples: &[f64]) -> (f64, f64) {
    let mean = samples.iter().sum::<f64>() / samples.len() as f64;
    (mean, samples.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / (samples.len() - 1) as f64)
}

/// Names of one kind. Normalisation takes a few nanoseconds more for some letters, and a look-up
/// for some keys. So each kind has several names, with the same letters.
const NAMES: usize = 32;

fn names(kind: usize) -> Vec<String> {
    (0..NAMES).map(|n| format!("name{:03}", 4 * n + kind)).collect()
}

fn next(random: &mut u64) -> usize {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random >> 32) as usize
}

/// Fails if one kind takes longer than the other.
fn compare(auth: &Service, kinds: [(&str, &[String]); 2], pairs: usize) {
    let (medians, t) = measure(auth, kinds, pairs);
    assert!((medians[0] / medians[1] - 1.0).abs() < 0.05, "medians {medians:?}");
    assert!(t.abs() < 4.5, "t = {t}");
}

/// Prints the difference of names of one kind, caused by their letters and the positions of their
/// records.
fn control(auth: &Service, kind: &str, names: &[String], pairs: usize) {
    let (some, others) = names.split_at(NAMES / 2);
    measure(auth, [(&format!("control: half of the {kind}"), some), ("the other half", others)], pairs);
}

/// The medians in seconds, and Welch's t.
fn measure(auth: &Service, kinds: [(&str, &[String]); 2], pairs: usize) -> ([f64; 2], f64) {
    let mut samples = [Vec::new(), Vec::new()];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..pairs + pairs / 10 {
        // The order is random, so that neither side always follows the other.
        let order = if next(&mut random).is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for which in order {
            let names = kinds[which].1;
            let seconds = time(auth, &names[next(&mut random) % names.len()]);
            if n >= pairs / 10 {
                samples[which].push(seconds);
            }
        }
    }
    let medians = samples.each_mut().map(|samples| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    });
    // Preemptions are outliers of both sides: compare the fastest 90 %.
    let [(m1, v1), (m2, v2)] = samples.each_ref().map(|samples| mean_and_variance(&samples[..samples.len() * 9 / 10]));
    let t = (m1 - m2) / ((v1 + v2) / (pairs as f64 * 0.9)).sqrt();
    println!(
        "{} / {}: medians {:.2} / {:.2} us, t = {t:.2}, {pairs} pairs",
        kinds[0].0,
        kinds[1].0,
        medians[0] * 1e6,
        medians[1] * 1e6
    );
    (medians, t)
}

#[test]
fn unknown_and_disabled_users_take_as_long_as_a_wrong_password() {
    if !wanted() {
        return;
    }
    let cheap = service_with(Argon2SecretHasher::with_params(Argon2Params::insecure(64, 1, 1).unwrap()));
    let default = service_with(Argon2SecretHasher::new());
    let pairs = std::env::var("HIGHTOWER_TEST_PAIRS").map_or(300, |text| text.parse().unwrap());
    let [users, unknown, disabled, large] = [0, 1, 2, 3].map(names);
    for (auth, pairs) in [(&cheap, 5000), (&default, pairs)] {
        let mut ids = Vec::new();
        for (n, name) in users.iter().enumerate() {
            ids.push(auth.create_user(name, PASSWORD).unwrap().user_id);
            ids.push(auth.create_user(&disabled[n], PASSWORD).unwrap().user_id);
            auth.disable_user(&ids[3 * n + 1]).unwrap();
            ids.push(auth.create_user_with_metadata(&large[n], PASSWORD, Some(&[7; 64 << 10])).unwrap().user_id);
        }
        // One pass rewrites the records of all kinds, so that their positions in memory are alike.
        for id in &ids {
            auth.clear_delays(id).unwrap();
        }
        // Each name has a stored counter of failures, and the rate limiter of its commits is not
        // exhausted.
        for name in [&users, &unknown, &disabled, &large].into_iter().flatten() {
            time(auth, name);
        }
        for (kind, names) in [("users", &users), ("unknown names", &unknown), ("users with metadata", &large)] {
            control(auth, kind, names, pairs);
        }
        let user = ("user", &*users);
        compare(auth, [user, ("unknown name", &unknown)], pairs);
        compare(auth, [user, ("disabled user", &disabled)], pairs);
        compare(auth, [("user with 64 KiB of metadata", &large), ("unknown name", &unknown)], pairs);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn sixty_four_logins_take_the_memory_of_two_hashes() {
    if !wanted() {
        return;
    }
    const MEMORY_KIB: u64 = 64 * 1024;
    let params = Argon2Params::insecure(u32::try_from(MEMORY_KIB).unwrap(), 1, 1).unwrap();
    let auth = service_with(Argon2SecretHasher::with_params(params).concurrency(2));
    auth.create_user("alice", PASSWORD).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // reset the peak
    let before = status_kib("VmHWM:");
    std::thread::scope(|scope| {
        (0..64).for_each(|_| drop(scope.spawn(|| assert!(!auth.verify_password("alice", OTHER).unwrap()))));
    });
    let grown = status_kib("VmHWM:") - before;
    println!("peak grew by {grown} KiB, one hash takes {MEMORY_KIB} KiB");
    assert!(grown <= 3 * MEMORY_KIB);
    assert!(grown >= MEMORY_KIB, "the hashes must show");
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
