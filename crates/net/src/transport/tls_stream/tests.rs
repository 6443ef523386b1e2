//! Two sides over pipes of different capacity, and bytes that are not TLS.

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::identity::Keypair;
use proptest::prelude::*;
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::*;
use crate::transport::tls::Config;

type Stream = TlsStream<Compat<DuplexStream>>;

async fn pair(pipe: usize) -> (Stream, Stream) {
    let config = || Config::new(&Keypair::generate_secp256k1()).unwrap();
    let (near, far) = tokio::io::duplex(pipe);
    let (client, server) =
        tokio::join!(config().connect(near.compat()), config().accept(far.compat()));
    (client.unwrap().1, server.unwrap().1)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[tokio::test]
async fn bytes_pass_both_ways_through_a_narrow_pipe() {
    for pipe in [1 << 20, 70_000, 1000, 7] {
        let (client, server) = pair(pipe).await;
        let sent = bytes(if pipe < 100 { 40_000 } else { 400_000 });
        let turn = |stream: Stream, step: usize| {
            let sent = &sent;
            async move {
                let (mut read, mut write) = stream.split();
                let send = async {
                    for piece in sent.chunks(step) {
                        write.write_all(piece).await.unwrap();
                    }
                    write.flush().await.unwrap();
                };
                let receive = async {
                    let mut received = vec![0; sent.len()];
                    read.read_exact(&mut received).await.unwrap();
                    assert!(received == *sent);
                };
                tokio::join!(send, receive);
                read.reunite(write).unwrap()
            }
        };
        let (mut client, mut server) = tokio::join!(turn(client, 100_000), turn(server, 999));
        if pipe < 100 {
            // Too small for a close notification that is not read yet.
            continue;
        }
        // Both sides treat the close notification as the end.
        let end = async |stream: &mut Stream| {
            stream.close().await.unwrap();
            assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
            assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
            assert!(stream.write(b"more").await.is_err());
        };
        tokio::join!(end(&mut client), end(&mut server));
    }
}

#[tokio::test]
async fn a_side_that_has_closed_can_still_be_sent_to() {
    let (mut client, mut server) = pair(1 << 20).await;
    client.write_all(b"question").await.unwrap();
    // Only the close notification is sent; the pipe stays open.
    client.encrypt(ToEncrypt::Close).unwrap();
    client.flush().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    server.flush().await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn a_connection_that_is_cut_is_an_error_and_not_an_end() {
    let (mut client, mut server) = pair(1 << 20).await;
    client.write_all(b"half of it").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut received = Vec::new();
    let error = server.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(received, b"half of it");
}

#[tokio::test]
async fn a_change_of_keys_goes_unnoticed() {
    let (mut client, mut server) = pair(1 << 20).await;
    for _ in 0..3 {
        // rustls does the same automatically before a key was used too often.
        let Connection::Client(connection) = &mut client.connection else { panic!() };
        let status = connection.process_tls_records(&mut []);
        let Ok(ConnectionState::WriteTraffic(traffic)) = status.state else { panic!() };
        traffic.refresh_traffic_keys().unwrap();
        for (from, to) in [(&mut client, &mut server)] {
            from.write_all(b"under new keys").await.unwrap();
            from.flush().await.unwrap();
            let mut received = [0; 14];
            to.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"under new keys");
            to.write_all(b"understood").await.unwrap();
            to.flush().await.unwrap();
            let mut received = [0; 10];
            from.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"understood");
        }
    }
}

#[tokio::test]
async fn a_head_and_its_body_fill_whole_records() {
    let (mut client, mut server) = pair(1 << 20).await;
    let (head, body) = (bytes(12), bytes((64 << 10) - 12));
    let both = [IoSlice::new(&head), IoSlice::new(&body)];
    let taken =
        std::future::poll_fn(|cx| Pin::new(&mut client).poll_write_vectored(cx, &both)).await;
    assert_eq!(taken.unwrap(), 64 << 10);
    // Four records: header, type and tag are 22 bytes for each.
    assert_eq!(client.outgoing.unsent(), (64 << 10) + 4 * 22);
    client.flush().await.unwrap();
    let mut received = vec![0; 64 << 10];
    server.read_exact(&mut received).await.unwrap();
    assert!(received == [head, body].concat());
}

#[tokio::test]
async fn one_flipped_bit_ends_the_connection() {
    for at in [0, 3, 5, 100, 16_000, 30_000] {
        let (mut client, mut server) = pair(1 << 20).await;
        let sent = bytes(40_000);
        client.encrypt(ToEncrypt::Bytes(&sent)).unwrap();
        client.outgoing.bytes[at] ^= 4;
        client.flush().await.unwrap();
        client.io.close().await.unwrap();
        let mut received = Vec::new();
        assert!(server.read_to_end(&mut received).await.is_err(), "bit at {at}");
        assert!(sent.starts_with(&received));
        assert!(received.len() <= at / 16_000 * (16 << 10));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_before_the_handshake_do_harm(
        garbage in prop::collection::vec(any::<u8>(), 1..3000),
        record in any::<bool>(),
    ) {
        let mut said = garbage;
        if record {
            // Looks like a handshake record.
            let len = u16::try_from(said.len()).unwrap();
            said = [&[22, 3, 1][..], &len.to_be_bytes(), &said].concat();
        }
        runtime().block_on(async {
            let (near, far) = tokio::io::duplex(1 << 20);
            let mut near = near.compat();
            near.write_all(&said).await.unwrap();
            near.close().await.unwrap();
            let config = Config::new(&Keypair::generate_secp256k1()).unwrap();
            assert!(config.accept(far.compat()).await.is_err());
        });
    }
}
