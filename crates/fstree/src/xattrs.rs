//! Extended attributes, POSIX ACLs among them.
//!
//! Linux has no call that reads the attributes of a name in a directory without
//! opening it (`getxattrat` came with 6.13), and pipes, sockets and links must
//! not be opened. What is held by an `O_PATH` descriptor is reached through
//! `/proc`, by its number; where there is no `/proc`, files and directories are opened, and
//! the others are reported.

use std::io;

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use types::Xattrs;

use crate::error::ReadError;
use crate::found::{Found, Kind};
use crate::root::{OpenFile, SourceTree, open_list, open_regular};
use crate::stat::{proc_path, stat_fd};

/// All attributes of an entry together, in bytes: what a manifest takes.
pub const XATTRS_LEN_MAX: usize = 512 * 1024;

/// The longest list of names, and the longest value, that Linux has.
const VALUE_LEN_MAX: usize = 64 << 10;
/// What nearly every list and value fits in.
const VALUE_LEN: usize = 512;

/// The access rules of a file or directory.
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The rules that new things in a directory get.
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The extended attributes of an entry.
#[derive(Debug, Default)]
pub struct XattrsRead {
    /// Those that could be read.
    pub xattrs: Xattrs,
    /// The names of those that could not, and why.
    pub unread: Vec<(Vec<u8>, io::Error)>,
}

impl SourceTree {
    /// The extended attributes of what a walk found. They are read apart, as
    /// it takes a call or two for each entry, and none of them can change
    /// without a change of the entry's stamp.
    ///
    /// # Errors
    ///
    /// [`ReadError::Changed`] where the entry is not what was found any more,
    /// and [`ReadError::Io`].
    pub fn xattrs(&self, found: &Found) -> Result<XattrsRead, ReadError> {
        let read = || {
            let held = self.hold(&found.path)?;
            let read = match read_held(held.as_fd()) {
                Err(Errno::OPNOTSUPP) => {
                    self.in_parent(&found.path, |dir, name| read_opened(dir, name, found.kind()))
                }
                read => read,
            }?;
            // What was read belongs to what was found.
            Ok((read, stat_fd(held.as_fd())?.stamp))
        };
        match read() {
            Ok((read, stamp)) if stamp == found.stamp => Ok(read),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Err(ReadError::Changed(found.path.clone()))
            }
            Err(errno) => Err(ReadError::new("read the attributes of", &found.path, errno)),
        }
    }
}

impl OpenFile {
    /// The extended attributes of the file.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn xattrs(&self) -> io::Result<XattrsRead> {
        Ok(read_fd(self.file.as_fd())?)
    }
}

/// `OPNOTSUPP` where there is no `/proc`.
fn read_held(held: BorrowedFd<'_>) -> Result<XattrsRead, Errno> {
    // (This leads to what is held, be it a link.)
    let path = proc_path(held)?;
    read(
        |list| rustix::fs::listxattr(path.as_str(), spare_capacity(list)),
        |name, value| rustix::fs::getxattr(path.as_str(), name, spare_capacity(value)),
    )
}

fn read_opened(dir: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<XattrsRead, Errno> {
    match kind {
        Kind::File => match open_regular(dir, name)? {
            Some((file, _)) => read_fd(file.as_fd()),
            None => Err(Errno::NOENT),
        },
        Kind::Dir => read_fd(open_list(dir, name)?.as_fd()),
        _ => Err(Errno::OPNOTSUPP),
    }
}

fn read_fd(file: BorrowedFd<'_>) -> Result<XattrsRead, Errno> {
    read(
        |list| rustix::fs::flistxattr(file, spare_capacity(list)),
        |name, value| rustix::fs::fgetxattr(file, name, spare_capacity(value)),
    )
}

fn read(
    list: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut Vec<u8>) -> Result<usize, Errno>,
) -> Result<XattrsRead, Errno> {
    let mut read = XattrsRead::default();
    let names = match with_room(&list) {
        Err(Errno::OPNOTSUPP) => return Ok(read),
        names => names?,
    };
    let mut len = 0;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match with_room(|value| get(name, value)) {
            // It went while the list was read.
            Err(Errno::NODATA) => {}
            Ok(value) if len + name.len() + value.len() > XATTRS_LEN_MAX => {
                read.unread.push((name.to_vec(), Errno::TOOBIG.into()));
            }
            Ok(value) => {
                len += name.len() + value.len();
                read.xattrs.insert(name.to_vec(), value);
            }
            Err(errno) => read.unread.push((name.to_vec(), errno.into())),
        }
    }
    Ok(read)
}

/// Calls with little room, and again with all that can be needed.
fn with_room(call: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut room = Vec::with_capacity(VALUE_LEN);
    match call(&mut room) {
        Err(Errno::RANGE) => {
            room = Vec::with_capacity(VALUE_LEN_MAX);
            call(&mut room)?;
        }
        result => _ = result?,
    }
    Ok(room)
}
