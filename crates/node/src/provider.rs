//! What this node serves to peers that may ask: the blocks of its store.

use std::sync::Arc;

use net::{Answer, BlockProvider, PeerId};
use store::{BlockStore, PackStore};
use types::Cid;

/// Serves the blocks of a store.
#[derive(Debug)]
pub struct StoreProvider {
    store: Arc<PackStore>,
}

impl StoreProvider {
    /// Serves `store`.
    pub fn new(store: Arc<PackStore>) -> Self {
        Self { store }
    }

    fn answer(&self, cid: &Cid) -> Answer {
        match self.store.get_encoded(cid) {
            Ok(Some(block)) => Answer::Block(block),
            // The store has logged what is damaged, and takes it back from
            // whoever has it.
            Ok(None) | Err(_) => Answer::Missing,
        }
    }
}

impl BlockProvider for StoreProvider {
    fn read(&self, _: &PeerId, wanted: &[Cid], budget: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut len = 0;
        for cid in wanted {
            let answer = self.answer(cid);
            if let Answer::Block(block) = &answer {
                len += block.payload().len();
                if len > budget && !answers.is_empty() {
                    break;
                }
            }
            answers.push(answer);
        }
        answers
    }
}
