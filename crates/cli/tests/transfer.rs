//! Two real processes: content arrives complete, and a transfer continues after kill -9.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Daemon, Home, eventually, noise};

/// Two homes, with B allowed to fetch from A.
struct Pair {
    a_home: Home,
    b_home: Home,
}

impl Pair {
    fn new(more: &str) -> Self {
        let b_home = Home::new("");
        let a_home = Home::new(&format!("allowed_peers = [\"{}\"]\n{more}", b_home.peer_id()));
        Self { a_home, b_home }
    }

    fn connect(&self, b: &Daemon, a: &Daemon) {
        b.connect(&self.a_home.peer_id(), &a.addresses());
    }
}

fn fetch(b: &Daemon, cid: &str) {
    let answer = b.post(&format!("/data/{cid}/network"));
    let status = answer.status();
    assert_eq!(status, 200, "{}", answer.text().unwrap());
}

fn progress(b: &Daemon, cid: &str) -> serde_json::Value {
    b.json(&format!("/data/{cid}/network/progress"))
}

fn wait_for(b: &Daemon, cid: &str) {
    eventually("it is fetched", || {
        let progress = progress(b, cid);
        assert_ne!(progress["state"], "failed", "{progress}");
        progress["state"] == "complete"
    });
}

/// A long reproducible stream of bytes that needs little memory.
struct Long {
    hash: blake3::OutputReader,
    left: u64,
}

impl Long {
    fn new(seed: u64, len: u64) -> Self {
        let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        Self { hash, left: len }
    }
}

impl Read for Long {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.hash.fill(&mut buf[..len]);
        self.left -= len as u64;
        Ok(len)
    }
}

fn assert_same(mut answer: impl Read, mut expected: impl Read) {
    let (mut got, mut wanted) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = answer.read(&mut got).unwrap();
        expected.read_exact(&mut wanted[..read]).unwrap();
        assert!(got[..read] == wanted[..read]);
        if read == 0 {
            assert_eq!(expected.read(&mut wanted).unwrap(), 0, "it is all there");
            return;
        }
    }
}

#[test]
fn from_nothing_to_two_gibibytes() {
    let pair = Pair::new("");
    let (a, b) = (pair.a_home.start(), pair.b_home.start());
    pair.connect(&b, &a);
    for len in [0, 1, 65_536, 65_537, 10_000_000, 2 << 30] {
        let body = reqwest::blocking::Body::sized(Long::new(len, len), len);
        let cid = a.upload(body);
        fetch(&b, &cid);
        wait_for(&b, &cid);
        assert_same(b.get(&format!("/data/{cid}")), Long::new(len, len));
    }
}

#[test]
fn ten_thousand_small_files() {
    let pair = Pair::new("");
    let (a, b) = (pair.a_home.start(), pair.b_home.start());
    pair.connect(&b, &a);
    let content = |n: usize| noise(n as u64, n * 7 % 9000);
    let next = AtomicUsize::new(0);
    let cids: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= 10_000 {
                            return mine;
                        }
                        let cid = a.upload(content(n));
                        fetch(&b, &cid);
                        mine.push((n, cid));
                    }
                })
            })
            .collect();
        let mut all: Vec<_> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        all.sort();
        all.into_iter().map(|(_, cid)| cid).collect()
    });
    eventually("all are listed", || {
        b.json("/data")["content"].as_array().unwrap().len() == {
            let mut distinct = cids.clone();
            distinct.sort();
            distinct.dedup();
            distinct.len()
        }
    });
    drop(a);
    for (n, cid) in cids.iter().enumerate() {
        let got = b.get(&format!("/data/{cid}")).bytes().unwrap();
        assert!(got == content(n), "file {n}");
    }
}

/// Kills one side (`kill`) in the middle of a transfer, then continues.
fn killed_in_the_middle(kill_a: bool) {
    const LEN: u64 = 300_000_000;
    // Slow enough that the kill happens during the transfer.
    let pair = Pair::new("[sync]\nupload_limit = \"60MB/s\"\n");
    let (mut a, mut b) = (pair.a_home.start(), pair.b_home.start());
    pair.connect(&b, &a);
    let cid = a.upload(reqwest::blocking::Body::sized(Long::new(9, LEN), LEN));
    fetch(&b, &cid);
    let mut had = 0;
    eventually("a third is there", || {
        had = progress(&b, &cid)["bytesDone"].as_u64().unwrap();
        had > LEN / 3
    });
    assert!(had < LEN * 9 / 10, "it was too fast to be killed in the middle");
    if kill_a {
        a.kill();
        eventually("B has noticed", || progress(&b, &cid)["state"] == "failed");
        a = pair.a_home.start();
    } else {
        b.kill();
        b = pair.b_home.start();
        assert_eq!(b.get(&format!("/data/{cid}")).status(), 404, "not whole, so not there");
        assert!(b.json("/data")["content"].as_array().unwrap().is_empty());
    }
    pair.connect(&b, &a);
    fetch(&b, &cid);
    wait_for(&b, &cid);
    let again = progress(&b, &cid)["bytesFetched"].as_u64().unwrap();
    // A few blocks may have been in transit, and some were not in a pack yet.
    assert!(again <= LEN - had + (8 << 20), "{had} were there, {again} were fetched again");
    assert_same(b.get(&format!("/data/{cid}")), Long::new(9, LEN));
}

#[test]
fn the_source_is_killed() {
    killed_in_the_middle(true);
}

#[test]
fn the_receiver_is_killed() {
    killed_in_the_middle(false);
}
