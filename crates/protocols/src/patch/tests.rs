//! Patches over a pipe: what is sent, what is not, and hostile peers.

use store::MemStore;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::*;

fn json(text: &str) -> Block {
    Block::new(Codec::Json, text.to_owned().into_bytes()).unwrap()
}

fn store_of(blocks: &[&Block]) -> Arc<dyn BlockWrite> {
    let store = MemStore::new();
    let blocks: Vec<_> = blocks.iter().map(|block| EncodedBlock::plain((*block).clone())).collect();
    store.put(&blocks).unwrap();
    Arc::new(store)
}

/// Returns the line of a file, with noise that only its base can compress.
fn line(dir: &str, n: usize) -> String {
    let cid = blake3::hash(&n.to_le_bytes());
    format!("{{\"cid\":\"{cid}\",\"path\":\"{dir}/{n}\",\"size_bytes\":1}}\n")
}

/// Returns a segment and a similar one.
fn pair() -> (Block, Block) {
    let base: String = (0..1000).map(|n| line("a", n)).collect();
    let edited: String = (0..1000).map(|n| line("a", if n == 500 { 5000 } else { n })).collect();
    (json(&base), json(&edited))
}

fn want(block: &Block, bases: &[&Block]) -> PatchWant {
    PatchWant { cid: block.cid(), bases: bases.iter().map(|base| base.cid()).collect() }
}

/// Requests patches from a server of `there`.
async fn exchange(
    here: &Arc<dyn BlockWrite>,
    there: &Arc<dyn BlockWrite>,
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
    // A block that a patch does not shorten is not sent.
    assert_eq!(patched.blocks, 1);
    assert!(patched.bytes < 200, "{patched:?}");
    assert!(!here.has(&other.cid()).unwrap());
}

