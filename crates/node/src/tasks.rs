//! The tasks of an instance: started by name, ended together, and none dies in
//! silence.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one instance. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    panicked: Arc<Mutex<Option<String>>>,
}

impl Tasks {
    /// Nothing runs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends when everything is to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It ends by the stop token; a panic in it stops the
    /// instance, since what it did is not done any more.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, panicked) = (self.stop.clone(), self.panicked.clone());
        self.tracker.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let text = format!("the task {name:?} panicked: {}", panic_text(&*panic));
                tracing::error!("{text}; the instance stops");
                panicked.lock().get_or_insert(text);
                stop.cancel();
            }
        });
    }

    /// Notes that something outside of these tasks has died, and stops.
    pub fn fail(&self, reason: String) {
        tracing::error!("{reason}; the instance stops");
        self.panicked.lock().get_or_insert(reason);
        self.stop.cancel();
    }

    /// Why the instance stopped by itself, where it did.
    pub fn failure(&self) -> Option<String> {
        self.panicked.lock().clone()
    }

    /// Asks all to end and waits, at most so long; tells whether all did.
    pub async fn end(&self, within: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stops_everything_and_says_so() {
        let tasks = Tasks::new();
        let stop = tasks.stop_token();
        tasks.spawn("waits", async move { stop.cancelled().await });
        tasks.spawn("breaks", async { panic!("on purpose") });
        tasks.stop_token().cancelled().await;
        assert!(tasks.end(Duration::from_secs(10)).await);
        let failure = tasks.failure().unwrap();
        assert!(failure.contains("breaks") && failure.contains("on purpose"), "{failure}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_not_waited_for() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert!(!tasks.end(Duration::from_secs(1)).await);
        assert_eq!(tasks.failure(), None);
    }
}
