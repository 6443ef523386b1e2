//! Work that waits for a disk, on a thread that may.

/// The work panicked; the panic was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

/// Does `work` on a thread that may block.
///
/// # Errors
///
/// Those of the work; [`Panicked`] where it did.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)?
}
