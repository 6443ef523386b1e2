//! Decides which offered manifests a backup server takes. This is the only place
//! that decides it; the function is pure.
//!
//! To take a manifest means to pull its blocks and commit a snapshot. This module
//! only decides; crate `backup` acts. A manifest is part of the history
//! ([`FolderHistory`]) after the commit, so [`check`] returns the verdict "take"
//! again for a manifest whose pull failed.
//!
//! A manifest is taken if the document comes from the configured peer, that peer
//! signed the manifest, and its sequence number is above the last one taken for
//! the folder. Every other offer is refused with a reason and changes nothing.
//! Numbers may be skipped, because a manifest is the complete state of a folder.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use types::{Cid, FolderId, SequenceNumber};

use crate::signature;
use crate::wire::{Discovery, Offer};

/// Manifests of a folder that a backup server has taken so far. The crate `backup`
/// builds it from the snapshots of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderHistory {
    /// Sequence number of the manifest that was taken last.
    pub sequence: SequenceNumber,
    /// CID of that manifest.
    pub manifest: Cid,
    /// CIDs of manifests that were taken before it: at least those of all older
    /// snapshots that are stored. An offer of one of them is a replay.
    pub older: BTreeSet<Cid>,
    /// Manifest that the user accepted although its number is not above
    /// [`FolderHistory::sequence`] (`archivist source accept`). [`check`] takes this
    /// manifest, and every one with a higher number than this manifest. `None` once
    /// another manifest has been taken: the acceptance was for one step only.
    pub accepted: Option<(SequenceNumber, Cid)>,
    /// Number of the manifest by which the source was recognized as set back to an older state, or
    /// as another computer with the same key. [`check`] takes nothing then, whatever its number,
    /// until the user accepts it.
    pub set_back: Option<SequenceNumber>,
    /// True if the snapshot of [`FolderHistory::manifest`] is lost. [`check`] takes this
    /// manifest again.
    pub is_lost: bool,
}

/// Decision about one entry of a discovery document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferVerdict {
    /// The manifest is new and genuine. The caller pulls it.
    Take(Offer),
    /// The manifest is the one that was taken last for this folder. The caller has
    /// nothing to do.
    Same(FolderId),
    /// The user accepted the manifest, which is stored already. The caller waits for the next one.
    Stored,
    /// The manifest must not be taken.
    Refuse {
        /// Id of the folder, if it could be parsed.
        folder: Option<FolderId>,
        /// The refused offer, if it could be parsed.
        offer: Option<Offer>,
        /// Reason of the refusal.
        reason: OfferRefusal,
    },
}

/// Reasons for which a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// The configured peer did not sign the manifest.
    #[error("the configured peer did not sign the manifest")]
    Signature,
    /// The sequence number is below the last one.
    #[error(
        "the manifest has number {offered}, but number {last} was already taken: the source lost \
         its state or was reset to an older one, or an old answer was replayed"
    )]
    Lower {
        /// Number of the offered manifest.
        offered: SequenceNumber,
        /// Number of the manifest that was taken last.
        last: SequenceNumber,
    },
    /// Another manifest was taken under the same number.
    #[error(
        "number {sequence} was already taken with manifest {taken}, and is now offered with \
         {offered}: the source used one number for two manifests"
    )]
    Equivocation {
        /// Sequence number of both manifests.
        sequence: SequenceNumber,
        /// Manifest that was taken.
        taken: Cid,
        /// Manifest that is offered now.
        offered: Cid,
    },
    /// The source was set back, and has published further manifests since.
    #[error(
        "the manifest has number {offered}; the source went back to an older state after number \
         {last} was taken, which was noticed at its number {found}, or another computer uses its key"
    )]
    SetBack {
        /// Number of the offered manifest.
        offered: SequenceNumber,
        /// Number of the manifest that was taken last.
        last: SequenceNumber,
        /// Number that the source offered after it was set back.
        found: SequenceNumber,
    },
    /// The manifest was already taken before the last one.
    #[error("the manifest is an old one; the answer was replayed")]
    Replay,
    /// The sequence number is 0 or above [`SequenceNumber::MAX`].
    #[error("{0} is not a valid sequence number")]
    Range(SequenceNumber),
    /// The document lists the folder more than once.
    #[error("the answer lists the folder more than once")]
    Twice,
    /// The entry is malformed.
    #[error("the entry is malformed: {0}")]
    Malformed(String),
}

