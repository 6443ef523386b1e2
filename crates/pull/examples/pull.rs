//! Pulls the contents of a store from one process into a new store in another, over loopback, and
//! prints the time and the cost of both:
//!
//! ```text
//! pull serve STORE        prints {"peer", "address", "root"}, serves until its input ends
//! pull fetch STORE PEER ADDRESS ROOT
//! ```
//!
//! Used by `cargo xtask bench`. The time includes the sync of the packs.

#![allow(clippy::print_stdout, missing_docs, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::{
    Access, BlockAnswer, BlockProvider, Keypair, Multiaddr, Net, NetConfig, PeerId, Purposes,
};
use protocols::SessionPool;
use pull::{PullProgress, Puller};
use serde_json::json;
use store::{
    BlockRead as _, BlockWrite as _, PackStore, Root, Roots as _, RootsRead as _, StoreOptions,
};
use types::Cid;

struct Provider(Arc<PackStore>);

impl BlockProvider for Provider {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<BlockAnswer> {
        let mut answers = Vec::new();
        let mut len = 0;
        for cid in wanted {
            let answer = match self.0.get_encoded(cid) {
                Ok(Some(block)) => {
                    len += block.payload().len();
                    BlockAnswer::Block(block)
                }
                _ => BlockAnswer::Missing,
            };
            answers.push(answer);
            if len >= budget {
                break;
            }
        }
        answers
    }
}

type AnyError = Box<dyn Error>;

/// Returns the only key that may fetch; both processes know it.
fn fetcher() -> Result<Keypair, AnyError> {
    Ok(Keypair::ed25519_from_bytes([7; 32])?)
}

async fn start(store: Arc<PackStore>, key: Keypair) -> Result<Net, AnyError> {
    let access = Access::new();
    access.set(fetcher()?.public().to_peer_id(), Purposes::BLOCKS);
    let config = NetConfig { tcp: vec!["127.0.0.1:0".parse()?], ..NetConfig::default() };
    Ok(Net::start(config, key, Arc::new(Provider(store)), access).await?)
}

fn open(path: &str) -> Result<Arc<PackStore>, AnyError> {
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    Ok(Arc::new(PackStore::open(Path::new(path), &options)?.0))
}

/// Returns the CPU seconds and the peak memory use of this process so far.
fn cost() -> (f64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime, in hundredths of a second on Linux.
    ((ticks(11) + ticks(12)) / 100.0, peak.unwrap_or(0) * 1024)
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", store] => serve(store).await,
        ["fetch", store, peer, address, root] => fetch(store, peer, address, root).await,
        _ => Err("usage: pull serve STORE | pull fetch STORE PEER ADDRESS ROOT".into()),
    }
}

async fn serve(store: &str) -> Result<(), AnyError> {
    let store = open(store)?;
    let root = store.root("last").ok_or("the store has no root `last`")?.cid;
    let net = start(store, Keypair::generate_ed25519()).await?;
    let handle = net.handle();
    let address = handle.listen_addrs().into_iter().next().ok_or("no address")?;
    println!(
        "{}",
        json!({ "peer": handle.peer_id().to_string(), "address": address, "root": root })
    );
    let ended =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await??;
    let (cpu, peak) = cost();
    println!("{}", json!({ "cpu_seconds": cpu, "peak_rss": peak }));
    net.shutdown(Duration::from_secs(2)).await?;
    Ok(())
}

async fn fetch(store: &str, peer: &str, address: &str, root: &str) -> Result<(), AnyError> {
    let store = open(store)?;
    let peer: PeerId = peer.parse()?;
    let address: Multiaddr = address.parse()?;
    let root: Cid = root.parse()?;
    let net = start(store.clone(), fetcher()?).await?;
    let handle = net.handle();
    handle.connect(peer, [address], Duration::from_secs(10)).await?;
    let progress = Arc::new(PullProgress::default());
    let started = Instant::now();
    let epoch = store.write_epoch();
    store.set_root("last", Root { cid: root, partial: true }, epoch)?;
    let mut puller =
        Puller::new(store.clone(), SessionPool::new(handle), vec![peer], progress.clone());
    let report = puller.tree(root).await?;
    if !report.is_complete() {
        return Err("blocks are missing".into());
    }
    store.set_root("last", Root { cid: root, partial: false }, epoch)?;
    let seconds = started.elapsed().as_secs_f64();
    let (cpu, peak) = cost();
    println!(
        "{}",
        json!({
            "seconds": seconds,
            "bytes": progress.bytes(),
            "blocks": progress.blocks(),
            "cpu_seconds": cpu,
            "peak_rss": peak,
        })
    );
    drop(puller);
    net.shutdown(Duration::from_secs(2)).await?;
    Ok(())
}