#[tokio::test]
async fn a_renamed_directory_costs_its_two_names() {
    let of = |dir: &str, numbers: std::ops::Range<usize>| -> String {
        numbers.map(|n| line(dir, n)).collect()
    };
    // Cut at other places than before, and with one edit.
    let (a, b) = (json(&of("2024/a", 0..1000)), json(&of("2024/a", 1000..2000)));
    let moved = of("attic/2024/a", 300..1400) + &line("attic/2024/a", 5000);
    let moved = json(&moved);
    // Most entries stay: with renames applied, they would differ from the bases.
    let split = json(&(of("2024/a", 0..700) + &of("2024/b", 700..1000)));
    let (here, there) = (store_of(&[&a, &b]), store_of(&[&a, &b, &moved, &split]));
    let cost = async |block: &Block, bases: &[&Block]| {
        let patched = exchange(&here, &there, vec![want(block, bases)]).await.unwrap();
        assert_eq!(here.get(&block.cid()).unwrap().as_ref(), Some(block.data()));
        assert_eq!(patched.blocks, 1);
        patched.bytes
    };
    let plain = delta::diff(
        &[a.data(), b.data()].map(|d| &d[..]).concat(),
        moved.data(),
        delta::LEVEL_SMALL,
    );
    let (plain, bytes) = (plain.unwrap().len(), cost(&moved, &[&a, &b]).await);
    assert!(plain > 2000 && bytes < 200, "{plain} {bytes}");
    let plain = delta::diff(a.data(), split.data(), delta::LEVEL_SMALL).unwrap().len() as u64;
    let bytes = cost(&split, &[&a]).await;
    assert!(bytes <= plain + 1, "{plain} {bytes}");
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
        // Blocks of files are not served, even if their bytes are similar.
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

/// Answers every request with these bytes, and closes the stream.
async fn hostile(here: &Arc<dyn BlockWrite>, wanted: &PatchWant, bytes: Vec<u8>) -> PatchError {
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
    let good = delta::diff(base.data(), edited.data(), delta::LEVEL_SMALL).unwrap();
    let framed = |answer: &[u8]| {
        let len = u32::try_from(answer.len()).unwrap().to_le_bytes();
        [&len[..], answer].concat()
    };
    let plain = |patch: &[u8]| framed(&[&[0], patch].concat());
    let other = delta::diff(base.data(), base.data(), delta::LEVEL_SMALL).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    // A rename of entries that the block has kept, and one beyond the length limit.
    let renamed = |from: &[u8], to: &[u8]| {
        let lens = [from, to].map(|text| u16::try_from(text.len()).unwrap().to_le_bytes());
        framed(&[&[1], &lens[0][..], from, &lens[1], to, &good].concat())
    };
    for bytes in [
        vec![0xff; 4],
        framed(b"garbage"),
        framed(&[0]),
        framed(&good),
        plain(b"garbage"),
        plain(&other),
        plain(&bomb),
        plain(&good[..good.len() - 1]),
        framed(&[&[9], &good[..]].concat()),
        framed(&[1, 0xff, 0xff, 0]),
        renamed(b"a/", b"b/"),
        renamed(b"", &[b'x'; 50_000]),
    ] {
        let error = hostile(&here, &wanted, bytes).await;
        assert!(matches!(error, PatchError::Exchange(_)), "{error:?}");
    }
    let whole = plain(&good);
    for len in 0..whole.len() {
        hostile(&here, &wanted, whole[..len].to_vec()).await;
    }
    assert!(!here.has(&edited.cid()).unwrap());
    assert!(exchange(&here, &store_of(&[&base, &edited]), vec![wanted]).await.is_ok());
}

#[tokio::test]
async fn a_malformed_request_gets_no_answer() {
    let (base, edited) = pair();
    let there = store_of(&[&base, &edited]);
    let of = |value: serde_json::Value| exchange::frame(&value, 1 << 20).unwrap();
    let good = serde_json::to_value(want(&edited, &[&base])).unwrap();
    let many = vec![good.clone(); PATCH_WANTS_MAX + 1];
    let bases = vec![base.cid(); PATCH_BASES_MAX + 1];
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
fn the_bytes_of_a_request_are_those_of_the_page() {
    let (a, b) = (json("a"), json("b"));
    let request = Request { patches: vec![want(&a, &[&b])] };
    let bytes = exchange::frame(&request, REQUEST_LEN_MAX).unwrap();
    let text = format!(r#"{{"patches":[{{"cid":"{}","bases":["{}"]}}]}}"#, a.cid(), b.cid());
    assert_eq!(String::from_utf8_lossy(&bytes[4..]), text);
    let bases = vec![a.cid(); PATCH_BASES_MAX];
    let patches = vec![PatchWant { cid: a.cid(), bases }; PATCH_WANTS_MAX];
    assert!(exchange::frame(&Request { patches }, REQUEST_LEN_MAX).is_ok());
}

#[test]
fn fuzz_patch_answer() {
    let base: String = (0..40).map(|n| line("old", n)).collect();
    let moved: String = (0..40).map(|n| line("new/place", n)).collect();
    let (base, moved) = (json(&base), json(&moved));
    let want = want(&moved, &[&base]);
    let found = renames::find(base.data(), moved.data());
    assert_eq!(found.len(), 1);
    let with_new_paths = renames::apply(base.data(), &found).unwrap();
    let renamed = answer_of(&found, &with_new_paths, moved.data()).unwrap();
    let plain = answer_of(&[], base.data(), moved.data()).unwrap();
    fuzzing::target!(&[renamed, plain], |bytes: &[u8]| {
        if let Some((found, rest)) = renames::decode(bytes) {
            assert_eq!([renames::encode(&found), rest.to_vec()].concat(), bytes);
        }
        let here = store_of(&[&base]);
        // Nothing but the requested block gets into the store.
        if put(&*here, &want, bytes).is_ok() {
            assert_eq!(here.get(&moved.cid()).unwrap().as_ref(), Some(moved.data()));
        } else {
            assert!(!here.has(&moved.cid()).unwrap());
        }
    });
}

#[test]
fn fuzz_patch_request() {
    let (base, edited) = pair();
    let request = Request { patches: vec![want(&edited, &[&base]), want(&base, &[])] };
    let example = serde_json::to_vec(&request).unwrap();
    fuzzing::target!(&[example], |bytes: &[u8]| {
        if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
            let again = serde_json::to_vec(&request).unwrap();
            let again = serde_json::from_slice::<Request>(&again).unwrap();
            assert_eq!(again.patches, request.patches);
        }
    });
}
