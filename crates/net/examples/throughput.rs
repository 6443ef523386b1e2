//! Measures the throughput between two processes on this computer.
//!
//! ```text
//! cargo run --release -p net --example throughput -- [--mib N] [--repeats N] [MODE]…
//! ```
//!
//! Each mode starts a server process and pulls `--mib` MiB from it (1024)
//! after a warm-up, `--repeats` times (3). The modes, all of them by default:
//!
//! * `stock-tls`: libp2p's own TCP + TLS + Yamux with `libp2p-stream`, each
//!   process on a multi-threaded runtime with two workers;
//! * `stock-tls-1`: the same on a current-thread runtime;
//! * `raw`: the same bytes over our transport and our stream behaviour;
//! * `blocks-256k`, `blocks-4k`: our block protocol, every block hashed by
//!   the receiver and then dropped.
//!
//! A table goes to stderr and JSON to stdout: GB/s (10⁹ bytes, the median
//! and the extremes), CPU seconds per GB of both ends, and the peak RSS.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, tcp, tls, yamux};
use net::{
    Access, BlockAnswer, BlockProvider, Keypair, Multiaddr, Net, NetConfig, PeerId, Purposes, Want,
};
use serde_json::json;
use types::{Block, Cid, Codec, EncodedBlock};

const RAW: StreamProtocol = StreamProtocol::new("/bench/raw/1.0.0");
const MODES: [&str; 5] = ["stock-tls", "stock-tls-1", "raw", "blocks-256k", "blocks-4k"];
const PIECE: usize = 256 << 10;
/// Number of bytes of blocks that the provider keeps in memory.
const SET: usize = 32 << 20;

fn main() {
    let mut modes = Vec::new();
    let (mut mib, mut repeats, mut serve) = (1024_u64, 3, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--mib" => mib = args.next().unwrap().parse().unwrap(),
            "--repeats" => repeats = args.next().unwrap().parse().unwrap(),
            "--serve" => serve = args.next(),
            mode if MODES.contains(&mode) => modes.push(mode.to_owned()),
            other => panic!("unknown argument {other}; modes: {MODES:?}"),
        }
    }
    if let Some(mode) = serve {
        return runtime(&mode).block_on(serve_mode(&mode));
    }
    if modes.is_empty() {
        modes = MODES.map(str::to_owned).to_vec();
    }
    // Each mode runs in its own client process, so that the memory and threads
    // of one do not count for another.
    if modes.len() > 1 {
        let mut results = Vec::new();
        for mode in modes {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--mib", &mib.to_string(), "--repeats", &repeats.to_string(), &mode])
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            results.push(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap());
        }
        println!("{}", serde_json::to_string_pretty(&results).unwrap());
        return;
    }
    let result = runtime(&modes[0]).block_on(measure(&modes[0], mib << 20, repeats));
    println!("{result}");
}

fn runtime(mode: &str) -> tokio::runtime::Runtime {
    let mut builder = match mode {
        "stock-tls" => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.worker_threads(2).enable_all().build().unwrap()
}

// ---- the server process ----

async fn serve_mode(mode: &str) {
    if mode.starts_with("stock") {
        return serve_stock().await;
    }
    let access = Access::new();
    // The key of the client is constant, so both processes know it.
    access.set(client_key().public().to_peer_id(), Purposes::BLOCKS);
    let config = NetConfig { protocols: vec![RAW], ..local() };
    let provider = Arc::new(Memory::new(block_len(mode)));
    let net = Net::start(config, Keypair::generate_secp256k1(), provider, access).await.unwrap();
    let handle = net.handle();
    println!("{} {}", handle.peer_id(), handle.listen_addrs()[0]);
    let mut inbound = net.accept(&RAW).unwrap();
    let mut served = Vec::new();
    let mut closed = tokio::task::spawn_blocking(wait_for_stdin);
    loop {
        tokio::select! {
            Some(stream) = inbound.recv() => served.push(handle.spawn(serve_bytes(stream))),
            _ = &mut closed => return,
        }
    }
}

async fn serve_stock() {
    let mut swarm = stock_swarm();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let mut inbound = swarm.behaviour().new_control().accept(RAW).unwrap();
    tokio::spawn(async move {
        while let Some((_, stream)) = inbound.next().await {
            tokio::spawn(serve_bytes(stream));
        }
    });
    let mut closed = tokio::task::spawn_blocking(wait_for_stdin);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    println!("{} {address}", swarm.local_peer_id());
                }
            }
            _ = &mut closed => return,
        }
    }
}

