//! The contract of the epoch collector for loom: a deferred action runs at the earliest when all
//! guards of the time of its deferral have ended.
//!
//! The collector has separate models. This is the simplest implementation of its contract, which
//! keeps the models of its users small.

use loom::lazy_static;
use loom::sync::Mutex;

use crate::collector::DeferredAction;

#[derive(Default)]
struct ModelState {
    next_guard: usize,
    alive: Vec<usize>,
    waiting: Vec<(Vec<usize>, DeferredAction)>,
}

lazy_static! {
    static ref STATE: Mutex<ModelState> = Mutex::new(ModelState::default());
}

fn with_state<R>(action: impl FnOnce(&mut ModelState) -> R) -> R {
    match STATE.lock() {
        Ok(mut state) => action(&mut state),
        Err(poisoned) => action(&mut poisoned.into_inner()),
    }
}

pub(super) struct ModelGuard {
    number: usize,
}

pub(super) fn pin() -> ModelGuard {
    with_state(|state| {
        state.next_guard += 1;
        let number = state.next_guard;
        state.alive.push(number);
        ModelGuard { number }
    })
}

impl ModelGuard {
    pub(super) fn repin(&mut self) {
        *self = pin();
    }

    /// The returned number rises with each guard.
    pub(super) fn flush(&self) -> u64 {
        with_state(|state| state.waiting.extract_if(.., |(seen_by, _)| seen_by.is_empty()).collect::<Vec<_>>())
            .into_iter()
            // SAFETY: the caller of `defer` promised that it may run once the guards of its time
            // have ended; each runs once.
            .for_each(|(_, action)| unsafe { (action.run)(action.data) });
        with_state(|state| state.next_guard as u64)
    }

    /// The model runs all actions in the calls that the models wait for.
    pub(super) fn is_running(&self) -> bool {
        false
    }

    pub(super) fn defer(&self, action: DeferredAction) {
        // The guard that defers does not use what it defers.
        let others = |state: &ModelState| state.alive.iter().copied().filter(|each| *each != self.number).collect();
        with_state(|state| state.waiting.push((others(state), action)));
    }
}

impl Drop for ModelGuard {
    fn drop(&mut self) {
        with_state(|state| {
            state.alive.retain(|each| *each != self.number);
            state.waiting.iter_mut().for_each(|(seen_by, _)| seen_by.retain(|each| *each != self.number));
        });
        let _number = self.flush();
    }
}
