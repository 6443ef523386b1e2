//! Plain counters, to be read as one snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// What the node counts while it runs.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MetricsSnapshot {
            $(#[doc = $doc] pub $name: u64,)*
        }

        impl MetricsSnapshot {
            /// The name, the meaning and the value of each counter.
            pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc, self.$name),)*]
            }
        }

        impl Metrics {
            /// Reads all counters.
            pub(crate) fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Bytes of blocks that were sent, as they travel.
    block_bytes_sent,
    /// Blocks that were sent.
    blocks_sent,
    /// Bytes of blocks that were received and checked, as they travel.
    block_bytes_received,
    /// Blocks that were received and checked.
    blocks_received,
    /// Blocks that were sent as differences, of those that were sent.
    patches_sent,
    /// Blocks that were received as differences, of those that were received.
    patches_received,
    /// Answers `missing` and `changed` that were sent.
    blocks_not_sent,
    /// Bytes written to streams of our protocols.
    stream_bytes_sent,
    /// Bytes read from streams of our protocols.
    stream_bytes_received,
    /// Block requests of peers that are not on the list.
    refused,
    /// Block requests turned away because too many were served.
    overloaded,
    /// Streams that were ended because the peer broke the protocol.
    protocol_violations,
    /// Streams that were ended because the peer was silent or too slow.
    stalled,
    /// Inbound streams that were reset because nobody took them in time.
    streams_dropped,
    /// Streams that we opened.
    streams_opened,
    /// Streams that others opened.
    streams_accepted,
    /// Connections turned away because of a limit.
    connections_denied,
}

/// One counter.
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