impl OfferRefusal {
    /// Reports whether the offer shows that the source went back to an older state, if the answer
    /// is not an old one, so that the user may accept the refused manifest with
    /// `archivist source accept`. The next check then takes it
    /// ([`FolderHistory::accepted`]).
    pub fn can_be_accepted(&self) -> bool {
        matches!(
            self,
            Self::Lower { .. } | Self::Equivocation { .. } | Self::Replay | Self::SetBack { .. }
        )
    }
}

/// Error: the document comes from another peer than the configured one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "peer {found} answered, but {expected} is configured: the source has a new key, or the \
     address belongs to another machine"
)]
pub struct WrongPeer {
    /// Configured peer.
    pub expected: PeerId,
    /// Peer that the document names.
    pub found: PeerId,
}

/// Decides about each entry of a discovery document.
///
/// `expected` is the configured peer, `history` the history of each folder of which
/// the backup server has taken a manifest.
///
/// # Errors
///
/// Returns [`WrongPeer`] if the document names another peer. No part of it may be
/// used then.
pub fn check(
    discovery: &Discovery,
    expected: &PeerId,
    history: &BTreeMap<FolderId, FolderHistory>,
) -> Result<Vec<OfferVerdict>, Box<WrongPeer>> {
    if discovery.peer != *expected {
        let wrong = WrongPeer { expected: *expected, found: discovery.peer };
        return Err(Box::new(wrong));
    }
    let mut times: BTreeMap<&FolderId, usize> = BTreeMap::new();
    for offer in &discovery.manifests {
        *times.entry(&offer.published.folder_id).or_default() += 1;
    }
    let offers = discovery.manifests.iter().map(|offer| {
        let folder = &offer.published.folder_id;
        if times.get(folder).is_some_and(|times| *times > 1) {
            return refuse(offer, OfferRefusal::Twice);
        }
        decide(offer, expected, history.get(folder))
    });
    let malformed = discovery.malformed.iter().map(|malformed| OfferVerdict::Refuse {
        folder: malformed.folder.clone(),
        offer: None,
        reason: OfferRefusal::Malformed(malformed.reason.clone()),
    });
    Ok(offers.chain(malformed).collect())
}

fn refuse(offer: &Offer, reason: OfferRefusal) -> OfferVerdict {
    OfferVerdict::Refuse {
        folder: Some(offer.published.folder_id.clone()),
        offer: Some(offer.clone()),
        reason,
    }
}

fn decide(offer: &Offer, peer: &PeerId, history: Option<&FolderHistory>) -> OfferVerdict {
    let folder = &offer.published.folder_id;
    let (sequence, manifest) = (offer.published.sequence_number, offer.published.manifest_cid);
    if !(SequenceNumber::FIRST..=SequenceNumber::MAX).contains(&sequence) {
        return refuse(offer, OfferRefusal::Range(sequence));
    }
    // Checked before numbers are compared: an unsigned number means nothing.
    if !signature::verify(peer, folder, sequence, &manifest, &offer.signature) {
        return refuse(offer, OfferRefusal::Signature);
    }
    let Some(history) = history else { return OfferVerdict::Take(offer.clone()) };
    if sequence == history.sequence && manifest == history.manifest {
        return match history.is_lost {
            true => OfferVerdict::Take(offer.clone()),
            false => OfferVerdict::Same(folder.clone()),
        };
    }
    if history.older.contains(&manifest) {
        return match history.accepted == Some((sequence, manifest)) {
            true => OfferVerdict::Stored,
            false => refuse(offer, OfferRefusal::Replay),
        };
    }
    if let Some((from, accepted)) = history.accepted {
        // The accepted number is valid for the accepted manifest alone.
        if sequence > from || (sequence == from && manifest == accepted) {
            return OfferVerdict::Take(offer.clone());
        }
    }
    if sequence == history.sequence {
        let (taken, offered) = (history.manifest, manifest);
        return refuse(offer, OfferRefusal::Equivocation { sequence, taken, offered });
    }
    if sequence < history.sequence {
        return refuse(offer, OfferRefusal::Lower { offered: sequence, last: history.sequence });
    }
    if let Some(found) = history.set_back {
        let (offered, last) = (sequence, history.sequence);
        return refuse(offer, OfferRefusal::SetBack { offered, last, found });
    }
    OfferVerdict::Take(offer.clone())
}

