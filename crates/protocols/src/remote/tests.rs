//! Client and server over pipes, against each other and against hostile peers.

use std::sync::Arc;

use jiff::Timestamp;
use net::Keypair;
use proptest::prelude::*;
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use types::{Cid, Codec, SequenceNumber};

use super::*;

fn snapshot(keypair: &Keypair, folder: &str, sequence: u64) -> RemoteSnapshot {
    let folder: FolderId = folder.parse().unwrap();
    let sequence = SequenceNumber(sequence);
    let manifest = Cid::of(Codec::DagCbor, format!("{folder} {sequence}").as_bytes());
    RemoteSnapshot {
        id: format!("{:010x}", sequence.0),
        source: keypair.public().to_peer_id().to_string(),
        signature: manifest::sign(keypair, &folder, sequence, &manifest).unwrap().to_base64(),
        folder_name: "x\u{1}".repeat(2000),
        folder_id: folder,
        sequence,
        manifest_cid: manifest,
        received_at: Timestamp::from_second(1000 + i64::try_from(sequence.0).unwrap()).unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
        files: 3,
        bytes: 99,
        held: None,
    }
}

/// Returns a lister of the requested ones of `all`.
fn list_of(all: Vec<RemoteSnapshot>) -> ListOffered {
    Arc::new(move |source, folder| {
        let source = source.to_string();
        let is_asked = |snapshot: &&RemoteSnapshot| {
            snapshot.source == source && folder.is_none_or(|folder| *folder == snapshot.folder_id)
        };
        let snapshots = all.iter().filter(is_asked).cloned().collect();
        Ok(OfferedSnapshots { snapshots, damaged: 0 })
    })
}

async fn list(
    list: Option<&ListOffered>,
    peer: PeerId,
    request: &Request,
) -> Result<RemoteListing, RemoteError> {
    let (near, far) = tokio::io::duplex(1024);
    let serving = tokio::spawn(answer(far.compat(), peer, list.cloned()));
    let result = list_over(near.compat(), peer, request).await;
    serving.await.unwrap().unwrap();
    result
}

#[tokio::test]
async fn a_peer_is_told_of_its_own_snapshots_alone() {
    let [own, other] = [(); 2].map(|()| Keypair::generate_secp256k1());
    let peer = own.public().to_peer_id();
    let mut all: Vec<_> = (1..=40).map(|sequence| snapshot(&own, "docs", sequence)).collect();
    let first = all[0].clone();
    let music = snapshot(&own, "music", 7);
    all.push(music.clone());
    all.push(snapshot(&other, "docs", 99));
    let snapshots = list_of(all);
    let of = |folder: Option<&str>| Request::List {
        folder: folder.map(|folder| folder.parse().unwrap()),
    };
    let all = list(Some(&snapshots), peer, &of(None)).await.unwrap();
    assert_eq!((all.snapshots.len(), all.damaged, all.forged), (41, 0, 0));
    assert_eq!(all.snapshots[0], first);
    assert!(all.snapshots.iter().all(|snapshot| snapshot.source == peer.to_string()));
    let some = list(Some(&snapshots), peer, &of(Some("music"))).await.unwrap();
    assert_eq!(some.snapshots, [music]);
    let none = list(Some(&snapshots), PeerId::random(), &of(None)).await.unwrap();
    assert_eq!(none, RemoteListing::default());
    let found = list(None, peer, &of(None)).await;
    assert!(matches!(found, Err(RemoteError::NotAllowed)));
}

#[tokio::test]
async fn what_was_never_signed_does_not_count() {
    let own = Keypair::generate_secp256k1();
    let peer = own.public().to_peer_id();
    let good = snapshot(&own, "docs", 1);
    // Another manifest under the same number.
    let never = Cid::of(Codec::DagCbor, b"never");
    let forged = RemoteSnapshot { manifest_cid: never, ..good.clone() };
    let snapshots = list_of(vec![good.clone(), forged]);
    let request = Request::List { folder: None };
    let listing = list(Some(&snapshots), peer, &request).await.unwrap();
    assert_eq!((listing.snapshots.len(), listing.forged), (1, 1));
    assert!(good.is_signed_by(&peer));
    assert!(!listing.snapshots[0].is_signed_by(&PeerId::random()));
}

