//! Stock libp2p nodes against ours: stock TCP with Noise or TLS and Yamux,
//! and stock QUIC. The client of the block protocol is written here by hand
//! from docs/formats/wire.md, so it also checks that document.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::*;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, identify, noise, ping, tcp, tls, yamux};
use net::{Access, Keypair, Multiaddr, Net, PeerId, StreamProtocol};
use types::{Cid, Codec, EncodedBlock, Encoding, Hash};

const BLOCKS: StreamProtocol = StreamProtocol::new("/archivist/blocks/1.0.0");

#[derive(NetworkBehaviour)]
struct Standard {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    stream: libp2p_stream::Behaviour,
}

#[derive(Clone, Copy, Debug)]
enum Stack {
    Noise,
    Tls,
    Quic,
}

fn behaviour(key: &Keypair) -> Standard {
    let identify = identify::Config::new("/standard/1.0.0".into(), key.public());
    Standard {
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(50))),
        stream: libp2p_stream::Behaviour::new(),
    }
}

fn swarm(stack: Stack, key: Keypair) -> Swarm<Standard> {
    let builder = SwarmBuilder::with_existing_identity(key).with_tokio();
    let tcp = tcp::Config::default;
    let idle = |config: libp2p::swarm::Config| {
        config.with_idle_connection_timeout(Duration::from_secs(60))
    };
    match stack {
        Stack::Noise => builder
            .with_tcp(tcp(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        Stack::Tls => builder
            .with_tcp(tcp(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(behaviour)
            .unwrap()
            .with_swarm_config(idle)
            .build(),
        Stack::Quic => {
            builder.with_quic().with_behaviour(behaviour).unwrap().with_swarm_config(idle).build()
        }
    }
}

fn address(stack: Stack, net: &Net) -> Multiaddr {
    match stack {
        Stack::Noise | Stack::Tls => tcp_address(&net.handle()),
        Stack::Quic => quic_address(&net.handle()),
    }
}

/// Returns a stock node that has connected to ours, identified it and pinged it.
struct Peer {
    control: libp2p_stream::Control,
    ours: PeerId,
    run: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.run.abort();
    }
}

async fn meet(stack: Stack, key: Keypair, net: &Net) -> Peer {
    let mut swarm = swarm(stack, key);
    let ours = net.handle().peer_id();
    let target = address(stack, net).with(libp2p::multiaddr::Protocol::P2p(ours));
    swarm.dial(target).unwrap();
    let (mut identified, mut pinged) = (false, false);
    let met = async {
        while !(identified && pinged) {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(StandardEvent::Identify(identify::Event::Received {
                    peer_id,
                    info,
                    ..
                })) => {
                    assert_eq!(peer_id, ours);
                    assert_eq!(info.agent_version, net::AGENT_VERSION);
                    assert_eq!(info.protocol_version, net::PROTOCOL_VERSION);
                    assert!(info.protocols.contains(&BLOCKS));
                    identified = true;
                }
                SwarmEvent::Behaviour(StandardEvent::Ping(event)) => {
                    event.result.unwrap();
                    pinged = true;
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{stack:?}: {error}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap();
    let control = swarm.behaviour().stream.new_control();
    let run = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Peer { control, ours, run }
}

const HELLO: [u8; 12] = [8, 0, 0, 0, 0x01, 1, 0, 0, 0, 0, 0x40, 0];

fn want(cids: &[Cid]) -> Vec<u8> {
    let len = u32::try_from(1 + 33 * cids.len()).unwrap();
    let mut frame = len.to_le_bytes().to_vec();
    frame.push(0x02);
    for cid in cids {
        frame.push(if cid.codec() == Codec::Raw { 0 } else { 1 });
        frame.extend_from_slice(cid.hash().as_bytes());
    }
    frame
}

async fn read_frame(stream: &mut libp2p::Stream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let mut frame = vec![0; u32::from_le_bytes(len) as usize];
    stream.read_exact(&mut frame).await?;
    Ok((frame[0], frame.split_off(1)))
}

/// Fetches blocks without our client. Sends all wants before it reads answers.
async fn fetch(peer: &mut Peer, blocks: &[EncodedBlock]) {
    let stream = peer.control.open_stream(peer.ours, BLOCKS).await.unwrap();
    let (mut read, mut write) = stream_halves(stream);
    let cids: Vec<Cid> = blocks.iter().map(EncodedBlock::cid).collect();
    let ask = async {
        write.write_all(&HELLO).await.unwrap();
        for batch in cids.chunks(1000) {
            write.write_all(&want(batch)).await.unwrap();
        }
        write.flush().await.unwrap();
    };
    let take = async {
        let (kind, ack) = read.frame().await;
        assert_eq!((kind, ack.len()), (0x81, 11));
        assert_eq!(ack[..7], [1, 0, 0, 0, 0, 0x40, 0]);
        for block in blocks {
            let (kind, body) = read.frame().await;
            assert_eq!(kind, 0x82);
            assert_eq!(Encoding::from_tag(body[0]), Some(block.encoding()));
            assert_eq!(body[1..5], block.len().to_le_bytes());
            assert_eq!(&body[5..], &block.payload()[..]);
            assert_eq!(Hash::of(&body[5..]), *block.cid().hash());
        }
    };
    tokio::join!(ask, take);
    write.close().await.unwrap();
    assert_eq!(read.end().await, 0, "nothing comes after the last answer");
}

struct Reader(futures::io::ReadHalf<libp2p::Stream>);

impl Reader {
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut len = [0; 4];
        self.0.read_exact(&mut len).await.unwrap();
        let mut frame = vec![0; u32::from_le_bytes(len) as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        (frame[0], frame.split_off(1))
    }

    async fn end(&mut self) -> usize {
        self.0.read_to_end(&mut Vec::new()).await.unwrap()
    }
}

fn stream_halves(stream: libp2p::Stream) -> (Reader, futures::io::WriteHalf<libp2p::Stream>) {
    let (read, write) = stream.split();
    (Reader(read), write)
}

async fn a_standard_peer_is_served(stack: Stack) {
    let sizes = [0, 1, 4096, 100_000, 1 << 20, 17, 60_000];
    let blocks: Vec<_> = (0..700).map(|n| block(n, sizes[n % 7] >> (n % 4))).collect();
    let key = Keypair::generate_secp256k1();
    let access = allowing(key.public().to_peer_id());
    let net = start(Shelf::holding(&blocks), access).await;
    let mut peer = meet(stack, key, &net).await;
    fetch(&mut peer, &blocks).await;
    assert_eq!(net.handle().metrics().blocks_sent, 700);
}

async fn a_standard_peer_is_refused(stack: Stack) {
    let blocks = [block(1, 100)];
    let net = start(Shelf::holding(&blocks), Access::new()).await;
    // An ed25519 key, as most libp2p nodes have.
    let mut peer = meet(stack, Keypair::generate_ed25519(), &net).await;
    // The answer is the same for a block that exists and one that does not.
    let mut answers = HashSet::new();
    for cid in [blocks[0].cid(), Cid::of(Codec::Raw, b"not here")] {
        let mut stream = peer.control.open_stream(peer.ours, BLOCKS).await.unwrap();
        // The server may close before it has received all of this.
        let _ = stream.write_all(&[&HELLO[..], &want(&[cid])].concat()).await;
        let _ = stream.flush().await;
        let answer = read_frame(&mut stream).await.unwrap();
        assert_eq!(answer, (0xff, vec![1]));
        answers.insert(answer);
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
    assert_eq!(answers.len(), 1);
    assert_eq!(net.handle().metrics().refused, 2);
}

/// Garbage instead of the protocol ends the stream, not the node.
async fn a_standard_peer_talks_garbage(stack: Stack) {
    let key = Keypair::generate_secp256k1();
    let access = allowing(key.public().to_peer_id());
    let net = start(Shelf::holding(&[]), access).await;
    let mut peer = meet(stack, key, &net).await;
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 5000], &[0; 9]] {
        let mut stream = peer.control.open_stream(peer.ours, BLOCKS).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.flush().await;
        assert_eq!(read_frame(&mut stream).await.unwrap(), (0xff, vec![3]));
    }
    fetch(&mut peer, &[]).await;
    assert_eq!(net.handle().metrics().protocol_violations, 3);
}

/// The reverse: our node dials the stock node.
async fn we_dial_a_standard_peer(stack: Stack) {
    let mut swarm = swarm(stack, Keypair::generate_ed25519());
    let listen = match stack {
        Stack::Noise | Stack::Tls => "/ip4/127.0.0.1/tcp/0",
        Stack::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let theirs = *swarm.local_peer_id();
    let run = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let net = idle_node().await;
    net.handle().connect(theirs, [address], PATIENCE).await.unwrap();
    let identified = async {
        loop {
            let peers = net.handle().peers().await.unwrap();
            if peers.first().is_some_and(|peer| peer.protocol.is_some() && peer.rtt.is_some()) {
                return peers;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let peers = tokio::time::timeout(PATIENCE, identified).await.unwrap();
    assert_eq!(peers[0].protocol.as_deref(), Some("/standard/1.0.0"));
    let error = net.handle().open(theirs, BLOCKS).await.unwrap_err();
    assert!(matches!(error, net::NetError::UnsupportedProtocol { .. }), "{error}");
    run.abort();
}

macro_rules! for_each_stack {
    ($($test:ident),*) => {
        mod over_noise { $(#[tokio::test] async fn $test() { super::$test(super::Stack::Noise).await; })* }
        mod over_tls { $(#[tokio::test] async fn $test() { super::$test(super::Stack::Tls).await; })* }
        mod over_quic { $(#[tokio::test] async fn $test() { super::$test(super::Stack::Quic).await; })* }
    };
}

for_each_stack!(
    a_standard_peer_is_served,
    a_standard_peer_is_refused,
    a_standard_peer_talks_garbage,
    we_dial_a_standard_peer
);
