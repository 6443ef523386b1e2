//! What the index knows of one path: the last state of it that was taken in.

use fstree::{FoundEntry, FoundKind, Owners};
use store::FileId;
use types::{Cid, Codec, Entry, EntryKind, Hash, Metadata, RelPath, Xattrs};

use super::wire::{Reader, Writer};

/// What says that a thing is as it was. It differs from [`fstree::Stamp`] in
/// the device: the numbers of devices may change with every start of the
/// machine, so only whether it is the root's is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowStamp {
    /// The inode on its device.
    pub(crate) inode: u64,
    /// The length, in bytes.
    pub(crate) size: u64,
    /// The time of the last write.
    pub(crate) mtime: (i64, i64),
    /// The time of the last change of the inode.
    pub(crate) ctime: (i64, i64),
    /// Whether it is on another device than the root.
    pub(crate) is_elsewhere: bool,
}

impl RowStamp {
    /// The stamp of something below a root on `root_device`.
    pub(crate) fn of(stamp: &fstree::Stamp, root_device: u64) -> Self {
        Self {
            inode: stamp.inode,
            size: stamp.size,
            mtime: stamp.mtime,
            ctime: stamp.ctime,
            is_elsewhere: stamp.device != root_device,
        }
    }

    /// As the blocks in place know it.
    pub(crate) fn for_store(&self, root_device: u64) -> store::Stamp {
        store::Stamp {
            device: root_device,
            inode: self.inode,
            size: self.size,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The file in the index of blocks in place; `None` where its chunks are
    /// in the store, or where it has none.
    pub(crate) id: Option<FileId>,
    /// Its name.
    pub(crate) cid: Cid,
    /// The BLAKE3 of its bytes.
    pub(crate) blake3: Hash,
    /// It has holes.
    pub(crate) is_sparse: bool,
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A regular file.
    File(Content),
    /// Anything else, with what its kind alone has.
    Other(EntryKind),
}

/// A row of the table `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What it was when it was taken in.
    pub(crate) stamp: RowStamp,
    /// Of a file: when its inode was made, where the file system tells.
    pub(crate) born: Option<(i64, i64)>,
    /// Permissions: the low twelve bits.
    pub(crate) mode: u32,
    /// The owner's number.
    pub(crate) uid: u32,
    /// The group's number.
    pub(crate) gid: u32,
    /// The same for every name of one file with several.
    pub(crate) hard_link: Option<u64>,
    /// Extended attributes.
    pub(crate) xattrs: Xattrs,
    /// What it is.
    pub(crate) thing: Thing,
    /// Why it is not as it is on disk.
    pub(crate) error: Option<String>,
    /// It was written so shortly before it was read that a further write may
    /// not show in its stamp: it is read again soon.
    pub(crate) is_racy: bool,
    /// Its content was taken from a row of another stamp without reading: it
    /// is read again when there is time.
    pub(crate) is_unread: bool,
    /// When its content was taken in, in hours since 1970.
    pub(crate) hour: u32,
    /// The first manifest that can have this content.
    pub(crate) sequence: u64,
}

const FORM: u8 = 1;

const HARD_LINK: u8 = 1;
const XATTRS: u8 = 1 << 1;
const ERROR: u8 = 1 << 2;
const RACY: u8 = 1 << 3;
const UNREAD: u8 = 1 << 4;
const ELSEWHERE: u8 = 1 << 5;
const SPARSE: u8 = 1 << 6;
const BORN: u8 = 1 << 7;

const FILE: u8 = 0;
const FILE_TREE: u8 = 1;
const DIR: u8 = 2;
const SYMLINK: u8 = 3;
const FIFO: u8 = 4;
const SOCKET: u8 = 5;
const CHAR_DEVICE: u8 = 6;
const BLOCK_DEVICE: u8 = 7;

impl Row {
    /// A row of what was found, with content that is known.
    pub(crate) fn new(found: &FoundEntry, root_device: u64, thing: Thing, xattrs: Xattrs) -> Self {
        Self {
            stamp: RowStamp::of(&found.stamp, root_device),
            born: found.born.filter(|_| matches!(thing, Thing::File(_))),
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            hard_link: found.hard_link,
            xattrs,
            thing,
            error: None,
            is_racy: false,
            is_unread: false,
            hour: 0,
            sequence: 0,
        }
    }

