//! Two nodes on loopback: blocks, refusals, interruptions, limits.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use net::{
    Access, BlockError, FetchError, Keypair, Net, NetConfig, NetError, NetEvent, Purposes,
    StreamRefusal,
};
use types::{EncodedBlock, Retry};

/// Two nodes, the second of which may fetch from the first.
async fn pair(blocks: &[EncodedBlock]) -> (Net, Net, Access, Arc<Shelf>) {
    let client = idle_node().await;
    let access = allowing(client.handle().peer_id());
    let shelf = Shelf::holding(blocks);
    let server = start(Arc::clone(&shelf) as _, access.clone()).await;
    (server, client, access, shelf)
}

fn mixed(count: usize) -> Vec<EncodedBlock> {
    let sizes = [0, 1, 100, 4096, 30_000, 65_536, 4097, 200];
    let mut blocks: Vec<_> = (0..count).map(|n| block(n, sizes[n % 8])).collect();
    blocks.extend((0..20).map(|n| block(count + n, 1 << 20)));
    blocks
}

async fn exchange(server: &Net, client: &Net, address: net::Multiaddr, blocks: &[EncodedBlock]) {
    let (server, client) = (server.handle(), client.handle());
    client.connect(server.peer_id(), [address], PATIENCE).await.unwrap();
    let mut session = client.blocks().open(server.peer_id()).await.unwrap();
    let (got, sink) = collector();
    let stats = session.fetch(wants(blocks), sink).await.unwrap();
    assert_eq!(stats.blocks, blocks.len() as u64);
    assert_all(&got, blocks);
    assert_eq!(client.metrics().blocks_received, blocks.len() as u64);
    assert_eq!(server.metrics().blocks_sent, blocks.len() as u64);
}

#[tokio::test]
async fn thousands_of_blocks_over_tcp() {
    let blocks = mixed(4000);
    let (server, client, _, _) = pair(&blocks).await;
    exchange(&server, &client, tcp_address(&server.handle()), &blocks).await;
}

#[tokio::test]
async fn hundreds_of_blocks_over_quic() {
    let blocks = mixed(400);
    let (server, client, _, _) = pair(&blocks).await;
    exchange(&server, &client, quic_address(&server.handle()), &blocks).await;
}

#[tokio::test]
async fn sessions_at_once_share_a_connection() {
    let blocks = Arc::new(mixed(300));
    let (server, client, _, _) = pair(&blocks).await;
    connect(&client.handle(), &server.handle()).await;
    let fetching: Vec<_> = (0..4)
        .map(|_| {
            let (client, peer) = (client.handle(), server.handle().peer_id());
            let blocks = Arc::clone(&blocks);
            tokio::spawn(async move {
                let mut session = client.blocks().open(peer).await.unwrap();
                for _ in 0..3 {
                    let (got, sink) = collector();
                    session.fetch(wants(&blocks), sink).await.unwrap();
                    assert_all(&got, &blocks);
                }
            })
        })
        .collect();
    for task in fetching {
        task.await.unwrap();
    }
    assert_eq!(client.handle().peers().await.unwrap()[0].addresses.len(), 1);
}

#[tokio::test]
async fn a_peer_that_is_not_on_the_list_is_refused_and_told_of_once() {
    let blocks = mixed(10);
    let (server, client, access, shelf) = pair(&blocks).await;
    let peer = client.handle().peer_id();
    // Any other purpose does not help.
    access.set(peer, Purposes::RECEIPTS | Purposes::RESTORE);
    let mut events = server.handle().events();
    connect(&client.handle(), &server.handle()).await;
    for _ in 0..5 {
        let opened = client.handle().blocks().open(server.handle().peer_id()).await;
        let error = opened.err().unwrap();
        assert!(matches!(error, BlockError::Refused(StreamRefusal::NotAllowed)), "{error}");
        assert_eq!(error.retry(), Retry::Permanent);
    }
    assert_eq!(server.handle().metrics().refused, 5);
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 0);
    // Once it is allowed, the same connection serves it.
    access.set(peer, Purposes::BLOCKS);
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let (got, sink) = collector();
    session.fetch(wants(&blocks), sink).await.unwrap();
    assert_all(&got, &blocks);
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        if let NetEvent::Refused { peer: refused } = event {
            assert_eq!(refused, peer);
            told += 1;
        }
    }
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_peer_that_is_removed_in_mid_transfer_loses_its_stream() {
    let blocks = mixed(100);
    let (server, client, access, _) = pair(&blocks).await;
    let peer = client.handle().peer_id();
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let endless = wants(&blocks).into_iter().cycle();
    let mut revoke = Some(access);
    let sink = move |_| {
        if let Some(access) = revoke.take() {
            access.remove(peer);
        }
        Ok::<(), ()>(())
    };
    let fetching = session.fetch(endless, sink);
    let error = tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::Block(_)), "{error}");
    assert!(!session.is_open());
    let again = session.fetch(wants(&blocks), |_| Ok::<(), ()>(())).await.unwrap_err();
    assert!(matches!(again, FetchError::Block(BlockError::Ended)));
    let refused = client.handle().blocks().open(server.handle().peer_id()).await.err().unwrap();
    assert!(matches!(refused, BlockError::Refused(StreamRefusal::NotAllowed)), "{refused}");
}

