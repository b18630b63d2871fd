//! `cargo xtask nightly`: every proof with its long profile, and the checks of a release.

use anyhow::Result;

use crate::command::steps;
use crate::{api, crash, fuzz, hostile, memory, mutants, package, proofs, schedules};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Total time of the fuzzers
    #[arg(long, default_value_t = 4 * 3600)]
    fuzz_seconds: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let engine_model = || fuzz::Options::runs_of("engine_model", 10_000_000);
    let fuzz = || fuzz::run(&fuzz::Options { seconds: options.fuzz_seconds, ..fuzz::Options::default() });
    steps(
        &[
            ("sim", &|| proofs::sim(&proofs::SimOptions::LONG)),
            ("crash", &|| crash::run(&crash::Options { cycles: 2000, ..crash::Options::default() })),
            ("hostile", &|| hostile::run(&hostile::Options { seconds: 3600, ..hostile::Options::default() })),
            ("lin", &|| proofs::lin(&proofs::LinOptions::LONG)),
            ("props", &|| proofs::props(&proofs::PropsOptions::LONG)),
            ("schedules", &|| {
                schedules::run(&schedules::Options { iterations: 20_000, ..schedules::Options::default() })
            }),
            ("package", &|| package::run(&package::Options::COMMITTED)),
            ("documentation", &api::documentation),
            ("semver", &|| api::semver(&api::SemverOptions::default())),
            ("external-types", &api::external_types),
            ("features", &api::features),
            ("minimal-versions", &api::minimal_versions),
            ("msrv", &api::msrv),
            ("mutants", &|| mutants::run(&mutants::Options::default())),
            ("miri", &memory::miri),
            ("sanitize", &memory::sanitize),
            ("fuzz record_decode", &|| fuzz::run(&fuzz::Options::runs_of("record_decode", 100_000_000))),
            ("fuzz engine_model", &|| fuzz::run(&fuzz::Options { max_len: Some(192), ..engine_model() })),
            ("fuzz", &fuzz),
        ],
        true,
    )
}
