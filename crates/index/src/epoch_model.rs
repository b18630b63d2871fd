//! The epoch collector as loom sees it: a deferred action runs when every guard that was alive when it was deferred has ended, at the earliest.
//!
//! The collector has models of its own. Here its promise is kept in the plainest way, so that the models of what uses it stay small.

use loom::lazy_static;
use loom::sync::Mutex;

use crate::collector::Action;

#[derive(Default)]
struct State {
    next_guard: usize,
    alive: Vec<usize>,
    waiting: Vec<(Vec<usize>, Action)>,
}

lazy_static! {
    static ref STATE: Mutex<State> = Mutex::new(State::default());
}

fn with_state<R>(action: impl FnOnce(&mut State) -> R) -> R {
    match STATE.lock() {
        Ok(mut state) => action(&mut state),
        Err(poisoned) => action(&mut poisoned.into_inner()),
    }
}

pub(super) struct Guard {
    number: usize,
}

pub(super) fn pin() -> Guard {
    with_state(|state| {
        state.next_guard += 1;
        let number = state.next_guard;
        state.alive.push(number);
        Guard { number }
    })
}

impl Guard {
    pub(super) fn repin(&mut self) {
        *self = pin();
    }

    pub(super) fn flush(&self) {
        with_state(|state| state.waiting.extract_if(.., |(seen_by, _)| seen_by.is_empty()).collect::<Vec<_>>())
            .into_iter()
            // SAFETY: whoever deferred it promised that it may run once the guards of its time have ended; each runs once.
            .for_each(|(_, action)| unsafe { (action.run)(action.data) });
    }

    pub(super) fn defer(&self, action: Action) {
        // The guard that defers does not use what it defers.
        let others = |state: &State| state.alive.iter().copied().filter(|each| *each != self.number).collect();
        with_state(|state| state.waiting.push((others(state), action)));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        with_state(|state| {
            state.alive.retain(|each| *each != self.number);
            state.waiting.iter_mut().for_each(|(seen_by, _)| seen_by.retain(|each| *each != self.number));
        });
        self.flush();
    }
}
