//! Pulls a manifest: an offer with a valid signature becomes a snapshot with all its blocks.
//!
//! Role: one attempt. It can be stopped, fail or crash at any point, and run again, because it
//! compares the manifest with the store. The caller has checked the signature and the sequence
//! number of the offer, and decides when to retry.
//!
//! Order: the dataset and the header, which are checked against the signed offer; the new segments,
//! each checked entry by entry; a partial root; the files; a check that all blocks are present; the
//! record and its root, which are the commit; removal of the partial root.
//!
//! Invariants: no file of a manifest is fetched that could not be restored safely; blocks that were
//! fetched for an older manifest stay until the partial root of the newer one replaces the older
//! root; memory is limited to one group of files and a summary of each segment, independent of the
//! size of the folder.

mod cache;
mod error;
mod files;
mod patches;
mod progress;
mod unavailable;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use manifest::Offer;
use net::{PeerId, Want};
use protocols::{Clock, PatchWant, SessionPool, blocking};
use snapshots::{Signs, Snapshot, SnapshotRecord, SnapshotStore, SnapshotTree, header_of};
use store::{BlockStore, Pin, Root, StoreError, WriteEpoch, get_required};
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, ManifestHeader, SequenceNumber};

use self::cache::{Caches, CompleteSegments, FolderCache};
use self::files::{BaseSegment, FileWant, check_segment, files_of, first_missing};
use self::patches::segment_patches;
use self::unavailable::{Unavailable, require_complete};
use crate::budget::{PULL_PREFIX, StorageBudget};
use crate::error::PullError;
use crate::plan::{Counts, Plan, Step, Summaries, TreeWalk, diff};
use crate::puller::Puller;
use crate::similar::SimilarBlocks;

pub use self::error::ManifestPullError;
pub use self::progress::{ManifestProgress, PullNumbers};

/// Number of segments that are checked in one call on a thread that may block.
const CHECK_BATCH: usize = 32;
/// Maximum number of files in one group, rounded up to complete segments.
const GROUP_FILES: usize = 4096;
/// Length of fetched blocks after which the store is synced, in bytes: the most that a power cut
/// costs.
const SYNC_EVERY: u64 = 256 << 20;
/// Maximum number of segments in one group.
const GROUP_SEGMENTS: usize = 64;

/// Returns the name of the partial root of a pull.
pub(crate) fn pull_root(source: &PeerId, folder: &FolderId) -> String {
    format!("{PULL_PREFIX}{source}/{folder}")
}

/// Pulls manifests into one store. Clones share the caches.
#[derive(Clone)]
pub struct ManifestPuller(Arc<Shared>);

struct Shared {
    snapshots: SnapshotStore,
    pool: SessionPool,
    clock: Arc<dyn Clock>,
    caches: Caches,
}

impl fmt::Debug for ManifestPuller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestPuller")
            .field("snapshots", &self.0.snapshots)
            .finish_non_exhaustive()
    }
}

/// A manifest to pull.
#[derive(Clone, Debug)]
pub struct ManifestJob {
    /// Peer id of the source.
    pub source: PeerId,
    /// The offer; the caller has checked its signature and sequence number.
    pub offer: Offer,
    /// The manifest that was taken last, if the offered one must be of the same history.
    pub after: Option<(SequenceNumber, Cid)>,
    /// The peers to fetch from, in order.
    pub peers: Vec<PeerId>,
    /// The progress, which is updated during the pull.
    pub progress: Arc<ManifestProgress>,
    /// The disk space that the source may use, if it is limited.
    pub budget: Option<Arc<StorageBudget>>,
    /// Ends the pull with [`ManifestPullError::Stopped`].
    pub stop: CancellationToken,
}

