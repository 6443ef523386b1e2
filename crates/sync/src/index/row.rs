//! The row of one path: its last state that was read successfully.

use fstree::{FoundEntry, FoundKind, Owners};
use store::FileId;
use types::{Cid, Codec, Entry, EntryKind, Hash, Metadata, RelPath, Xattrs};

use super::codec::{Reader, Writer};

/// The stamp of an entry: as long as it is the same, the entry has not changed.
///
/// Unlike [`fstree::Stamp`], it has no device number, since these may change with every boot.
/// It only says whether the entry is on the device of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowStamp {
    /// The inode number.
    pub(crate) inode: u64,
    /// The length, in bytes.
    pub(crate) size: u64,
    /// The mtime, in seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// The ctime, in seconds and nanoseconds.
    pub(crate) ctime: (i64, i64),
    /// True if the entry is on another device than the root.
    pub(crate) is_elsewhere: bool,
}

impl RowStamp {
    /// Returns the stamp of an entry below a root on `root_device`.
    pub(crate) fn of(stamp: &fstree::Stamp, root_device: u64) -> Self {
        Self {
            inode: stamp.inode,
            size: stamp.size,
            mtime: stamp.mtime,
            ctime: stamp.ctime,
            is_elsewhere: stamp.device != root_device,
        }
    }
}

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The id in the index of blocks in place; `None` if the chunks are in the store, or if
    /// the file has none.
    pub(crate) id: Option<FileId>,
    /// The CID of the file.
    pub(crate) cid: Cid,
    /// The BLAKE3 hash of the bytes.
    pub(crate) blake3: Hash,
    /// True if the file has holes.
    pub(crate) is_sparse: bool,
}

/// The kind of entry that a row describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// A regular file.
    File(Content),
    /// Any other entry, with the data of its kind.
    Other(EntryKind),
}

/// A row of the table `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The stamp of the recorded state.
    pub(crate) stamp: RowStamp,
    /// The birth time of a file, if the file system provides it.
    pub(crate) born: Option<(i64, i64)>,
    /// The permissions: the low twelve bits of the mode.
    pub(crate) mode: u32,
    /// The numeric id of the owner.
    pub(crate) uid: u32,
    /// The numeric id of the group.
    pub(crate) gid: u32,
    /// An id that all names of one file share, if it has several.
    pub(crate) hard_link: Option<u64>,
    /// The number of names; 0 if it is unknown, because an earlier version stored the row.
    pub(crate) links: u64,
    /// The extended attributes.
    pub(crate) xattrs: Xattrs,
    /// The kind of entry.
    pub(crate) kind: RowKind,
    /// Why the row differs from the entry on disk.
    pub(crate) error: Option<String>,
    /// True if the error concerns only the extended attributes; the content is complete.
    pub(crate) is_attribute_error: bool,
    /// True if the file was changed so shortly before it was read that a further write may
    /// have left the stamp unchanged. The next scan reads it again.
    pub(crate) is_racy: bool,
    /// True if the file was changed so shortly before it was read that a program may still
    /// change it through a mapping (`mmap`) without a new stamp. It is read again when the
    /// kernel has written its pages to the disk.
    pub(crate) is_unsettled: bool,
    /// True if the content was taken over from a row with another stamp, without reading the
    /// file. The next full scan reads it.
    pub(crate) is_unread: bool,
    /// When the content was first recorded, in hours since 1970.
    pub(crate) hour: u32,
    /// The sequence number of the first manifest that can contain this content.
    pub(crate) sequence: u64,
}

/// Format 1 had neither the number of names nor the kind of an error.
const ROW_FORMAT: u8 = 2;
const ROW_FORMAT_1: u8 = 1;

const HARD_LINK: u8 = 1;
const XATTRS: u8 = 1 << 1;
const ERROR: u8 = 1 << 2;
const RACY: u8 = 1 << 3;
const UNREAD: u8 = 1 << 4;
const ELSEWHERE: u8 = 1 << 5;
const SPARSE: u8 = 1 << 6;
const BORN: u8 = 1 << 7;

