//! [`Retry`], with which every error says whether a repetition can help.

/// Tells whether a failed call can succeed later without a change by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The call fails until somebody changes something: a setting, a permission, the peer,
    /// this program.
    Permanent,
    /// The cause may disappear without help: the disk, the network or the peer was busy,
    /// slow or unreachable.
    Temporary,
}