impl ManifestPuller {
    /// Creates a puller with empty caches.
    pub fn new(snapshots: SnapshotStore, pool: SessionPool, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { snapshots, pool, clock, caches: Caches::default() }))
    }

    /// Pulls a manifest in one attempt and commits its snapshot. At most one pull of a folder may
    /// run at a time.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestPullError`] if the attempt failed. No new snapshot exists then.
    pub async fn pull(&self, job: ManifestJob) -> Result<Snapshot, ManifestPullError> {
        let shared = &self.0;
        let (source, folder) = (job.source, job.offer.published.folder_id.clone());
        let store = shared.snapshots.store().clone();
        let (epoch, losses) = (store.write_epoch(), store.loss_counter());
        let pin = store.pin();
        pin.add([job.offer.published.manifest_cid]);
        let puller = Puller::new(
            store.clone(),
            shared.pool.clone(),
            job.peers.clone(),
            job.progress.blocks().clone(),
        );
        let puller = puller.until(job.stop.clone()).within(job.budget.clone());
        let mut attempt = Attempt {
            shared,
            root_name: pull_root(&source, &folder),
            cache: shared.caches.take(source, &folder),
            store,
            epoch,
            losses,
            pin: Arc::new(pin),
            puller,
            job,
            base_segments: Vec::new(),
            base_header: None,
        };
        let result = attempt.run().await;
        let mut cache = std::mem::take(&mut attempt.cache);
        match &result {
            // Blocks that were stored may be lost.
            Err(error) if error.is_of_store() => cache = FolderCache::default(),
            _ => {}
        }
        shared.caches.put(source, &folder, cache);
        result
    }

    /// Removes the partial roots of pulls that will not continue: those that became a snapshot, and
    /// those of peers that are not among `sources`. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`ManifestPullError::Store`] or [`ManifestPullError::Snapshot`] if the store fails.
    pub fn remove_stale_roots(&self, sources: &[PeerId]) -> Result<(), ManifestPullError> {
        let snapshots = &self.0.snapshots;
        for (name, root) in snapshots.store().roots(PULL_PREFIX) {
            let parts = name.strip_prefix(PULL_PREFIX).and_then(|rest| rest.split_once('/'));
            let parsed = parts.and_then(|(peer, folder)| {
                Some((peer.parse::<PeerId>().ok()?, folder.parse::<FolderId>().ok()?))
            });
            // Roots with another form of name do not belong to a pull.
            let Some((peer, folder)) = parsed else { continue };
            let is_done = || {
                let newest = snapshots.newest(&peer, &folder)?;
                Ok::<_, ManifestPullError>(newest.is_some_and(|s| s.record.manifest == root.cid))
            };
            if !sources.contains(&peer) || is_done()? {
                snapshots.store().remove_root(&name)?;
            }
        }
        Ok(())
    }
}

/// The newest local snapshot to diff against, if any.
enum Base {
    /// The manifest already has its snapshot.
    Done(Box<Snapshot>),
    /// The header of the newest snapshot, if it exists and can be read.
    Header(Option<Arc<ManifestHeader>>),
}

/// Reason why no base was determined.
enum NoBase {
    Done(Box<Snapshot>),
    Failed(ManifestPullError),
}

impl<E: Into<ManifestPullError>> From<E> for NoBase {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One attempt.
struct Attempt<'a> {
    shared: &'a Shared,
    job: ManifestJob,
    store: Arc<dyn BlockStore>,
    root_name: String,
    epoch: WriteEpoch,
    /// Loss counter of the store at the start of the attempt.
    losses: u64,
    /// Shared with the commit, which may outlive an aborted attempt.
    pin: Arc<Pin>,
    puller: Puller,
    cache: FolderCache,
    /// The segments of the last snapshot, in order.
    base_segments: Vec<BaseSegment>,
    /// CID of the header of the last snapshot.
    base_header: Option<Cid>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Snapshot, ManifestPullError> {
        let base = match self.find_base().await? {
            // An earlier attempt was aborted after its commit.
            Base::Done(snapshot) => return Ok(*snapshot),
            Base::Header(base) => base,
        };
        let header = Arc::new(self.fetch_header().await?);
        let complete = self.cache.complete();
        self.base_segments = base.as_ref().map_or_else(Vec::new, |base| {
            let segment = |cid: Cid| BaseSegment { cid, is_complete: complete.contains_key(&cid) };
            base.segments.iter().map(|reference| segment(reference.cid)).collect()
        });
        let plan = Arc::new(diff(&header, base.as_deref(), &complete));
        if let Some(base) = &base {
            self.patch(segment_patches(&plan, &header, base)).await?;
        }
        let wanted = plan.new_segments().map(|step| step.segment.cid).collect();
        require_complete(&self.puller.blocks(wanted).await?)?;
        let summaries = Arc::new(self.check_segments(plan.clone(), complete).await?);
        let total = self.count_totals(&plan, &summaries);
        self.set_partial_root(&plan, &summaries).await?;
        self.pull_files(&plan, &summaries).await?;
        self.commit(&header, &total, &summaries).await
    }

