//! How much a conformance run does, and what it found.

use std::fmt;

/// How much is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Cases that each kernel has to run; twice as many of conversions and elementwise functions,
    /// which are many in one.
    pub cases: u32,
    /// The seed of the first case; each further one has the next seed. So a failing seed, as the
    /// first, repeats its case at once.
    pub seed: u64,
}

/// The variable that [`Config::default`] reads the seed from.
const SEED_VARIABLE: &str = "FERROCERIUM_SEED";

impl Default for Config {
    /// 1024 cases a kernel, from `FERROCERIUM_SEED`, or else from a seed that is new each time.
    fn default() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
        let fresh = || {
            let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            time.map_or(0, |t| t.as_nanos() as u64)
        };
        Config { cases: 1024, seed: given.unwrap_or_else(fresh) }
    }
}

impl Config {
    /// 32 cases a kernel.
    pub fn quick() -> Self {
        Config { cases: 32, ..Config::default() }
    }

    /// So many cases a kernel.
    pub fn cases(cases: u32) -> Self {
        Config { cases, ..Config::default() }
    }
}

/// What became of each kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that repeats the run.
    pub seed: u64,
    /// A row a kernel.
    pub kernels: Vec<KernelReport>,
}

/// What became of a kernel.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// The kernel's name.
    pub name: String,
    /// Cases that it ran.
    pub cases: u32,
    /// Cases that it said it does not support.
    pub skipped: u32,
    /// The largest error, as a share of what was allowed beside the rounding of outputs.
    pub worst: f64,
    /// The smallest case found that it gets wrong.
    pub failure: Option<Failure>,
}

/// A case that a kernel gets wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the case that failed first.
    pub seed: u64,
    /// That case, made as small as it still fails.
    pub case: String,
    /// What is wrong with that.
    pub reason: String,
}

impl Report {
    /// Whether every kernel ran some case, and all correctly.
    pub fn passed(&self) -> bool {
        self.kernels.iter().all(|k| k.failure.is_none() && k.cases > 0)
    }
}

impl fmt::Display for Report {
    /// A row a kernel: cases, the worst error, and how to repeat a failure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} ({SEED_VARIABLE} repeats it)", self.seed)?;
        for k in &self.kernels {
            let (name, cases, skipped, worst) = (&k.name, k.cases, k.skipped, k.worst);
            match &k.failure {
                None if cases == 0 => {
                    writeln!(f, "{name:<24} RAN NOTHING: all {skipped} cases are unsupported")?;
                }
                None => writeln!(
                    f,
                    "{name:<24} {cases:>6} cases, {skipped:>6} skipped, worst error {worst:.3} of \
                     the bound"
                )?,
                Some(Failure { seed, case, reason }) => {
                    writeln!(f, "{name:<24} FAILED after {cases} cases: {reason}")?;
                    writeln!(f, "    {case}")?;
                    writeln!(f, "    {SEED_VARIABLE}={seed} repeats it as the first case")?;
                }
            }
        }
        Ok(())
    }
}
