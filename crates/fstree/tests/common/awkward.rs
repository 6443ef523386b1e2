//! A tree of everything that has ever broken a backup program.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, lsetxattr, makedev,
    mknodat, utimensat,
};

use super::{is_root, set_mode};

/// Names with bytes that programs handle wrongly.
pub(crate) fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"plain"[..],
        b"new\nline",
        b"-rf",
        b"--",
        b" leading",
        b"trailing ",
        b"back\\slash",
        b"a:b",
        b"con",
        b"*",
        b"~",
        b"...",
        b"..a",
        b"tab\t\x01\x7f\x1b[31m",
        b"invalid \xff\xfe\x80",
        b"\xc3",
        "rtl \u{202e}gpj.exe".as_bytes(),
        "nfc \u{e9}".as_bytes(),
        "nfd e\u{301}".as_bytes(),
        "nfc/nfd".replace('/', "\u{e9}").as_bytes(),
        "nfce\u{301}nfd".as_bytes(),
        b"case",
        b"CASE",
        b"%s%n",
        b"$(touch x)",
        b"\"quoted'",
    ]
    .iter()
    .map(|name| name.to_vec())
    .collect();
    names.push(vec![b'n'; 255]);
    names.push(vec![0xff; 255]);
    names
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Returns an ACL in the kernel's format: the rights of the owner, user 1234, the
/// group, the mask and others.
pub(crate) fn acl(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (1, owner, NOBODY),
        (2, user, 1234),
        (4, group, NOBODY),
        (16, mask, NOBODY),
        (32, other, NOBODY),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend_from_slice(&u16::to_le_bytes(tag));
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Fills `dir`. For root, it also contains devices and other owners.
pub(crate) fn make(dir: &Path) {
    let names_dir = dir.join("names");
    fs::create_dir(&names_dir).unwrap();
    for (number, name) in names().iter().enumerate() {
        let path = names_dir.join(OsStr::from_bytes(name));
        match number % 3 {
            0 => fs::write(path, name).unwrap(),
            1 => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("-in it"), b"x").unwrap();
            }
            _ => symlink(OsStr::from_bytes(name), path).unwrap(),
        }
    }
    links(&dir.join("links"));
    modes(&dir.join("modes"));
    times(&dir.join("times"));
    attributes(&dir.join("attributes"));
    hard_links(&dir.join("hard links"));
    contents(&dir.join("contents"));
    specials(&dir.join("specials"));
    fs::create_dir_all(dir.join("empty/empty/empty")).unwrap();
    set_mtime(&dir.join("empty/empty"), 1_000_000_000, 1);
    set_mtime(&dir.join("empty"), 1_000_000_000, 2);
}

fn links(dir: &Path) {
    fs::create_dir_all(dir.join("inner")).unwrap();
    let targets: [(&str, &[u8]); 9] = [
        ("to root", b"/"),
        ("outside", b"/etc/passwd"),
        ("up", b"../../../../../.."),
        ("dangling", b"nowhere/at/all"),
        ("self", b"self"),
        ("cycle a", b"cycle b"),
        ("cycle b", b"cycle a"),
        ("inner/loop", b".."),
        ("bytes", b"\xff\n\\ "),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(target), dir.join(name)).unwrap();
    }
    symlink("x".repeat(4095), dir.join("long")).unwrap();
    set_mtime(&dir.join("dangling"), 1_234_567_890, 123_456_789);
}

