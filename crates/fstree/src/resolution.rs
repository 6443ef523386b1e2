//! The strategy for resolving paths below the root of a tree.

/// Strategy for resolving a path below an open directory. Both strategies follow
/// no link and reach nothing outside the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Resolution {
    /// Resolves the complete path in one system call if the kernel supports it,
    /// otherwise name by name.
    #[default]
    Best,
    /// Resolves name by name, as on a kernel without such a call.
    ByName,
}
