//! Servers that run while the configuration wants them: the manifest server
//! and the trigger.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use node::Problems;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::{self, ListenError};

/// A port that was taken is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);

/// A server that can be switched on and off.
#[derive(Debug)]
pub(crate) struct Switched {
    what: &'static str,
    addresses: Vec<SocketAddr>,
    router: Router,
    /// Sockets that were opened before the start was called good.
    open: Vec<TcpListener>,
    problems: Problems,
}

impl Switched {
    /// A server at `addresses`; where it is wanted from the start, a port
    /// that is taken is an error now.
    ///
    /// # Errors
    ///
    /// [`ListenError`], which names the address.
    pub(crate) async fn new(
        what: &'static str,
        addresses: Vec<SocketAddr>,
        router: Router,
        is_wanted: bool,
        problems: Problems,
    ) -> Result<Self, ListenError> {
        let mut switched = Self { what, addresses, router, open: Vec::new(), problems };
        if is_wanted {
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

    /// Serves while `wanted`, until `stop`.
    pub(crate) async fn run(mut self, mut wanted: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let is_wanted = *wanted.borrow_and_update();
            let mut retry = false;
            if is_wanted && self.open.is_empty() {
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
            let serving = futures::future::join_all(
                std::mem::take(&mut self.open)
                    .into_iter()
                    .map(|listener| http::serve(listener, self.router.clone(), off.clone())),
            );
            if !retry {
                self.problems.set(self.what, None);
            }
            let (is_last, ()) = tokio::join!(
                async {
                    let is_last = tokio::select! {
                        () = stop.cancelled() => true,
                        changed = wanted.wait_for(|now| *now != is_wanted) => changed.is_err(),
                        () = tokio::time::sleep(RETRY), if retry => false,
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