/// A flag in the byte of the kind.
const UNSETTLED: u8 = 1 << 7;

const FILE: u8 = 0;
const FILE_TREE: u8 = 1;
const DIR: u8 = 2;
const SYMLINK: u8 = 3;
const FIFO: u8 = 4;
const SOCKET: u8 = 5;
const CHAR_DEVICE: u8 = 6;
const BLOCK_DEVICE: u8 = 7;

impl Row {
    /// Returns the row of an entry whose content is known.
    pub(crate) fn new(found: &FoundEntry, root_device: u64, kind: RowKind, xattrs: Xattrs) -> Self {
        Self {
            stamp: RowStamp::of(&found.stamp, root_device),
            born: found.born.filter(|_| matches!(kind, RowKind::File(_))),
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            hard_link: found.hard_link,
            links: if found.hard_link.is_some() { found.links } else { 1 },
            xattrs,
            kind,
            error: None,
            is_attribute_error: false,
            is_racy: false,
            is_unsettled: false,
            is_unread: false,
            hour: 0,
            sequence: 0,
        }
    }

    /// Returns the content of a regular file.
    pub(crate) fn content(&self) -> Option<&Content> {
        match &self.kind {
            RowKind::File(content) => Some(content),
            RowKind::Other(_) => None,
        }
    }

