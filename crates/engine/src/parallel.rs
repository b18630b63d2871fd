//! Independent pieces of work, done by several threads.

use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

/// Maximum number of threads: memory bandwidth is exhausted earlier.
const MAX_THREADS: usize = 16;

/// The useful number of threads. It is computed once, because it reads several files, which is a
/// quarter of the cost of opening a small store.
pub(crate) fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS))
}

/// Runs the pieces 0 to `count`, in any order, on several threads including the caller's, and
/// returns their results in order. The caller's thread calls `watch` after each of its pieces.
/// `watch` may abort the work: then the result is `None`.
pub(crate) fn in_pieces<T: Send>(
    count: usize,
    work: impl Fn(usize) -> T + Sync,
    mut watch: impl FnMut() -> ControlFlow<()>,
) -> Option<Vec<T>> {
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(count));
    let step = || {
        let piece = next.fetch_add(1, Ordering::Relaxed);
        if piece >= count || is_over.load(Ordering::Relaxed) {
            return false;
        }
        let result = work(piece);
        done.lock().push((piece, result));
        true
    };
    thread::scope(|scope| {
        for _ in 1..threads().min(count) {
            // If a thread cannot start, the work only takes longer.
            let _started = thread::Builder::new().name("hightower-open".into()).spawn_scoped(scope, || while step() {});
        }
        // If `watch` panics, the other threads stop.
        let over = SetOnDrop(&is_over);
        while step() {
            if watch().is_break() {
                is_over.store(true, Ordering::Relaxed);
            }
        }
        std::mem::forget(over);
    });
    if is_over.into_inner() {
        return None;
    }
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(piece, _)| *piece);
    Some(done.into_iter().map(|(_, result)| result).collect())
}

/// Sets a flag when dropped, unless it is forgotten. `thread::panicking` is not usable here,
/// because a destructor may open a store.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::in_pieces;

    #[test]
    fn results_are_in_the_order_of_the_pieces() {
        for count in [0, 1, 2, 1000] {
            let mut calls = 0;
            let squares = in_pieces(
                count,
                |piece| piece * piece,
                || {
                    calls += 1;
                    ControlFlow::Continue(())
                },
            );
            assert_eq!(squares.unwrap(), (0..count).map(|piece| piece * piece).collect::<Vec<_>>());
            assert!(calls <= count);
        }
    }

    #[test]
    fn the_callback_can_abort_the_work() {
        let ended = in_pieces(100_000, |_| std::thread::yield_now(), || ControlFlow::Break(()));
        assert!(ended.is_none());
    }
}