    /// What is in it, where it is a file.
    pub(crate) fn content(&self) -> Option<&Content> {
        match &self.thing {
            Thing::File(content) => Some(content),
            Thing::Other(_) => None,
        }
    }

    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.thing, Thing::Other(EntryKind::Dir))
    }

    /// The line that stands for it in a manifest.
    pub(crate) fn entry(&self, path: RelPath, owners: &Owners) -> Entry {
        let kind = match &self.thing {
            Thing::File(content) => EntryKind::File {
                cid: content.cid,
                size: self.stamp.size,
                blake3: content.blake3,
                is_sparse: content.is_sparse,
            },
            Thing::Other(kind) => kind.clone(),
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

    /// Whether a manifest tells the two apart.
    pub(crate) fn differs_in_manifest(&self, other: &Self) -> bool {
        self.differs_beyond_mtime(other) || self.stamp.mtime != other.stamp.mtime
    }

    /// As [`Row::differs_in_manifest`], without the time of the last write.
    pub(crate) fn differs_beyond_mtime(&self, other: &Self) -> bool {
        let things = match (&self.thing, &other.thing) {
            (Thing::File(a), Thing::File(b)) => {
                (a.cid, a.is_sparse, self.stamp.size) != (b.cid, b.is_sparse, other.stamp.size)
            }
            (a, b) => a != b,
        };
        things
            || (self.mode, self.uid, self.gid, self.hard_link)
                != (other.mode, other.uid, other.gid, other.hard_link)
            || self.xattrs != other.xattrs
            || self.error != other.error
    }

    /// The row as a value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(128));
        out.byte(FORM);
        let kind = match &self.thing {
            Thing::File(content) if content.cid.codec() == Codec::Raw => FILE,
            Thing::File(_) => FILE_TREE,
            Thing::Other(EntryKind::Dir | EntryKind::File { .. }) => DIR,
            Thing::Other(EntryKind::Symlink { .. }) => SYMLINK,
            Thing::Other(EntryKind::Fifo) => FIFO,
            Thing::Other(EntryKind::Socket) => SOCKET,
            Thing::Other(EntryKind::CharDevice { .. }) => CHAR_DEVICE,
            Thing::Other(EntryKind::BlockDevice { .. }) => BLOCK_DEVICE,
        };
        out.byte(kind);
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
        match &self.thing {
            Thing::File(content) => {
                out.number(content.id.map_or(0, |id| id.0));
                out.raw(content.cid.hash().as_bytes());
                if kind == FILE_TREE {
                    out.raw(content.blake3.as_bytes());
                }
            }
            Thing::Other(EntryKind::Symlink { target }) => out.bytes(target),
            Thing::Other(EntryKind::CharDevice { device } | EntryKind::BlockDevice { device }) => {
                out.number(device.0.into());
                out.number(device.1.into());
            }
            Thing::Other(_) => {}
        }
        if let Some(hard_link) = self.hard_link {
            out.number(hard_link);
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
        }
        out.0
    }

    /// Reads a value; `None` where it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.byte()? != FORM {
            return None;
        }
        let kind = from.byte()?;
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
        let thing = match kind {
            FILE | FILE_TREE => {
                let id = Some(from.number()?).filter(|id| *id != 0).map(FileId);
                let hash = Hash::from_bytes(from.array()?);
                let (codec, blake3) = if kind == FILE {
                    (Codec::Raw, hash)
                } else {
                    (Codec::DagCbor, Hash::from_bytes(from.array()?))
                };
                let is_sparse = flags & SPARSE != 0;
                Thing::File(Content { id, cid: Cid::new(codec, hash), blake3, is_sparse })
            }
            DIR => Thing::Other(EntryKind::Dir),
            SYMLINK => Thing::Other(EntryKind::Symlink { target: from.bytes()?.to_vec() }),
            FIFO => Thing::Other(EntryKind::Fifo),
            SOCKET => Thing::Other(EntryKind::Socket),
            CHAR_DEVICE => {
                Thing::Other(EntryKind::CharDevice { device: (from.small()?, from.small()?) })
            }
            BLOCK_DEVICE => {
                Thing::Other(EntryKind::BlockDevice { device: (from.small()?, from.small()?) })
            }
            _ => return None,
        };
        let hard_link = if flags & HARD_LINK != 0 { Some(from.number()?) } else { None };
        let mut xattrs = Xattrs::new();
        if flags & XATTRS != 0 {
            for _ in 0..from.number()? {
                xattrs.insert(from.bytes()?.to_vec(), from.bytes()?.to_vec());
            }
        }
        let error = if flags & ERROR != 0 { Some(from.text()?) } else { None };
        from.is_at_end().then_some(Self {
            stamp,
            born,
            mode,
            uid,
            gid,
            hard_link,
            xattrs,
            thing,
            error,
            is_racy: flags & RACY != 0,
            is_unread: flags & UNREAD != 0,
            hour,
            sequence,
        })
    }
}

