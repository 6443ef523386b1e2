//! The tasks of an instance: started by name and ended together. A panic in a
//! task stops the instance.

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
    /// Creates an empty set of tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the token that is cancelled when all tasks must end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task, which must end when the stop token is cancelled. A panic
    /// in it stops the instance, since nobody does its work any more.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, panicked) = (self.stop.clone(), self.panicked.clone());
        self.tracker.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let text = format!("task {name:?} panicked: {}", panic_text(&*panic));
                tracing::error!("{text}; the instance stops");
                panicked.lock().get_or_insert(text);
                stop.cancel();
            }
        });
    }

    /// Starts a task that is dropped when everything must end.
    pub fn spawn_until_stop(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop_token();
        self.spawn(name, async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Stops the instance because a part outside of these tasks has ended.
    pub fn fail(&self, reason: String) {
        tracing::error!("{reason}; the instance stops");
        self.panicked.lock().get_or_insert(reason);
        self.stop.cancel();
    }

    /// Returns the reason if the instance stopped because of a failure.
    pub fn failure(&self) -> Option<String> {
        self.panicked.lock().clone()
    }

    /// Stops all tasks and waits for them, at most for `within`. Reports whether
    /// all have ended.
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