#[test]
fn the_words_are_those_of_the_page() {
    let text = |value: &serde_json::Value| value.to_string();
    let of = |request: &Request| text(&serde_json::to_value(request).unwrap());
    assert_eq!(of(&Request::List { folder: None }), r#"{"ask":"list"}"#);
    let docs = Request::List { folder: Some("docs".parse().unwrap()) };
    assert_eq!(of(&docs), r#"{"ask":"list","folder":"docs"}"#);
    let answer = |answer: &Answer| text(&serde_json::to_value(answer).unwrap());
    assert_eq!(answer(&Answer::End { damaged: 0 }), r#"{"end":{"damaged":0}}"#);
    for (failure, code) in [(Failure::NotAllowed, "not_allowed"), (Failure::Failed, "failed")] {
        let wanted = format!(r#"{{"failure":{{"code":"{code}"}}}}"#);
        assert_eq!(answer(&Answer::Failure(failure)), wanted);
    }
    let snapshot = snapshot(&Keypair::generate_secp256k1(), "docs", 42);
    let json = serde_json::to_string(&Answer::Snapshot(Box::new(snapshot.clone()))).unwrap();
    let RemoteSnapshot { id, source, folder_name, manifest_cid, signature, .. } = &snapshot;
    let name = serde_json::to_string(folder_name).unwrap();
    assert_eq!(
        json,
        format!(
            r#"{{"snapshot":{{"id":"{id}","source":"{source}","folder_id":"docs","folder_name":{name},"sequence":42,"created_at":"1970-01-01T00:00:00Z","received_at":"1970-01-01T00:17:22Z","files":3,"bytes":99,"manifest_cid":"{manifest_cid}","signature":"{signature}"}}}}"#
        )
    );
    // Fields may be added to answers, not to requests.
    let more = json.replace(r#""files":3"#, r#""files":3,"new":[]"#);
    assert!(serde_json::from_str::<Answer>(&more).is_ok());
    assert!(serde_json::from_str::<Request>(r#"{"ask":"list","new":1}"#).is_err());
}

async fn read_bytes(bytes: Vec<u8>) -> Result<RemoteListing, RemoteError> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut far = far.compat();
    let sending = tokio::spawn(async move {
        let _ = far.write_all(&bytes).await;
        let _ = far.close().await;
    });
    let listed = list_over(near.compat(), PeerId::random(), &Request::List { folder: None }).await;
    sending.abort();
    listed
}

#[tokio::test]
async fn hostile_answers_are_errors_within_bounds() {
    let end = frame(&Answer::End { damaged: 2 }, 99).unwrap();
    assert_eq!(read_bytes(end.clone()).await.unwrap().damaged, 2);
    for len in 0..end.len() {
        assert!(read_bytes(end[..len].to_vec()).await.is_err(), "{len}");
    }
    for bytes in [vec![0xff; 4096], b"\x02\0\0\0{}".to_vec(), b"\0\0\0\0".to_vec()] {
        assert!(read_bytes(bytes).await.is_err());
    }
    // An endless list.
    let snapshot = snapshot(&Keypair::generate_secp256k1(), "docs", 1);
    let one = frame(&Answer::Snapshot(Box::new(snapshot)), ANSWER_LEN_MAX).unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut far = far.compat();
    let flooding = tokio::spawn(async move { while far.write_all(&one).await.is_ok() {} });
    let listed = list_over(near.compat(), PeerId::random(), &Request::List { folder: None }).await;
    assert!(matches!(listed, Err(RemoteError::TooMany)));
    flooding.await.unwrap();
}

#[tokio::test]
async fn hostile_requests_cost_their_stream() {
    let snapshots = list_of(Vec::new());
    let request = Request::List { folder: Some("docs".parse().unwrap()) };
    let good = frame(&request, REQUEST_LEN_MAX).unwrap();
    let mut hostile = vec![
        vec![0xff; 10_000],
        frame(&serde_json::json!({"ask": "delete"}), 99).unwrap(),
        frame(&serde_json::json!({"ask": "find", "id": "1d16"}), 99).unwrap(),
        frame(&serde_json::json!({"ask": "list", "source": "another"}), 99).unwrap(),
        frame(&serde_json::json!({"ask": "list", "folder": "../.."}), 99).unwrap(),
    ];
    hostile.extend((0..good.len()).map(|len| good[..len].to_vec()));
    for bytes in hostile {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut near = near.compat();
        near.write_all(&bytes).await.unwrap();
        near.close().await.unwrap();
        let answered = answer(far.compat(), PeerId::random(), Some(snapshots.clone())).await;
        assert!(answered.is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damaged_answers_never_panic(at in 0..4000_usize, bit in 0..8_u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let own = Keypair::generate_secp256k1();
        let snapshot = snapshot(&own, "docs", 1);
        let answer = Answer::Snapshot(Box::new(snapshot.clone()));
        let mut bytes = frame(&answer, ANSWER_LEN_MAX).unwrap();
        let at = bytes.len() - 1 - at % (bytes.len() - 4);
        bytes[at] ^= 1 << bit;
        let mut stream = futures::io::Cursor::new(bytes);
        let read = runtime.block_on(read_frame::<Answer>(&mut stream, ANSWER_LEN_MAX));
        if let Ok(Answer::Snapshot(read)) = read
            && read.is_signed_by(&own.public().to_peer_id())
        {
            // The signature covers these fields.
            prop_assert_eq!(read.manifest_cid, snapshot.manifest_cid);
            prop_assert_eq!(read.sequence, snapshot.sequence);
        }
    }
}

/// Returns what [`list_over`] makes of the bytes that a peer sends.
async fn listed(own: PeerId, bytes: &[u8]) -> Result<RemoteListing, RemoteError> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.unwrap();
    let (mut reading, writing) = tokio::io::split(far);
    let drained = async { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await };
    let listing = async {
        let mut writing = writing;
        tokio::io::AsyncWriteExt::shutdown(&mut writing).await.unwrap();
        list_over(near.compat(), own, &Request::List { folder: None }).await
    };
    tokio::join!(listing, drained).0
}

#[test]
fn fuzz_remote_list() {
    let own = Keypair::generate_secp256k1();
    let peer = own.public().to_peer_id();
    let mut first = snapshot(&own, "docs", 1);
    first.folder_name = "Documents".into();
    let answers = [
        Answer::Snapshot(Box::new(first.clone())),
        Answer::End { damaged: 3 },
        Answer::Failure(Failure::NotAllowed),
    ];
    let frames = answers.map(|answer| exchange::frame(&answer, ANSWER_LEN_MAX).unwrap());
    let all = frames.concat();
    let request = serde_json::to_vec(&Request::List { folder: Some(first.folder_id.clone()) });
    let examples = [all, request.unwrap()];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    fuzzing::target!(&examples, |bytes: &[u8]| {
        if let Ok(listing) = runtime.block_on(listed(peer, bytes)) {
            for listed in listing.snapshots {
                // The signature covers these fields.
                assert_eq!(listed.folder_id, first.folder_id);
                assert_eq!(listed.sequence, first.sequence);
                assert_eq!(listed.manifest_cid, first.manifest_cid);
            }
        }
        if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
            let again = serde_json::to_vec(&request).unwrap();
            assert_eq!(serde_json::from_slice::<Request>(&again).unwrap(), request);
        }
    });
}
