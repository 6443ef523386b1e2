//! [`ManifestRegistry`]: the newest published manifest of each folder, signed.
//!
//! Role: the folder tasks of the crate `sync` publish here. The manifest server
//! lists the registry, and `protocols::BackupService` watches it to notify the
//! backup server. The registry is not stored: when the instance starts, `sync`
//! publishes the newest manifests again.
//!
//! Invariants: the sequence number of a folder only grows while the folder is
//! registered. Readers see one immutable value ([`Offers`]), which each change
//! replaces as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use libp2p_identity::{Keypair, PeerId};
use tokio::sync::watch;
use types::{Cid, FolderId, PublishedManifest, SequenceNumber};

use crate::signature::{self, Signature, SignatureError};
use crate::wire::Offer;

/// All published manifests at one time, as [`ManifestRegistry`] returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Number of changes since the registry was created. The ETag of the discovery
    /// document does not depend on it.
    pub version: u64,
    /// Newest manifest of each folder.
    pub folders: BTreeMap<FolderId, Offer>,
}

/// Reasons for which a manifest was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A newer manifest of the folder is already published.
    #[error(
        "cannot publish manifest number {published} of folder {folder}: number {current} is \
         already published"
    )]
    Older {
        /// Id of the folder.
        folder: FolderId,
        /// Number of the manifest that was not published.
        published: SequenceNumber,
        /// Number of the published manifest.
        current: SequenceNumber,
    },
    /// Another manifest with the same number is already published.
    #[error(
        "cannot publish manifest {published} of folder {folder}: number {sequence} is already \
         manifest {current}"
    )]
    SameNumber {
        /// Id of the folder.
        folder: FolderId,
        /// Sequence number of both manifests.
        sequence: SequenceNumber,
        /// Manifest that was not published.
        published: Cid,
        /// Published manifest.
        current: Cid,
    },
    /// The manifest could not be signed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Registry of published manifests, in memory. Clones share the registry.
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
    /// Creates an empty registry that signs with `keypair`.
    pub fn new(keypair: Keypair) -> Self {
        let peer = keypair.public().to_peer_id();
        Self(Arc::new(Shared { keypair, peer, offers: watch::Sender::default() }))
    }

    /// Returns the peer id that the signatures belong to.
    pub fn peer_id(&self) -> PeerId {
        self.0.peer
    }

    /// Signs a manifest and makes it visible to the manifest server. The blocks of
    /// the manifest must be durable. Publishing the same manifest again changes nothing.
    ///
    /// # Errors
    ///
    /// Returns [`RegistryError::Older`] or [`RegistryError::SameNumber`] if the
    /// number of the folder would not grow, and [`RegistryError::Signature`] if
    /// the key cannot sign. The registry is then unchanged.
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
            next.folders.insert(
                published.folder_id.clone(),
                Offer { published, signature, confirmed: None },
            );
            *offers = Arc::new(next);
            true
        });
        result
    }

    /// Removes the manifest of a folder. Returns false if there was none.
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

    /// Signs a statement about the manifests; see [`signature::sign_bytes`].
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the key cannot sign.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<Signature, SignatureError> {
        signature::sign_bytes(&self.0.keypair, bytes)
    }

    /// Returns the published manifest of a folder.
    pub fn get(&self, folder: &FolderId) -> Option<Offer> {
        self.0.offers.borrow().folders.get(folder).cloned()
    }

    /// Returns all published manifests.
    pub fn offers(&self) -> Arc<Offers> {
        self.0.offers.borrow().clone()
    }

    /// Subscribes to changes.
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