#[cfg(test)]
mod tests {
    use libp2p_identity::Keypair;

    use super::*;
    use crate::registry::tests::published;
    use crate::signature::sign;
    use crate::wire::MalformedOffer;

    fn offer(keypair: &Keypair, folder: &str, sequence: u64) -> Offer {
        let published = published(folder, sequence);
        let signature =
            sign(keypair, &published.folder_id, published.sequence_number, &published.manifest_cid);
        Offer { published, signature: signature.unwrap(), confirmed: None }
    }

    fn discovery(keypair: &Keypair, manifests: Vec<Offer>) -> Discovery {
        Discovery {
            peer: keypair.public().to_peer_id(),
            addresses: Vec::new(),
            manifests,
            malformed: Vec::new(),
            timestamp: None,
            nonce: None,
        }
    }

    fn history(sequence: u64) -> BTreeMap<FolderId, FolderHistory> {
        let last = published("docs", sequence);
        let history = FolderHistory {
            sequence: last.sequence_number,
            manifest: last.manifest_cid,
            older: [published("docs", 90).manifest_cid].into(),
            accepted: None,
            set_back: None,
            is_lost: false,
        };
        [(last.folder_id, history)].into()
    }

    fn reason(verdict: &OfferVerdict) -> Option<&OfferRefusal> {
        match verdict {
            OfferVerdict::Refuse { reason, .. } => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn only_what_goes_on_from_the_last_is_taken() {
        let key = Keypair::generate_secp256k1();
        let peer = key.public().to_peer_id();
        let verdict = |offer: Offer, history: &BTreeMap<FolderId, FolderHistory>| {
            check(&discovery(&key, vec![offer]), &peer, history).unwrap().remove(0)
        };
        let history = history(5);
        for new in [6, 7, 1000, SequenceNumber::MAX.0] {
            let offer = offer(&key, "docs", new);
            assert_eq!(verdict(offer.clone(), &history), OfferVerdict::Take(offer));
        }
        let first = offer(&key, "docs", 3);
        assert_eq!(verdict(first.clone(), &BTreeMap::new()), OfferVerdict::Take(first.clone()));
        assert_eq!(
            verdict(offer(&key, "docs", 5), &history),
            OfferVerdict::Same("docs".parse().unwrap())
        );
        let lower = verdict(first, &history);
        assert!(matches!(reason(&lower), Some(OfferRefusal::Lower { .. })));
        assert!(reason(&lower).unwrap().can_be_accepted());
        for number in [0, SequenceNumber::MAX.0 + 1, u64::MAX] {
            let verdict = verdict(offer(&key, "docs", number), &history);
            assert!(matches!(reason(&verdict), Some(OfferRefusal::Range(_))), "{number}");
        }
        let replay = verdict(offer(&key, "docs", 90), &history);
        assert_eq!(reason(&replay), Some(&OfferRefusal::Replay));
    }

    #[test]
    fn a_manifest_whose_snapshot_is_lost_is_taken_again_and_no_lower_one() {
        let key = Keypair::generate_secp256k1();
        let peer = key.public().to_peer_id();
        let mut history = history(5);
        history.values_mut().for_each(|folder| folder.is_lost = true);
        let verdict = |sequence| {
            let offers = vec![offer(&key, "docs", sequence)];
            check(&discovery(&key, offers), &peer, &history).unwrap().remove(0)
        };
        for taken in [5, 6] {
            assert!(matches!(verdict(taken), OfferVerdict::Take(_)), "{taken}");
        }
        assert!(matches!(reason(&verdict(4)), Some(OfferRefusal::Lower { .. })));
    }

    #[test]
    fn two_manifests_under_one_number_are_refused() {
        let key = Keypair::generate_secp256k1();
        let peer = key.public().to_peer_id();
        let mut other = published("docs", 5);
        other.manifest_cid = published("music", 1).manifest_cid;
        let signature = sign(&key, &other.folder_id, other.sequence_number, &other.manifest_cid);
        let other = Offer { published: other, signature: signature.unwrap(), confirmed: None };
        let verdicts = check(&discovery(&key, vec![other.clone()]), &peer, &history(5)).unwrap();
        assert!(matches!(reason(&verdicts[0]), Some(OfferRefusal::Equivocation { .. })));
        // In one answer: neither of them.
        let both = vec![offer(&key, "docs", 5), other, offer(&key, "music", 1)];
        let verdicts = check(&discovery(&key, both), &peer, &BTreeMap::new()).unwrap();
        assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Twice));
        assert_eq!(reason(&verdicts[1]), Some(&OfferRefusal::Twice));
        assert!(matches!(verdicts[2], OfferVerdict::Take(_)));
    }

