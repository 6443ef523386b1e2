//! From an offer to a snapshot: a manifest that was signed becomes one that B
//! holds, with every block.
//!
//! Role: one attempt, which can be stopped, fail or be lost at any point, and
//! begun again: it looks at what is wanted and at what is there. Who calls it
//! has checked the offer's signature and number, and decides when to try again.
//!
//! Order: dataset and header, which are checked against what was signed; the
//! segments that are new, each checked entry by entry; only then a partial
//! root, and the files; everything present; the record and its root, which are
//! the commit; the partial root goes.
//!
//! Invariants: no file is fetched of a manifest that could not be restored
//! safely; what was fetched for an older manifest stays until the newer one's
//! partial root has taken its place; memory holds one group of files and a
//! summary of each segment, whatever the size of the folder.

mod cache;
mod error;
mod files;
mod lacking;
mod patches;
mod progress;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use manifest::Offer;
use net::{PeerId, Want};
use protocols::{Clock, PatchWant, SessionPool, blocking};
use snapshots::{Snapshot, SnapshotRecord, SnapshotStore, SnapshotTree, header_of};
use store::{BlockStore, Pin, Root, StoreError, WriteEpoch};
use tokio_util::sync::CancellationToken;
use types::{Cid, FolderId, ManifestHeader};

use self::cache::{Caches, Complete, FolderCache};
use self::files::{FileWant, Held, check_segment, files_of, first_missing};
use self::lacking::{Lacking, whole};
use self::patches::segment_patches;
use crate::likes::Likes;
use crate::plan::{Counts, Plan, Step, Summary, TreeWalk, diff};
use crate::puller::{PullError, Puller};

pub use self::error::ManifestPullError;
pub use self::progress::{ManifestProgress, PullNumbers};

/// What the names of the roots of pulls begin with.
pub(crate) const PULL_PREFIX: &str = "pull/";
/// Segments that are checked in one go, on a thread that may block.
const CHECKED_AT_ONCE: usize = 32;
/// Files that are pulled in one go, at most, but always those of a segment.
const GROUP_FILES: usize = 4096;
/// What a power cut may cost of a pull that goes on, in bytes.
const SYNC_EVERY: u64 = 256 << 20;
/// Segments that are looked through for one such group.
const GROUP_SEGMENTS: usize = 64;

/// The name of the partial root of a pull.
pub(crate) fn pull_root(source: &PeerId, folder: &FolderId) -> String {
    format!("{PULL_PREFIX}{source}/{folder}")
}

/// Pulls manifests into one store. Clones share what is remembered.
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

/// What is pulled, and how.
#[derive(Clone, Debug)]
pub struct ManifestJob {
    /// Whose manifest it is.
    pub source: PeerId,
    /// The manifest; its signature and its number were checked.
    pub offer: Offer,
    /// Whom to ask, one after the other.
    pub peers: Vec<PeerId>,
    /// Where it is told how far it is.
    pub progress: Arc<ManifestProgress>,
    /// Ends it with [`ManifestPullError::Stopped`].
    pub stop: CancellationToken,
}

