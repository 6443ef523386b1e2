//! Servers that close early, flip bits, lie, send slowly and stay silent.

use super::*;

/// Runs a server that sends `bytes` and then closes the stream or stays silent.
/// Returns the result of a client.
async fn against(
    bytes: Vec<u8>,
    close: bool,
    asked: &[Cid],
) -> (Result<FetchStats, BlockError>, Vec<Fetched>) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        far.write_all(&bytes).await.unwrap();
        if close {
            far.shutdown().await.unwrap();
        }
        // Continues to read, so that writes of the client do not fail.
        let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
    });
    let outcome = match open(near.compat()).await {
        Err(error) => (Err(error), Vec::new()),
        Ok(mut session) => {
            let (result, got) = fetch(&mut session, wants(asked.iter().copied())).await;
            let result = result.map_err(|error| match error {
                FetchError::Block(error) => error,
                FetchError::Sink(()) => panic!("the sink took everything"),
            });
            (result, got)
        }
    };
    server.abort();
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_anywhere_costs_only_the_rest() {
    let (_, answered, asked, blocks) = short_session().await;
    let mut delivered = 0;
    for cut in 0..answered.len() {
        for close in [true, false] {
            let (result, got) = against(answered[..cut].to_vec(), close, &asked).await;
            let error = result.unwrap_err();
            let expected = if close {
                matches!(error, BlockError::Closed { .. })
            } else {
                matches!(error, BlockError::Stalled { .. })
            };
            assert!(expected, "cut at {cut}, closed {close}: {error}");
            assert_good_prefix(&got, &asked, &blocks);
            // Complete answers before the cut were passed on.
            assert!(got.len() >= delivered, "cut at {cut}: {} < {delivered}", got.len());
            delivered = got.len();
        }
    }
    assert_eq!(delivered, asked.len() - 1);
    let (result, got) = against(answered, true, &asked).await;
    assert_eq!(result.unwrap().blocks, 4);
    assert_eq!(got.len(), asked.len());
}

#[tokio::test(start_paused = true)]
async fn no_flipped_bit_gets_a_wrong_block_through() {
    let (_, answered, asked, blocks) = short_session().await;
    for byte in 0..answered.len() {
        for bit in 0..8 {
            let mut flipped = answered.clone();
            flipped[byte] ^= 1 << bit;
            let (_, got) = against(flipped, bit % 2 == 0, &asked).await;
            assert_good_prefix(&got, &asked, &blocks);
        }
    }
}

fn greeting() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_ack(&mut bytes, 100);
    bytes
}

fn put_block(out: &mut Vec<u8>, block: &EncodedBlock) {
    frame::put_block_head(out, block.encoding(), block.len(), block.payload().len());
    out.extend_from_slice(block.payload());
}

