//! Blocks that are sent as their difference to a block of the client.

use bytes::Bytes;

use super::super::request::SimilarBlock;
use super::super::sketch::Sketch;
use super::*;

fn noise(seed: usize, len: usize) -> Vec<u8> {
    block(seed, len).decode().unwrap().to_vec()
}

fn raw(bytes: Vec<u8>) -> EncodedBlock {
    EncodedBlock::plain(Block::new(Codec::Raw, bytes).unwrap())
}

/// Returns a block, and the same block with an edit in the middle.
fn edited(seed: usize, len: usize) -> (Vec<u8>, EncodedBlock) {
    let base = noise(seed, len);
    let mut edited = base.clone();
    edited.splice(len / 2..len / 2 + 10, *b"something else");
    (base, raw(edited))
}

/// Requests a block as the difference to `base`, which may be gone when it is needed.
fn ask(block: &EncodedBlock, base: &[u8], found: Option<Vec<u8>>) -> BlockRequest {
    let base = Sketch::of(base).unwrap();
    let similar = SimilarBlock::new(base, move || found.clone().map(Bytes::from));
    let want = Want { cid: block.cid(), len: Some(block.len()) };
    BlockRequest { want, similar: Some(Arc::new(similar)) }
}

#[tokio::test]
async fn a_block_comes_as_its_difference_and_one_that_is_like_nothing_whole() {
    let (base, new) = edited(1, 300_000);
    let other = raw(noise(3, 50_000));
    let text = raw("all work and no play\n".repeat(5000).into_bytes());
    let (pipe, server) =
        served(Arc::new(Shelf::holding(&[new.clone(), other.clone(), text.clone()])));
    let mut session = open(pipe).await.unwrap();
    let gone = raw(b"gone".to_vec());
    let asks = vec![
        Want::from(other.cid()).into(),
        ask(&new, &base, Some(base.clone())),
        ask(&other, &base, Some(base.clone())),
        ask(&gone, &base, Some(base.clone())),
        ask(&text, &base, Some(base.clone())),
    ];
    let (result, got) = fetch(&mut session, asks).await;
    let stats = result.unwrap();
    assert_eq!((stats.blocks, stats.patched, stats.missing), (4, 1, 1));
    let wire_len: Vec<u64> = got.iter().map(|fetched| fetched.wire_len).collect();
    assert!(wire_len[1] < 6_000, "{wire_len:?}");
    assert!(wire_len[0] >= 50_000 && wire_len[2] >= 50_000, "{wire_len:?}");
    assert_eq!(stats.bytes, wire_len.iter().sum::<u64>());
    let right = [&other, &new, &other, &gone, &text];
    for (fetched, right) in got.iter().zip(right) {
        match &fetched.outcome {
            FetchOutcome::Block(block) => {
                assert_eq!(block.decode().unwrap(), right.decode().unwrap());
            }
            outcome => assert_eq!((outcome, right.cid()), (&FetchOutcome::Missing, gone.cid())),
        }
    }
    drop(session);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_the_client_has_no_more_is_told_so_and_ends_nothing() {
    let (base, new) = edited(1, 100_000);
    let next = raw(noise(9, 1000));
    let (pipe, server) = served(Arc::new(Shelf::holding(&[new.clone(), next.clone()])));
    let mut session = open(pipe).await.unwrap();
    for found in [None, Some(Vec::new()), Some(noise(5, 100_000)), Some(base[1..].to_vec())] {
        let asks = vec![ask(&new, &base, found), Want::from(next.cid()).into()];
        let (result, got) = fetch(&mut session, asks).await;
        assert_eq!(result.unwrap().patched, 0);
        assert_eq!(got[0].outcome, FetchOutcome::PatchFailed);
        assert!(matches!(got[1].outcome, FetchOutcome::Block(_)));
    }
    drop(session);
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn over_a_slow_link_all_is_compared_and_over_a_fast_one_only_what_comes_first() {
    let pairs: Vec<_> = (0..200).map(|seed| edited(seed * 7 + 1, 64 << 10)).collect();
    let blocks: Vec<_> = pairs.iter().map(|(_, new)| new.clone()).collect();
    // Blocks without a similar one show the speed of the link.
    let rest: Vec<_> = (0..40).map(|seed| raw(noise(seed + 10_000, 64 << 10))).collect();
    for is_slow in [false, true] {
        let all: Vec<_> = rest.iter().chain(&blocks).cloned().collect();
        let shelf: Arc<dyn BlockProvider> = Arc::new(Shelf::holding(&all));
        let (near, far) = tokio::io::duplex(64 << 10);
        let server = tokio::spawn(serve(far.compat(), PeerId::random(), source(shelf)));
        let pipe = if is_slow { slowly(near, 64) } else { near.compat() };
        let mut session = open(pipe).await.unwrap();
        let asks = rest.iter().map(|block| Want::from(block.cid()).into());
        let asks = asks.chain(pairs.iter().map(|(base, new)| ask(new, base, Some(base.clone()))));
        let (result, got) = fetch(&mut session, asks.collect()).await;
        let stats = result.unwrap();
        assert_eq!(stats.blocks, 240);
        let asked: Vec<Cid> = all.iter().map(EncodedBlock::cid).collect();
        assert_good_prefix(&got, &asked, &all);
        // Batches that were read before the speed was known are complete blocks.
        assert!(if is_slow { stats.patched > 150 } else { stats.patched == 0 }, "{stats:?}");
        drop(session);
        server.await.unwrap().unwrap();
    }
}

/// Runs a server that sends the given answer to the only want.
async fn answered(
    put: impl FnOnce(&mut Vec<u8>),
    ask: BlockRequest,
) -> (Option<BlockError>, Vec<Fetched>) {
    let mut bytes = Vec::new();
    frame::put_ack(&mut bytes, 100);
    put(&mut bytes);
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(async move {
        far.write_all(&bytes).await.unwrap();
        let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
    });
    let mut session = open(near.compat()).await.unwrap();
    let (result, got) = fetch(&mut session, vec![ask]).await;
    server.abort();
    let error = result.err().map(|error| match error {
        FetchError::Block(error) => error,
        FetchError::Sink(()) => panic!("the sink took everything"),
    });
    (error, got)
}

#[tokio::test]
async fn a_server_that_lies_about_a_difference_gets_nothing_through() {
    let (base, new) = edited(1, 20_000);
    let sketch = Sketch::of(&base).unwrap();
    let good = sketch.diff(&new.decode().unwrap()).unwrap().unwrap();
    let put = |out: &mut Vec<u8>, patch: &[u8]| {
        frame::put_patch_head(out, patch.len());
        out.extend_from_slice(patch);
    };
    let asked = || ask(&new, &base, Some(base.clone()));
    let (error, got) = answered(|out| put(out, &good), asked()).await;
    assert!(error.is_none() && matches!(got[0].outcome, FetchOutcome::Block(_)));

    let bits = good[..sketch.pieces().len().div_ceil(8)].to_vec();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let other = sketch.diff(&base).unwrap().unwrap();
    let mut lies = vec![[&bits[..], &bomb].concat(), other, vec![0xff; 600], vec![0; 2]];
    lies.extend((2..good.len()).step_by(7).map(|len| good[..len].to_vec()));
    for byte in 0..good.len() {
        let mut flipped = good.clone();
        flipped[byte] ^= 1 << (byte % 8);
        lies.push(flipped);
    }
    for lie in lies {
        let (error, got) = answered(|out| put(out, &lie), asked()).await;
        assert!(error.is_none(), "{error:?}");
        // A flipped bit may be one without an effect.
        match &got[0].outcome {
            FetchOutcome::Block(block) => {
                assert_eq!(block.decode().unwrap(), new.decode().unwrap());
            }
            outcome => assert_eq!(*outcome, FetchOutcome::PatchFailed),
        }
    }
    // A request without a sketch must not be answered with a difference.
    let (error, got) = answered(|out| put(out, &good), Want::from(new.cid()).into()).await;
    assert!(matches!(error, Some(BlockError::Violation(Violation::OutOfTurn(0x85)))), "{error:?}");
    assert!(got.is_empty());
}

#[tokio::test(start_paused = true)]
async fn sketches_that_wait_are_bounded() {
    let shelf = Arc::new(Shelf::default());
    let (near, far) = tokio::io::duplex(64 << 10);
    let held = source(shelf);
    // No answer is read, so the requests wait.
    let _all = held.readers.clone().acquire_many_owned(4).await.unwrap();
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), held));
    let (_read, mut write) = tokio::io::split(near);
    let mut said = Vec::new();
    frame::put_hello(&mut said);
    let sketch = Sketch::of(&noise(1, types::MAX_BLOCK_LEN)).unwrap();
    for number in 0..1000_u32 {
        frame::put_similar(&mut said, &Cid::of(Codec::Raw, &number.to_le_bytes()), &sketch);
    }
    assert!(said.len() > 4 << 20);
    let mut taken = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(200), write.write(&said[taken..])).await
    {
        taken += written.unwrap();
    }
    // The waiting sketches, the read buffer, and the pipe.
    assert!((512 << 10..1280 << 10).contains(&taken), "{taken} bytes were taken");
    server.abort();
}

#[tokio::test]
async fn the_counters_tell_of_differences() {
    let (base, new) = edited(1, 100_000);
    let source = source(Arc::new(Shelf::holding(std::slice::from_ref(&new))));
    let sent = Arc::clone(&source.metrics);
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = tokio::spawn(serve(far.compat(), PeerId::random(), source));
    let received: Arc<Metrics> = Arc::default();
    let mut session = Session::open(near.compat(), Arc::clone(&received)).await.unwrap();
    let (result, _) = fetch(&mut session, vec![ask(&new, &base, Some(base.clone()))]).await;
    let stats = result.unwrap();
    drop(session);
    server.await.unwrap().unwrap();
    let (sent, received) = (sent.snapshot(), received.snapshot());
    assert_eq!((sent.blocks_sent, sent.patches_sent, sent.block_bytes_sent), (1, 1, stats.bytes));
    assert_eq!((received.blocks_received, received.patches_received), (1, 1));
    assert_eq!(received.block_bytes_received, stats.bytes);
}
