//! Servers that run while the configuration enables them: the manifest server
//! and the trigger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use node::Problems;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::{self, ListenError};
use crate::places::{Judge, Places};

/// Pause before another attempt to bind a port that was in use.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// A server that can be switched on and off.
#[derive(Debug)]
pub(crate) struct Switched {
    what: &'static str,
    addresses: Vec<SocketAddr>,
    router: Router,
    places: Arc<Places>,
    /// Sockets that are bound and not served yet.
    open: Vec<TcpListener>,
    problems: Problems,
}

impl Switched {
    /// Creates a server at `addresses`, and binds them if it is enabled.
    ///
    /// # Errors
    ///
    /// Returns [`ListenError`] if an address cannot be bound.
    pub(crate) async fn new(
        what: &'static str,
        addresses: Vec<SocketAddr>,
        router: Router,
        judge: Judge,
        is_enabled: bool,
        problems: Problems,
    ) -> Result<Self, ListenError> {
        let places = Places::new(judge);
        let mut switched = Self { what, addresses, router, places, open: Vec::new(), problems };
        if is_enabled {
            switched.open = switched.bind().await?;
        }
        Ok(switched)
    }

    async fn bind(&self) -> Result<Vec<TcpListener>, ListenError> {
        let mut open = Vec::new();
        for address in &self.addresses {
            open.push(http::bind(*address, self.what).await?);
        }
        Ok(open)
    }

    /// Serves while `enabled`, until `stop`.
    pub(crate) async fn run(mut self, mut enabled: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let is_enabled = *enabled.borrow_and_update();
            let mut retry = false;
            if is_enabled && self.open.is_empty() {
                match self.bind().await {
                    Ok(open) => self.open = open,
                    Err(error) => {
                        tracing::error!("{error}");
                        self.problems.set(self.what, Some(error.to_string()));
                        retry = true;
                    }
                }
            }
            let off = stop.child_token();
            let serve = |listener| {
                http::serve(listener, self.router.clone(), self.places.clone(), off.clone())
            };
            let listeners = std::mem::take(&mut self.open);
            let serving = futures::future::join_all(listeners.into_iter().map(serve));
            if !retry {
                self.problems.set(self.what, None);
            }
            let (is_last, ()) = tokio::join!(
                async {
                    let is_last = tokio::select! {
                        () = stop.cancelled() => true,
                        changed = enabled.wait_for(|now| *now != is_enabled) => changed.is_err(),
                        () = tokio::time::sleep(RETRY_PAUSE), if retry => false,
                    };
                    off.cancel();
                    is_last
                },
                async {
                    serving.await;
                }
            );
            if is_last {
                return;
            }
        }
    }
}
