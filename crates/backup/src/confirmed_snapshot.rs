//! A snapshot that this backup server has confirmed.

use net::PeerId;
use protocols::Confirmation;

/// A snapshot that this backup server has confirmed with a signed receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedSnapshot {
    /// Peer id of the source.
    pub source: PeerId,
    /// The content of the receipt.
    pub confirmation: Confirmation,
}

/// The confirmation in one of the last receipts of a folder.
#[derive(Clone, Debug)]
pub(crate) struct LastConfirmation {
    /// The confirmation.
    pub(crate) confirmation: Confirmation,
    /// True if the source has stored the receipt.
    pub(crate) is_stored: bool,
}
