//! Many hostile peers at the same time, and one honest peer among them.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod common;

use std::net::TcpStream;
use std::time::Duration;

use common::*;
use futures::StreamExt;
use libp2p::swarm::{SwarmEvent, dummy};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use net::{Access, Net};

fn stranger() -> Swarm<dummy::Behaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| dummy::Behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

async fn served_anyway(server: &Net, access: &Access, blocks: &[types::EncodedBlock]) {
    let client = idle_node().await;
    access.set(client.handle().peer_id(), net::Purposes::BLOCKS);
    connect(&client.handle(), &server.handle()).await;
    let mut session = client.handle().blocks().open(server.handle().peer_id()).await.unwrap();
    let (got, sink) = collector();
    session.fetch(wants(blocks), sink).await.unwrap();
    assert_all(&got, blocks);
}

#[tokio::test]
async fn sockets_that_say_nothing_do_not_keep_others_out() {
    let blocks: Vec<_> = (0..50).map(|n| block(n, 10_000)).collect();
    let access = Access::new();
    let server = start(Shelf::holding(&blocks), access.clone()).await;
    let port = tcp_address(&server.handle()).to_string();
    let port: u16 = port.rsplit('/').next().unwrap().parse().unwrap();
    let silent: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    served_anyway(&server, &access, &blocks).await;
    drop(silent);
}

#[tokio::test]
async fn strangers_do_not_keep_peers_on_the_list_out() {
    let blocks: Vec<_> = (0..50).map(|n| block(n, 10_000)).collect();
    let access = Access::new();
    let server = start(Shelf::holding(&blocks), access.clone()).await;
    let address: Multiaddr = tcp_address(&server.handle());
    // More peers than are admitted, each with its own key. All of them stay connected.
    let mut crowd = tokio::task::JoinSet::new();
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(200);
    for _ in 0..150 {
        let (address, arrived) = (address.clone(), arrived.clone());
        crowd.spawn(async move {
            let mut swarm = stranger();
            swarm.dial(address).unwrap();
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. }
                    | SwarmEvent::OutgoingConnectionError { .. } => {
                        let _ = arrived.send(()).await;
                    }
                    _ => {}
                }
            }
        });
    }
    for _ in 0..150 {
        tokio::time::timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap();
    }
    // The oldest ones gave way.
    let settled = async {
        while server.handle().peers().await.unwrap().len() > 128 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    served_anyway(&server, &access, &blocks).await;
}
