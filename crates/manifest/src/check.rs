//! What of an answer may be believed: pure, and the only place that decides.
//!
//! A manifest is taken where the answer is that of the peer that was
//! configured, the signature is that peer's, and the number is above the last
//! one that was taken of the folder. Everything else is refused with a reason,
//! and changes nothing. Numbers may be skipped: a manifest is the whole state.

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use types::{Cid, FolderId, SequenceNumber};

use crate::signature;
use crate::wire::{Discovery, Offer};

/// What the client holds of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderHistory {
    /// The number of the manifest that was taken last.
    pub sequence: SequenceNumber,
    /// That manifest.
    pub manifest: Cid,
    /// Manifests that were taken before it: none of them can be new.
    pub older: BTreeSet<Cid>,
    /// A manifest that the user has accepted although its number does not go
    /// on from the last: it and whatever has a higher number are taken.
    pub accepted: Option<(SequenceNumber, Cid)>,
}

/// What is to be done about one entry of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferVerdict {
    /// It is new and genuine.
    Take(Offer),
    /// It is what was taken last.
    Same(FolderId),
    /// It is not taken.
    Refuse {
        /// The folder, where that can be read.
        folder: Option<FolderId>,
        /// What was offered, where that can be read.
        offer: Option<Offer>,
        /// Why not.
        reason: OfferRefusal,
    },
}

/// Why a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefusal {
    /// The signature is not that of the configured peer.
    #[error("the signature is not that of the configured peer")]
    Signature,
    /// The number is not above the last one.
    #[error(
        "its number is {offered}, and {last} has been taken: the source has lost its state or was \
         put back to an older one, or somebody repeats an old answer"
    )]
    Lower {
        /// What was offered.
        offered: SequenceNumber,
        /// What was taken last.
        last: SequenceNumber,
    },
    /// Another manifest was taken under that number.
    #[error(
        "number {sequence} has been taken as {taken}, and now is {offered}: the source has given \
         one number to two states"
    )]
    Equivocation {
        /// The number.
        sequence: SequenceNumber,
        /// What was taken.
        taken: Cid,
        /// What was offered.
        offered: Cid,
    },
    /// It is a manifest from before the last one.
    #[error("it is an old manifest that somebody repeats")]
    Replay,
    /// A number that no manifest has.
    #[error("{0} is no sequence number")]
    Range(SequenceNumber),
    /// The answer names the folder more than once.
    #[error("the answer names the folder more than once")]
    Twice,
    /// It has not the form.
    #[error("it cannot be understood: {0}")]
    Malformed(String),
}

impl OfferRefusal {
    /// Whether the user may accept the source as it is now.
    pub fn can_be_accepted(&self) -> bool {
        matches!(self, Self::Lower { .. } | Self::Equivocation { .. })
    }
}

/// Another peer answers than the one that was configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "peer {found} answers, and {expected} is configured: the source has a new key, or the address \
     leads elsewhere"
)]
pub struct WrongPeer {
    /// Who was configured.
    pub expected: PeerId,
    /// Who answers.
    pub found: PeerId,
}

