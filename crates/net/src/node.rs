//! [`Net`]: starts and stops the node.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use libp2p::identity::Keypair;
use libp2p::{StreamProtocol, Swarm};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::behaviour::Behaviour;
use crate::blocks::{self, BlockProvider, Server};
use crate::config::NetConfig;
use crate::error::NetError;
use crate::event_loop::EventLoop;
use crate::handle::{Handle, Shared};
use crate::limits::{
    COMMAND_QUEUE, EVENT_QUEUE, IDLE_CONNECTION_TIMEOUT, MAX_BLOCKING_THREADS,
    MAX_NEGOTIATING_INBOUND,
};
use crate::streams::{self, Meter, NetStream};
use crate::{listen, transport};

/// Queues of inbound streams by protocol.
type Accepts = HashMap<StreamProtocol, mpsc::Receiver<NetStream>>;

/// Running node. Owns the network thread.
///
/// Dropping it stops the thread without waiting for its end; [`Net::shutdown`]
/// waits.
pub struct Net {
    handle: Handle,
    accepts: Mutex<Accepts>,
    stop: CancellationToken,
    exit: watch::Receiver<Option<Exit>>,
}

/// End of the network thread.
#[derive(Clone, Debug)]
enum Exit {
    Stopped,
    Panicked(String),
}

/// Result that the network thread sends when it listens.
type Started = Result<(Handle, Accepts), NetError>;

impl Net {
    /// Starts the node. Returns when it listens.
    ///
    /// `provider` is the source of the blocks that the node serves to peers with
    /// the purpose [`Purposes::BLOCKS`](crate::Purposes::BLOCKS) in `access`.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::Listen`] if a port is in use or an address does not
    /// exist, [`NetError::NoListenAddress`] if there is no address to listen on,
    /// [`NetError::ListenTimeout`], [`NetError::Setup`] if a transport cannot be set
    /// up, and [`NetError::Panicked`].
    pub async fn start(
        config: NetConfig,
        keypair: Keypair,
        provider: Arc<dyn BlockProvider>,
        access: Access,
    ) -> Result<Self, NetError> {
        let stop = CancellationToken::new();
        // If the caller drops this future, the half-started thread stops.
        let guard = stop.clone().drop_guard();
        let (started, starting) = oneshot::channel();
        let (exited, exit) = watch::channel(None);
        let token = stop.clone();
        std::thread::Builder::new()
            .name("archivist-net".into())
            .spawn(move || {
                let run = || run_thread(config, keypair, provider, access, token, started);
                let exit = match std::panic::catch_unwind(AssertUnwindSafe(run)) {
                    Ok(exit) => exit,
                    Err(panic) => Exit::Panicked(panic_text(&*panic)),
                };
                if let Exit::Panicked(text) = &exit {
                    tracing::error!(%text, "the network thread panicked");
                }
                exited.send_replace(Some(exit));
            })
            .map_err(|error| NetError::Setup { what: "network thread", source: error.into() })?;
        let (handle, accepts) = match starting.await {
            Ok(started) => started?,
            Err(_) => return Err(wait(&mut exit.clone()).await.err().unwrap_or(NetError::Stopped)),
        };
        guard.disarm();
        Ok(Self { handle, accepts: Mutex::new(accepts), stop, exit })
    }

    /// Returns a handle to the node.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns the queue of inbound streams of one of [`NetConfig::protocols`] to
    /// its first caller, and `None` to later ones.
    pub fn accept(&self, protocol: &StreamProtocol) -> Option<mpsc::Receiver<NetStream>> {
        self.accepts.lock().remove(protocol)
    }

    /// Waits until the network thread has ended.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::Panicked`] if it panicked. The owner must then not
    /// continue as if it had a network.
    pub async fn stopped(&self) -> Result<(), NetError> {
        wait(&mut self.exit.clone()).await
    }

    /// Closes the connections and stops the network thread.
    ///
    /// # Errors
    ///
    /// Returns [`NetError::StopTimeout`] if this takes longer than `deadline`, and
    /// [`NetError::Panicked`] if the thread panicked.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), NetError> {
        self.stop.cancel();
        let stopped = tokio::time::timeout(deadline, self.stopped()).await;
        stopped.unwrap_or(Err(NetError::StopTimeout(deadline)))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn wait(exit: &mut watch::Receiver<Option<Exit>>) -> Result<(), NetError> {
    match exit.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Exit::Panicked(text))) => Err(NetError::Panicked(text.clone())),
        _ => Ok(()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}

/// Makes the allocator keep freed memory for the next frame.
///
/// glibc returns the top of the heap to the system when 128 KiB of it are free,
/// which happens after nearly every frame of 64 KiB. The page faults that follow
/// cost a third of all time (measured: `docs/decisions/0002`). Both thresholds of
/// glibc follow the largest mapped allocation that was ever freed, so freeing one
/// of 8 MiB raises them permanently to 8 and 16 MiB. The allocation is not touched
/// and uses no memory. Other allocators are not affected.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(8 << 20)));
}