    /// Finds the newest snapshot and pins it until the end of the attempt.
    async fn find_base(&mut self) -> Result<Base, ManifestPullError> {
        let manifest = self.job.offer.published.manifest_cid;
        let snapshots = self.shared.snapshots.clone();
        let (source, folder) = (self.job.source, self.job.offer.published.folder_id.clone());
        let (store, root_name) = (self.store.clone(), self.root_name.clone());
        let newest = blocking(move || {
            let pin = store.pin();
            let newest = snapshots.newest(&source, &folder)?;
            let Some(newest) = newest else {
                return Ok((None, store.root(&root_name)));
            };
            if newest.record.manifest == manifest {
                return Err(NoBase::Done(Box::new(newest)));
            }
            pin.add([newest.cid]);
            // It may have been removed before it was pinned.
            let again = snapshots.newest(&source, &folder)?;
            if again.as_ref().map(|again| again.cid) != Some(newest.cid) {
                return Ok((None, store.root(&root_name)));
            }
            let tree = match SnapshotTree::open(store.clone(), newest.record.manifest) {
                Ok(tree) => Some(tree),
                Err(error) => {
                    // The pull repairs it, because it then treats no block as known.
                    let id = &newest.id;
                    tracing::warn!(%id, %error, "the newest snapshot of the folder is damaged; its blocks are fetched again");
                    None
                }
            };
            let base = tree.map(|tree| (newest.cid, tree, pin));
            Ok((base, store.root(&root_name)))
        });
        let (base, partial) = match newest.await {
            Ok(found) => found,
            Err(NoBase::Done(snapshot)) => return Ok(Base::Done(snapshot)),
            Err(NoBase::Failed(error)) => return Err(error),
        };
        let cache = std::mem::take(&mut self.cache);
        let base_cid = base.as_ref().map(|(cid, ..)| *cid);
        self.cache = cache.valid(base_cid, partial.map(|root| root.cid), self.losses);
        Ok(Base::Header(base.map(|(cid, tree, pin)| {
            self.pin.add([cid]);
            drop(pin);
            self.base_header = Some(tree.header_cid());
            tree.header().clone()
        })))
    }

    /// Fetches the dataset and the header, and checks them.
    async fn fetch_header(&mut self) -> Result<ManifestHeader, ManifestPullError> {
        let manifest = self.job.offer.published.manifest_cid;
        require_complete(&self.puller.blocks(vec![manifest]).await?)?;
        let store = self.store.clone();
        let header_cid = blocking(move || {
            let bytes = get_required(&*store, manifest)?;
            Ok::<_, ManifestPullError>(header_of(manifest, &bytes)?)
        });
        let header_cid = header_cid.await?;
        if let Some(base) = self.base_header {
            self.patch(vec![PatchWant { cid: header_cid, bases: vec![base] }]).await?;
        }
        require_complete(&self.puller.blocks(vec![header_cid]).await?)?;
        let store = self.store.clone();
        let header = blocking(move || {
            let bytes = get_required(&*store, header_cid)?;
            ManifestHeader::decode(&bytes)
                .map_err(|source| ManifestPullError::Unsound { cid: header_cid, source })
        });
        let header = header.await?;
        let published = &self.job.offer.published;
        let check = |is_equal: bool, field| {
            if is_equal { Ok(()) } else { Err(ManifestPullError::NotAsSigned(field)) }
        };
        check(header.folder_id == published.folder_id, "folder")?;
        check(header.sequence_number == published.sequence_number, "sequence number")?;
        let source = header.source_peer_id.parse::<PeerId>();
        check(source.is_ok_and(|source| source == self.job.source), "source")?;
        if let Some((sequence, taken)) = self.job.after
            && header.sequence_number.0 == sequence.0 + 1
            && let Some(previous) = header.previous
            && previous != taken
        {
            return Err(ManifestPullError::SetBack { previous, taken });
        }
        Ok(header)
    }