fn modes(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for mode in [0o0, 0o200, 0o400, 0o444, 0o600, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777] {
        let path = dir.join(format!("file {mode:o}"));
        fs::write(&path, b"content").unwrap();
        // Only root can read a file with mode 0.
        set_mode(&path, if is_root() { mode } else { mode | 0o400 });
    }
    for mode in [0o0, 0o100, 0o500, 0o555, 0o700, 0o777, 0o1777, 0o2775, 0o3777] {
        let path = dir.join(format!("dir {mode:o}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("in it"), b"content").unwrap();
        set_mode(&path, if is_root() { mode } else { mode | 0o500 });
    }
}

fn times(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let times = [
        ("epoch", 0, 0),
        ("before", -1, 999_999_999),
        ("1901", -2_147_483_648, 0),
        ("2038", 2_147_483_648, 1),
        ("2262", 9_223_372_036, 854_775_807),
        ("2446", 15_032_385_535, 999_999_999),
        ("nanosecond", 1_700_000_000, 1),
    ];
    for (name, seconds, nanoseconds) in times {
        fs::write(dir.join(name), b"").unwrap();
        set_mtime(&dir.join(name), seconds, nanoseconds);
    }
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("dir/file"), b"").unwrap();
    set_mtime(&dir.join("dir"), -1_000_000, 5);
}

fn attributes(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let file = dir.join("file");
    fs::write(&file, b"x").unwrap();
    set_xattr(&file, "user.empty", b"");
    set_xattr(&file, "user.text", b"value");
    set_xattr(&file, "user.bytes\u{e9}", &[0, 255, 10, 0]);
    set_xattr(&file, "user.longer", &[7; 1500]);
    let with_acl = dir.join("with acl");
    fs::write(&with_acl, b"x").unwrap();
    set_mode(&with_acl, 0o640);
    set_xattr(&with_acl, "system.posix_acl_access", &acl(6, 5, 4, 5, 0));
    let inner = dir.join("dir");
    fs::create_dir(&inner).unwrap();
    set_xattr(&inner, "user.dir", b"on a directory");
    set_xattr(&inner, "system.posix_acl_default", &acl(7, 7, 5, 7, 0));
    set_xattr(&inner, "system.posix_acl_access", &acl(7, 1, 5, 5, 1));
    // The file has inherited the default ACL of the directory.
    fs::write(inner.join("inherits"), b"x").unwrap();
    fs::create_dir(inner.join("inherits too")).unwrap();
    if is_root() {
        let program = dir.join("program");
        fs::write(&program, b"#!/bin/true").unwrap();
        set_mode(&program, 0o755);
        // CAP_NET_RAW, permitted; version 2.
        let mut capability = vec![0; 20];
        capability[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
        capability[4..8].copy_from_slice(&(1_u32 << 13).to_le_bytes());
        set_xattr(&program, "security.capability", &capability);
        set_xattr(&program, "trusted.archivist", b"trusted");
        symlink("nowhere", dir.join("link")).unwrap();
        set_xattr(&dir.join("link"), "trusted.on-a-link", b"odd");
    }
}

fn hard_links(dir: &Path) {
    fs::create_dir_all(dir.join("a")).unwrap();
    fs::create_dir_all(dir.join("b")).unwrap();
    fs::write(dir.join("a/first"), b"shared").unwrap();
    fs::hard_link(dir.join("a/first"), dir.join("a/second")).unwrap();
    fs::hard_link(dir.join("a/first"), dir.join("b/third")).unwrap();
    fs::write(dir.join("other"), b"shared").unwrap();
    fs::hard_link(dir.join("other"), dir.join("b/other")).unwrap();
    symlink("target", dir.join("link")).unwrap();
    fs::hard_link(dir.join("link"), dir.join("b/link")).unwrap();
    mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::hard_link(dir.join("pipe"), dir.join("b/pipe")).unwrap();
}

fn contents(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    fs::write(dir.join("zeros"), vec![0; 20_000]).unwrap();
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(dir.join("noise"), noise).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    for at in [0, 4095, 1_000_000, 40_000_001] {
        sparse.write_all_at(b"data", at).unwrap();
    }
    File::create(dir.join("hole alone")).unwrap().set_len(123_456_789).unwrap();
}

fn specials(dir: &Path) {
    fs::create_dir(dir).unwrap();
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WGRP, 0).unwrap();
    set_mode(&dir.join("fifo"), 0o620);
    set_mtime(&dir.join("fifo"), 999, 999);
    if is_root() {
        let char_device = dir.join("char device");
        mknodat(CWD, &char_device, FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
        let block_device = dir.join("block device");
        mknodat(CWD, &block_device, FileType::BlockDevice, Mode::RUSR, makedev(7, 300)).unwrap();
        set_mode(&block_device, 0o660);
        fs::write(dir.join("foreign"), b"x").unwrap();
        chown(dir.join("foreign"), Some(12345), Some(54321)).unwrap();
        set_mode(&dir.join("foreign"), 0o6755);
        fs::create_dir(dir.join("foreign dir")).unwrap();
        chown(dir.join("foreign dir"), Some(1), Some(2)).unwrap();
        symlink("x", dir.join("foreign link")).unwrap();
        std::os::unix::fs::lchown(dir.join("foreign link"), Some(3), Some(4)).unwrap();
    }
}

/// Creates a socket, which a restore never creates.
pub(crate) fn make_socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}
