//! A backup server whose daemon pulls from sources of the test.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::sync::Arc;
use std::time::Duration;

use backup::{
    BackupDaemon, BackupHandle, BackupOptions, BackupSettings, SourceState, SourceStatus,
};
use config::SourcePeer;
use net::{Keypair, Net};
use protocols::SystemClock;
use snapshots::{Snapshot, SnapshotStore};
use store::BlockStore;
use testkit::{Source, plain_net_as, until};
use tokio::sync::watch;

/// A backup server.
pub(crate) struct Backup {
    pub(crate) daemon: BackupDaemon,
    pub(crate) handle: BackupHandle,
    pub(crate) settings: watch::Sender<BackupSettings>,
    pub(crate) net: Net,
    pub(crate) key: Keypair,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn settings(sources: &[SourcePeer]) -> BackupSettings {
    BackupSettings {
        enabled: true,
        poll_interval: Duration::from_secs(30),
        max_concurrent_downloads: 3,
        max_retries: 3,
        sources: sources.to_vec(),
    }
}

impl Backup {
    /// Starts a backup server that pulls from these sources into `store`.
    pub(crate) async fn start(store: Arc<dyn BlockStore>, sources: &[&Source]) -> Self {
        let key = Keypair::generate_secp256k1();
        let net = plain_net_as(key.clone()).await;
        let named = |(number, source): (usize, &&Source)| {
            source.allow(net.handle().peer_id());
            source.config(&format!("source-{number}"))
        };
        let sources: Vec<_> = sources.iter().enumerate().map(named).collect();
        Self::with(store, net, key, settings(&sources), tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn with(
        store: Arc<dyn BlockStore>,
        net: Net,
        key: Keypair,
        settings: BackupSettings,
        dir: tempfile::TempDir,
    ) -> Self {
        let (settings, receiver) = watch::channel(settings);
        let options = BackupOptions {
            snapshots: SnapshotStore::new(store),
            net: net.handle(),
            data_dir: dir.path().to_owned(),
            keypair: key.clone(),
            settings: receiver,
            clock: SystemClock::shared(),
        };
        let daemon = BackupDaemon::start(options).await.unwrap();
        let handle = daemon.handle();
        Self { daemon, handle, settings, net, key, dir }
    }

    /// Waits for the snapshot of a folder with this sequence number.
    pub(crate) async fn snapshot(&self, folder: &str, sequence: u64) -> Snapshot {
        until(|| {
            let all = self.handle.snapshots().list().unwrap();
            assert_eq!(all.damaged, []);
            all.snapshots.into_iter().find(|snapshot| {
                let record = &snapshot.record;
                record.folder.as_str() == folder && record.sequence.0 == sequence
            })
        })
        .await
    }

    pub(crate) fn count(&self) -> usize {
        self.handle.snapshots().list().unwrap().snapshots.len()
    }

    /// Waits until the status of the only source meets a condition.
    pub(crate) async fn source_that(
        &self,
        is_so: impl Fn(&SourceStatus) -> bool,
    ) -> Arc<SourceStatus> {
        until(|| self.handle.sources().into_iter().next().filter(|source| is_so(source))).await
    }

    pub(crate) async fn source_in(&self, state: SourceState) -> Arc<SourceStatus> {
        self.source_that(|source| source.state == state).await
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.daemon.shutdown().await;
        self.net.shutdown(Duration::from_secs(5)).await.unwrap();
        self.dir
    }
}
