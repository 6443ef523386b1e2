//! Compiles the store with the locks and threads of shuttle: see `crates/store/src/sync.rs`.

fn main() {
    println!("cargo::rustc-cfg=shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