    /// Reports whether the entry is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, RowKind::Other(EntryKind::Dir))
    }

    /// Returns the entry for a manifest.
    pub(crate) fn entry(&self, path: RelPath, owners: &Owners) -> Entry {
        let kind = match &self.kind {
            RowKind::File(content) => EntryKind::File {
                cid: content.cid,
                size: self.stamp.size,
                blake3: content.blake3,
                is_sparse: content.is_sparse,
            },
            RowKind::Other(kind) => kind.clone(),
        };
        let metadata = Metadata {
            mode: self.mode,
            mtime_ns: i128::from(self.stamp.mtime.0) * 1_000_000_000
                + i128::from(self.stamp.mtime.1),
            uid: self.uid,
            gid: self.gid,
            user: owners.user(self.uid).map(str::to_owned),
            group: owners.group(self.gid).map(str::to_owned),
            xattrs: self.xattrs.clone(),
            hard_link: self.hard_link,
        };
        Entry { path, kind, metadata, error: self.error.clone() }
    }

    /// Reports whether a manifest shows a difference between the two rows.
    pub(crate) fn differs_in_manifest(&self, other: &Self) -> bool {
        self.differs_beyond_mtime(other) || self.stamp.mtime != other.stamp.mtime
    }

    /// Same as [`Row::differs_in_manifest`], ignoring the mtime.
    pub(crate) fn differs_beyond_mtime(&self, other: &Self) -> bool {
        let kinds = match (&self.kind, &other.kind) {
            (RowKind::File(a), RowKind::File(b)) => {
                (a.cid, a.is_sparse, self.stamp.size) != (b.cid, b.is_sparse, other.stamp.size)
            }
            (a, b) => a != b,
        };
        kinds
            || (self.mode, self.uid, self.gid, self.hard_link)
                != (other.mode, other.uid, other.gid, other.hard_link)
            || self.xattrs != other.xattrs
            || self.error != other.error
    }

    /// Encodes the row as a value of the table.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(128));
        out.byte(ROW_FORMAT);
        let tag = match &self.kind {
            RowKind::File(content) if content.cid.codec() == Codec::Raw => FILE,
            RowKind::File(_) => FILE_TREE,
            RowKind::Other(EntryKind::Dir | EntryKind::File { .. }) => DIR,
            RowKind::Other(EntryKind::Symlink { .. }) => SYMLINK,
            RowKind::Other(EntryKind::Fifo) => FIFO,
            RowKind::Other(EntryKind::Socket) => SOCKET,
            RowKind::Other(EntryKind::CharDevice { .. }) => CHAR_DEVICE,
            RowKind::Other(EntryKind::BlockDevice { .. }) => BLOCK_DEVICE,
        };
        out.byte(tag | if self.is_unsettled { UNSETTLED } else { 0 });
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.byte(
            flag(self.hard_link.is_some(), HARD_LINK)
                | flag(!self.xattrs.is_empty(), XATTRS)
                | flag(self.error.is_some(), ERROR)
                | flag(self.is_racy, RACY)
                | flag(self.is_unread, UNREAD)
                | flag(self.stamp.is_elsewhere, ELSEWHERE)
                | flag(self.content().is_some_and(|content| content.is_sparse), SPARSE)
                | flag(self.born.is_some(), BORN),
        );
        out.number(self.stamp.inode);
        out.number(self.stamp.size);
        let times = [Some(self.stamp.mtime), Some(self.stamp.ctime), self.born];
        for (seconds, nanoseconds) in times.into_iter().flatten() {
            out.signed(seconds);
            out.signed(nanoseconds);
        }
        out.number(self.mode.into());
        out.number(self.uid.into());
        out.number(self.gid.into());
        out.number(self.hour.into());
        out.number(self.sequence);
        match &self.kind {
            RowKind::File(content) => {
                out.number(content.id.map_or(0, |id| id.0));
                out.raw(content.cid.hash().as_bytes());
                if tag == FILE_TREE {
                    out.raw(content.blake3.as_bytes());
                }
            }
            RowKind::Other(EntryKind::Symlink { target }) => out.bytes(target),
            RowKind::Other(
                EntryKind::CharDevice { device } | EntryKind::BlockDevice { device },
            ) => {
                out.number(device.0.into());
                out.number(device.1.into());
            }
            RowKind::Other(_) => {}
        }
        if let Some(hard_link) = self.hard_link {
            out.number(hard_link);
            out.number(self.links);
        }
        if !self.xattrs.is_empty() {
            out.number(self.xattrs.len() as u64);
            for (name, value) in &self.xattrs {
                out.bytes(name);
                out.bytes(value);
            }
        }
        if let Some(error) = &self.error {
            out.bytes(error.as_bytes());
            out.byte(self.is_attribute_error.into());
        }
        out.0
    }

    /// Decodes a value; `None` if it is malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let format = from.byte()?;
        if format != ROW_FORMAT && format != ROW_FORMAT_1 {
            return None;
        }
        let first = from.byte()?;
        let (tag, is_unsettled) = (first & !UNSETTLED, first & UNSETTLED != 0);
        let flags = from.byte()?;
        let stamp = RowStamp {
            inode: from.number()?,
            size: from.number()?,
            mtime: (from.signed()?, from.signed()?),
            ctime: (from.signed()?, from.signed()?),
            is_elsewhere: flags & ELSEWHERE != 0,
        };
        let born = if flags & BORN != 0 { Some((from.signed()?, from.signed()?)) } else { None };
        let (mode, uid, gid) = (from.small()?, from.small()?, from.small()?);
        let (hour, sequence) = (from.small()?, from.number()?);
        let kind = match tag {
            FILE | FILE_TREE => {
                let id = Some(from.number()?).filter(|id| *id != 0).map(FileId);
                let hash = Hash::from_bytes(from.array()?);
                let (codec, blake3) = if tag == FILE {
                    (Codec::Raw, hash)
                } else {
                    (Codec::DagCbor, Hash::from_bytes(from.array()?))
                };
                let is_sparse = flags & SPARSE != 0;
                RowKind::File(Content { id, cid: Cid::new(codec, hash), blake3, is_sparse })
            }
            DIR => RowKind::Other(EntryKind::Dir),
            SYMLINK => RowKind::Other(EntryKind::Symlink { target: from.bytes()?.to_vec() }),
            FIFO => RowKind::Other(EntryKind::Fifo),
            SOCKET => RowKind::Other(EntryKind::Socket),
            CHAR_DEVICE => {
                RowKind::Other(EntryKind::CharDevice { device: (from.small()?, from.small()?) })
            }
            BLOCK_DEVICE => {
                RowKind::Other(EntryKind::BlockDevice { device: (from.small()?, from.small()?) })
            }
            _ => return None,
        };
        let hard_link = if flags & HARD_LINK != 0 { Some(from.number()?) } else { None };
        let links = match (hard_link, format) {
            (None, _) => 1,
            (Some(_), ROW_FORMAT_1) => 0,
            (Some(_), _) => from.number()?,
        };
        let mut xattrs = Xattrs::new();
        if flags & XATTRS != 0 {
            for _ in 0..from.number()? {
                xattrs.insert(from.bytes()?.to_vec(), from.bytes()?.to_vec());
            }
        }
        let error = if flags & ERROR != 0 { Some(from.text()?) } else { None };
        let is_attribute_error = match (&error, format) {
            (None, _) | (_, ROW_FORMAT_1) => false,
            _ => from.byte()? != 0,
        };
        from.is_at_end().then_some(Self {
            stamp,
            born,
            mode,
            uid,
            gid,
            hard_link,
            links,
            xattrs,
            kind,
            error,
            is_attribute_error,
            is_racy: flags & RACY != 0,
            is_unsettled,
            is_unread: flags & UNREAD != 0,
            hour,
            sequence,
        })
    }
}

