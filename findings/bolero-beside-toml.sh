#!/bin/sh
# bolero 0.13.7 and toml 1.2.2 (crates.io, 30 November 2026; cargo 1.95.0) cannot be in one
# Cargo.lock, although neither mentions the other.
#
# Expected: a test tool adds its packages to the lock file and changes nothing else.
# Behaviour: bolero 0.13.7 requires bolero-generator 0.13.6, which requires
# bolero-generator-derive 0.13.5, which requires indexmap "=2.11.2", exactly. toml 1.2.2
# (feature preserve_order) requires indexmap ^2.13. Cargo keeps one version of 2.x, so the
# resolution fails. With the requirement "0.13" cargo silently takes bolero 0.13.4, the
# last version without the exact requirement, and no update ever leaves it.
# Seen:
#   error: failed to select a version for `indexmap`.
#   ... which satisfies dependency `indexmap = "=2.11.2"` of package `bolero-generator-derive v0.13.5`
# Consequence here: Cargo.toml asks for bolero "0.13.0".
#
# Exits with 1 if this has changed.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src && : > src/lib.rs

manifest() {
    cat > Cargo.toml <<END
[package]
name = "probe"
version = "0.1.0"
edition = "2021"
[dependencies]
bolero = "$1"
toml = { version = "=1.2.2", features = ["preserve_order"] }
END
    rm -f Cargo.lock
}

manifest "=0.13.7"
if cargo generate-lockfile > log 2>&1; then
    echo "changed: the two resolve together now"
    exit 1
fi
grep -m1 'failed to select a version for `indexmap`' log || { cat log; exit 1; }
grep -m1 -F 'indexmap = "=2.11.2"' log || { cat log; exit 1; }

manifest "0.13.0"
cargo generate-lockfile > log 2>&1 || { cat log; exit 1; }
taken=$(grep -A1 '^name = "bolero"$' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
echo "with the requirement 0.13.0 cargo takes bolero $taken"
[ "$taken" = 0.13.4 ] || { echo "changed: expected 0.13.4"; exit 1; }
