//! "Backup Now" and automatic notifications, between two nodes on loopback.

#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::post;
use manifest::ManifestRegistry;
use net::{Keypair, Multiaddr, Net};
use protocols::{
    BackupNowError, BackupService, BackupServiceOptions, NotifySettings, OnReceipt,
    RECEIPT_PROTOCOL, ReceiptAnswer, SignedReceipt, SystemClock, TriggerServer, send_receipt,
    serve_receipts,
};
use testkit::{PATIENCE, node, signed_receipt, until};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use types::{Cid, Codec, FolderId, PublishedManifest, SequenceNumber};

fn published(sequence: u64) -> PublishedManifest {
    PublishedManifest {
        folder_id: "docs".parse().unwrap(),
        folder_name: "Documents".into(),
        folder_path: "/home/me/Documents".into(),
        manifest_cid: Cid::of(Codec::DagCbor, &sequence.to_le_bytes()),
        sequence_number: SequenceNumber(sequence),
        updated_at: "2026-11-22T10:30:00Z".parse().unwrap(),
        file_count: 1,
        total_size_bytes: 1,
    }
}

async fn serve(router: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    port
}

struct Source {
    service: BackupService,
    registry: ManifestRegistry,
    settings: watch::Sender<NotifySettings>,
    receipts: watch::Sender<BTreeMap<FolderId, SequenceNumber>>,
}

fn source(a: &Net, settings: NotifySettings) -> Source {
    let registry = ManifestRegistry::new(Keypair::generate_secp256k1());
    let (settings, receipts) = (watch::Sender::new(settings), watch::Sender::default());
    let service = BackupService::new(BackupServiceOptions {
        net: a.handle(),
        registry: registry.clone(),
        settings: settings.subscribe(),
        receipts: receipts.subscribe(),
        register: Arc::new(|_| Box::pin(async { Ok(()) })),
        clock: SystemClock::shared(),
    })
    .unwrap();
    Source { service, registry, settings, receipts }
}

fn address_of(b: &Net) -> Multiaddr {
    let handle = b.handle();
    let address = handle.listen_addrs().into_iter().next().unwrap();
    format!("{address}/p2p/{}", handle.peer_id()).parse().unwrap()
}

fn settings(b: &Net, trigger_port: u16) -> NotifySettings {
    NotifySettings {
        backup_peer: Some(address_of(b)),
        trigger_port,
        auto_notify: true,
        retry_interval: Duration::from_secs(300),
        max_retries: 5,
    }
}