    /// Checks every segment; those that were not checked before are checked entry by entry.
    async fn check_segments(
        &mut self,
        plan: Arc<Plan>,
        complete: Summaries,
    ) -> Result<Summaries, ManifestPullError> {
        // Keeps the checks of an unfinished pull, so that a folder whose manifests are superseded
        // again and again makes progress.
        let checked = std::mem::take(&mut self.cache.checked);
        let mut state = (TreeWalk::new(), complete);
        state.1.extend(checked);
        for range in ranges(plan.steps.len(), CHECK_BATCH) {
            self.check_stopped()?;
            let (store, plan) = (self.store.clone(), plan.clone());
            let checked = blocking(move || {
                let (mut walk, mut summaries) = state;
                for step in &plan.steps[range] {
                    let cid = step.segment.cid;
                    let known = summaries.get(&cid).filter(|known| known.is_of(&step.segment));
                    match known {
                        Some(known) => walk
                            .skip(&step.segment, known)
                            .map_err(|source| ManifestPullError::Unsound { cid, source })?,
                        None => {
                            let summary = check_segment(&*store, &step.segment, &mut walk)?;
                            summaries.insert(cid, Arc::new(summary));
                        }
                    }
                }
                Ok::<_, ManifestPullError>((walk, summaries))
            });
            state = checked.await?;
        }
        let (_, mut summaries) = state;
        let used: std::collections::HashSet<Cid> =
            plan.steps.iter().map(|step| step.segment.cid).collect();
        summaries.retain(|cid, _| used.contains(cid));
        self.cache.checked.clone_from(&summaries);
        Ok(summaries)
    }

    /// Returns the totals of the manifest, and adds the known part to the progress.
    fn count_totals(&self, plan: &Plan, summaries: &Summaries) -> Counts {
        let mut total = Counts::default();
        for step in &plan.steps {
            let Some(summary) = summaries.get(&step.segment.cid) else { continue };
            let counts = summary.counts();
            total.add_all(counts);
            if !step.is_new {
                self.job.progress.add_files(counts.files);
                self.job.progress.add_bytes_stored(counts.bytes);
            }
        }
        self.job.progress.set_total(&total);
        total
    }

    /// Sets the partial root, so that the fetched blocks survive a crash. It replaces the root of
    /// an older pull of the folder; the blocks that both manifests need stay protected.
    async fn set_partial_root(
        &mut self,
        plan: &Plan,
        summaries: &Summaries,
    ) -> Result<(), ManifestPullError> {
        let manifest = self.job.offer.published.manifest_cid;
        let root = Root { cid: manifest, partial: true };
        let (store, name, epoch) = (self.store.clone(), self.root_name.clone(), self.epoch);
        blocking(move || {
            if store.root(&name) != Some(root) {
                store.set_root(&name, root, epoch)?;
            }
            Ok::<_, ManifestPullError>(())
        })
        .await?;
        let known = plan.steps.iter().filter(|step| !step.is_new).filter_map(|step| {
            let cid = step.segment.cid;
            Some((cid, summaries.get(&cid)?.clone()))
        });
        self.cache.partial = Some(CompleteSegments { root: manifest, segments: known.collect() });
        Ok(())
    }

    /// Pulls the files of the new segments, group by group, and checks that they are complete.
    async fn pull_files(
        &mut self,
        plan: &Arc<Plan>,
        summaries: &Arc<Summaries>,
    ) -> Result<(), ManifestPullError> {
        let (mut unavailable, mut synced) = (Unavailable::default(), 0);
        let new: Arc<Vec<Step>> = Arc::new(plan.new_segments().cloned().collect());
        let mut next = 0;
        while next < new.len() {
            self.check_stopped()?;
            let group = self.next_group(new.clone(), next).await?;
            let steps = &new[group.range.clone()];
            next = group.range.end;
            let wants: Vec<Want> = group.files.iter().map(Want::from).collect();
            let report = self.puller.trees(wants, similar_blocks(&group.files)).await?;
            unavailable.add(&report);
            let mut counts = Counts::default();
            for step in steps {
                if let Some(summary) = summaries.get(&step.segment.cid) {
                    counts.add_all(summary.counts());
                }
            }
            let wanted: u64 = group.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
            self.job.progress.add_bytes_stored(counts.bytes.saturating_sub(wanted));
            if !report.is_complete() {
                continue;
            }
            let (store, epoch) = (self.store.clone(), self.epoch);
            let fetched = self.job.progress.numbers().fetched_bytes;
            let is_sync_due = fetched - synced > SYNC_EVERY;
            if is_sync_due {
                synced = fetched;
            }
            let missing = blocking(move || {
                if is_sync_due {
                    store.commit(epoch)?;
                }
                first_missing(&*store, &group.files)
            });
            if let Some(cid) = missing.await? {
                unavailable.add_missing(cid, 1);
                continue;
            }
            self.job.progress.add_files(counts.files);
            if let Some(partial) = &mut self.cache.partial {
                let done = steps.iter().filter_map(|step| {
                    let cid = step.segment.cid;
                    Some((cid, summaries.get(&cid)?.clone()))
                });
                partial.segments.extend(done);
            }
        }
        unavailable.result()
    }

