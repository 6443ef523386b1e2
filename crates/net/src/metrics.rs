//! Counters of the node. [`MetricsSnapshot`] has their values at one time.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counters of a running node.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: Counter,)*
        }

        /// Values of all counters at one time. Each counts from the start of the
        /// node.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MetricsSnapshot {
            $(#[doc = $doc] pub $name: u64,)*
        }

        impl MetricsSnapshot {
            /// Returns the name, the description and the value of each counter.
            pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc, self.$name),)*]
            }
        }

        impl Metrics {
            /// Returns the values of all counters.
            pub(crate) fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Bytes of blocks sent, in encoded form.
    block_bytes_sent,
    /// Blocks sent.
    blocks_sent,
    /// Bytes of blocks received and verified, in encoded form.
    block_bytes_received,
    /// Blocks received and verified.
    blocks_received,
    /// Blocks sent as differences to similar blocks; included in the blocks sent.
    patches_sent,
    /// Blocks received as differences to similar blocks; included in the blocks received.
    patches_received,
    /// Answers "missing" and "changed" sent instead of a block.
    blocks_not_sent,
    /// Bytes written to streams of Archivist protocols.
    stream_bytes_sent,
    /// Bytes read from streams of Archivist protocols.
    stream_bytes_received,
    /// Block streams refused because the peer is not allowed.
    refused,
    /// Block streams refused because too many were being served.
    overloaded,
    /// Streams ended because the peer broke the protocol.
    protocol_violations,
    /// Streams ended because the peer was silent or too slow.
    stalled,
    /// Inbound streams reset because the queue of their protocol was full.
    streams_dropped,
    /// Streams opened by this node.
    streams_opened,
    /// Streams opened by peers.
    streams_accepted,
    /// Connections denied because of a limit.
    connections_denied,
}

/// Counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
