//! How many requests may wait for a change at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Requests of one address that wait: a backup server has one, and behind one
/// address there may be a few.
const WAITING_PER_ADDRESS_MAX: usize = 4;
/// Requests that wait, of all addresses together: below what the server takes
/// in connections, so that there is always room for one that does not wait.
const WAITING_MAX: usize = 64;

/// The requests that wait. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LongPolls(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A request that may wait.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    polls: LongPolls,
}

impl LongPolls {
    /// A place, if there is one.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut waiting = self.0.lock();
        if waiting.values().sum::<usize>() >= WAITING_MAX {
            return None;
        }
        let here = waiting.entry(address).or_default();
        if *here >= WAITING_PER_ADDRESS_MAX {
            return None;
        }
        *here += 1;
        Some(Place { address, polls: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.polls.0.lock();
        if let Some(here) = waiting.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let polls = LongPolls::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut places: Vec<_> = (0..10).filter_map(|_| polls.enter(one)).collect();
        assert_eq!(places.len(), WAITING_PER_ADDRESS_MAX);
        places.pop();
        assert!(polls.enter(one).is_some());
        let many: Vec<_> =
            (0..200).filter_map(|n| polls.enter(IpAddr::from([10, 0, 0, n]))).collect();
        assert_eq!(places.len() + many.len(), WAITING_MAX);
        drop((places, many));
        assert!(polls.0.lock().is_empty());
    }
}