/// Runs the network thread from its start to its end.
fn run_thread(
    config: NetConfig,
    keypair: Keypair,
    provider: Arc<dyn BlockProvider>,
    access: Access,
    stop: CancellationToken,
    started: oneshot::Sender<Started>,
) -> Exit {
    keep_freed_memory();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("archivist-net-blocking")
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = NetError::Setup { what: "network thread", source: error.into() };
            let _ = started.send(Err(error));
            return Exit::Stopped;
        }
    };
    // A task that panics leaves the swarm in an unknown state. It ends the thread,
    // like a panic of the thread itself.
    let (panicked, mut panics) = mpsc::channel(1);
    let exit = runtime.block_on(async {
        let (event_loop, tasks) =
            match set_up(config, keypair, provider, access, stop, panicked).await {
                Ok((ready, event_loop, tasks)) => {
                    let _ = started.send(Ok(ready));
                    (event_loop, tasks)
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return Exit::Stopped;
                }
            };
        tokio::select! {
            () = event_loop.run() => Exit::Stopped,
            // The tasks end only by a panic, which the next branch reports.
            () = tasks => std::future::pending().await,
            Some(text) = panics.recv() => Exit::Panicked(text),
        }
    });
    // Does not wait for work on blocking threads.
    runtime.shutdown_background();
    exit
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wraps a task so that a panic in it is reported to `panicked`.
fn guarded(task: Task, panicked: mpsc::Sender<String>) -> Task {
    Box::pin(async move {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            // The channel is full if another panic was reported before.
            let _ = panicked.try_send(panic_text(&*panic));
        }
    })
}

async fn set_up(
    config: NetConfig,
    keypair: Keypair,
    provider: Arc<dyn BlockProvider>,
    access: Access,
    stop: CancellationToken,
    panicked: mpsc::Sender<String>,
) -> Result<((Handle, Accepts), EventLoop, Task), NetError> {
    let meter = Meter::default();
    meter.upload.set(config.upload_limit);
    meter.download.set(config.download_limit);
    let protocols = config.protocols.iter().cloned().chain([blocks::PROTOCOL]);
    let (streams, mut accepts) = streams::Behaviour::new(protocols, meter.clone(), access.clone());
    let peer = keypair.public().to_peer_id();
    let transport = transport::build(&keypair)?;
    let behaviour = Behaviour::new(&config, &keypair, streams)?;
    let executor = {
        let panicked = panicked.clone();
        move |task: Task| drop(tokio::spawn(guarded(task, panicked.clone())))
    };
    let swarm_config = libp2p::swarm::Config::with_executor(executor)
        .with_idle_connection_timeout(IDLE_CONNECTION_TIMEOUT)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_INBOUND);
    let swarm = Swarm::new(transport, behaviour, peer, swarm_config);

    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (events, _) = broadcast::channel(EVENT_QUEUE);
    let listening = Arc::new(watch::Sender::new(Vec::new()));
    let metrics = Arc::clone(&meter.metrics);
    let mut event_loop = EventLoop::new(
        swarm,
        command_queue,
        events.clone(),
        Arc::clone(&listening),
        access.clone(),
        metrics,
        stop,
    );
    listen::listen(&mut event_loop, &config).await?;
    event_loop.bootstrap(&config.bootstrap);

    let mut server = Server::new(provider, access, Arc::clone(&meter.metrics), events.clone());
    let inbound = accepts.remove(&blocks::PROTOCOL).expect("the protocol was registered above");
    let serve = guarded(Box::pin(async move { server.run(inbound).await }), panicked);
    let handle = Handle(Arc::new(Shared {
        keypair,
        peer,
        announce: config.announce,
        commands,
        events,
        listening,
        meter,
        runtime: runtime::Handle::current(),
    }));
    Ok(((handle, accepts), event_loop, serve))
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use types::Cid;

    use super::*;
    use crate::blocks::BlockAnswer;
    use crate::event_loop::Command;

    struct Nothing;

    impl BlockProvider for Nothing {
        fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
            vec![BlockAnswer::Missing; wanted.len()]
        }
    }

    async fn node() -> Net {
        let tcp = vec!["127.0.0.1:0".parse().unwrap()];
        let config = NetConfig { tcp, ..NetConfig::default() };
        let key = Keypair::generate_secp256k1();
        Net::start(config, key, Arc::new(Nothing), Access::new()).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_of_the_thread_reaches_its_owner() {
        let net = node().await;
        let handle = net.handle();
        handle.send(Command::Panic).await.unwrap();
        let error = net.stopped().await.unwrap_err();
        assert!(matches!(&error, NetError::Panicked(text) if text == "asked to"), "{error}");
        assert!(matches!(handle.peers().await, Err(NetError::Stopped)));
        let error = net.shutdown(Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, NetError::Panicked(_)), "{error}");
    }

    #[tokio::test]
    async fn a_panic_of_a_task_is_told() {
        let (panicked, mut panics) = mpsc::channel(1);
        let tasks = ["one", "two"].map(|text| {
            guarded(Box::pin(async move { std::panic::panic_any(text) }), panicked.clone())
        });
        futures::future::join_all(tasks).await;
        assert_eq!(panics.recv().await.as_deref(), Some("one"));
        guarded(Box::pin(async {}), panicked).await;
        assert_eq!(panics.recv().await, None);
    }

    #[tokio::test]
    async fn a_node_that_is_dropped_stops() {
        let net = node().await;
        let (handle, mut exit) = (net.handle(), net.exit.clone());
        drop(net);
        wait(&mut exit).await.unwrap();
        assert!(matches!(handle.peers().await, Err(NetError::Stopped)));
    }

    #[tokio::test]
    async fn tasks_end_with_the_node() {
        let net = node().await;
        let task = net.handle().spawn(std::future::pending::<()>());
        net.shutdown(Duration::from_secs(5)).await.unwrap();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
