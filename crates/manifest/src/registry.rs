//! What this instance has published: one manifest for each folder, signed.
//!
//! Role: between the folders, which publish, and whoever tells others: the
//! server here, and "Backup Now", which checks that a manifest is registered
//! before it tells the backup server.
//!
//! Invariants: a folder's number only grows while it is here; what is shown
//! is one value, replaced whole, so a reader never sees half a change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use libp2p_identity::{Keypair, PeerId};
use tokio::sync::watch;
use types::{Cid, FolderId, PublishedManifest, SequenceNumber};

use crate::signature::{self, SignatureError};
use crate::wire::Offer;

/// Everything that is published at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Counts the changes since the registry was made.
    pub version: u64,
    /// The newest manifest of each folder.
    pub folders: BTreeMap<FolderId, Offer>,
}

/// Why something was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A newer manifest of the folder is there already.
    #[error("manifest {published} of folder {folder} is older than {current}, which is published")]
    Older {
        /// The folder.
        folder: FolderId,
        /// The number that was to be published.
        published: SequenceNumber,
        /// The number that is there.
        current: SequenceNumber,
    },
    /// Another manifest with the same number is there: two states must not
    /// share one.
    #[error("folder {folder} has manifest {current} as number {sequence} already, not {published}")]
    SameNumber {
        /// The folder.
        folder: FolderId,
        /// The number.
        sequence: SequenceNumber,
        /// What was to be published.
        published: Cid,
        /// What is there.
        current: Cid,
    },
    /// It cannot be signed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// The registry. Clones share it.
#[derive(Clone)]
pub struct ManifestRegistry(Arc<Shared>);

struct Shared {
    keypair: Keypair,
    peer: PeerId,
    offers: watch::Sender<Arc<Offers>>,
}

impl fmt::Debug for ManifestRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestRegistry").field("peer", &self.0.peer).finish_non_exhaustive()
    }
}

impl ManifestRegistry {
    /// Nothing is published yet.
    pub fn new(keypair: Keypair) -> Self {
        let peer = keypair.public().to_peer_id();
        Self(Arc::new(Shared { keypair, peer, offers: watch::Sender::default() }))
    }

    /// Who signs.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer
    }

    /// Shows a manifest, which is durable, to others. The same one again
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; what is shown is as it was then.
    pub fn publish(&self, published: PublishedManifest) -> Result<(), RegistryError> {
        let signature = signature::sign(
            &self.0.keypair,
            &published.folder_id,
            published.sequence_number,
            &published.manifest_cid,
        )?;
        let mut result = Ok(());
        self.0.offers.send_if_modified(|offers| {
            if let Some(current) = offers.folders.get(&published.folder_id) {
                let current = &current.published;
                if *current == published {
                    return false;
                }
                result = check_order(current, &published);
                if result.is_err() {
                    return false;
                }
            }
            let mut next = Offers::clone(offers);
            next.version += 1;
            next.folders.insert(published.folder_id.clone(), Offer { published, signature });
            *offers = Arc::new(next);
            true
        });
        result
    }

    /// Shows nothing of a folder any more; tells whether it was there.
    pub fn withdraw(&self, folder: &FolderId) -> bool {
        self.0.offers.send_if_modified(|offers| {
            if !offers.folders.contains_key(folder) {
                return false;
            }
            let mut next = Offers::clone(offers);
            next.version += 1;
            next.folders.remove(folder);
            *offers = Arc::new(next);
            true
        })
    }

    /// What is shown of a folder.
    pub fn get(&self, folder: &FolderId) -> Option<Offer> {
        self.0.offers.borrow().folders.get(folder).cloned()
    }

    /// Everything that is shown.
    pub fn offers(&self) -> Arc<Offers> {
        self.0.offers.borrow().clone()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Offers>> {
        self.0.offers.subscribe()
    }
}

fn check_order(current: &PublishedManifest, new: &PublishedManifest) -> Result<(), RegistryError> {
    let (old, number) = (current.sequence_number, new.sequence_number);
    if number < old {
        return Err(RegistryError::Older {
            folder: new.folder_id.clone(),
            published: number,
            current: old,
        });
    }
    if number == old && new.manifest_cid != current.manifest_cid {
        return Err(RegistryError::SameNumber {
            folder: new.folder_id.clone(),
            sequence: number,
            published: new.manifest_cid,
            current: current.manifest_cid,
        });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use types::Codec;

    use super::*;

    pub(crate) fn published(folder: &str, sequence: u64) -> PublishedManifest {
        PublishedManifest {
            folder_id: folder.parse().unwrap(),
            folder_name: folder.to_uppercase(),
            folder_path: format!("/home/me/{folder}"),
            manifest_cid: Cid::of(Codec::DagCbor, format!("{folder} {sequence}").as_bytes()),
            sequence_number: SequenceNumber(sequence),
            updated_at: "2026-11-22T10:30:00Z".parse().unwrap(),
            file_count: 12,
            total_size_bytes: 345,
        }
    }

    #[test]
    fn what_is_published_is_signed_and_told_once() {
        let registry = ManifestRegistry::new(Keypair::generate_secp256k1());
        let mut watch = registry.watch();
        registry.publish(published("docs", 1)).unwrap();
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        registry.publish(published("docs", 1)).unwrap();
        assert!(!watch.has_changed().unwrap());
        let offer = registry.get(&"docs".parse().unwrap()).unwrap();
        let PublishedManifest { folder_id, sequence_number, manifest_cid, .. } = &offer.published;
        assert!(signature::verify(
            &registry.peer_id(),
            folder_id,
            *sequence_number,
            manifest_cid,
            &offer.signature
        ));
        assert!(registry.withdraw(folder_id));
        assert!(!registry.withdraw(folder_id));
        assert_eq!(registry.offers().version, 2);
    }

    #[test]
    fn a_number_never_goes_back_nor_stands_for_two() {
        let registry = ManifestRegistry::new(Keypair::generate_secp256k1());
        registry.publish(published("docs", 5)).unwrap();
        assert!(matches!(registry.publish(published("docs", 4)), Err(RegistryError::Older { .. })));
        let other = PublishedManifest {
            manifest_cid: published("x", 1).manifest_cid,
            ..published("docs", 5)
        };
        assert!(matches!(registry.publish(other), Err(RegistryError::SameNumber { .. })));
        registry.publish(published("docs", 7)).unwrap();
        registry.publish(published("music", 1)).unwrap();
        assert_eq!(registry.offers().folders.len(), 2);
    }
}
