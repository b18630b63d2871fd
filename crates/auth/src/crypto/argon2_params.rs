//! The cost of Argon2id, and its text form.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::mutants::planted;

/// Minimum memory, in KiB, for 1, 2, 3, 4, and 5 or more iterations, after OWASP's Password Storage
/// Cheat Sheet.
const FLOOR_MEMORY_KIB: [u32; 5] = [47_104, 19_456, 12_288, 9_216, 7_168];
const MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
const MAX_ITERATIONS: u32 = 64;
const MAX_LANES: u32 = 16;

/// The cost of one Argon2id hash.
///
/// The default is OWASP's first choice: 19 MiB, 2 iterations, 1 lane. The text form is that of a
/// PHC string: memory in KiB, iterations, lanes.
///
/// ```
/// use hightower_auth::Argon2Params;
/// assert_eq!(Argon2Params::default().to_string(), "m=19456,t=2,p=1");
/// assert_eq!("m=65536,t=3,p=4".parse::<Argon2Params>()?, Argon2Params::new(65_536, 3, 4)?);
/// assert!("m=8,t=1,p=1".parse::<Argon2Params>().is_err()); // as weak as `Argon2Params::new` refuses
/// # Ok::<(), hightower_auth::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Params {
    pub(super) memory_kib: u32,
    pub(super) iterations: u32,
    pub(super) lanes: u32,
}

impl Default for Argon2Params {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, lanes: 1 }
    }
}

impl Argon2Params {
    /// Parameters at or above one of OWASP's recommendations: 46 MiB for 1 iteration, 19 MiB for 2,
    /// 12 MiB for 3, 9 MiB for 4, 7 MiB for 5 or more. The lanes are computed one after another.
    ///
    /// # Errors
    /// [`Error::Validation`] below the recommendations, or above 4 GiB, 64 iterations or 16 lanes.
    ///
    /// # Examples
    /// ```
    /// use hightower_auth::crypto::Argon2Params;
    /// assert!(Argon2Params::new(64 * 1024, 3, 4).is_ok()); // RFC 9106, second recommended
    /// assert!(Argon2Params::new(4 * 1024, 3, 1).is_err());
    /// ```
    pub fn new(memory_kib: u32, iterations: u32, lanes: u32) -> Result<Self> {
        let params = Self::insecure(memory_kib, iterations, lanes)?;
        let row = iterations.clamp(1, 5) as usize - 1;
        if memory_kib < FLOOR_MEMORY_KIB[row] {
            return Err(Error::Validation("these Argon2id parameters are weaker than every one OWASP recommends"));
        }
        Ok(params)
    }

    /// Parameters of any strength, for tests that hash thousands of passwords. Never use them in
    /// production.
    ///
    /// # Errors
    /// [`Error::Validation`] for 0, for less than 8 KiB per lane, or above the limits of
    /// [`Self::new`].
    pub fn insecure(memory_kib: u32, iterations: u32, lanes: u32) -> Result<Self> {
        let params = Self { memory_kib, iterations, lanes };
        if params.within_ceiling() {
            Ok(params)
        } else {
            Err(Error::Validation("Argon2id parameters are out of range"))
        }
    }

    /// Memory of one hash, in KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Lanes ("parallelism" in RFC 9106).
    pub fn lanes(&self) -> u32 {
        self.lanes
    }

    pub(super) fn within_ceiling(self) -> bool {
        (1..=MAX_LANES).contains(&self.lanes)
            && (1..=MAX_ITERATIONS).contains(&self.iterations)
            && (8 * self.lanes..=MAX_MEMORY_KIB).contains(&self.memory_kib)
    }

    /// Whether `other` has a higher product of memory and passes, and at least as much memory.
    /// Lanes do not count, because they are computed one after another.
    pub(super) fn weaker_than(self, other: Self) -> bool {
        let work = |params: Self| u64::from(params.memory_kib) * u64::from(params.iterations);
        if planted("auth_rehash_by_iterations") {
            return self.iterations < other.iterations;
        }
        self.memory_kib <= other.memory_kib && work(self) < work(other)
    }
}

impl fmt::Display for Argon2Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory_kib, self.iterations, self.lanes)
    }
}

impl FromStr for Argon2Params {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match parse_params(text) {
            Some(params) => Self::new(params.memory_kib, params.iterations, params.lanes),
            None => Err(Error::Validation("Argon2id parameters are written m=19456,t=2,p=1")),
        }
    }
}

/// Reads `m=19456,t=2,p=1`, with parameters of any strength.
fn parse_params(text: &str) -> Option<Argon2Params> {
    let mut settings = text.split(',');
    let params = params(&mut settings)?;
    settings.next().is_none().then_some(params)
}

pub(super) fn params<'t>(settings: &mut impl Iterator<Item = &'t str>) -> Option<Argon2Params> {
    let memory_kib = setting(settings.next()?, "m=")?;
    let iterations = setting(settings.next()?, "t=")?;
    let lanes = setting(settings.next()?, "p=")?;
    Some(Argon2Params { memory_kib, iterations, lanes })
}

fn setting(text: &str, name: &str) -> Option<u32> {
    let digits = text.strip_prefix(name)?;
    let canonical = !digits.starts_with('0') && digits.bytes().all(|c| c.is_ascii_digit());
    if canonical { digits.parse().ok() } else { None }
}