    #[test]
    fn what_was_accepted_is_taken_and_what_follows_it() {
        let key = Keypair::generate_secp256k1();
        let peer = key.public().to_peer_id();
        let mut history = history(50);
        let accepted = published("docs", 3);
        let folder = history.get_mut(&accepted.folder_id).unwrap();
        folder.accepted = Some((accepted.sequence_number, accepted.manifest_cid));
        let verdict = |sequence| {
            let offers = vec![offer(&key, "docs", sequence)];
            check(&discovery(&key, offers), &peer, &history).unwrap().remove(0)
        };
        assert!(matches!(verdict(3), OfferVerdict::Take(_)));
        assert!(matches!(verdict(4), OfferVerdict::Take(_)));
        assert!(matches!(reason(&verdict(2)), Some(OfferRefusal::Lower { .. })));
        assert_eq!(reason(&verdict(90)), Some(&OfferRefusal::Replay));
    }

    #[test]
    fn a_wrong_peer_or_signature_changes_nothing() {
        let (key, stranger) = (Keypair::generate_secp256k1(), Keypair::generate_secp256k1());
        let peer = key.public().to_peer_id();
        let theirs = discovery(&stranger, vec![offer(&stranger, "docs", 9)]);
        let error = check(&theirs, &peer, &BTreeMap::new()).unwrap_err();
        assert_eq!(error.found, stranger.public().to_peer_id());
        // The stranger says that it is the peer.
        let lying = Discovery { peer, ..theirs };
        let verdicts = check(&lying, &peer, &BTreeMap::new()).unwrap();
        assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Signature));
        // A signature of the peer's over another folder, number or manifest.
        let mut moved = offer(&key, "docs", 9);
        moved.published.folder_id = "music".parse().unwrap();
        let mut renumbered = offer(&key, "docs", 9);
        renumbered.published.sequence_number = SequenceNumber(10);
        let mut swapped = offer(&key, "docs", 9);
        swapped.published.manifest_cid = published("music", 9).manifest_cid;
        for bad in [moved, renumbered, swapped] {
            let verdicts = check(&discovery(&key, vec![bad]), &peer, &history(5)).unwrap();
            assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Signature));
        }
        let mut broken = discovery(&key, vec![]);
        broken.malformed.push(MalformedOffer { folder: None, reason: "odd".into() });
        let verdicts = check(&broken, &peer, &history(5)).unwrap();
        assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Malformed("odd".into())));
    }
}
