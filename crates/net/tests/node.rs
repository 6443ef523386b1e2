//! Nodes on loopback: starting, stopping, connecting, streams, discovery.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::*;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::{PeerRecord, SignedEnvelope};
use libp2p::multiaddr::Protocol;
use net::{
    Access, Keypair, Multiaddr, Net, NetConfig, NetError, NetEvent, NetStream, PeerId, Purposes,
    StreamProtocol,
};
use types::Retry;

const ECHO: StreamProtocol = StreamProtocol::new("/test/echo/1.0.0");

fn speaking(protocol: StreamProtocol) -> NetConfig {
    NetConfig { protocols: vec![protocol], ..local() }
}

async fn started(config: NetConfig) -> Net {
    start_with(config, Shelf::holding(&[]), Access::new()).await
}

/// Echoes eight bytes on each stream and closes it.
fn echo(net: &Net) -> tokio::task::JoinHandle<()> {
    let mut inbound = net.accept(&ECHO).unwrap();
    assert!(net.accept(&ECHO).is_none(), "the queue is given out once");
    tokio::spawn(async move {
        while let Some(mut stream) = inbound.recv().await {
            tokio::spawn(async move {
                let mut bytes = [0; 8];
                stream.read_exact(&mut bytes).await?;
                stream.write_all(&bytes).await?;
                stream.close().await
            });
        }
    })
}

