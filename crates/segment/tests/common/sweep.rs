//! The shared part of the tests of the store and of the write-ahead log: crashes and faults of many
//! workloads.

use hightower_segment::AppendMode;
use hightower_segment::sim::{Choice, CrashPlan, CrashPoint, Fault, FaultKind, SimFs};

/// A number from the environment, or the default.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers below a bound, from a seed.
pub fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}

/// Checks that the state of the disk after a crash keeps all promises; the error is the broken one.
/// With `true`, also that work can continue after recovery.
pub trait Check: Fn(&SimFs, CrashPoint, bool) -> Result<(), String> {}

impl<T: Fn(&SimFs, CrashPoint, bool) -> Result<(), String>> Check for T {}

/// Visits the crash states of a workload until one breaks a promise. Returns the number of visited
/// ones.
pub fn explore(fs: &SimFs, plan: CrashPlan, check: impl Check) -> Result<u64, String> {
    let mut visited = 0;
    for state in fs.crash_states(plan) {
        visited += 1;
        let deep = visited % 16 == 0;
        check(&state.fs, state.point, deep).map_err(|error| format!("crash {}: {error}", state.point))?;
    }
    Ok(visited)
}

/// Visits the crash states at the end of a workload.
pub fn explore_end(fs: &SimFs, plan: CrashPlan, check: impl Check) -> Result<(), String> {
    let end = fs.op_count();
    for state in fs.crash_states_at(end, plan) {
        check(&state.fs, state.point, false).map_err(|error| format!("crash {}: {error}", state.point))?;
    }
    let point = CrashPoint { op: end, choice: Choice::Everything };
    check(&fs.after_kill(), point, true).map_err(|error| format!("kill: {error}"))
}

/// Visits the crash states of workloads until `HIGHTOWER_TEST_STATES` of both append modes together
/// were visited. `visit` explores the workload of a seed.
pub fn crashes(
    what: &str,
    mode: AppendMode,
    default_states: u64,
    visit: impl Fn(u64, CrashPlan) -> Result<u64, String>,
) {
    let wanted = setting("HIGHTOWER_TEST_STATES", default_states).div_ceil(2);
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    let (mut visited, mut workloads) = (0, 0);
    for seed in first.. {
        workloads += 1;
        let plan = CrashPlan { exhaustive_limit: 64, samples: 12, seed };
        visited += visit(seed, plan).unwrap_or_else(|error| panic!("seed {seed}, {mode:?}: {error}"));
        if visited >= wanted {
            break;
        }
    }
    println!("{what}, {mode:?}: {visited} crash states of {workloads} workloads from seed {first}, 0 violations");
}

/// A fault at every call of the workloads, once and lasting, in both append modes. `calls` returns
/// the number of calls of a workload, `run` the promise that the fault breaks.
pub fn faults(
    what: &str,
    kind: FaultKind,
    calls: impl Fn(u64, AppendMode) -> u64,
    run: impl Fn(u64, AppendMode, Fault) -> Result<(), String>,
) {
    let (first, cases) = (setting("HIGHTOWER_TEST_SEED", 100), setting("HIGHTOWER_TEST_CASES", 1));
    let mut runs = 0;
    for seed in first..first + cases {
        for mode in [AppendMode::Mapped, AppendMode::Positioned] {
            for at_call in 0..calls(seed, mode) {
                for lasting in [false, true] {
                    let fault = Fault { kind, at_call, lasting };
                    runs += 1;
                    run(seed, mode, fault).unwrap_or_else(|error| {
                        panic!("seed {seed}, {mode:?}, {fault:?}: {error}\nreplay: HIGHTOWER_TEST_SEED={seed}")
                    });
                }
            }
        }
    }
    println!("{what}, {kind:?}: {runs} single faults in {cases} workloads from seed {first}, 0 violations");
}
