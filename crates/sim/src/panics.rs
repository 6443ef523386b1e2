//! Panics of a simulation, wherever they are caught: the async runtime and the program catch
//! panics of their tasks, and each of them is a fault.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    /// The first panic on this thread, while a simulation runs.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Records the panics of this thread until [`stop`].
pub(crate) fn start() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_recorded = PANIC.with_borrow_mut(|panic| match panic {
                Some(first) => {
                    first.get_or_insert_with(|| info.to_string());
                    true
                }
                None => false,
            });
            if !is_recorded {
                before(info);
            }
        }));
    });
    PANIC.set(Some(None));
}

/// Returns the first panic so far.
pub(crate) fn first() -> Option<String> {
    PANIC.with_borrow(|panic| panic.clone().flatten())
}

/// Ends the recording and returns the first panic.
pub(crate) fn stop() -> Option<String> {
    PANIC.take().flatten()
}
