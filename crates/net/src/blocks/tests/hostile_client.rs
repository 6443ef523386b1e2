//! Clients that close early, flip bits, send garbage, send slowly and never read.

use super::*;

/// Sends `bytes` to a server. Returns its result and its answer.
async fn say(bytes: &[u8], close: bool) -> (Result<(), ServeError>, Vec<u8>) {
    let shelf = Shelf::holding(&[block(1, 40)]);
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(Arc::new(shelf))));
    let (mut read, mut write) = tokio::io::split(near);
    // The server may have closed already.
    let _ = write.write_all(bytes).await;
    if close {
        let _ = write.shutdown().await;
    }
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    (server.await.unwrap(), answer)
}

#[tokio::test(start_paused = true)]
async fn no_bytes_of_a_client_stop_the_server() {
    let (said, _, _, _) = short_session().await;
    for cut in 0..said.len() {
        for close in [true, false] {
            let start = Instant::now();
            let (result, _) = say(&said[..cut], close).await;
            if let Err(error) = result {
                let fair = matches!(error, ServeError::Io(_) | ServeError::Stalled);
                assert!(fair, "cut at {cut}: {error}");
            }
            assert!(start.elapsed() <= IDLE_TIMEOUT + Duration::from_secs(10));
        }
    }
    for byte in 0..said.len() {
        for bit in 0..8 {
            let mut flipped = said.clone();
            flipped[byte] ^= 1 << bit;
            let _ = say(&flipped, bit % 2 == 0).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_misdeed_of_a_client_is_answered() {
    let hello = {
        let mut hello = Vec::new();
        frame::put_hello(&mut hello);
        hello
    };
    let last = |answer: &[u8]| answer.last().copied().unwrap();
    let with_hello = |more: &[u8]| [&hello[..], more].concat();

    let mut want = Vec::new();
    frame::put_wants(&mut want, &[Cid::of(Codec::Raw, b"x")]);
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        want.clone(),
        with_hello(&hello),
        with_hello(&[0, 0, 0, 0]),
        with_hello(&[0xff, 0xff, 0xff, 0xff, 2]),
        with_hello(&[1, 0, 0, 0, 0x83]),
        with_hello(&[&[34, 0, 0, 0, 2, 9][..], &[0; 32]].concat()),
    ] {
        let (result, answer) = say(&bytes, false).await;
        let error = result.unwrap_err();
        assert!(matches!(error, ServeError::Violation(_)), "{error}");
        assert_eq!(answer[answer.len() - 6..], [2, 0, 0, 0, 0xff, StreamRefusal::Violation as u8]);
    }
    // An older version, a keyed hash mode, a smaller block.
    for (at, value) in [(5, 0), (7, 1), (10, 1)] {
        let mut odd = hello.clone();
        odd[at] = value;
        let (result, answer) = say(&odd, false).await;
        assert!(matches!(result, Err(ServeError::Version { .. })));
        assert_eq!(last(&answer), StreamRefusal::Version as u8);
    }
    // A client with a later version and a longer greeting is served with this version.
    let mut later = vec![10, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x40, 0, 9, 9];
    later.extend_from_slice(&want);
    let (result, answer) = say(&later, true).await;
    result.unwrap();
    assert_eq!(answer.len(), 16 + 5);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_or_trickles_loses_the_stream() {
    let mut hello = Vec::new();
    frame::put_hello(&mut hello);
    let start = Instant::now();
    let (result, answer) = say(&[], false).await;
    assert!(matches!(result, Err(ServeError::Stalled)));
    assert_eq!(answer.last(), Some(&(StreamRefusal::Stalled as u8)));
    assert!(start.elapsed() <= HELLO_TIMEOUT + Duration::from_secs(1));

    // A stream may be idle between requests for a limited time.
    let start = Instant::now();
    let (result, _) = say(&hello, false).await;
    result.unwrap();
    assert!(start.elapsed() >= IDLE_TIMEOUT);
    assert!(start.elapsed() <= IDLE_TIMEOUT + Duration::from_secs(10));

    // A WANT frame, one byte per second.
    let (near, far) = tokio::io::duplex(1 << 20);
    let shelf = Arc::new(Shelf::default());
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf)));
    let (mut read, mut write) = tokio::io::split(near);
    let cids: Vec<Cid> = (0..1000_u32).map(|n| Cid::of(Codec::Raw, &n.to_le_bytes())).collect();
    frame::put_wants(&mut hello, &cids);
    let start = Instant::now();
    for byte in hello {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if server.is_finished() || write.write_all(&[byte]).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    assert!(matches!(server.await.unwrap(), Err(ServeError::Stalled)));
    assert!(start.elapsed() <= PROGRESS_WINDOW * 3);
}

#[tokio::test(start_paused = true)]
async fn wants_without_reading_are_held_at_a_bound() {
    let blocks: Vec<_> = (0..16).map(|n| block(n, 256 << 10)).collect();
    let shelf = Arc::new(Shelf::holding(&blocks));
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf.clone())));
    let (_read, mut write) = tokio::io::split(near);
    let mut spam = Vec::new();
    frame::put_hello(&mut spam);
    write.write_all(&spam).await.unwrap();
    spam.clear();
    let cids: Vec<Cid> = (0..1024).map(|n| blocks[n % 16].cid()).collect();
    frame::put_wants(&mut spam, &cids);
    let mut accepted = 0;
    let start = Instant::now();
    // Until the server stops reading.
    while write.write_all(&spam).await.is_ok() {
        accepted += 1;
        assert!(accepted < 1000, "wants are taken without end");
    }
    assert!(matches!(server.await.unwrap(), Err(ServeError::Stalled)));
    assert!(start.elapsed() <= PROGRESS_WINDOW * 2 + Duration::from_secs(10));
    assert!(accepted <= serving::MAX_WANTS_WAITING / 1024 + 8, "{accepted} frames of 1024 wants");
    let read = shelf.bytes.load(Ordering::Relaxed);
    assert!(read <= 4 << 20, "{read} bytes were read for somebody who takes none");
}
