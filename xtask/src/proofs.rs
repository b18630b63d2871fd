//! Verbs that run the crates' tests with special settings: simulated crashes and faults,
//! properties, histories.

use anyhow::{Result, ensure};

use crate::command::{Run, sum_before};

/// Optimized, with all assertions.
const TEST: &str = "test --locked --profile proof";

#[derive(clap::Args)]
pub(crate) struct SimOptions {
    /// Minimum total number of crash states
    #[arg(long, default_value_t = 100_000)]
    states: u64,
    /// Number of workloads with every fault at every call
    #[arg(long, default_value_t = 5)]
    workloads: u64,
    /// Length of the image whose bits are flipped one by one, in bytes
    #[arg(long, default_value_t = 8192)]
    flips: u64,
    /// The first workload
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { states: 100_000, workloads: 5, flips: 8192, seed: 0 }
    }
}

impl SimOptions {
    pub(crate) const LONG: Self = Self { states: 2_000_000, workloads: 50, flips: 65_536, seed: 0 };
}

/// A third each of the crash states are of segments, where they are fine-grained, of the
/// write-ahead log, and of the whole engine. One run of cargo builds everything once. It also
/// damages tables, and crashes the multi-key changes of the authentication service.
pub(crate) fn sim(options: &SimOptions) -> Result<()> {
    let packages = "-p hightower-segment -p hightower-engine -p hightower-auth";
    let tests = "--test crash --test copies_crash --test faults --test wal --test upkeep_faults --test bit_flips --test tables --test atomicity";
    let lines = Run::cargo(&format!("{TEST} {packages} {tests} -- --nocapture"))
        .with("HIGHTOWER_TEST_STATES", options.states.div_ceil(2))
        .with("HIGHTOWER_TEST_CASES", options.workloads)
        .with("HIGHTOWER_TEST_IMAGE_BYTES", options.flips)
        .with("HIGHTOWER_TEST_FLIP_STEP", 1)
        .with("HIGHTOWER_TEST_SEED", options.seed)
        .lines()?;
    let [states, faults, bits] =
        ["crash states", "single faults", "flipped bits"].map(|what| sum_before(&lines, &format!(" {what}")));
    println!(
        "\n{states} crash states, {faults} single faults in {} workloads of each layer, {bits} flipped bits: 0 violations",
        options.workloads
    );
    ensure!(states >= options.states, "only {states} crash states were visited, {} were requested", options.states);
    ensure!(bits >= options.flips * 8, "only {bits} bits were flipped, {} were requested", options.flips * 8);
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct PropsOptions {
    /// Number of cases per property
    #[arg(long, default_value_t = 1000)]
    cases: u64,
    /// Seed of the cases; a failure prints the smallest case, and the same seed finds it again
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Default for PropsOptions {
    fn default() -> Self {
        Self { cases: 1000, seed: 1 }
    }
}

impl PropsOptions {
    pub(crate) const LONG: Self = Self { cases: 100_000, seed: 1 };
}

pub(crate) fn props(options: &PropsOptions) -> Result<()> {
    let packages =
        ["log", "index", "state", "compactor", "engine"].map(|name| format!("-p hightower-{name}")).join(" ");
    let tests =
        ["properties", "model_check", "model", "history", "replay"].map(|name| format!("--test {name}")).join(" ");
    Run::cargo(&format!("{TEST} {packages} {tests}"))
        .with("HIGHTOWER_TEST_CASES", options.cases)
        .with("PROPTEST_CASES", options.cases)
        .with("PROPTEST_RNG_SEED", options.seed)
        .run()?;
    println!("\n{} cases of every property from seed {}: 0 violations", options.cases, options.seed);
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct LinOptions {
    /// Number of histories
    #[arg(long, default_value_t = 200)]
    cases: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Default for LinOptions {
    fn default() -> Self {
        Self { cases: 200, seed: 0 }
    }
}

impl LinOptions {
    pub(crate) const LONG: Self = Self { cases: 10_000, seed: 0 };
}

pub(crate) fn lin(options: &LinOptions) -> Result<()> {
    let lines = Run::cargo(&format!("{TEST} -p hightower-engine --test linearizability -- --nocapture"))
        .with("HIGHTOWER_TEST_CASES", options.cases)
        .with("HIGHTOWER_TEST_SEED", options.seed)
        .lines()?;
    let histories = sum_before(&lines, " histories from");
    ensure!(histories >= options.cases, "only {histories} histories were checked");
    Ok(())
}
