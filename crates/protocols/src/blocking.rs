//! Runs work that waits for a disk on a thread that may block.

/// Error of work that panicked. The panic itself was logged by the panic hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an internal task panicked; the log has the panic message")]
pub struct Panicked;

/// Runs `work` on a thread that may block.
///
/// # Errors
///
/// Returns the error of `work`, or [`Panicked`] if `work` panicked.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)?
}
