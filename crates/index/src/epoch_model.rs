//! The epoch collector as loom sees it: a deferred action runs when every guard that was alive when it was deferred has ended, at the earliest.
//!
//! Crossbeam's collector has its own loom tests. Here its promise is kept in the plainest way, so that the models of this crate stay small.

use loom::lazy_static;
use loom::sync::Mutex;

type Action = Box<dyn FnOnce()>;

#[derive(Default)]
struct State {
    next_guard: usize,
    alive: Vec<usize>,
    waiting: Vec<(Vec<usize>, Action)>,
}

// SAFETY: an action may run on any thread, as whoever defers it promises.
unsafe impl Send for State {}

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
            .for_each(|(_, action)| action());
    }

    pub(super) unsafe fn defer_unchecked<F: FnOnce()>(&self, action: F) {
        let action: Box<dyn FnOnce() + '_> = Box::new(action);
        // SAFETY: the caller promises that the action may run at any later time.
        let action: Action = unsafe { core::mem::transmute(action) };
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
