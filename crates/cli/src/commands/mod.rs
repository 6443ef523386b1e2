//! The commands, one file each.

pub(crate) mod daemon;
pub(crate) mod init;
