//! Bad manifests with a valid signature: each is refused before a file of it is pulled, and does
//! not affect later ones.

#![allow(clippy::unwrap_used, reason = "tests")]

mod server;

use std::sync::Arc;

use backup::SourceState;
use store::{BlockRead as _, BlockStore, MemStore};
use testkit::{
    Source, Tree, assert_holds, dataset, entries, file, file_entry, header, noise, put, raw, tree,
};
use types::{Block, Cid, Codec, Dataset, MANIFEST_MIME, ManifestHeader};

use self::server::Backup;

/// Creates the manifest of one attack.
type Attack = Box<dyn Fn(&Source, u64) -> Cid>;

fn good(source: &Source, sequence: u64) -> ManifestHeader {
    let store = &source.served.store;
    let tree = Tree::from([
        ("a/".to_owned(), Vec::new()),
        ("a/one".to_owned(), b"first".to_vec()),
        ("b".to_owned(), b"second".to_vec()),
        ("c".to_owned(), b"third".to_vec()),
    ]);
    let entries = entries(store, &tree);
    header(store, source.peer(), "docs", sequence, &entries)
}

/// An attack that changes the text of the segment.
fn lines(change: impl Fn(String) -> String + 'static) -> Attack {
    Box::new(move |source, sequence| {
        let store = &source.served.store;
        let mut header = good(source, sequence);
        let text = store.get(&header.segments[0].cid).unwrap().unwrap();
        let text = change(String::from_utf8(text.to_vec()).unwrap());
        let block = Block::new(Codec::Json, text.clone().into_bytes()).unwrap();
        header.segments[0].bytes = block.data().len() as u64;
        let count = text.lines().count() as u64;
        header.stats.total_files = header.stats.total_files + count - header.segments[0].entries;
        header.segments[0].entries = count;
        header.segments[0].cid = put(store, block);
        dataset(store, header.encode(&types::BlockScheme::plain()).unwrap())
    })
}

fn replaced(from: &'static str, to: &'static str) -> Attack {
    lines(move |text| {
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1)
    })
}

/// An attack that changes the header.
fn headed(change: impl Fn(&mut ManifestHeader) + 'static) -> Attack {
    Box::new(move |source, sequence| {
        let mut header = good(source, sequence);
        change(&mut header);
        dataset(&source.served.store, header.encode(&types::BlockScheme::plain()).unwrap())
    })
}

fn typed(mimetype: Option<&'static str>, codec: Codec) -> Attack {
    Box::new(move |source, sequence| {
        let store = &source.served.store;
        let block = good(source, sequence).encode(&types::BlockScheme::plain()).unwrap();
        let tree = put(store, Block::new(codec, block.data().to_vec()).unwrap());
        let mimetype = mimetype.map(str::to_owned);
        let dataset = Dataset { tree, size: 1, filename: None, mimetype };
        put(store, dataset.encode(&types::BlockScheme::plain()).unwrap())
    })
}