fn wait_for_stdin() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Reads a number and writes that many bytes, from as much memory as the blocks
/// use: a buffer that stays in the CPU cache would give a wrong result.
async fn serve_bytes<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let set = vec![7; SET];
    let mut pieces = set.chunks(PIECE).cycle();
    let mut wanted = [0; 8];
    while stream.read_exact(&mut wanted).await.is_ok() {
        let mut left = u64::from_be_bytes(wanted);
        while left > 0 {
            let len = left.min(PIECE as u64) as usize;
            let piece = pieces.next().unwrap();
            if stream.write_all(&piece[..len]).await.is_err() {
                return;
            }
            left -= len as u64;
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

/// Provider of generated blocks of one size.
struct Memory {
    blocks: HashMap<Cid, EncodedBlock>,
}

impl Memory {
    fn new(len: usize) -> Self {
        let blocks = blocks(len).map(|block| (block.cid(), EncodedBlock::plain(block))).collect();
        Self { blocks }
    }
}

impl BlockProvider for Memory {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let mut left = budget;
        let mut answers = Vec::new();
        for cid in wanted {
            let Some(block) = self.blocks.get(cid) else {
                answers.push(BlockAnswer::Missing);
                continue;
            };
            let len = block.payload().len();
            if len > left && !answers.is_empty() {
                break;
            }
            left = left.saturating_sub(len);
            answers.push(BlockAnswer::Block(block.clone()));
        }
        answers
    }
}

fn block_len(mode: &str) -> usize {
    match mode {
        "blocks-256k" => 256 << 10,
        "blocks-4k" => 4 << 10,
        _ => 1,
    }
}

fn blocks(len: usize) -> impl Iterator<Item = Block> {
    let count = if len == 1 { 1 } else { SET / len };
    (0..count).map(move |n| {
        let mut bytes = vec![n as u8; len];
        let at = len.min(8);
        bytes[..at].copy_from_slice(&n.to_be_bytes()[8 - at..]);
        Block::new(Codec::Raw, bytes).unwrap()
    })
}

// ---- the client process ----

fn client_key() -> Keypair {
    let mut secret = [7; 32];
    let secret = libp2p::identity::secp256k1::SecretKey::try_from_bytes(&mut secret).unwrap();
    libp2p::identity::secp256k1::Keypair::from(secret).into()
}

fn local() -> NetConfig {
    NetConfig { tcp: vec!["127.0.0.1:0".parse().unwrap()], ..NetConfig::default() }
}

fn stock_swarm() -> Swarm<libp2p_stream::Behaviour> {
    SwarmBuilder::with_existing_identity(Keypair::generate_secp256k1())
        .with_tokio()
        .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Server process, with its resource use.
struct Server(Child);

impl Server {
    fn start(mode: &str) -> (Self, PeerId, Multiaddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", mode])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (peer, address) = line.trim().split_once(' ').unwrap();
        (Self(child), peer.parse().unwrap(), address.parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Returns the CPU seconds (user and system) of a process.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Returns the peak RSS of a process in MiB.
fn peak_rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn measure(mode: &str, bytes: u64, repeats: usize) -> serde_json::Value {
    let (server, peer, address) = Server::start(mode);
    let (here, there) = (std::process::id(), server.0.id());
    let mut puller = Puller::connect(mode, peer, address).await;
    puller.pull(64 << 20).await;
    let (mut rates, mut here_cpu, mut there_cpu) = (Vec::new(), 0.0, 0.0);
    for _ in 0..repeats {
        let (start, used) = (Instant::now(), (cpu(here), cpu(there)));
        puller.pull(bytes).await;
        rates.push(bytes as f64 / start.elapsed().as_secs_f64() / 1e9);
        here_cpu += cpu(here) - used.0;
        there_cpu += cpu(there) - used.1;
    }
    rates.sort_by(f64::total_cmp);
    let gb = bytes as f64 * repeats as f64 / 1e9;
    let (rate, per_gb) = (rates[rates.len() / 2], (here_cpu / gb, there_cpu / gb));
    let rss = (peak_rss(here), peak_rss(there));
    let blocks = mode.starts_with("blocks").then(|| rate * 1e9 / block_len(mode) as f64);
    eprintln!(
        "{mode:>12}  {rate:6.3} GB/s ({:.3}-{:.3})  CPU {:.2} + {:.2} s/GB  RSS {} + {} MiB{}",
        rates[0],
        rates[rates.len() - 1],
        per_gb.0,
        per_gb.1,
        rss.0,
        rss.1,
        blocks.map_or(String::new(), |blocks| format!("  {blocks:.0} blocks/s")),
    );
    json!({
        "mode": mode,
        "bytes": bytes,
        "repeats": repeats,
        "gb_per_s": rate,
        "gb_per_s_min": rates[0],
        "gb_per_s_max": rates[rates.len() - 1],
        "cpu_s_per_gb_client": per_gb.0,
        "cpu_s_per_gb_server": per_gb.1,
        "rss_peak_mib_client": rss.0,
        "rss_peak_mib_server": rss.1,
        "blocks_per_s": blocks,
    })
}

enum Puller {
    Stock(libp2p::Stream),
    Raw(net::Handle, Option<net::NetStream>, #[expect(dead_code, reason = "keeps the node")] Net),
    Blocks(net::BlockSession, Vec<Want>, #[expect(dead_code, reason = "keeps the node")] Net),
}

impl Puller {
    async fn connect(mode: &str, peer: PeerId, address: Multiaddr) -> Self {
        if mode.starts_with("stock") {
            let mut swarm = stock_swarm();
            swarm.dial(address.with(libp2p::multiaddr::Protocol::P2p(peer))).unwrap();
            let mut control = swarm.behaviour().new_control();
            tokio::spawn(async move {
                loop {
                    swarm.select_next_some().await;
                }
            });
            return Self::Stock(control.open_stream(peer, RAW).await.unwrap());
        }
        let provider = Arc::new(Memory::new(1));
        let net = Net::start(local(), client_key(), provider, Access::new()).await.unwrap();
        let handle = net.handle();
        handle.connect(peer, [address], Duration::from_secs(10)).await.unwrap();
        if mode == "raw" {
            let stream = handle.open(peer, RAW).await.unwrap();
            return Self::Raw(handle, Some(stream), net);
        }
        let len = block_len(mode);
        let wants = blocks(len)
            .map(|block| Want { cid: block.cid(), len: Some(u32::try_from(len).unwrap()) })
            .collect();
        Self::Blocks(handle.blocks().open(peer).await.unwrap(), wants, net)
    }

    async fn pull(&mut self, bytes: u64) {
        match self {
            Self::Stock(stream) => pull_bytes(stream, bytes).await,
            Self::Raw(handle, slot, _) => {
                let mut stream = slot.take().unwrap();
                let pulled = handle.spawn(async move {
                    pull_bytes(&mut stream, bytes).await;
                    stream
                });
                *slot = Some(pulled.await.unwrap());
            }
            Self::Blocks(session, wants, _) => {
                let count = bytes as usize / wants[0].len.unwrap() as usize;
                let wants = wants.clone();
                let cycle = (0..count).map(move |n| wants[n % wants.len()]);
                let sink = |batch: Vec<net::Fetched>| {
                    std::hint::black_box(&batch);
                    Ok::<(), ()>(())
                };
                let stats = session.fetch(cycle, sink).await.unwrap();
                assert_eq!(stats.blocks, count as u64);
            }
        }
    }
}

async fn pull_bytes<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: u64) {
    stream.write_all(&bytes.to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        let len = left.min(PIECE as u64) as usize;
        let read = stream.read(&mut buffer[..len]).await.unwrap();
        assert!(read > 0, "the stream ended early");
        left -= read as u64;
    }
}
