//! Differences over a pipe: what comes, what does not, and who lies.

use store::MemStore;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::*;

fn json(text: &str) -> Block {
    Block::new(Codec::Json, text.to_owned().into_bytes()).unwrap()
}

fn store_of(blocks: &[&Block]) -> Arc<dyn BlockStore> {
    let store = MemStore::new();
    let blocks: Vec<_> = blocks.iter().map(|block| EncodedBlock::plain((*block).clone())).collect();
    store.put(&blocks).unwrap();
    Arc::new(store)
}

/// A segment of noise that nothing but its base makes small, and one like it.
fn pair() -> (Block, Block) {
    let line = |n: usize| format!("{{\"cid\":\"{}\"}}\n", blake3::hash(&n.to_le_bytes()));
    let base: String = (0..1000).map(line).collect();
    let edited: String = (0..1000).map(|n| line(if n == 500 { 5000 } else { n })).collect();
    (json(&base), json(&edited))
}

fn want(block: &Block, bases: &[&Block]) -> PatchWant {
    PatchWant { cid: block.cid(), bases: bases.iter().map(|base| base.cid()).collect() }
}

/// Asks a server of `there`, and counts the bytes that it sends.
async fn exchange(
    here: &Arc<dyn BlockStore>,
    there: &Arc<dyn BlockStore>,
    wants: Vec<PatchWant>,
) -> Result<Patched, PatchError> {
    let (near, far) = tokio::io::duplex(64);
    let serving = tokio::spawn(answer(far.compat(), Some(there.clone())));
    let patched = ask(near.compat(), here, wants).await;
    serving.await.unwrap().unwrap();
    patched
}

#[tokio::test]
async fn a_block_comes_as_its_difference_to_one_that_is_here() {
    let (base, edited) = pair();
    let other = json("other");
    let (here, there) = (store_of(&[&base]), store_of(&[&base, &edited, &other]));
    let wants = vec![want(&edited, &[&base]), want(&other, &[&base])];
    let patched = exchange(&here, &there, wants).await.unwrap();
    assert_eq!(here.get(&edited.cid()).unwrap().as_ref(), Some(edited.data()));
    // What does not gain by it is not sent so.
    assert_eq!(patched.blocks, 1);
    assert!(patched.bytes < 200, "{patched:?}");
    assert!(!here.has(&other.cid()).unwrap());
}

#[tokio::test]
async fn what_either_side_lacks_does_not_come_and_costs_the_others_nothing() {
    let (base, edited) = pair();
    let text = [edited.data(), &b"\n"[..]].concat();
    let (x, y) = (json("x"), Block::new(Codec::Raw, text).unwrap());
    let (here, there) = (store_of(&[&base, &x]), store_of(&[&base, &edited, &y]));
    let wants = vec![
        want(&edited, &[&x]),
        want(&x, &[&base]),
        // Files are not of this protocol, whatever their bytes are like.
        want(&y, &[&base]),
        want(&edited, &[&base, &y]),
        want(&edited, &[&base, &base]),
    ];
    let patched = exchange(&here, &there, wants).await.unwrap();
    assert_eq!(patched.blocks, 1);
    assert!(here.has(&edited.cid()).unwrap());
    assert!(!here.has(&y.cid()).unwrap());
}

#[tokio::test]
async fn bases_together_are_no_longer_than_a_block_may_be() {
    let (base, edited) = pair();
    let long = json(&"x".repeat(MAX_BLOCK_LEN));
    let (here, there) = (store_of(&[&base, &long]), store_of(&[&base, &edited, &long]));
    let patched = exchange(&here, &there, vec![want(&edited, &[&base, &long])]).await;
    assert_eq!(patched.unwrap(), Patched::default());
}

#[tokio::test]
async fn a_peer_that_may_not_have_blocks_learns_nothing() {
    let (base, edited) = pair();
    let here = store_of(&[&base]);
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(answer(far.compat(), None));
    let asked = ask(near.compat(), &here, vec![want(&edited, &[&base])]).await;
    assert!(matches!(asked, Err(PatchError::Exchange(_))));
    serving.await.unwrap().unwrap();
}

/// Answers every question with these bytes, and closes.
async fn hostile(here: &Arc<dyn BlockStore>, wanted: &PatchWant, bytes: Vec<u8>) -> PatchError {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut far = far.compat();
    far.write_all(&bytes).await.unwrap();
    far.close().await.unwrap();
    ask(near.compat(), here, vec![wanted.clone()]).await.unwrap_err()
}

#[tokio::test]
async fn what_is_not_the_block_is_never_put() {
    let (base, edited) = pair();
    let here = store_of(&[&base]);
    let wanted = want(&edited, &[&base]);
    let good = delta::diff(base.data(), edited.data(), delta::CLOSE).unwrap();
    let framed = |patch: &[u8]| {
        let len = u32::try_from(patch.len()).unwrap().to_le_bytes();
        [&len[..], patch].concat()
    };
    let other = delta::diff(base.data(), base.data(), delta::CLOSE).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    for bytes in [
        vec![0xff; 4],
        framed(b"garbage"),
        framed(&other),
        framed(&bomb),
        framed(&good[..good.len() - 1]),
    ] {
        let error = hostile(&here, &wanted, bytes).await;
        assert!(matches!(error, PatchError::Exchange(_)), "{error:?}");
    }
    let whole = framed(&good);
    for len in 0..whole.len() {
        hostile(&here, &wanted, whole[..len].to_vec()).await;
    }
    assert!(!here.has(&edited.cid()).unwrap());
    assert!(exchange(&here, &store_of(&[&base, &edited]), vec![wanted]).await.is_ok());
}

#[tokio::test]
async fn what_is_no_question_is_answered_with_nothing() {
    let (base, edited) = pair();
    let there = store_of(&[&base, &edited]);
    let of = |value: serde_json::Value| exchange::frame(&value, 1 << 20).unwrap();
    let good = serde_json::to_value(want(&edited, &[&base])).unwrap();
    let many = vec![good.clone(); WANTS_MAX + 1];
    let bases = vec![base.cid(); BASES_MAX + 1];
    for bytes in [
        vec![0xff; 4],
        of(serde_json::json!({})),
        of(serde_json::json!({ "patches": [good], "level": 22 })),
        of(serde_json::json!({ "patches": many })),
        of(serde_json::json!({ "patches": [{ "cid": edited.cid(), "bases": bases }] })),
        of(serde_json::json!({ "patches": [{ "cid": "..", "bases": [] }] })),
    ] {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut near = near.compat();
        near.write_all(&bytes).await.unwrap();
        let answered = answer(far.compat(), Some(there.clone())).await;
        assert!(answered.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"");
    }
}

#[test]
fn the_bytes_of_a_question_are_those_of_the_page() {
    let (a, b) = (json("a"), json("b"));
    let question = Question { patches: vec![want(&a, &[&b])] };
    let bytes = exchange::frame(&question, QUESTION_LEN_MAX).unwrap();
    let text = format!(r#"{{"patches":[{{"cid":"{}","bases":["{}"]}}]}}"#, a.cid(), b.cid());
    assert_eq!(String::from_utf8_lossy(&bytes[4..]), text);
    let bases = vec![a.cid(); BASES_MAX];
    let patches = vec![PatchWant { cid: a.cid(), bases }; WANTS_MAX];
    assert!(exchange::frame(&Question { patches }, QUESTION_LEN_MAX).is_ok());
}
