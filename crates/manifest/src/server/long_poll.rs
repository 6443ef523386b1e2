//! Limits the number of requests that wait for a change at the same time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Maximum number of waiting requests of one address. A backup server has one,
/// and several of them may share an address.
const WAITING_PER_ADDRESS_MAX: usize = 4;
/// Maximum number of waiting requests of all addresses. It is below the limit on
/// connections of the server, so that a request that does not wait always finds
/// room.
const WAITING_MAX: usize = 64;

/// Number of waiting requests for each address. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct LongPolls(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Permission for one request to wait. Dropping it returns the permission.
#[derive(Debug)]
pub(super) struct WaitPermit {
    address: IpAddr,
    polls: LongPolls,
}

impl LongPolls {
    /// Permits a request of `address` to wait, unless too many already do.
    pub(super) fn enter(&self, address: IpAddr) -> Option<WaitPermit> {
        let mut waiting = self.0.lock();
        if waiting.values().sum::<usize>() >= WAITING_MAX {
            return None;
        }
        let count = waiting.entry(address).or_default();
        if *count >= WAITING_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(WaitPermit { address, polls: self.clone() })
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        let mut waiting = self.polls.0.lock();
        if let Some(count) = waiting.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_and_come_back() {
        let polls = LongPolls::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut permits: Vec<_> = (0..10).filter_map(|_| polls.enter(one)).collect();
        assert_eq!(permits.len(), WAITING_PER_ADDRESS_MAX);
        permits.pop();
        assert!(polls.enter(one).is_some());
        let many: Vec<_> =
            (0..200).filter_map(|n| polls.enter(IpAddr::from([10, 0, 0, n]))).collect();
        assert_eq!(permits.len() + many.len(), WAITING_MAX);
        drop((permits, many));
        assert!(polls.0.lock().is_empty());
    }
}
