//! `archivist demo` succeeds, and does not change the user's folder.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::{Command, Stdio};

fn demo(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_archivist"))
        .arg("demo")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_whole_life_of_a_backup() {
    let own = tempfile::tempdir().unwrap();
    fs::create_dir(own.path().join("dir")).unwrap();
    fs::write(own.path().join("dir/file"), "mine").unwrap();
    let before = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(own.path()).arg(before.path()).status().unwrap();
    assert!(copied.success());
    let (ok, text) = demo(&[own.path().to_str().unwrap()]);
    assert!(ok, "{text}");
    assert!(text.contains("byte for byte"), "{text}");
    let copy = before.path().join(own.path().file_name().unwrap());
    let same = fstree::compare(&copy, own.path(), fstree::CompareOptions::default()).unwrap();
    assert!(same.is_empty(), "{same:?}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (ok, text) = demo(&["/no/such/folder"]);
    assert!(!ok && text.contains("/no/such/folder"), "{text}");
}
