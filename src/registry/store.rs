//! The kernels of a device.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::kernel::{Kernel, KernelInfo, Tier};
use super::tuning::Tuning;
use crate::error::{Error, Result};
use crate::op::OpKind;

/// Kernels by name, in order of registration.
///
/// Shared by the clones of a device; changes take effect for operations that start afterwards.
#[derive(Default)]
pub struct KernelRegistry {
    state: RwLock<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) kernels: Vec<Arc<dyn Kernel>>,
    pub(super) disabled: BTreeSet<String>,
    pub(super) tuning: Tuning,
}

impl KernelRegistry {
    /// A registry without kernels.
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry of these kernels; of two with the same name, the later one counts.
    pub fn from_kernels(kernels: impl IntoIterator<Item = Arc<dyn Kernel>>) -> Self {
        let mut state = State::default();
        for kernel in kernels {
            state.kernels.retain(|k| k.info().name != kernel.info().name);
            state.kernels.push(kernel);
        }
        KernelRegistry { state: RwLock::new(state) }
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        // Each change is a single step, so a panic elsewhere leaves the state whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a kernel.
    ///
    /// # Errors
    /// [`Error::Value`] when its name is taken; [`KernelRegistry::replace`] is the call for that.
    pub fn register(&self, kernel: impl Kernel) -> Result<()> {
        let mut state = self.state_mut();
        let name = &kernel.info().name;
        if state.contains(name) {
            return Err(Error::value(
                "register",
                "name",
                format!("a kernel `{name}` is there already; replace it, or choose another name"),
            ));
        }
        state.kernels.push(Arc::new(kernel));
        Ok(())
    }

    /// Puts a kernel in the place of the one with its name.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none of that name and operation.
    pub fn replace(&self, kernel: impl Kernel) -> Result<()> {
        let mut state = self.state_mut();
        let (name, op) = (kernel.info().name.clone(), kernel.info().op);
        match state.kernels.iter().position(|k| k.info().name == name) {
            Some(place) if state.kernels[place].info().op == op => {
                state.kernels[place] = Arc::new(kernel);
                Ok(())
            }
            Some(_) => Err(Error::value(
                "replace",
                "name",
                format!("`{name}` is a kernel of another operation than {}", op.name()),
            )),
            None => Err(unknown("replace", &name, &state)),
        }
    }

    /// Keeps a kernel from being chosen, also by force, until it is enabled again. One that
    /// replaces it is disabled as well.
    ///
    /// # Errors
    /// [`Error::Value`] when there is none of that name.
    pub fn disable(&self, name: &str) -> Result<()> {
        let mut state = self.state_mut();
        if !state.contains(name) {
            return Err(unknown("disable", name, &state));
        }
        state.disabled.insert(name.to_owned());
        Ok(())
    }

    /// Ends the effect of [`KernelRegistry::disable`].
    ///
    /// # Errors
    /// [`Error::Value`] when there is none of that name.
    pub fn enable(&self, name: &str) -> Result<()> {
        let mut state = self.state_mut();
        if !state.contains(name) {
            return Err(unknown("enable", name, &state));
        }
        state.disabled.remove(name);
        Ok(())
    }

    /// What was measured to be fastest.
    pub fn tuning(&self) -> Tuning {
        self.state().tuning.clone()
    }

    /// Puts other measurements in the place of those there are.
    pub fn set_tuning(&self, tuning: Tuning) {
        self.update_tuning(|t| *t = tuning);
    }

    /// Changes the measurements.
    pub(crate) fn update_tuning(&self, change: impl FnOnce(&mut Tuning)) {
        change(&mut self.state_mut().tuning);
    }

    /// What every kernel says of itself, in order of registration.
    pub fn list(&self) -> Vec<KernelInfo> {
        self.state().kernels.iter().map(|k| k.info().clone()).collect()
    }

    /// The kernels of one operation, in order of registration.
    pub fn kernels(&self, op: OpKind) -> Vec<Arc<dyn Kernel>> {
        self.state().kernels.iter().filter(|k| k.info().op == op).cloned().collect()
    }

    /// Whether some kernel is meant to be chosen, rather than there so that everything runs.
    pub(crate) fn has_fast_kernels(&self) -> bool {
        self.state().kernels.iter().any(|k| k.info().tier == Tier::Fast)
    }

    /// Whether there is a kernel of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.state().contains(name)
    }
}

impl State {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.kernels.iter().any(|k| k.info().name == name)
    }
}

fn unknown(op: &'static str, name: &str, state: &State) -> Error {
    let names: Vec<_> = state.kernels.iter().map(|k| k.info().name.as_str()).collect();
    Error::value(op, "name", format!("no kernel `{name}`; there are {}", names.join(", ")))
}

impl std::fmt::Debug for KernelRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.state().kernels.iter().map(|k| &k.info().name)).finish()
    }
}