/// Decides over an answer.
///
/// # Errors
///
/// [`WrongPeer`]: then nothing of it counts.
pub fn check(
    discovery: &Discovery,
    expected: &PeerId,
    held: &BTreeMap<FolderId, FolderHistory>,
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
        decide(offer, expected, held.get(folder))
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

fn decide(offer: &Offer, peer: &PeerId, held: Option<&FolderHistory>) -> OfferVerdict {
    let folder = &offer.published.folder_id;
    let (sequence, manifest) = (offer.published.sequence_number, offer.published.manifest_cid);
    if !(SequenceNumber::FIRST..=SequenceNumber::MAX).contains(&sequence) {
        return refuse(offer, OfferRefusal::Range(sequence));
    }
    // Before anything is said about numbers: what is not signed says nothing.
    if !signature::verify(peer, folder, sequence, &manifest, &offer.signature) {
        return refuse(offer, OfferRefusal::Signature);
    }
    let Some(held) = held else { return OfferVerdict::Take(offer.clone()) };
    if sequence == held.sequence && manifest == held.manifest {
        return OfferVerdict::Same(folder.clone());
    }
    if held.older.contains(&manifest) {
        return refuse(offer, OfferRefusal::Replay);
    }
    if let Some((from, accepted)) = held.accepted {
        // The number of what was accepted stands for that manifest alone.
        if sequence > from || (sequence == from && manifest == accepted) {
            return OfferVerdict::Take(offer.clone());
        }
    }
    if sequence == held.sequence {
        let (taken, offered) = (held.manifest, manifest);
        return refuse(offer, OfferRefusal::Equivocation { sequence, taken, offered });
    }
    if sequence < held.sequence {
        return refuse(offer, OfferRefusal::Lower { offered: sequence, last: held.sequence });
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
        Offer { published, signature: signature.unwrap() }
    }

    fn discovery(keypair: &Keypair, manifests: Vec<Offer>) -> Discovery {
        Discovery {
            peer: keypair.public().to_peer_id(),
            addresses: Vec::new(),
            manifests,
            malformed: Vec::new(),
            timestamp: None,
        }
    }

    fn held(sequence: u64) -> BTreeMap<FolderId, FolderHistory> {
        let last = published("docs", sequence);
        let held = FolderHistory {
            sequence: last.sequence_number,
            manifest: last.manifest_cid,
            older: [published("docs", 90).manifest_cid].into(),
            accepted: None,
        };
        [(last.folder_id, held)].into()
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
        let verdict = |offer: Offer, held: &BTreeMap<FolderId, FolderHistory>| {
            check(&discovery(&key, vec![offer]), &peer, held).unwrap().remove(0)
        };
        let held = held(5);
        for new in [6, 7, 1000, SequenceNumber::MAX.0] {
            let offer = offer(&key, "docs", new);
            assert_eq!(verdict(offer.clone(), &held), OfferVerdict::Take(offer));
        }
        let first = offer(&key, "docs", 3);
        assert_eq!(verdict(first.clone(), &BTreeMap::new()), OfferVerdict::Take(first.clone()));
        assert_eq!(
            verdict(offer(&key, "docs", 5), &held),
            OfferVerdict::Same("docs".parse().unwrap())
        );
        let lower = verdict(first, &held);
        assert!(matches!(reason(&lower), Some(OfferRefusal::Lower { .. })));
        assert!(reason(&lower).unwrap().can_be_accepted());
        for number in [0, SequenceNumber::MAX.0 + 1, u64::MAX] {
            let verdict = verdict(offer(&key, "docs", number), &held);
            assert!(matches!(reason(&verdict), Some(OfferRefusal::Range(_))), "{number}");
        }
        let replay = verdict(offer(&key, "docs", 90), &held);
        assert_eq!(reason(&replay), Some(&OfferRefusal::Replay));
    }

    #[test]
    fn two_manifests_under_one_number_are_refused() {
        let key = Keypair::generate_secp256k1();
        let peer = key.public().to_peer_id();
        let mut other = published("docs", 5);
        other.manifest_cid = published("music", 1).manifest_cid;
        let signature = sign(&key, &other.folder_id, other.sequence_number, &other.manifest_cid);
        let other = Offer { published: other, signature: signature.unwrap() };
        let verdicts = check(&discovery(&key, vec![other.clone()]), &peer, &held(5)).unwrap();
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
        let mut held = held(50);
        let accepted = published("docs", 3);
        let folder = held.get_mut(&accepted.folder_id).unwrap();
        folder.accepted = Some((accepted.sequence_number, accepted.manifest_cid));
        let verdict = |sequence| {
            let offers = vec![offer(&key, "docs", sequence)];
            check(&discovery(&key, offers), &peer, &held).unwrap().remove(0)
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
            let verdicts = check(&discovery(&key, vec![bad]), &peer, &held(5)).unwrap();
            assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Signature));
        }
        let mut broken = discovery(&key, vec![]);
        broken.malformed.push(MalformedOffer { folder: None, reason: "odd".into() });
        let verdicts = check(&broken, &peer, &held(5)).unwrap();
        assert_eq!(reason(&verdicts[0]), Some(&OfferRefusal::Malformed("odd".into())));
    }
}
