//! Runs work that waits for a disk on a thread that may block.

/// Error of work that panicked, as [`blocking`] returns it. The panic hook has logged the panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an internal task panicked; the log has the panic message")]
pub struct Panicked;

/// Runs `work` on a thread of the async runtime that may block, and waits for the result without
/// blocking the caller's thread. For disk I/O and long computations in async code.
///
/// # Errors
///
/// Returns the error of `work`, or [`Panicked`] if `work` panicked.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    net::spawn_blocking(work).await.map_err(|_| Panicked)?
}