/// Returns the kind of an entry; `None` for a regular file, whose content has to be read.
pub(crate) fn kind_of(found: &FoundEntry) -> Option<RowKind> {
    match found.kind {
        FoundKind::File { .. } => None,
        _ => found.entry_kind().map(RowKind::Other),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the row of a file with this content, as if written at `second`.
    pub(crate) fn file_row(inode: u64, content: &[u8], second: i64) -> Row {
        let cid = Cid::of(Codec::Raw, content);
        Row {
            stamp: RowStamp {
                inode,
                size: content.len() as u64,
                mtime: (second, 5),
                ctime: (second, 7),
                is_elsewhere: false,
            },
            born: None,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            hard_link: None,
            links: 1,
            xattrs: Xattrs::new(),
            kind: RowKind::File(Content {
                id: Some(FileId(inode)),
                cid,
                blake3: *cid.hash(),
                is_sparse: false,
            }),
            error: None,
            is_attribute_error: false,
            is_racy: false,
            is_unsettled: false,
            is_unread: false,
            hour: 400_000,
            sequence: 1,
        }
    }

    pub(crate) fn dir_row(inode: u64) -> Row {
        Row { kind: RowKind::Other(EntryKind::Dir), mode: 0o755, ..file_row(inode, b"", 1) }
    }

    fn kind() -> impl Strategy<Value = RowKind> {
        let content = (any::<Option<u64>>(), any::<[u8; 32]>(), any::<bool>(), any::<bool>());
        prop_oneof![
            content.prop_map(|(id, hash, is_tree, is_sparse)| {
                let codec = if is_tree { Codec::DagCbor } else { Codec::Raw };
                let cid = Cid::new(codec, Hash::from_bytes(hash));
                let blake3 = if is_tree { Hash::of(&hash) } else { *cid.hash() };
                let id = id.filter(|id| *id != 0).map(FileId);
                RowKind::File(Content { id, cid, blake3, is_sparse })
            }),
            Just(RowKind::Other(EntryKind::Dir)),
            any::<Vec<u8>>().prop_map(|target| RowKind::Other(EntryKind::Symlink { target })),
            Just(RowKind::Other(EntryKind::Fifo)),
            Just(RowKind::Other(EntryKind::Socket)),
            any::<(u32, u32)>().prop_map(|device| RowKind::Other(EntryKind::CharDevice { device })),
            any::<(u32, u32)>()
                .prop_map(|device| RowKind::Other(EntryKind::BlockDevice { device })),
        ]
    }

    proptest! {
        #[test]
        fn rows_read_back(
            kind in kind(),
            (inode, size, sequence) in any::<(u64, u64, u64)>(),
            (mtime, ctime) in any::<((i64, i64), (i64, i64))>(),
            (mode, uid, gid, hour) in any::<(u32, u32, u32, u32)>(),
            flags in any::<(bool, bool, bool, bool, bool)>(),
            born in any::<Option<(i64, i64)>>(),
            hard_link in any::<Option<(u64, u64)>>(),
            xattrs in prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3),
            error in any::<Option<String>>(),
        ) {
            let stamp = RowStamp { inode, size, mtime, ctime, is_elsewhere: flags.0 };
            let links = hard_link.map_or(1, |(_, links)| links);
            let hard_link = hard_link.map(|(id, _)| id);
            let is_attribute_error = error.is_some() && flags.3;
            let row = Row {
                stamp, born, mode, uid, gid, hard_link, links, xattrs, kind, error,
                is_attribute_error,
                is_racy: flags.1, is_unsettled: flags.4, is_unread: flags.2, hour, sequence,
            };
            let bytes = row.encode();
            prop_assert_eq!(Row::decode(&bytes), Some(row));
            prop_assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn fuzz_row() {
        let mut linked = file_row(1, b"a", 5);
        linked.hard_link = Some(9);
        linked.xattrs = [(b"user.x".to_vec(), b"value".to_vec())].into();
        linked.error = Some("permission denied".into());
        let link = EntryKind::Symlink { target: b"../x".to_vec() };
        let link = Row { kind: RowKind::Other(link), ..file_row(2, b"", 1) };
        let examples = [linked.encode(), link.encode(), dir_row(3).encode()];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some(row) = Row::decode(bytes) {
                assert_eq!(Row::decode(&row.encode()), Some(row));
            }
        });
    }

    /// The number of names, and whether an error concerns only the attributes, are unknown.
    #[test]
    fn a_row_of_format_1_is_read() {
        let row = Row {
            hard_link: Some(9),
            links: 0,
            error: Some("denied".to_owned()),
            ..file_row(1, b"a", 5)
        };
        let mut bytes = row.encode();
        assert_eq!(bytes[0], ROW_FORMAT);
        bytes[0] = ROW_FORMAT_1;
        // Without the number of names, a zero before the length of the text, and the kind of
        // the error at the end.
        let text = bytes.len() - 1 - "denied".len() - 1;
        assert_eq!((bytes[text - 1], bytes.pop()), (0, Some(0)));
        bytes.remove(text - 1);
        assert_eq!(Row::decode(&bytes), Some(row));
    }

    #[test]
    fn a_row_of_a_small_file_is_small() {
        let mut row = file_row(12_345_678, &[7; 4000], 1_790_000_000);
        row.stamp.mtime.1 = 999_999_999;
        row.stamp.ctime.1 = 999_999_999;
        row.kind = RowKind::File(Content {
            id: Some(FileId((3 << 40) | 1_000_000)),
            ..*row.content().unwrap()
        });
        assert!(row.encode().len() < 90, "{}", row.encode().len());
    }

    #[test]
    fn only_what_a_manifest_shows_is_a_difference() {
        let row = file_row(1, b"a", 5);
        let touched = Row { stamp: RowStamp { inode: 2, ..row.stamp }, ..row.clone() };
        assert!(!row.differs_in_manifest(&touched));
        let moved = Row { stamp: RowStamp { mtime: (6, 0), ..row.stamp }, ..row.clone() };
        assert!(row.differs_in_manifest(&moved) && !row.differs_beyond_mtime(&moved));
        let error = Row { error: Some("x".into()), ..row.clone() };
        assert!(row.differs_beyond_mtime(&error));
    }
}