    /// Returns the files of the next new segments that are not known to be complete.
    async fn next_group(
        &self,
        new: Arc<Vec<Step>>,
        from: usize,
    ) -> Result<Group, ManifestPullError> {
        let (store, base) = (self.store.clone(), self.base_segments.clone());
        blocking(move || {
            let mut group = Group { range: from..from, files: Vec::new() };
            for step in new.iter().skip(from).take(GROUP_SEGMENTS) {
                let overlaps = base.get(step.overlaps.clone()).unwrap_or_default();
                group.files.extend(files_of(&*store, step.segment.cid, overlaps)?);
                group.range.end += 1;
                if group.files.len() >= GROUP_FILES {
                    break;
                }
            }
            Ok(group)
        })
        .await
    }

    /// Checks that all blocks are present, and commits the snapshot.
    async fn commit(
        &mut self,
        header: &Arc<ManifestHeader>,
        total: &Counts,
        summaries: &Arc<Summaries>,
    ) -> Result<Snapshot, ManifestPullError> {
        let published = &self.job.offer.published;
        let snapshots = self.shared.snapshots.clone();
        let mut record = SnapshotRecord {
            source: self.job.source,
            folder: published.folder_id.clone(),
            folder_name: header.folder_name.clone(),
            sequence: published.sequence_number,
            manifest: published.manifest_cid,
            signature: self.job.offer.signature.clone(),
            order: snapshots.next_order(),
            received_at: self.shared.clock.now(),
            created_at: header.created_at,
            files: total.files,
            dirs: total.dirs,
            bytes: total.bytes,
            held: header.held.as_ref().map(|why| why.chars().take(HELD_LEN_MAX).collect()),
            signs: Signs::default(),
        };
        let (store, header) = (self.store.clone(), header.clone());
        let (epoch, losses, root_name) = (self.epoch, self.losses, self.root_name.clone());
        let pin = self.pin.clone();
        let snapshot = blocking(move || {
            let _pin = pin;
            let segments = header.segments.iter().map(|segment| segment.cid);
            for cid in segments.chain([record.manifest]) {
                if !store.has(&cid)? {
                    return Err(StoreError::Missing(cid).into());
                }
            }
            // The files were checked one by one; the store may have lost some of them since.
            if store.loss_counter() != losses {
                return Err(ManifestPullError::Lost);
            }
            record.signs = snapshots.find_signs(
                &record.source,
                &record.folder,
                &header,
                record.received_at,
            )?;
            let snapshot = snapshots.commit(record, epoch)?;
            // After the commit, a failure is only logged. If this attempt was aborted, the root may
            // already belong to the next one.
            let own_root = Root { cid: snapshot.record.manifest, partial: true };
            if store.root(&root_name) == Some(own_root)
                && let Err(error) = store.remove_root(&root_name)
            {
                tracing::warn!(root = root_name, %error, "cannot remove the partial root of a finished pull");
            }
            Ok::<_, ManifestPullError>(snapshot)
        });
        let snapshot = snapshot.await?;
        let segments = HashMap::clone(summaries);
        let base = Some(CompleteSegments { root: snapshot.cid, segments });
        self.cache = FolderCache { base, losses: self.losses, ..FolderCache::default() };
        Ok(snapshot)
    }

    fn check_stopped(&self) -> Result<(), ManifestPullError> {
        if self.job.stop.is_cancelled() { Err(ManifestPullError::Stopped) } else { Ok(()) }
    }
}

/// Maximum length of the stored reason why a snapshot awaits confirmation, in characters.
const HELD_LEN_MAX: usize = 1000;

/// Files that are pulled together, and the range of their steps.
struct Group {
    range: Range<usize>,
    files: Vec<FileWant>,
}

/// Pairs the files with the old files at their paths.
fn similar_blocks(files: &[FileWant]) -> SimilarBlocks {
    let mut similar = SimilarBlocks::default();
    for file in files {
        if let Some(stored) = file.similar {
            similar.add(file.cid, stored);
        }
    }
    similar
}

/// Splits `0..len` into ranges of at most `step`.
fn ranges(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(step).map(move |from| from..(from + step).min(len))
}

impl From<PullError> for ManifestPullError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Stopped => Self::Stopped,
            error => Self::Pull(error),
        }
    }
}