#[tokio::test(start_paused = true)]
async fn every_misdeed_of_a_server_has_its_name() {
    let (a, b) = (block(1, 100), block(2, 200));
    let asked = [a.cid(), b.cid()];
    let play = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = greeting();
        put(&mut bytes);
        against(bytes, false, &asked)
    };

    let (result, got) = play(&|out| {
        put_block(out, &a);
        put_block(out, &a);
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::WrongBlock(_)), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(got.len(), 1, "what was right before stays");

    let (result, got) = play(&|out| {
        put_block(out, &b);
        put_block(out, &a);
    })
    .await;
    assert!(matches!(result.unwrap_err(), BlockError::WrongBlock(_)));
    assert!(got.is_empty());

    let (result, _) = play(&|out| frame::put_wants(out, &asked)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::UnknownFrame(2))), "{error}");

    let (result, got) = play(&|out| {
        put_block(out, &a);
        frame::put_ack(out, 5);
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::OutOfTurn(0x81))), "{error}");
    assert_eq!(got.len(), 1);

    // A prefix that declares 4 GiB is refused before anything else arrives.
    let (result, _) = play(&|out| out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x82])).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::FrameLength { .. })), "{error}");

    let (result, _) = play(&|out| {
        frame::put_block_head(out, Encoding::Plain, 3, 4);
        out.extend_from_slice(b"abcd");
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::BlockLength(3))), "{error}");

    for refusal in [StreamRefusal::NotAllowed, StreamRefusal::Overloaded, StreamRefusal::Stalled] {
        let (result, got) = play(&|out| {
            put_block(out, &a);
            frame::put_error(out, refusal);
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, BlockError::Refused(found) if found == refusal), "{error}");
        assert_eq!(error.retry(), refusal.retry());
        assert_eq!(got.len(), 1);
    }

    // A greeting that chooses something that was not offered, or allows no wants.
    for (at, value) in [(6, 9), (7, 1)] {
        let mut bytes = greeting();
        bytes[at] = value;
        let error = against(bytes, false, &asked).await.0.unwrap_err();
        assert!(matches!(error, BlockError::Violation(Violation::Greeting)), "{error}");
    }
    let mut nothing = Vec::new();
    frame::put_ack(&mut nothing, 0);
    let error = against(nothing, false, &asked).await.0.unwrap_err();
    assert!(matches!(error, BlockError::Violation(Violation::Greeting)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_were_not_asked_for_end_the_session() {
    let a = block(1, 100);
    let mut bytes = greeting();
    for _ in 0..3 {
        put_block(&mut bytes, &a);
    }
    let (near, mut far) = tokio::io::duplex(1 << 20);
    far.write_all(&bytes).await.unwrap();
    let mut session = open(near.compat()).await.unwrap();
    // The first fetch may succeed or fail; the next one fails.
    let (first, _) = fetch(&mut session, wants([a.cid()])).await;
    let error = match first {
        Err(error) => Err(error),
        Ok(_) => fetch(&mut session, wants([block(2, 5).cid()])).await.0,
    };
    let error = block_error(error);
    let expected =
        matches!(error, BlockError::Violation(Violation::Unasked) | BlockError::WrongBlock(_));
    assert!(expected, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_trickles_loses_the_stream() {
    for pause in [Duration::from_secs(60), Duration::from_secs(1)] {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let big = block(1, 1 << 20);
        let cid = big.cid();
        let trickle = tokio::spawn(async move {
            far.write_all(&greeting()).await.unwrap();
            let mut bytes = Vec::new();
            put_block(&mut bytes, &big);
            for byte in bytes {
                tokio::time::sleep(pause).await;
                if far.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        let mut session = open(near.compat()).await.unwrap();
        let (result, got) = fetch(&mut session, wants([cid])).await;
        let error = block_error(result);
        assert!(matches!(error, BlockError::Stalled { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Temporary);
        assert!(got.is_empty());
        assert!(start.elapsed() <= PROGRESS_WINDOW * 2, "{:?}", start.elapsed());
        drop(session);
        trickle.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_server_is_borne() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let big = block(1, 100_000);
    let cid = big.cid();
    let slow = tokio::spawn(async move {
        far.write_all(&greeting()).await.unwrap();
        let mut bytes = Vec::new();
        put_block(&mut bytes, &big);
        // 100 B/s: a quarter of an hour.
        for piece in bytes.chunks(1000) {
            tokio::time::sleep(Duration::from_secs(10)).await;
            far.write_all(piece).await.unwrap();
        }
        far
    });
    let mut session = open(near.compat()).await.unwrap();
    let (result, _) = fetch(&mut session, wants([cid])).await;
    assert_eq!(result.unwrap().blocks, 1);
    slow.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_greets_is_left() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let start = Instant::now();
    let error = open(near.compat()).await.err().unwrap();
    assert!(matches!(error, BlockError::Stalled { .. }), "{error}");
    assert!(start.elapsed() <= HELLO_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn a_refusal_reaches_the_client_whatever_it_does() {
    let (near, far) = tokio::io::duplex(64);
    let mut far = far.compat();
    let refusing = tokio::spawn(async move { refuse(&mut far, StreamRefusal::NotAllowed).await });
    let error = open(near.compat()).await.err().unwrap();
    assert!(matches!(error, BlockError::Refused(StreamRefusal::NotAllowed)), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    refusing.await.unwrap();
}
