//! Work that waits for a disk, on a thread that may.

/// The work panicked; the panic was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

/// Whether the same call can succeed later without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot: something else has to change first.
    Permanent,
    /// It may.
    Temporary,
}

impl From<store::Retry> for Retry {
    fn from(retry: store::Retry) -> Self {
        match retry {
            store::Retry::Permanent => Self::Permanent,
            store::Retry::Temporary => Self::Temporary,
        }
    }
}

impl From<net::Retry> for Retry {
    fn from(retry: net::Retry) -> Self {
        match retry {
            net::Retry::Permanent => Self::Permanent,
            net::Retry::Temporary => Self::Temporary,
        }
    }
}

impl From<manifest::Retry> for Retry {
    fn from(retry: manifest::Retry) -> Self {
        match retry {
            manifest::Retry::Permanent => Self::Permanent,
            manifest::Retry::Temporary => Self::Temporary,
        }
    }
}

/// Does `work` on a thread that may block.
///
/// # Errors
///
/// Those of the work; [`Panicked`] where it did.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)?
}
