//! Evaluates the offers of a source: checks them, and accepts refused ones for the user.

use std::collections::BTreeMap;

use manifest::{FolderHistory, Offer, OfferRefusal, OfferVerdict};
use protocols::blocking;
use tokio::time::Instant;
use types::{Cid, FolderId, SequenceNumber, with_causes};

use super::{Refused, SourceTask};
use crate::accept::{AcceptError, Accepted, AcceptedFolder};
use crate::offer_file::NotedOffer;

/// Maximum number of refusals of one answer that are logged.
const LOGGED_MAX: usize = 20;

impl SourceTask {
    /// Checks the offers of the last answer. Returns whether there is something new to pull.
    pub(super) fn evaluate(&mut self) -> bool {
        let Some(discovery) = &self.discovery else { return false };
        let peer = self.source.peer_id;
        let history = self.history();
        let verdicts = manifest::check(discovery, &peer, &history);
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(wrong) => {
                if self.wrong_peer.as_ref() != Some(&*wrong) {
                    tracing::warn!(source = self.source.name.as_str(), %wrong, "refused a source");
                }
                self.wrong_peer = Some(*wrong);
                self.refusals.clear();
                self.folders.values_mut().for_each(|folder| folder.nothing_offered(false));
                return false;
            }
        };
        self.wrong_peer = None;
        let (mut taken, mut same, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        let mut set_back = Vec::new();
        for verdict in verdicts {
            match self.with_receipts(verdict, &history) {
                OfferVerdict::Take(offer) => taken.push(offer),
                OfferVerdict::Same(folder) => same.push(folder),
                OfferVerdict::Stored => {}
                OfferVerdict::Refuse { folder, offer, reason } => {
                    if let Some(offer) = offer.as_ref().filter(|_| reason.can_be_accepted()) {
                        // An answer that may be an old one shows nothing.
                        if self.current_since.is_some() {
                            self.note_set_back(offer);
                        }
                        set_back.push(offer.published.folder_id.clone());
                    }
                    refusals.push(self.refused(folder.as_ref(), offer, &reason));
                }
            }
        }
        self.refuse_too_many(&mut taken, &mut refusals);
        if refusals != self.refusals {
            for refused in refusals.iter().take(LOGGED_MAX) {
                let source = self.source.name.as_str();
                tracing::warn!(source, reason = refused.text, "refused a manifest");
            }
        }
        self.refusals = refusals;
        let mut is_news = false;
        for (id, folder) in &mut self.folders {
            if same.contains(id) {
                folder.nothing_offered(true);
            } else if !taken.iter().any(|offer| offer.published.folder_id == *id) {
                folder.nothing_offered(false);
            }
        }
        for id in set_back {
            if let Some(folder) = self.folders.get_mut(&id) {
                folder.is_set_back = self.current_since.is_some();
            }
        }
        for offer in taken {
            let folder = self.folders.entry(offer.published.folder_id.clone()).or_default();
            is_news |= folder.wanted.as_ref() != Some(&offer);
            folder.offered(offer);
        }
        self.folders.retain(|_, folder| !folder.is_empty());
        is_news
    }

    /// Refuses an offer that would be taken if the source has lost the receipt of the newest
    /// snapshot, although it had stored it: it was set back and has gone on since.
    fn with_receipts(
        &self,
        verdict: OfferVerdict,
        history: &BTreeMap<FolderId, FolderHistory>,
    ) -> OfferVerdict {
        let OfferVerdict::Take(offer) = verdict else { return verdict };
        let id = &offer.published.folder_id;
        let has_lost_receipt = |asked_at: Instant| {
            let confirmed = offer.confirmed?;
            self.folders.get(id).map(|folder| folder.has_lost_receipt(confirmed, asked_at))
        };
        let lost = self.current_since.and_then(has_lost_receipt).unwrap_or(false);
        match history.get(id).filter(|history| lost && history.accepted.is_none()) {
            Some(history) => OfferVerdict::Refuse {
                folder: Some(id.clone()),
                reason: OfferRefusal::SetBack {
                    offered: offer.published.sequence_number,
                    last: history.sequence,
                    found: offer.published.sequence_number,
                },
                offer: Some(offer),
            },
            None => OfferVerdict::Take(offer),
        }
    }

    /// Makes the numbers of receipts in the last answer unknown.
    pub(super) fn forget_confirmed(&mut self) {
        if let Some(discovery) = &mut self.discovery {
            discovery.manifests.iter_mut().for_each(|offer| offer.confirmed = None);
        }
    }

    /// Returns the number of the manifest by which the source was recognized as set back.
    pub(super) fn set_back(&self, id: &FolderId) -> Option<SequenceNumber> {
        let newest = self.last_taken(id)?;
        let known = self.new_set_backs.get(id).filter(|noted| noted.over == newest);
        match known {
            Some(noted) => Some(noted.sequence),
            None => Some(self.context.set_backs.get(&self.source.peer_id, id, &newest)?.0),
        }
    }

