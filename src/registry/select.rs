//! Which kernel runs.

use std::sync::Arc;

use super::explain::{Candidate, Explanation, Verdict};
use super::kernel::{Cost, Kernel, Numerics, Tier};
use super::store::{KernelRegistry, State};
use crate::caps::Caps;
use crate::op::Op;

/// What the caller asks of the choice, beyond the operation itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Run the kernel of this name, or fail.
    pub kernel: Option<String>,
    /// The freest treatment of numbers that is acceptable.
    pub numerics: Numerics,
    /// Accept kernels whose result for a row can depend on the rest of the batch, or differ from
    /// run to run.
    pub allow_variable_results: bool,
    /// Fail rather than run a [`Tier::Fallback`] kernel.
    pub strict: bool,
    /// Kernel names forced from outside (`FERROCERIUM_KERNEL`), each for its own operation.
    pub forced: Vec<String>,
}

impl Request {
    /// Force the kernel of that name.
    pub fn kernel(name: impl Into<String>) -> Self {
        Request { kernel: Some(name.into()), ..Request::default() }
    }

    /// Whether the kernel of that name was asked for.
    pub(crate) fn names(&self, kernel: &str) -> bool {
        self.kernel.as_deref() == Some(kernel) || self.forced.iter().any(|name| name == kernel)
    }

    /// The name that is forced for this operation, and by whom.
    fn forced_name<'r>(&'r self, op: &Op, state: &State) -> Option<(&'r str, &'static str)> {
        let kind_of =
            |name: &str| state.kernels.iter().find(|k| k.info().name == name).map(|k| k.info().op);
        if let Some(name) = &self.kernel {
            let by = match kind_of(name) {
                Some(kind) if kind == op.kind() => "forced by the caller",
                Some(_) => "forced by the caller, but is a kernel of another operation",
                None => "forced by the caller, but no such kernel exists",
            };
            return Some((name, by));
        }
        for name in &self.forced {
            match kind_of(name) {
                Some(kind) if kind == op.kind() => {
                    return Some((name, "forced by FERROCERIUM_KERNEL"));
                }
                Some(_) => {}
                // Most likely a slip, which must not go unnoticed. Names of other devices'
                // kernels are none of this registry's business.
                None if state.kernels.iter().any(|k| same_backend(&k.info().name, name)) => {
                    return Some((name, "forced by FERROCERIUM_KERNEL, but no such kernel exists"));
                }
                None => {}
            }
        }
        None
    }
}

fn same_backend(a: &str, b: &str) -> bool {
    a.split('.').next() == b.split('.').next()
}

/// How one kernel fares.
fn judge(kernel: &dyn Kernel, op: &Op, caps: &Caps, request: &Request) -> Result<Cost, String> {
    let info = kernel.info();
    if info.numerics > request.numerics {
        return Err(format!(
            "its numerics are `{}`; the caller accepts `{}`",
            info.numerics, request.numerics
        ));
    }
    if !(request.allow_variable_results || info.deterministic && info.batch_invariant) {
        return Err("its results can vary with the batch or the run; the caller did not allow it"
            .to_owned());
    }
    if request.strict && info.tier == Tier::Fallback {
        return Err("it is a fallback, and strict mode refuses those".to_owned());
    }
    kernel.supports(op, caps).map_err(|u| u.0)?;
    Ok(kernel.cost(op, caps))
}

impl KernelRegistry {
    /// Every kernel of the operation and how it fares; the chosen one, and why it was preferred.
    ///
    /// Depends on nothing but its arguments and the registry's content.
    pub fn explain(&self, op: &Op, caps: &Caps, request: &Request) -> Explanation {
        let state = self.state();
        let chosen = state.choose(op, caps, request).map(|k| k.info().name.clone());
        let forced = request.forced_name(op, &state);
        let tuned = state.tuning.fastest(op, caps);
        let candidates = state.judged(op, caps, request).map(|(kernel, verdict)| {
            let info = kernel.info().clone();
            let variant = verdict.as_ref().ok().and_then(|_| kernel.variant(op, caps));
            let verdict = match (verdict, forced) {
                (Err(why), _) => Verdict::Rejected(why),
                (Ok(cost), _) if chosen.as_ref() != Some(&info.name) => Verdict::Eligible(cost),
                (Ok(_), Some((_, by))) => Verdict::Chosen(by.to_owned()),
                (Ok(_), None) if tuned == Some(&info.name) => {
                    Verdict::Chosen("fastest when tuned".to_owned())
                }
                (Ok(cost), None) => Verdict::Chosen(format!("least estimated time, {cost}")),
            };
            Candidate { info, verdict, variant }
        });
        let candidates = candidates.collect();
        Explanation { op: op.to_string(), caps: caps.to_string(), candidates }
    }

    /// Picks the kernel for an operation, or `None` where none can run: [`Self::explain`] says
    /// why.
    pub fn select(&self, op: &Op, caps: &Caps, request: &Request) -> Option<Arc<dyn Kernel>> {
        self.state().choose(op, caps, request).cloned()
    }
}

impl State {
    fn judged<'s>(
        &'s self,
        op: &'s Op,
        caps: &'s Caps,
        request: &'s Request,
    ) -> impl Iterator<Item = (&'s Arc<dyn Kernel>, Result<Cost, String>)> {
        let forced = request.forced_name(op, self);
        self.kernels.iter().filter(|k| k.info().op == op.kind()).map(move |kernel| {
            let name = &kernel.info().name;
            let verdict = match forced {
                _ if self.disabled.contains(name) => Err("disabled".to_owned()),
                Some((other, by)) if other != name => Err(format!("`{other}` is {by}")),
                _ => judge(kernel.as_ref(), op, caps, request),
            };
            (kernel, verdict)
        })
    }

    fn choose<'s>(
        &'s self,
        op: &'s Op,
        caps: &'s Caps,
        request: &'s Request,
    ) -> Option<&'s Arc<dyn Kernel>> {
        let eligible = self.judged(op, caps, request).filter_map(|(k, v)| Some((k, v.ok()?)));
        let tuned = self.tuning.fastest(op, caps);
        let rank = |kernel: &Arc<dyn Kernel>, cost: &Cost| {
            (tuned != Some(&kernel.info().name), cost.seconds)
        };
        // `min_by` keeps the first of equals, which is the order of registration.
        let best = eligible.min_by(|(a, cost_a), (b, cost_b)| {
            let ((late_a, a), (late_b, b)) = (rank(a, cost_a), rank(b, cost_b));
            late_a.cmp(&late_b).then(a.total_cmp(&b))
        });
        best.map(|(kernel, _)| kernel)
    }
}
