//! Writes a file, or the files of a directory, to a new store and prints the time:
//! `ingest SOURCE STORE`.
//!
//! Used by `cargo xtask bench`. One root, `last`, leads to all files of a directory,
//! so that they can be pulled together. The time includes the final sync.

#![allow(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use store::{Batch, FileWriter, PackStore, Root, StoreAdmin as _, StoreError, StoreOptions};
use types::{BlockScheme, EncodedBlock, FileNodeBuilder, NodeChild};

fn files(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [source, store] = arguments.as_slice() else {
        return Err("usage: ingest SOURCE STORE".into());
    };
    let source = Path::new(source);
    let mut sources = Vec::new();
    if source.is_dir() {
        files(source, &mut sources)?;
    } else {
        sources.push(source.to_owned());
    }
    let started = Instant::now();
    let options = StoreOptions { disk_reserve: 0, ..StoreOptions::default() };
    let store = Arc::new(PackStore::open(Path::new(store), &options)?.0);
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    let batch = Batch::new(store.clone());
    let mut tree = FileNodeBuilder::new(BlockScheme::plain());
    let mut nodes = Vec::new();
    let mut emit = |node| {
        nodes.push(EncodedBlock::plain(node));
        Ok::<_, StoreError>(())
    };
    for path in &sources {
        let mut file = File::open(path)?;
        let mut writer = FileWriter::new(store.clone(), BlockScheme::plain());
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            writer.write(&buffer[..read])?;
        }
        let written = writer.finish()?;
        bytes += written.size;
        batch.pin().add([written.cid]);
        if written.size > 0 {
            tree.push(NodeChild { cid: written.cid, len: written.size }, &mut emit)?;
        }
    }
    let root = tree.finish(&mut emit)?.ok_or("there is nothing to put")?;
    batch.put(&nodes)?;
    batch.commit_root(&*store, "last", Root { cid: root, partial: false })?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"seconds\": {seconds:.4}, \"files\": {}, \"bytes\": {bytes}, \"stored\": {}}}",
        sources.len(),
        store.usage()?.used_bytes
    );
    Ok(())
}