/// What is known of a thing without reading it; `None` for a file.
pub(crate) fn thing_of(found: &FoundEntry) -> Option<Thing> {
    match found.kind {
        FoundKind::File { .. } => None,
        _ => found.entry_kind().map(Thing::Other),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of this content, as if written at `second`.
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
            xattrs: Xattrs::new(),
            thing: Thing::File(Content {
                id: Some(FileId(inode)),
                cid,
                blake3: *cid.hash(),
                is_sparse: false,
            }),
            error: None,
            is_racy: false,
            is_unread: false,
            hour: 400_000,
            sequence: 1,
        }
    }

    pub(crate) fn dir_row(inode: u64) -> Row {
        Row { thing: Thing::Other(EntryKind::Dir), mode: 0o755, ..file_row(inode, b"", 1) }
    }

    fn thing() -> impl Strategy<Value = Thing> {
        let content = (any::<Option<u64>>(), any::<[u8; 32]>(), any::<bool>(), any::<bool>());
        prop_oneof![
            content.prop_map(|(id, hash, is_tree, is_sparse)| {
                let codec = if is_tree { Codec::DagCbor } else { Codec::Raw };
                let cid = Cid::new(codec, Hash::from_bytes(hash));
                let blake3 = if is_tree { Hash::of(&hash) } else { *cid.hash() };
                let id = id.filter(|id| *id != 0).map(FileId);
                Thing::File(Content { id, cid, blake3, is_sparse })
            }),
            Just(Thing::Other(EntryKind::Dir)),
            any::<Vec<u8>>().prop_map(|target| Thing::Other(EntryKind::Symlink { target })),
            Just(Thing::Other(EntryKind::Fifo)),
            Just(Thing::Other(EntryKind::Socket)),
            any::<(u32, u32)>().prop_map(|device| Thing::Other(EntryKind::CharDevice { device })),
            any::<(u32, u32)>().prop_map(|device| Thing::Other(EntryKind::BlockDevice { device })),
        ]
    }

    proptest! {
        #[test]
        fn rows_read_back(
            thing in thing(),
            (inode, size, sequence) in any::<(u64, u64, u64)>(),
            (mtime, ctime) in any::<((i64, i64), (i64, i64))>(),
            (mode, uid, gid, hour) in any::<(u32, u32, u32, u32)>(),
            flags in any::<(bool, bool, bool)>(),
            born in any::<Option<(i64, i64)>>(),
            hard_link in any::<Option<u64>>(),
            xattrs in prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3),
            error in any::<Option<String>>(),
        ) {
            let stamp = RowStamp { inode, size, mtime, ctime, is_elsewhere: flags.0 };
            let row = Row {
                stamp, born, mode, uid, gid, hard_link, xattrs, thing, error,
                is_racy: flags.1, is_unread: flags.2, hour, sequence,
            };
            let bytes = row.encode();
            prop_assert_eq!(Row::decode(&bytes), Some(row));
            prop_assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        }

        #[test]
        fn garbage_is_no_row(bytes: Vec<u8>) {
            let _ = Row::decode(&bytes);
        }
    }

    #[test]
    fn a_row_of_a_small_file_is_small() {
        let mut row = file_row(12_345_678, &[7; 4000], 1_790_000_000);
        row.stamp.mtime.1 = 999_999_999;
        row.stamp.ctime.1 = 999_999_999;
        row.thing = Thing::File(Content {
            id: Some(FileId((3 << 40) | 1_000_000)),
            ..*row.content().unwrap()
        });
        assert!(row.encode().len() < 90, "{}", row.encode().len());
    }

    #[test]
    fn what_a_manifest_does_not_show_is_no_difference() {
        let row = file_row(1, b"a", 5);
        let touched = Row { stamp: RowStamp { inode: 2, ..row.stamp }, ..row.clone() };
        assert!(!row.differs_in_manifest(&touched));
        let moved = Row { stamp: RowStamp { mtime: (6, 0), ..row.stamp }, ..row.clone() };
        assert!(row.differs_in_manifest(&moved) && !row.differs_beyond_mtime(&moved));
        let error = Row { error: Some("x".into()), ..row.clone() };
        assert!(row.differs_beyond_mtime(&error));
    }
}
