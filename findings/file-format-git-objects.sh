#!/bin/sh
# file-format 0.29.0 (crates.io, 1 December 2026; cargo 1.95.0, git 2.47.3) takes each loose object of
# git, and each zlib stream of the fastest levels, for an Apple disk image.
#
# Expected: a zlib stream without a container is unknown (arbitrary binary data), or zlib.
# Behaviour: the first two bytes of a zlib stream of level 0 or 1, 78 01, are taken for the signature
# of a disk image. git writes its loose objects with these bytes. Streams of the default level (78 9c)
# are arbitrary binary data. So one compressor has two kinds, by its level, and both are wrong.
# Seen:
#   loose object: AppleDiskImage (Disk)
#   zlib level 1: AppleDiskImage (Disk)
#   zlib level 6: ArbitraryBinaryData (Other)
# Consequence here: Archivist tests the two bytes of zlib before it asks this crate, so that a
# repository that is packed does not look like thousands of lost disk images.
#
# Exits with 1 if this has changed.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat > Cargo.toml <<'END'
[package]
name = "probe"
version = "0.1.0"
edition = "2021"
[dependencies]
file-format = "=0.29.0"
END
cat > src/main.rs <<'END'
fn main() {
    for path in std::env::args().skip(1) {
        let format = file_format::FileFormat::from_bytes(std::fs::read(path).unwrap());
        println!("{format:?} ({:?})", format.kind());
    }
}
END
git init -q repository
object=$(echo 'a text' | git -C repository hash-object -w --stdin)
cp "repository/.git/objects/$(echo "$object" | cut -c1-2)/$(echo "$object" | cut -c3-)" loose
for level in 1 6; do
    python3 -c "import sys, zlib; sys.stdout.buffer.write(zlib.compress(b'a text ' * 99, $level))" > "zlib$level"
done
cargo run --quiet -- loose zlib1 zlib6 > seen
sed -n '1s/^/loose object: /p; 2s/^/zlib level 1: /p; 3s/^/zlib level 6: /p' seen
cat > expected <<'END'
AppleDiskImage (Disk)
AppleDiskImage (Disk)
ArbitraryBinaryData (Other)
END
cmp -s seen expected || { echo "changed"; exit 1; }