impl ManifestPuller {
    /// Nothing is remembered yet.
    pub fn new(snapshots: SnapshotStore, pool: SessionPool, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { snapshots, pool, clock, caches: Caches::default() }))
    }

    /// Pulls a manifest and commits its snapshot. One attempt; for one folder
    /// of a source at most one runs at a time.
    ///
    /// # Errors
    ///
    /// [`ManifestPullError`]; there is no new snapshot then.
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
        let puller = puller.until(job.stop.clone());
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
            held_elsewhere: Vec::new(),
            base_header: None,
        };
        let result = attempt.run().await;
        let mut cache = std::mem::take(&mut attempt.cache);
        match &result {
            // What was put may not be there any more.
            Err(error) if error.is_of_store() => cache = FolderCache::default(),
            _ => {}
        }
        shared.caches.put(source, &folder, cache);
        result
    }

    /// Removes the partial roots of pulls that nobody goes on with: those that
    /// became a snapshot, and those of peers that are no sources any more.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// Those of the disk.
    pub fn tidy(&self, sources: &[PeerId]) -> Result<(), ManifestPullError> {
        let snapshots = &self.0.snapshots;
        for (name, root) in snapshots.store().roots(PULL_PREFIX) {
            let parts = name.strip_prefix(PULL_PREFIX).and_then(|rest| rest.split_once('/'));
            let parsed = parts.and_then(|(peer, folder)| {
                Some((peer.parse::<PeerId>().ok()?, folder.parse::<FolderId>().ok()?))
            });
            // A name of another form is not ours.
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

/// What there is of the folder.
enum Base {
    /// The manifest has its snapshot.
    Done(Box<Snapshot>),
    /// The newest snapshot's header, if there is one that can be read.
    Header(Option<Arc<ManifestHeader>>),
}

/// Why the search for what there is of the folder ended early.
enum Unfinished {
    Done(Box<Snapshot>),
    Failed(ManifestPullError),
}

impl<E: Into<ManifestPullError>> From<E> for Unfinished {
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
    /// What the store had lost when the attempt began.
    losses: u64,
    /// Shared with the commit, which may outlive an attempt that is cut off.
    pin: Arc<Pin>,
    puller: Puller,
    cache: FolderCache,
    /// The segments of the last snapshot, in order.
    held_elsewhere: Vec<Held>,
    /// The block that holds the last snapshot's header.
    base_header: Option<Cid>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Snapshot, ManifestPullError> {
        let base = match self.base().await? {
            // The attempt before was cut off when it had done all.
            Base::Done(snapshot) => return Ok(*snapshot),
            Base::Header(base) => base,
        };
        let header = Arc::new(self.header().await?);
        let complete = self.cache.complete();
        self.held_elsewhere = base.as_ref().map_or_else(Vec::new, |base| {
            let held = |cid: Cid| Held { cid, is_complete: complete.contains_key(&cid) };
            base.segments.iter().map(|segment| held(segment.cid)).collect()
        });
        let plan = Arc::new(diff(&header, base.as_deref(), &complete));
        if let Some(base) = &base {
            self.patch(segment_patches(&plan, &header, base)).await?;
        }
        let wanted = plan.new_segments().map(|step| step.segment.cid).collect();
        whole(&self.puller.blocks(wanted).await?)?;
        let summaries = Arc::new(self.check(plan.clone(), complete).await?);
        let total = self.count(&plan, &summaries);
        self.begin(&plan, &summaries).await?;
        self.files(&plan, &summaries).await?;
        self.commit(&header, &total, &summaries).await
    }

    /// The header of the newest snapshot, which is kept until the end.
    async fn base(&mut self) -> Result<Base, ManifestPullError> {
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
                return Err(Unfinished::Done(Box::new(newest)));
            }
            pin.add([newest.cid]);
            // It may have gone before it was pinned.
            let again = snapshots.newest(&source, &folder)?;
            if again.as_ref().map(|again| again.cid) != Some(newest.cid) {
                return Ok((None, store.root(&root_name)));
            }
            let tree = match SnapshotTree::open(store.clone(), newest.record.manifest) {
                Ok(tree) => Some(tree),
                Err(error) => {
                    // A pull is how it is mended: nothing is taken for known.
                    let id = &newest.id;
                    tracing::warn!(%id, %error, "the newest snapshot of a folder is damaged");
                    None
                }
            };
            let base = tree.map(|tree| (newest.cid, tree, pin));
            Ok((base, store.root(&root_name)))
        });
        let (base, partial) = match newest.await {
            Ok(found) => found,
            Err(Unfinished::Done(snapshot)) => return Ok(Base::Done(snapshot)),
            Err(Unfinished::Failed(error)) => return Err(error),
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
    async fn header(&mut self) -> Result<ManifestHeader, ManifestPullError> {
        let manifest = self.job.offer.published.manifest_cid;
        whole(&self.puller.blocks(vec![manifest]).await?)?;
        let store = self.store.clone();
        let header_cid = blocking(move || {
            let bytes = store.get(&manifest)?.ok_or(StoreError::Missing(manifest))?;
            Ok::<_, ManifestPullError>(header_of(manifest, &bytes)?)
        });
        let header_cid = header_cid.await?;
        if let Some(base) = self.base_header {
            self.patch(vec![PatchWant { cid: header_cid, bases: vec![base] }]).await?;
        }
        whole(&self.puller.blocks(vec![header_cid]).await?)?;
        let store = self.store.clone();
        let header = blocking(move || {
            let bytes = store.get(&header_cid)?.ok_or(StoreError::Missing(header_cid))?;
            ManifestHeader::decode(&bytes)
                .map_err(|source| ManifestPullError::Unsound { cid: header_cid, source })
        });
        let header = header.await?;
        let published = &self.job.offer.published;
        let is_as_signed = |holds: bool, what| {
            if holds { Ok(()) } else { Err(ManifestPullError::NotAsSigned(what)) }
        };
        is_as_signed(header.folder_id == published.folder_id, "folder")?;
        is_as_signed(header.sequence_number == published.sequence_number, "number")?;
        let source = header.source_peer_id.parse::<PeerId>();
        is_as_signed(source.is_ok_and(|source| source == self.job.source), "source")?;
        Ok(header)
    }

    /// Checks every segment: those that were not checked before entry by entry.
    async fn check(
        &mut self,
        plan: Arc<Plan>,
        complete: HashMap<Cid, Summary>,
    ) -> Result<HashMap<Cid, Summary>, ManifestPullError> {
        // A pull that is superseded again and again must not spend its time on
        // checking what it has checked.
        let checked = std::mem::take(&mut self.cache.checked);
        let mut state = (TreeWalk::new(), complete);
        state.1.extend(checked);
        for range in ranges(plan.steps.len(), CHECKED_AT_ONCE) {
            self.check_stopped()?;
            let (store, plan) = (self.store.clone(), plan.clone());
            let checked = blocking(move || {
                let (mut walk, mut summaries) = state;
                for step in &plan.steps[range] {
                    let cid = step.segment.cid;
                    let known = summaries.get(&cid).filter(|known| known.is_of(&step.segment));
                    match known {
                        Some(known) => walk
                            .pass(known)
                            .map_err(|source| ManifestPullError::Unsound { cid, source })?,
                        None => {
                            let summary = check_segment(&*store, &step.segment, &mut walk)?;
                            summaries.insert(cid, summary);
                        }
                    }
                }
                Ok::<_, ManifestPullError>((walk, summaries))
            });
            state = checked.await?;
        }
        let (_, mut summaries) = state;
        let ours: std::collections::HashSet<Cid> =
            plan.steps.iter().map(|step| step.segment.cid).collect();
        summaries.retain(|cid, _| ours.contains(cid));
        self.cache.checked.clone_from(&summaries);
        Ok(summaries)
    }

    /// What the manifest comes to, and how much of it is known to be here.
    fn count(&self, plan: &Plan, summaries: &HashMap<Cid, Summary>) -> Counts {
        let mut total = Counts::default();
        for step in &plan.steps {
            let Some(summary) = summaries.get(&step.segment.cid) else { continue };
            let counts = summary.counts();
            total.add_all(counts);
            if !step.is_new {
                self.job.progress.add_files(counts.files);
                self.job.progress.add_bytes_here(counts.bytes);
            }
        }
        self.job.progress.set_total(&total);
        total
    }

    /// Sets the partial root: from now on this pull goes on after a crash. It
    /// takes the place of an older pull's, whose files these are as well.
    async fn begin(
        &mut self,
        plan: &Plan,
        summaries: &HashMap<Cid, Summary>,
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
        self.cache.partial = Some(Complete { root: manifest, segments: known.collect() });
        Ok(())
    }

    /// Pulls the files of the new segments, group by group, and checks that
    /// they are here.
    async fn files(
        &mut self,
        plan: &Arc<Plan>,
        summaries: &Arc<HashMap<Cid, Summary>>,
    ) -> Result<(), ManifestPullError> {
        let (mut lacking, mut synced) = (Lacking::default(), 0);
        let new: Arc<Vec<Step>> = Arc::new(plan.new_segments().cloned().collect());
        let mut next = 0;
        while next < new.len() {
            self.check_stopped()?;
            let group = self.group(new.clone(), next).await?;
            let steps = &new[group.range.clone()];
            next = group.range.end;
            let wants: Vec<Want> = group.files.iter().map(Want::from).collect();
            let report = self.puller.trees(wants, likes(&group.files)).await?;
            lacking.add(&report);
            let mut counts = Counts::default();
            for step in steps {
                if let Some(summary) = summaries.get(&step.segment.cid) {
                    counts.add_all(summary.counts());
                }
            }
            let wanted: u64 = group.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
            self.job.progress.add_bytes_here(counts.bytes.saturating_sub(wanted));
            if !report.is_complete() {
                continue;
            }
            let (store, epoch) = (self.store.clone(), self.epoch);
            let fetched = self.job.progress.numbers().fetched_bytes;
            let is_much = fetched - synced > SYNC_EVERY;
            if is_much {
                synced = fetched;
            }
            let gone = blocking(move || {
                if is_much {
                    store.commit(epoch)?;
                }
                first_missing(&*store, &group.files)
            });
            let gone = gone.await?;
            if let Some(cid) = gone {
                lacking.is_missing(cid, 1);
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
        lacking.result()
    }

    /// The files of the next new segments that are not known to be here.
    async fn group(&self, new: Arc<Vec<Step>>, from: usize) -> Result<Group, ManifestPullError> {
        let (store, held) = (self.store.clone(), self.held_elsewhere.clone());
        blocking(move || {
            let mut group = Group { range: from..from, files: Vec::new() };
            for step in new.iter().skip(from).take(GROUP_SEGMENTS) {
                let overlaps = held.get(step.overlaps.clone()).unwrap_or_default();
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

    /// The last look, and the last write.
    async fn commit(
        &mut self,
        header: &Arc<ManifestHeader>,
        total: &Counts,
        summaries: &Arc<HashMap<Cid, Summary>>,
    ) -> Result<Snapshot, ManifestPullError> {
        let published = &self.job.offer.published;
        let snapshots = self.shared.snapshots.clone();
        let record = SnapshotRecord {
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
            // The files were looked for one by one, while the store went on.
            if store.loss_counter() != losses {
                return Err(ManifestPullError::Lost);
            }
            let snapshot = snapshots.commit(record, epoch)?;
            // It is committed: what is left to do may fail. Where this attempt
            // was cut off, the root may be that of the next one.
            let ours = Root { cid: snapshot.record.manifest, partial: true };
            if store.root(&root_name) == Some(ours)
                && let Err(error) = store.remove_root(&root_name)
            {
                tracing::warn!(root = root_name, %error, "the root of a pull that is done stays");
            }
            Ok::<_, ManifestPullError>(snapshot)
        });
        let snapshot = snapshot.await?;
        let segments = HashMap::clone(summaries);
        let base = Some(Complete { root: snapshot.cid, segments });
        self.cache = FolderCache { base, losses: self.losses, ..FolderCache::default() };
        Ok(snapshot)
    }

    fn check_stopped(&self) -> Result<(), ManifestPullError> {
        if self.job.stop.is_cancelled() { Err(ManifestPullError::Stopped) } else { Ok(()) }
    }
}

/// What is kept of the reason for which a source holds a manifest, in
/// characters.
const HELD_LEN_MAX: usize = 1000;

/// The files that are pulled in one go, and the steps that they are of.
struct Group {
    range: Range<usize>,
    files: Vec<FileWant>,
}

/// What is here in the place of what is wanted.
fn likes(files: &[FileWant]) -> Likes {
    let mut likes = Likes::default();
    for file in files {
        if let Some(here) = file.like {
            likes.add(file.cid, here);
        }
    }
    likes
}

fn ranges(len: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(at_once).map(move |from| from..(from + at_once).min(len))
}

impl From<PullError> for ManifestPullError {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Stopped => Self::Stopped,
            error => Self::Pull(error),
        }
    }
}
