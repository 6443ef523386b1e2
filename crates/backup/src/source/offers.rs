//! Evaluates the offers of a source: checks them, and accepts refused ones for the user.

use manifest::{Offer, OfferVerdict};
use protocols::blocking;
use types::FolderId;

use super::{Refused, SourceTask};
use crate::accept::{AcceptError, Accepted, AcceptedFolder};
use crate::acceptance_file::Acceptance;

/// Maximum number of refusals of one answer that are logged.
const LOGGED_MAX: usize = 20;

impl SourceTask {
    /// Checks the offers of the last answer. Returns whether there is something new to pull.
    pub(super) fn evaluate(&mut self) -> bool {
        let Some(discovery) = &self.discovery else { return false };
        let peer = self.source.peer_id;
        let verdicts = manifest::check(discovery, &peer, &self.history());
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
        for verdict in verdicts {
            match verdict {
                OfferVerdict::Take(offer) => taken.push(offer),
                OfferVerdict::Same(folder) => same.push(folder),
                OfferVerdict::Refuse { folder, offer, reason } => {
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
        for offer in taken {
            let folder = self.folders.entry(offer.published.folder_id.clone()).or_default();
            is_news |= folder.wanted.as_ref() != Some(&offer);
            folder.offered(offer);
        }
        self.folders.retain(|_, folder| !folder.is_empty());
        is_news
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
                     `folders_max` of the source, or purge a folder"
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
        let accept = offer.filter(|_| reason.can_be_accepted()).and_then(|offer| {
            let published = offer.published;
            let over = self.last_taken(&published.folder_id)?;
            let acceptance = Acceptance {
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