#[tokio::test]
async fn what_came_before_the_peer_died_is_not_fetched_again() {
    let blocks: Vec<_> = (0..400).map(|n| block(n, 100_000)).collect();
    let client = idle_node().await;
    let access = allowing(client.handle().peer_id());
    let key = Keypair::generate_secp256k1();
    let shelf = Shelf::holding(&blocks);
    let start_server = |shelf: &Arc<Shelf>| {
        Net::start(local(), key.clone(), Arc::clone(shelf) as _, access.clone())
    };
    let server = start_server(&shelf).await.unwrap();
    connect(&client.handle(), &server.handle()).await;

    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let (got, mut collect) = collector();
    let mut dying = Some(server);
    let sink = move |batch| {
        // Within one process, dropping the node is closest to a kill.
        drop(dying.take());
        collect(batch)
    };
    let result = session.fetch(wants(&blocks), sink).await;
    let Err(FetchError::Block(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.retry(), Retry::Temporary, "{error}");
    let before = got.lock().len();
    assert!((1..400).contains(&before), "{before}");

    // The same peer at other ports.
    let shelf = Shelf::holding(&blocks);
    let server = start_server(&shelf).await.unwrap();
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let (rest, sink) = collector();
    session.fetch(wants(&blocks[before..]), sink).await.unwrap();
    assert_all(&rest, &blocks[before..]);
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 400 - before);
}

#[tokio::test]
async fn a_fetch_that_is_dropped_stops_the_peer() {
    let blocks = mixed(100);
    let (server, client, _, shelf) = pair(&blocks).await;
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let (first, first_came) = tokio::sync::oneshot::channel();
    let mut first = Some(first);
    let endless = wants(&blocks).into_iter().cycle();
    let fetching = tokio::spawn(async move {
        let sink = move |_| {
            if let Some(first) = first.take() {
                let _ = first.send(());
            }
            Ok::<(), ()>(())
        };
        session.fetch(endless, sink).await
    });
    first_came.await.unwrap();
    fetching.abort();
    // The transfer has stopped when the counter does not change any more.
    let mut before = usize::MAX;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = shelf.asked.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
    panic!("the server goes on");
}

#[tokio::test]
async fn the_upload_limit_holds_and_can_be_lifted() {
    let blocks: Vec<_> = (0..100).map(|n| block(n, 100_000)).collect();
    let client = idle_node().await;
    let access = allowing(client.handle().peer_id());
    let config = NetConfig { upload_limit: 1_000_000, ..local() };
    let server = start_with(config, Shelf::holding(&blocks), access).await;
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let start = Instant::now();
    let before = client.handle().metrics().stream_bytes_received;
    let (got, sink) = collector();
    let asked = wants(&blocks);
    let fetching = tokio::spawn(async move { session.fetch(asked, sink).await });
    // However slowly this test runs, no more bytes arrived than the limit allows.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let came = client.handle().metrics().stream_bytes_received - before;
        let allowed = start.elapsed().as_secs_f64() * 1_000_000.0 * 1.1 + 150_000.0;
        assert!((came as f64) < allowed, "{came} bytes in {:?}", start.elapsed());
    }
    server.handle().set_upload_limit(0);
    tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    assert_all(&got, &blocks);
}

#[tokio::test]
async fn the_download_limit_holds_and_can_be_set_in_mid_transfer() {
    let blocks: Vec<_> = (0..100).map(|n| block(n, 100_000)).collect();
    let (server, client, _, _) = pair(&blocks).await;
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    client.handle().set_download_limit(1_000_000);
    let start = Instant::now();
    let before = client.handle().metrics().stream_bytes_received;
    let (got, sink) = collector();
    let asked = wants(&blocks);
    let fetching = tokio::spawn(async move { session.fetch(asked, sink).await });
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let came = client.handle().metrics().stream_bytes_received - before;
        let allowed = start.elapsed().as_secs_f64() * 1_000_000.0 * 1.1 + 150_000.0;
        assert!((came as f64) < allowed, "{came} bytes in {:?}", start.elapsed());
    }
    client.handle().set_download_limit(0);
    tokio::time::timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    assert_all(&got, &blocks);
}

#[tokio::test]
async fn too_many_sessions_are_told_so() {
    let (server, client, _, _) = pair(&[]).await;
    connect(&client.handle(), &server.handle()).await;
    let mut sessions = Vec::new();
    let mut overloaded = 0;
    for _ in 0..12 {
        match client.handle().blocks().open(server.handle().peer_id()).await {
            Ok(session) => sessions.push(session),
            Err(BlockError::Refused(StreamRefusal::Overloaded)) => overloaded += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((sessions.len(), overloaded), (8, 4));
    assert_eq!(server.handle().metrics().overloaded, 4);
    // Streams that end make room for others.
    sessions.clear();
    for _ in 0..100 {
        match client.handle().blocks().open(server.handle().peer_id()).await {
            Ok(_) => return,
            Err(BlockError::Refused(StreamRefusal::Overloaded)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the room is never free again");
}

#[tokio::test]
async fn a_session_with_nobody_is_an_error_at_once() {
    let client = idle_node().await;
    let stranger = Keypair::generate_secp256k1().public().to_peer_id();
    let error = client.handle().blocks().open(stranger).await.err().unwrap();
    assert!(matches!(error, BlockError::Net(NetError::NoAddress(peer)) if peer == stranger));
}