#[tokio::test]
async fn a_manifest_triggers_the_backup_and_the_receipt_ends_it() {
    let (a, b) = (node().await, node().await);
    let triggers = watch::Sender::new(0_u64);
    let told = triggers.clone();
    let on_trigger = Arc::new(move || told.send_modify(|count| *count += 1));
    let (_sources, no_sources) = watch::channel(Vec::new());
    let port = serve(TriggerServer::new(on_trigger, no_sources).router()).await;
    let source = source(&a, settings(&b, port));
    let stop = CancellationToken::new();
    let running = tokio::spawn(source.service.clone().run(stop.clone()));
    // The source accepts receipts for its published manifests.
    let (registry, receipts) = (source.registry.clone(), source.receipts.clone());
    let on_receipt: OnReceipt = Arc::new(move |_, receipt: SignedReceipt| {
        let receipt = receipt.confirmation();
        let Some(offer) = registry.get(&receipt.folder_id) else {
            return ReceiptAnswer::UnknownFolder;
        };
        if offer.published.manifest_cid != receipt.manifest_cid {
            return ReceiptAnswer::Refused;
        }
        receipts.send_modify(|all| {
            all.insert(receipt.folder_id.clone(), receipt.sequence);
        });
        ReceiptAnswer::Ok
    });
    let inbound = a.accept(&RECEIPT_PROTOCOL).unwrap();
    tokio::spawn(serve_receipts(inbound, |_| true, on_receipt));

    source.registry.publish(published(1)).unwrap();
    let mut triggered = triggers.subscribe();
    tokio::time::timeout(PATIENCE, triggered.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    let report = source.service.backup_now(&["docs".parse().unwrap()]).await.unwrap();
    assert!(report.steps.iter().all(|step| !step.is_warning), "{report:?}");
    assert_eq!(*triggers.borrow(), 2);
    assert_eq!(report.peer, b.handle().peer_id());
    // The backup server can answer on the same connection once it has noticed it.
    let peer = a.handle().peer_id();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !b.handle().peers().await.unwrap().iter().any(|known| known.peer == peer) {
        assert!(std::time::Instant::now() < deadline, "B does not see A");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let [server, own] = [Keypair::generate_secp256k1(), Keypair::generate_secp256k1()];
    let receipt = |cid| signed_receipt(&server, &own, "docs", (1, cid), None);
    let (handle, peer) = (b.handle(), a.handle().peer_id());
    let wrong = receipt(published(2).manifest_cid);
    let answer = send_receipt(&handle, peer, &wrong).await.unwrap();
    assert_eq!(answer, ReceiptAnswer::Refused);
    assert!(!source.service.states().borrow().is_empty());
    let answer = send_receipt(&handle, peer, &receipt(published(1).manifest_cid)).await.unwrap();
    assert_eq!(answer, ReceiptAnswer::Ok);
    let folder = "docs".parse().unwrap();
    let waiting = source.service.wait_for_receipt(&folder, SequenceNumber(1), PATIENCE);
    assert_eq!(waiting.await, Ok(SequenceNumber(1)));
    let mut states = source.service.states();
    tokio::time::timeout(PATIENCE, states.wait_for(BTreeMap::is_empty)).await.unwrap().unwrap();
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_trigger_that_does_not_arrive_is_a_warning_that_says_why() {
    let (a, b) = (node().await, node().await);
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let count = elsewhere.clone();
    let other = Router::new().route(
        "/elsewhere",
        post(move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            StatusCode::ACCEPTED
        }),
    );
    let elsewhere_port = serve(other).await;
    let target = format!("http://127.0.0.1:{elsewhere_port}/elsewhere");
    let redirect =
        Router::new().route("/trigger", post(async move || Redirect::temporary(&target)));
    let forbid = Router::new().route("/trigger", post(async || StatusCode::FORBIDDEN));
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let source = source(&a, settings(&b, closed));
    source.registry.publish(published(1)).unwrap();
    for (port, wanted) in [
        (closed, "cannot connect"),
        (serve(redirect).await, "status 307"),
        (serve(forbid).await, "manifest_server_url"),
        (serve(Router::new()).await, "status 404"),
    ] {
        source.settings.send_modify(|settings| settings.trigger_port = port);
        let report = source.service.backup_now(&["docs".parse().unwrap()]).await.unwrap();
        let warnings: Vec<_> =
            report.steps.iter().filter(|step| step.is_warning).map(|step| &step.message).collect();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(wanted), "{warnings:?}");
    }
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_peer_at_the_address_is_named() {
    let (a, b, other) = (node().await, node().await, node().await);
    let mut settings = settings(&b, 1);
    let place = b.handle().listen_addrs().into_iter().next().unwrap();
    let wrong = format!("{place}/p2p/{}", other.handle().peer_id());
    settings.backup_peer = Some(wrong.parse().unwrap());
    let source = source(&a, settings);
    source.registry.publish(published(1)).unwrap();
    let error = source.service.backup_now(&["docs".parse().unwrap()]).await.unwrap_err();
    assert!(matches!(error, BackupNowError::Connect { is_triggered: false, .. }));
    assert!(error.to_string().contains(&b.handle().peer_id().to_string()), "{error}");
    // Automatic notifications continue and report the error.
    let stop = CancellationToken::new();
    tokio::spawn(source.service.clone().run(stop.clone()));
    let states = source.service.states();
    until(|| states.borrow().values().any(|state| state.error.is_some()).then_some(())).await;
    stop.cancel();
}
