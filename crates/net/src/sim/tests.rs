//! The simulated network itself.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::Cid;

use super::*;
use crate::access::Access;
use crate::blocks::{BlockAnswer, BlockProvider};
use crate::error::NetError;
use crate::streams::NetStream;

const ECHO: StreamProtocol = StreamProtocol::new("/test/echo");
const SECOND: Duration = Duration::from_secs(1);

struct Nothing;

impl BlockProvider for Nothing {
    fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
        vec![BlockAnswer::Missing; wanted.len()]
    }
}

fn join(net: &SimNet) -> (SimNode, PeerId, mpsc::Receiver<NetStream>) {
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id();
    let node = net.join(key, Arc::new(Nothing), Access::new(), &[ECHO]);
    let inbound = node.accept(&ECHO).unwrap();
    (node, peer, inbound)
}

/// Returns two nodes and both ends of a stream between them.
async fn pair(net: &SimNet) -> ([SimNode; 2], [PeerId; 2], [NetStream; 2]) {
    let ((a, peer_a, _), (b, peer_b, mut inbound)) = (join(net), join(net));
    let near = a.handle().open(peer_b, ECHO).await.unwrap();
    let far = inbound.recv().await.unwrap();
    assert_eq!((near.peer(), far.peer()), (peer_b, peer_a));
    ([a, b], [peer_a, peer_b], [near, far])
}

fn cut() -> Route {
    Route { is_cut: true, ..Route::default() }
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_late_complete_and_in_order() {
    let net = SimNet::new(1);
    let (_nodes, peers, [mut near, mut far]) = pair(&net).await;
    let slow = Route { delay_max: SECOND, loss: 0.3, is_cut: false };
    net.set_route(peers[0], peers[1], slow);
    let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let (received, started) = (sent.clone(), Instant::now());
    let sending = async {
        near.write_all(&sent).await.unwrap();
        near.close().await.unwrap();
    };
    let mut found = Vec::new();
    let (_, read) = tokio::join!(sending, far.read_to_end(&mut found));
    read.unwrap();
    assert!(found == received);
    assert!(started.elapsed() > Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cut_direction_holds_bytes_back_and_a_long_cut_breaks_the_connection() {
    let net = SimNet::new(2);
    let (nodes, [a, b], [mut near, mut far]) = pair(&net).await;
    net.set_route(b, a, cut());
    // Requests arrive, answers do not.
    let mut byte = [0];
    near.write_all(&[1]).await.unwrap();
    far.read_exact(&mut byte).await.unwrap();
    far.write_all(&[2]).await.unwrap();
    assert!(tokio::time::timeout(20 * SECOND, near.read_exact(&mut byte)).await.is_err());
    net.set_route(b, a, Route::default());
    near.read_exact(&mut byte).await.unwrap();
    assert_eq!(byte, [2]);
    net.set_route(a, b, cut());
    let started = Instant::now();
    assert!(far.read_exact(&mut byte).await.is_err());
    assert!(near.write_all(&[1]).await.is_err());
    assert_eq!(started.elapsed(), 30 * SECOND);
    // A new connection waits for the route.
    let connecting = nodes[0].handle().connect(b, [], 15 * SECOND).await;
    assert!(matches!(connecting, Err(NetError::Timeout { .. })), "{connecting:?}");
    net.set_route(a, b, Route::default());
    nodes[0].handle().connect(b, [], 15 * SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_open_is_reset_and_a_closed_one_ends() {
    let net = SimNet::new(3);
    let (_nodes, _, [mut near, mut far]) = pair(&net).await;
    near.write_all(b"all").await.unwrap();
    near.close().await.unwrap();
    drop(near);
    let mut found = Vec::new();
    far.read_to_end(&mut found).await.unwrap();
    assert_eq!(found, b"all");
    let (_nodes, _, [near, mut far]) = pair(&net).await;
    drop(near);
    assert!(far.read_to_end(&mut found).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_process_is_noticed_soon_and_a_power_cut_late() {
    for is_power_cut in [false, true] {
        let net = SimNet::new(4);
        let ([a, b], peers, [mut near, _far]) = pair(&net).await;
        if is_power_cut {
            b.cut_power();
        }
        drop(b);
        let started = Instant::now();
        assert!(near.read_exact(&mut [0]).await.is_err());
        assert_eq!(started.elapsed() > 10 * SECOND, is_power_cut);
        let refused = a.handle().connect(peers[1], [], 15 * SECOND).await;
        assert!(matches!(refused, Err(NetError::Unreachable { .. })), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_seed_decides_the_waiting_times() {
    let fractions = |seed| {
        let _simulation = Simulation::start(seed);
        [(); 5].map(|()| crate::random_fraction().to_bits())
    };
    assert_eq!(fractions(7), fractions(7));
    assert_ne!(fractions(7), fractions(8));
    assert!(!is_running());
}
