//! Extended attributes, including POSIX ACLs.
//!
//! Before Linux 6.13 (`getxattrat`), no call reads the attributes of a directory
//! entry without opening it, and pipes, sockets and links must not be opened. The
//! inode of an `O_PATH` descriptor is therefore reached through its name in
//! `/proc/self/fd`. Without `/proc`, files and directories are opened, and errors
//! are reported for all other entries.

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use super::open::{open_list, open_regular, proc_path};
use crate::entry::FileKind;
use crate::source::{XATTRS_LEN_MAX, XattrsRead};

/// Maximum length of a list of names, and of a value, on Linux.
const VALUE_LEN_MAX: usize = 64 << 10;
/// Initial buffer size, enough for nearly every list and value.
const VALUE_LEN: usize = 512;

/// Name of the ACL of a file or directory.
pub(crate) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the ACL that new entries of a directory inherit.
pub(crate) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Reports whether an attribute is a copy of the ACL, which XFS shows to the superuser beside
/// the ACL itself. On other file systems a copy would remain when the ACL is removed, and
/// would bring the ACL back when it is set on XFS.
pub(crate) fn is_copy_of_acl(name: &[u8]) -> bool {
    name.starts_with(b"trusted.SGI_")
}

/// Reads the attributes of an inode held with `O_PATH`. Returns `OPNOTSUPP` if
/// there is no `/proc`.
pub(crate) fn read_held(held: BorrowedFd<'_>) -> Result<XattrsRead, Errno> {
    // The name leads to the held inode, even if that is a link.
    let path = proc_path(held)?;
    read(
        |list| rustix::fs::listxattr(path.as_str(), spare_capacity(list)),
        |name, value| rustix::fs::getxattr(path.as_str(), name, spare_capacity(value)),
    )
}

/// Reads the attributes of a file or directory by opening it.
pub(crate) fn read_opened(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileKind,
) -> Result<XattrsRead, Errno> {
    match kind {
        FileKind::File => match open_regular(dir, name)? {
            Some((file, _)) => read_fd(file.as_fd()),
            None => Err(Errno::NOENT),
        },
        FileKind::Dir => read_fd(open_list(dir, name)?.as_fd()),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// Reads the attributes of an inode that is open for reading.
pub(crate) fn read_fd(file: BorrowedFd<'_>) -> Result<XattrsRead, Errno> {
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
    let names = match with_buffer(&list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(read),
        Err(errno) => {
            read.unlisted = Some(errno.into());
            return Ok(read);
        }
    };
    let mut len = 0;
    let names = names.split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && !is_copy_of_acl(name)) {
        match with_buffer(|value| get(name, value)) {
            // The attribute was removed after the list was read.
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

/// Calls with a small buffer, and again with the largest if that was too small.
fn with_buffer(call: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = Vec::with_capacity(VALUE_LEN);
    match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer = Vec::with_capacity(VALUE_LEN_MAX);
            call(&mut buffer)?;
        }
        result => _ = result?,
    }
    Ok(buffer)
}