async fn ask(mut stream: NetStream, n: u64) -> std::io::Result<()> {
    stream.write_all(&n.to_be_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    match bytes == n.to_be_bytes() {
        true => Ok(()),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

#[tokio::test]
async fn two_hundred_streams_at_once_are_all_answered() {
    let server = started(speaking(ECHO)).await;
    let _echo = echo(&server);
    let client = idle_node().await;
    connect(&client.handle(), &server.handle()).await;
    let opening = (0..200).map(|n| {
        let (client, peer) = (client.handle(), server.handle().peer_id());
        async move {
            let stream = client.open(peer, ECHO).await.unwrap();
            ask(stream, n).await.unwrap();
        }
    });
    futures::future::join_all(opening).await;
    let (opened, taken) = (client.handle().metrics(), server.handle().metrics());
    assert_eq!((opened.streams_opened, taken.streams_accepted), (200, 200));
    assert_eq!(taken.streams_dropped, 0);
}

#[tokio::test]
async fn streams_that_nobody_takes_are_reset_and_counted() {
    let server = started(speaking(ECHO)).await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let client = idle_node().await;
        connect(&client.handle(), &server.handle()).await;
        for _ in 0..30 {
            streams.push(client.handle().open(server.handle().peer_id(), ECHO).await.unwrap());
        }
        clients.push(client);
    }
    // 64 streams wait in the queue and are answered once they are taken; the
    // others are reset immediately.
    let asking = streams.into_iter().enumerate().map(|(n, stream)| ask(stream, n as u64));
    let asking = tokio::spawn(futures::future::join_all(asking));
    let metrics = || server.handle().metrics();
    let all_here = async {
        while metrics().streams_accepted + metrics().streams_dropped < 90 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_here).await.unwrap();
    let _echo = echo(&server);
    let results = tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
    let answered = results.iter().filter(|result| result.is_ok()).count() as u64;
    assert_eq!(answered, metrics().streams_accepted);
    assert_eq!(metrics().streams_dropped, 90 - answered);
    assert_eq!(answered, 64);
}

#[tokio::test]
async fn streams_beyond_the_bound_of_a_connection_wait_for_their_turn() {
    let server = started(speaking(ECHO)).await;
    let _echo = echo(&server);
    let client = idle_node().await;
    connect(&client.handle(), &server.handle()).await;
    let peer = server.handle().peer_id();
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(client.handle().open(peer, ECHO).await.unwrap());
    }
    let (handle, waiting) = (client.handle(), server.handle().peer_id());
    let next = tokio::spawn(async move { handle.open(waiting, ECHO).await });
    // Other protocols still work on the connection.
    for _ in 0..3 {
        assert_eq!(client.handle().peers().await.unwrap().len(), 1);
    }
    assert!(!next.is_finished());
    held.pop();
    let stream = tokio::time::timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
    ask(stream, 7).await.unwrap();
}

#[tokio::test]
async fn a_protocol_that_the_peer_does_not_speak_is_an_error() {
    let (a, b) = (idle_node().await, idle_node().await);
    connect(&a.handle(), &b.handle()).await;
    let error = a.handle().open(b.handle().peer_id(), ECHO).await.unwrap_err();
    assert!(matches!(&error, NetError::UnsupportedProtocol { protocol, .. } if *protocol == ECHO));
    assert_eq!(error.retry(), Retry::Permanent);
}

#[tokio::test]
async fn opening_a_stream_connects_by_itself() {
    let server = started(speaking(ECHO)).await;
    let _echo = echo(&server);
    let client = idle_node().await;
    let peer = server.handle().peer_id();
    connect(&client.handle(), &server.handle()).await;
    let mut events = client.handle().events();
    client.handle().disconnect(peer).await.unwrap();
    let gone = async {
        loop {
            if matches!(events.recv().await.unwrap(), NetEvent::Disconnected { .. }) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    // The address is already known. All callers share one dial.
    let opening = (0..20).map(|n| {
        let client = client.handle();
        async move { ask(client.open(peer, ECHO).await.unwrap(), n).await.unwrap() }
    });
    futures::future::join_all(opening).await;
    assert_eq!(client.handle().peers().await.unwrap()[0].addresses.len(), 1);
}

#[tokio::test]
async fn peers_tell_who_they_are() {
    let b = idle_node().await;
    let access = Access::new();
    access.set(b.handle().peer_id(), Purposes::BLOCKS);
    let a = start_with(local(), Shelf::holding(&[]), access).await;
    connect(&b.handle(), &a.handle()).await;
    let known = async {
        loop {
            let peers = a.handle().peers().await.unwrap();
            if let Some(peer) = peers.first()
                && peer.agent.is_some()
                && peer.rtt.is_some()
            {
                return peers;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let peers = tokio::time::timeout(PATIENCE, known).await.unwrap();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].peer, b.handle().peer_id());
    assert_eq!(peers[0].agent.as_deref(), Some(net::AGENT_VERSION));
    assert_eq!(peers[0].protocol.as_deref(), Some(net::PROTOCOL_VERSION));
    assert!(peers[0].inbound && !peers[0].outbound);
    assert_eq!(peers[0].purposes, Purposes::BLOCKS);
    let seen = b.handle().peers().await.unwrap();
    assert!(seen[0].outbound && seen[0].purposes.is_none());
    // TCP was dialled although QUIC was offered too.
    assert!(seen[0].addresses[0].to_string().contains("/tcp/"), "{:?}", seen[0].addresses);
}

#[tokio::test]
async fn another_peer_at_the_address_is_named() {
    let (a, b) = (idle_node().await, idle_node().await);
    let wanted = Keypair::generate_secp256k1().public().to_peer_id();
    for address in b.handle().listen_addrs() {
        let error = a.handle().connect(wanted, [address], PATIENCE).await.unwrap_err();
        let NetError::WrongPeer(wrong) = &error else { panic!("{error}") };
        assert_eq!((wrong.expected, wrong.found), (wanted, b.handle().peer_id()));
        assert_eq!(error.retry(), Retry::Permanent);
    }
    // An address that names another peer is refused before it is dialled.
    let named: Multiaddr = tcp_address(&b.handle()).with(Protocol::P2p(b.handle().peer_id()));
    let error = a.handle().connect(wanted, [named], PATIENCE).await.unwrap_err();
    assert!(matches!(error, NetError::WrongPeer(_)), "{error}");
    assert!(a.handle().peers().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let a = idle_node().await;
    let nobody = Keypair::generate_secp256k1().public().to_peer_id();
    // A port on which no socket listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
    let error = a.handle().connect(nobody, [address], PATIENCE).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(error.retry(), Retry::Temporary);

    let unknown = a.handle().connect(PeerId::random(), [], PATIENCE).await.unwrap_err();
    assert!(matches!(unknown, NetError::NoAddress(_)), "{unknown}");
    let own = a.handle().listen_addrs();
    let own = a.handle().connect(a.handle().peer_id(), own, PATIENCE).await.unwrap_err();
    assert!(matches!(own, NetError::SelfDial(_)), "{own}");
    let odd: Multiaddr = "/ip4/127.0.0.1/tcp/1/ws".parse().unwrap();
    let odd = a.handle().connect(PeerId::random(), [odd], PATIENCE).await.unwrap_err();
    assert!(matches!(odd, NetError::Unreachable { .. }), "{odd}");
}

#[tokio::test]
async fn a_dead_tcp_address_leads_on_to_quic() {
    let (a, b) = (idle_node().await, idle_node().await);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
    let addresses = [quic_address(&b.handle()), dead];
    a.handle().connect(b.handle().peer_id(), addresses, PATIENCE).await.unwrap();
    let peers = a.handle().peers().await.unwrap();
    assert!(peers[0].addresses[0].to_string().contains("/quic-v1"));
}

#[tokio::test]
async fn names_and_both_families_can_be_dialled() {
    let mut config = local();
    let has_ip6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if has_ip6 {
        config.tcp.push("[::1]:0".parse().unwrap());
        config.quic.push("[::1]:0".parse().unwrap());
    } else {
        println!("SKIPPED: the IPv6 part, this machine has no ::1");
    }
    let b = started(config).await;
    let all = b.handle().listen_addrs();
    assert_eq!(all.len(), if has_ip6 { 4 } else { 2 });
    let port = |address: &Multiaddr| {
        address.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        })
    };
    let mut addresses = all.clone();
    for (name, family) in [("dns4", "/ip4/"), ("dns", "/ip4/"), ("dns6", "/ip6/")] {
        for (kind, end) in [("tcp", ""), ("udp", "/quic-v1")] {
            let is_it = |address: &&Multiaddr| {
                let text = address.to_string();
                text.starts_with(family) && text.contains(&format!("/{kind}/"))
            };
            let Some(port) = all.iter().find(is_it).and_then(port) else { continue };
            if name == "dns6" && !resolves_to_ip6() {
                println!("SKIPPED: dns6, localhost has no IPv6 address here");
                continue;
            }
            addresses.push(format!("/{name}/localhost/{kind}/{port}{end}").parse().unwrap());
        }
    }
    for address in addresses {
        let a = idle_node().await;
        let connected = a.handle().connect(b.handle().peer_id(), [address.clone()], PATIENCE).await;
        connected.unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

fn resolves_to_ip6() -> bool {
    use std::net::ToSocketAddrs;
    ("localhost", 1).to_socket_addrs().is_ok_and(|mut all| all.any(|address| address.is_ipv6()))
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let running = idle_node().await;
    let port_of = |address: Multiaddr| match address.iter().nth(1) {
        Some(Protocol::Tcp(port) | Protocol::Udp(port)) => port,
        _ => panic!("{address}"),
    };
    // Used by another program, and by another node.
    let tcp_ports = [tcp.local_addr().unwrap().port(), port_of(tcp_address(&running.handle()))];
    let udp_ports = [udp.local_addr().unwrap().port(), port_of(quic_address(&running.handle()))];
    let taken_tcp = tcp_ports.map(|port| (port, true));
    let taken_udp = udp_ports.map(|port| (port, false));
    for (port, is_tcp) in taken_tcp.into_iter().chain(taken_udp) {
        let taken = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        let config = match is_tcp {
            true => NetConfig { tcp: taken, ..local() },
            false => NetConfig { quic: taken, ..local() },
        };
        let key = Keypair::generate_secp256k1();
        let started = Net::start(config, key, Shelf::holding(&[]), Access::new()).await;
        let error = started.err().unwrap();
        assert!(matches!(error, NetError::Listen { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(text.contains(if is_tcp { "TCP" } else { "UDP" }), "{text}");
        assert!(text.contains("in use"), "{text}");
        assert_eq!(error.retry(), Retry::Permanent);
    }
    let nothing = NetConfig::default();
    let key = Keypair::generate_secp256k1();
    let started = Net::start(nothing, key, Shelf::holding(&[]), Access::new()).await;
    assert!(matches!(started.err(), Some(NetError::NoListenAddress)));
}

#[tokio::test]
async fn a_node_listens_on_every_interface_where_it_is_told_to() {
    let any = "0.0.0.0:0".parse().unwrap();
    let v6 = "[::]:0".parse().unwrap();
    let config = NetConfig { tcp: vec![any, v6], quic: vec![any], ..NetConfig::default() };
    let net = started(config).await;
    let loopback = |address: &Multiaddr| address.to_string().starts_with("/ip4/127.0.0.1/tcp/");
    let listening = async {
        while !net.handle().listen_addrs().iter().any(loopback) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.unwrap();
}

#[tokio::test]
async fn a_node_stops_in_time_and_its_handles_say_so() {
    let server = started(speaking(ECHO)).await;
    let client = idle_node().await;
    connect(&client.handle(), &server.handle()).await;
    let _stream = client.handle().open(server.handle().peer_id(), ECHO).await.unwrap();
    let (handle, peer) = (server.handle(), client.handle().peer_id());
    let addresses = handle.listen_addrs();
    server.shutdown(PATIENCE).await.unwrap();
    let errors = [
        handle.connect(peer, [], PATIENCE).await.unwrap_err(),
        handle.open(peer, ECHO).await.unwrap_err(),
        handle.peers().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, NetError::Stopped), "{error}");
    }
    // The ports are free again, and the peer has noticed.
    let port = addresses[0].to_string().rsplit('/').next().unwrap().to_owned();
    std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let gone = async {
        while !client.handle().peers().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    drop(client);
}

#[tokio::test]
async fn the_dht_finds_a_peer_that_only_a_third_one_knows() {
    let serving = || NetConfig { kademlia_server: Some(true), ..local() };
    let hub = started(serving()).await;
    let full = tcp_address(&hub.handle()).with(Protocol::P2p(hub.handle().peer_id()));
    let join = || NetConfig { bootstrap: vec![full.clone()], ..serving() };
    let (a, b) = (started(join()).await, started(join()).await);
    let wanted = b.handle().peer_id();
    // Wait until identify and the routing tables are up to date.
    let found = async {
        loop {
            match a.handle().find_peer(wanted, PATIENCE).await {
                Ok(addresses) => return addresses,
                Err(NetError::NoAddress(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await.unwrap();
    a.handle().connect(wanted, found, PATIENCE).await.unwrap();
    let nobody = a.handle().find_peer(PeerId::random(), PATIENCE).await.unwrap_err();
    assert!(matches!(nobody, NetError::NoAddress(_)), "{nobody}");
}

#[tokio::test]
async fn the_signed_record_holds_all_addresses() {
    let announce: Multiaddr = "/dns4/backup.example/tcp/8070".parse().unwrap();
    let net = started(NetConfig { announce: vec![announce.clone()], ..local() }).await;
    let handle = net.handle();
    let envelope = SignedEnvelope::from_protobuf_encoding(&handle.signed_peer_record()).unwrap();
    let record = PeerRecord::from_signed_envelope_interop(envelope).unwrap();
    assert_eq!(record.peer_id(), handle.peer_id());
    let signed: HashSet<&Multiaddr> = record.addresses().iter().collect();
    assert!(signed.contains(&announce));
    assert!(handle.listen_addrs().iter().all(|address| signed.contains(address)));
    assert_eq!(handle.announce_addrs(), [announce]);
}

#[tokio::test]
async fn mdns_can_be_switched_on() {
    // Multicast may not work on this computer. The node must start and serve
    // with mDNS switched on in any case.
    let config = NetConfig { mdns: true, ..local() };
    let key = Keypair::generate_secp256k1();
    match Net::start(config, key, Shelf::holding(&[]), Access::new()).await {
        Ok(net) => {
            let other = idle_node().await;
            connect(&other.handle(), &net.handle()).await;
        }
        Err(error) => println!("SKIPPED: no mDNS on this machine: {error}"),
    }
}
