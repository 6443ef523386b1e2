//! The HTTP interfaces of an instance.
//!
//! * The API port, on loopback: the node API (`rest`), the product's own API
//!   (`v1`) and the web UI (`web`).
//! * The manifest server of the source side, and the trigger of the backup
//!   server side: ports that other computers reach.
//!
//! [`Server::start`] starts an instance together with them.

mod body_stream;
mod caller;
mod disposition;
mod guard;
mod http;
mod listeners;
mod places;
mod rest;
mod session;
mod state;
mod text_error;
mod v1;
mod web;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use node::{Instance, InstanceOptions, Running, Services, listen_addresses};
use protocols::TriggerServer;
use tokio::net::TcpListener;

pub use self::http::ListenError;
use self::listeners::Switched;
use self::places::{Guest, Places};
use self::state::{ApiState, SignIn};

/// Why an instance with its HTTP interfaces cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An instance runs on the data directory already.
    #[error(
        "an instance is already running on {}: process {}, API {}; stop that process first, or \
         choose another instance with --home",
        data_dir.display(), running.pid, running.api
    )]
    AlreadyRunning {
        /// The data directory.
        data_dir: PathBuf,
        /// The running instance.
        running: Running,
    },
    /// A port cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The instance cannot start.
    #[error(transparent)]
    Instance(#[from] node::StartError),
}

/// A running instance with its HTTP interfaces.
pub struct Server {
    instance: Instance,
    api: SocketAddr,
}

impl Server {
    /// Starts an instance. Everything listens, and commands find the instance,
    /// when this returns.
    ///
    /// The API port is bound first, so that a port that is in use is reported
    /// before anything starts. It is served last: no request is answered before
    /// `running.json` is published.
    ///
    /// # Errors
    ///
    /// Returns [`StartError`] if an instance runs already on the data directory, a
    /// port is in use, or a part of the instance cannot start. Everything that was
    /// started has been stopped then.
    pub async fn start(options: InstanceOptions) -> Result<Self, StartError> {
        if let Some(running) = Running::find(&options.data_dir) {
            return Err(StartError::AlreadyRunning { data_dir: options.data_dir, running });
        }
        let port = options.settings.get().node.api_port;
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let what = "the API, [node] api_port";
        let listener = http::bind(address, what).await?;
        let api = listener.local_addr().map_err(|source| ListenError { address, what, source })?;
        let mut instance = Instance::start(options).await?;
        match start_listening(&mut instance, listener, api).await {
            Ok(()) => Ok(Self { instance, api }),
            Err(error) => {
                // The first error matters more than one of stopping.
                let _ = instance.shutdown().await;
                Err(error)
            }
        }
    }

    /// Returns the address of the API.
    pub fn api_addr(&self) -> SocketAddr {
        self.api
    }

    /// Returns the instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Ends the instance; see [`Instance::shutdown`].
    ///
    /// # Errors
    ///
    /// Returns the reason if a part had ended unexpectedly before.
    pub async fn shutdown(self) -> Result<(), String> {
        self.instance.shutdown().await
    }
}

async fn start_listening(
    instance: &mut Instance,
    listener: TcpListener,
    api: SocketAddr,
) -> Result<(), StartError> {
    serve_manifests(instance.services()).await?;
    serve_trigger(instance.services()).await?;
    instance.start_tasks();
    instance.publish(api)?;
    let services = instance.services();
    let places = Places::new(Arc::new(|_| Guest::Local));
    let serving = http::serve(listener, router(services), places, services.stop_token());
    services.tasks.spawn("api", serving);
    Ok(())
}

/// Judges an address of which `is_known` says whether the configuration names it.
fn guest(address: IpAddr, is_known: impl Fn(IpAddr) -> bool) -> Guest {
    if address.is_loopback() {
        Guest::Local
    } else if is_known(address) {
        Guest::Known
    } else {
        Guest::Stranger
    }
}

/// Serves the manifests of the source side, while the configuration wants it:
/// by default as soon as there is a folder.
async fn serve_manifests(services: &Services) -> Result<(), ListenError> {
    let Services { settings, tasks, .. } = services;
    let net = services.net.clone();
    let server = manifest::ManifestServer {
        registry: services.registry.clone(),
        addresses: Arc::new(move || net.listen_addrs()),
        confirmed: services.receipts.confirmed(),
        whitelist: settings.part(tasks, |config| config.manifest_server.whitelisted_ips.clone()),
        clients: services.manifest_clients.clone(),
        stop: services.stop_token(),
    };
    let judge = server.clone();
    let config = settings.get();
    let is_wanted =
        |config: &config::Config| config.manifest_server.enabled && !config.sync.folders.is_empty();
    let server = Switched::new(
        "the manifest server, [manifest_server] port",
        listen_addresses(&config, config.manifest_server.port),
        for_this_user(server.clone().router(), server),
        Arc::new(move |address| guest(address, |address| judge.is_allowed(address))),
        is_wanted(&config),
        services.problems.clone(),
    )
    .await?;
    let wanted = settings.part(tasks, is_wanted);
    tasks.spawn("manifest-server", server.run(wanted, services.stop_token()));
    Ok(())
}

/// Adds the rules for requests over loopback to the router of a manifest server.
fn for_this_user(router: Router, server: manifest::ManifestServer) -> Router {
    let is_listed = guard::IsListed(Arc::new(move |address| server.is_listed(address)));
    router
        .layer(from_fn_with_state(is_listed, guard::own_loopback))
        .layer(from_fn(guard::loopback_name))
}

/// Serves the trigger of the backup server side, while that side is enabled.
async fn serve_trigger(services: &Services) -> Result<(), ListenError> {
    let Services { settings, tasks, .. } = services;
    let daemon = services.backup_daemon.clone();
    let trigger = TriggerServer::new(
        Arc::new(move || daemon.poll_now()),
        settings.part(tasks, |config| config.backup_server.source_peers.clone()),
    );
    let config = settings.get();
    let server = Switched::new(
        "the trigger, [backup_server] trigger_port",
        listen_addresses(&config, config.backup_server.trigger_port),
        trigger.clone().router().layer(from_fn(guard::loopback_name)),
        Arc::new(move |address| guest(address, |address| trigger.is_known(address))),
        config.backup_server.enabled,
        services.problems.clone(),
    )
    .await?;
    let wanted = settings.part(tasks, |config| config.backup_server.enabled);
    tasks.spawn("trigger", server.run(wanted, services.stop_token()));
    Ok(())
}

/// Returns everything that is served on the API port.
fn router(services: &Services) -> Router {
    let sign_in = SignIn::open(services);
    let state = ApiState { services: services.clone(), sign_in: sign_in.clone() };
    let router =
        rest::router(services.clone()).merge(v1::router(state)).merge(web::router(sign_in));
    guard::guarded(router)
}
