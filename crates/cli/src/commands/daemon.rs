//! `archivist daemon`

use anyhow::{Context as _, Result, bail};
use node::{InstanceOptions, LogLevel, Settings};
use server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::context::Context;

/// Run this instance in the foreground until SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  archivist daemon")]
pub(crate) struct Daemon {
    /// Format of the log lines on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

impl Daemon {
    pub(crate) fn run(&self, context: &Context) -> Result<()> {
        let config = context.config()?;
        let log_level = start_logging(config.node.log_level.as_str(), self.log_format)?;
        raise_open_files();
        let options = InstanceOptions {
            settings: Settings::new(context.config_file(), config),
            data_dir: context.paths.data_dir().to_owned(),
            log_level,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("archivist")
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(run(options));
        // Tasks that are still blocked wait for the disk. Ending them here is as safe
        // as anywhere else.
        runtime.shutdown_background();
        result
    }
}

async fn run(options: InstanceOptions) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let server = tokio::select! {
        started = Server::start(options) => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let net = &server.instance().services().net;
    tracing::info!(
        peer_id = %net.peer_id(),
        api = %server.api_addr(),
        version = env!("CARGO_PKG_VERSION"),
        "archivist is running"
    );
    for address in net.listen_addrs() {
        tracing::info!(%address, "listening");
    }
    tokio::select! {
        () = server.instance().failed() => {}
        _ = interrupt.recv() => tracing::info!("stopping: SIGINT"),
        _ = terminate.recv() => tracing::info!("stopping: SIGTERM"),
    }
    match server.shutdown().await {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(reason) => bail!("{reason}"),
    }
}

/// Starts to log to standard error, in colour if it is a terminal.
fn start_logging(level: &str, format: LogFormat) -> Result<LogLevel> {
    let filter = node::filter(level).with_context(|| format!("{level:?} is not a log level"))?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(is_terminal).with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(node::RecentLog)
        .with(lines)
        .try_init()
        .context("cannot start logging")?;
    // Panics are logged too, with their location.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(LogLevel::of(handle))
}

/// Raises the limit of open files to the allowed maximum: packs, connections and
/// watched files need many.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}