    /// Notes that the source was set back, unless that is known.
    pub(super) fn note_set_back(&mut self, offer: &Offer) {
        let published = &offer.published;
        let id = &published.folder_id;
        let Some(over) = self.last_taken(id).filter(|_| self.set_back(id).is_none()) else {
            return;
        };
        let (sequence, manifest) = (published.sequence_number, published.manifest_cid);
        self.new_set_backs.insert(id.clone(), NotedOffer { sequence, manifest, over });
    }

    /// Writes the new set-backs to their file.
    pub(super) async fn store_set_backs(&mut self) {
        if self.new_set_backs.is_empty() {
            return;
        }
        let (file, peer) = (self.context.set_backs.clone(), self.source.peer_id);
        let folders = self.new_set_backs.clone();
        let stored = blocking(move || file.add(&peer, folders).map_err(AcceptError::Io)).await;
        match stored {
            Ok(()) => self.new_set_backs.clear(),
            Err(error) => {
                let (source, error) = (self.source.name.as_str(), with_causes(&error));
                tracing::error!(source, error, "cannot store that the source was set back");
            }
        }
    }

    /// Returns the newest snapshot that the next manifest must follow, unless the user accepted
    /// another one.
    pub(super) fn must_follow(&self, id: &FolderId) -> Option<(SequenceNumber, Cid)> {
        let newest = &self.folders.get(id)?.last_taken()?.record;
        let peer = &self.source.peer_id;
        let accepted = self.context.acceptances.get(peer, id, &newest.manifest);
        let is_lost = self.lost.contains_key(id);
        (accepted.is_none() && !is_lost).then_some((newest.sequence, newest.manifest))
    }

    /// Refuses the offers of new folders beyond the maximum number of folders.
    fn refuse_too_many(&self, taken: &mut Vec<Offer>, refusals: &mut Vec<Refused>) {
        let max = self.source.folders_max as usize;
        let mut count = self.folders.len();
        taken.retain(|offer| {
            let id = &offer.published.folder_id;
            if self.folders.contains_key(id) {
                return true;
            }
            count += 1;
            if count > max {
                let text = format!(
                    "folder {id}: the source has {max} folders here, which is its maximum; raise \
                     `folders_max` of the source to take more"
                );
                refusals.push(Refused { text, accept: None });
            }
            count <= max
        });
    }

    /// Returns a refusal, with the acceptance that resolves it, if one can.
    fn refused(
        &self,
        folder: Option<&FolderId>,
        offer: Option<manifest::Offer>,
        reason: &manifest::OfferRefusal,
    ) -> Refused {
        let name = folder.map_or("a folder".to_owned(), |id| format!("folder {id}"));
        // An old answer that was repeated must not be accepted.
        let is_current = *reason != OfferRefusal::Replay || self.current_since.is_some();
        let can_be_accepted = reason.can_be_accepted() && is_current;
        let accept = offer.filter(|_| can_be_accepted).and_then(|offer| {
            let published = offer.published;
            let over = self.last_taken(&published.folder_id)?;
            let acceptance = NotedOffer {
                sequence: published.sequence_number,
                manifest: published.manifest_cid,
                over,
            };
            Some((published.folder_id, acceptance, published.folder_name))
        });
        Refused { text: format!("{name}: {reason}"), accept }
    }

    /// Accepts the refused offers that can be accepted.
    ///
    /// # Errors
    ///
    /// Returns [`AcceptError::Nothing`] if there are none, and [`AcceptError::Io`] if the
    /// acceptance cannot be stored.
    pub(super) async fn accept(&mut self) -> Result<Accepted, AcceptError> {
        if let Some(wrong) = &self.wrong_peer {
            return Ok(Accepted { peer_id: Some(wrong.found), folders: Vec::new() });
        }
        let all: Vec<_> =
            self.refusals.iter().filter_map(|refused| refused.accept.clone()).collect();
        if all.is_empty() {
            return Err(AcceptError::Nothing);
        }
        let folders = all.iter().map(|(id, acceptance, name)| AcceptedFolder {
            folder_id: id.clone(),
            folder_name: name.clone(),
            sequence: acceptance.sequence,
            manifest_cid: acceptance.manifest,
        });
        let accepted = Accepted { peer_id: None, folders: folders.collect() };
        let (file, peer) = (self.context.acceptances.clone(), self.source.peer_id);
        blocking(move || {
            let folders = all.into_iter().map(|(id, acceptance, _)| (id, acceptance));
            file.add(&peer, folders).map_err(AcceptError::Io)
        })
        .await?;
        Ok(accepted)
    }
}