fn attacks() -> Vec<(&'static str, Attack)> {
    vec![
        ("a way out", replaced(r#""path":"b""#, r#""path":"../b""#)),
        ("a way out below", replaced(r#""path":"a/one""#, r#""path":"a/../../one""#)),
        ("an absolute path", replaced(r#""path":"b""#, r#""path":"/etc/passwd""#)),
        ("the directory itself", replaced(r#""path":"b""#, r#""path":"a/.""#)),
        ("an empty name", replaced(r#""path":"b""#, r#""path":"a//b""#)),
        ("no path", replaced(r#""path":"b""#, r#""path":"""#)),
        ("a NUL", replaced(r#""path":"b""#, r#""path":"b\u0000""#)),
        ("a field that nobody knows", replaced(r#""path":"b""#, r#""evil":1,"path":"b""#)),
        ("a file in a file", replaced(r#""path":"c""#, r#""path":"b/c""#)),
        ("a file in nothing", replaced(r#""path":"c""#, r#""path":"x/y/c""#)),
        ("twice the same", replaced(r#""path":"c""#, r#""path":"b""#)),
        ("out of order", replaced(r#""path":"c""#, r#""path":"A""#)),
        ("a size that is none", replaced(r#""size_bytes":6"#, r#""size_bytes":-6"#)),
        ("a chunk over the limit", replaced(r#""size_bytes":6"#, r#""size_bytes":99999999999"#)),
        ("half a line", lines(|text| text[..text.len() - 9].to_owned())),
        ("no JSON", lines(|_| "<html></html>\n".to_owned())),
        ("deep JSON", lines(|_| format!("{}\n", "[".repeat(3 << 20)))),
        ("another folder", headed(|header| header.folder_id = "other".parse().unwrap())),
        ("another number", headed(|header| header.sequence_number.0 += 1)),
        ("another source", headed(|header| header.source_peer_id = "12D3KooW".into())),
        (
            "more entries than there are",
            headed(|header| {
                header.segments[0].entries += 1 << 50;
                header.stats.total_files += 1 << 50;
            }),
        ),
        ("another length", headed(|header| header.segments[0].bytes = 1 << 60)),
        (
            "another beginning",
            headed(|header| {
                header.segments[0].first_path = types::RelPath::new("a0").unwrap();
            }),
        ),
        (
            "the same again",
            headed(|header| {
                let mut again = header.segments[0].clone();
                again.first_path = types::RelPath::new("z").unwrap();
                header.stats.total_files += again.entries;
                header.segments.push(again);
            }),
        ),
        ("no manifest", typed(Some("text/html"), Codec::Json)),
        ("no type", typed(None, Codec::Json)),
        ("a header that is none", typed(Some(MANIFEST_MIME), Codec::Raw)),
        (
            "a chunk",
            Box::new(|source, sequence| {
                let bytes = format!("chunk {sequence}").into_bytes();
                put(&source.served.store, Block::new(Codec::Raw, bytes).unwrap())
            }),
        ),
        (
            "a header without a dataset",
            Box::new(|source, sequence| {
                put(
                    &source.served.store,
                    good(source, sequence).encode(&types::BlockScheme::plain()).unwrap(),
                )
            }),
        ),
        (
            "rubbish",
            Box::new(|source, sequence| {
                let bytes = format!("\u{ff}rubbish {sequence}").into_bytes();
                put(&source.served.store, Block::new(Codec::DagCbor, bytes).unwrap())
            }),
        ),
    ]
}

#[tokio::test]
async fn a_manifest_that_could_not_be_restored_safely_is_refused_whole() {
    let source = Source::start().await;
    let store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(store.clone(), &[&source]).await;
    let mut sequence = 0;
    for (what, attack) in attacks() {
        sequence += 1;
        source.show("docs", sequence, attack(&source, sequence));
        let refused = |status: &backup::SourceStatus| {
            let folder = status.folders.first();
            folder.is_some_and(|folder| {
                folder.offered_sequence.is_some_and(|offered| offered.0 == sequence)
                    && folder.refused.is_some()
            })
        };
        let status = backup.source_that(refused).await;
        assert_eq!(status.state, SourceState::Refused, "{what}: {status:?}");
        assert_eq!(backup.count(), 0, "{what}");
        assert_eq!(store.roots(""), [], "{what}");
        // No block except those of the manifest.
        assert_eq!(raw(&source.served()) > 0, what == "a chunk", "{what}");
    }
    // Nothing of it remains, and a good manifest follows.
    store.gc(store::GcOptions::EVERYTHING).unwrap();
    assert_eq!(store.usage().unwrap().blocks, 0);
    let files = tree(10, 0);
    let manifest = source.publish("docs", sequence + 1, &files);
    backup.snapshot("docs", sequence + 1).await;
    assert_holds(&store, manifest, &files);
    backup.source_in(SourceState::Idle).await;
    backup.stop().await;
}

#[tokio::test]
async fn a_file_that_is_another_than_the_manifest_says_is_refused() {
    let source = Source::start().await;
    let store = source.served.store.clone();
    let large = noise(3, 3_000_000);
    let node = file(&store, &large);
    let short = &large[..2_999_999];
    let manifest = good(&source, 1);
    let no_file = dataset(&store, manifest.encode(&types::BlockScheme::plain()).unwrap());
    let backup_store: Arc<dyn BlockStore> = Arc::new(MemStore::new());
    let backup = Backup::start(backup_store.clone(), &[&source]).await;
    for (sequence, entry) in
        [file_entry("lies", node, short), file_entry("no-file", no_file, &large)].iter().enumerate()
    {
        let sequence = sequence as u64 + 1;
        let manifest = source.manifest("docs", sequence, std::slice::from_ref(entry));
        source.show("docs", sequence, manifest);
        backup
            .source_that(|status| {
                status.folders.first().is_some_and(|folder| {
                    folder.offered_sequence.is_some_and(|offered| offered.0 == sequence)
                        && folder.refused.is_some()
                })
            })
            .await;
        assert_eq!(backup.count(), 0);
    }
    backup.stop().await;
}
