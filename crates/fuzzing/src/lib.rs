//! Inputs for the fuzz targets of the parsers.
//!
//! A fuzz target is a test whose name begins with `fuzz_`. It passes bytes to a
//! parser and checks that the parser neither panics nor accepts what it must refuse:
//!
//! ```
//! // In a target: #[test] fn fuzz_number() { … }
//! let examples = [b"17".to_vec(), b"4294967295".to_vec()];
//! fuzzing::target!(&examples, |bytes: &[u8]| {
//!     let text = String::from_utf8_lossy(bytes);
//!     if let Ok(number) = text.parse::<u32>() {
//!         assert_eq!(number.to_string().parse(), Ok(number));
//!     }
//! });
//! ```
//!
//! Random bytes alone never pass the first check of a format. So each input of the
//! fuzzer is used twice: as it is, and as a script that changes a valid example
//! ([`mutate`]). The examples are the corpus. They are made by the code that writes the
//! format, so that they follow the format when it changes.
//!
//! `cargo test` runs each target with [`RUNS`] inputs of random seeds; a failure prints
//! the seed and the smallest failing input. `cargo xtask fuzz` runs them for as long as
//! wanted. `cargo bolero test` runs one of them with the coverage of libFuzzer.
//! Inputs that have failed go to `__fuzz__/<test>/crashes/` beside the target, from
//! where every run repeats them.

use std::panic::AssertUnwindSafe;

pub use bolero;

/// Number of inputs of a target in an ordinary test run.
pub const RUNS: usize = 3000;
/// Maximum number of changes to an example.
const CHANGES_MAX: usize = 6;
/// Maximum length of a changed example. Longer ones are cut.
const LEN_MAX: usize = 1 << 20;

/// Numbers at which parsers fail: the edges of integers.
const EDGES: [u32; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x0001_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// Runs a fuzz target: `target!(&examples, |bytes: &[u8]| { … })`. The closure gets arbitrary
/// bytes and changed examples.
#[macro_export]
macro_rules! target {
    ($examples:expr, $parse:expr) => {{
        let examples = $examples;
        // A panic ends the test, so nobody sees what it leaves behind.
        let parse = ::std::panic::AssertUnwindSafe($parse);
        for example in examples {
            $crate::call(&parse, example.as_ref());
        }
        $crate::bolero::check!().with_iterations($crate::RUNS).for_each(|input: &[u8]| {
            $crate::call(&parse, input);
            $crate::call(&parse, &$crate::mutate(examples, input));
        });
    }};
}

/// Calls a parser. (It tells the compiler the type of the closure.)
#[doc(hidden)]
pub fn call(parse: &AssertUnwindSafe<impl Fn(&[u8])>, bytes: &[u8]) {
    parse(bytes);
}

/// Changes an example as `script` says: the first byte chooses the example, and each
/// group of six bytes after it is a change (kind, place, length, value). Returns no bytes
/// if there is no example.
pub fn mutate<E: AsRef<[u8]>>(examples: &[E], script: &[u8]) -> Vec<u8> {
    let (Some((first, changes)), false) = (script.split_first(), examples.is_empty()) else {
        return Vec::new();
    };
    let chosen = |number: u8| examples[usize::from(number) % examples.len()].as_ref();
    let mut bytes = chosen(*first).to_vec();
    for change in changes.chunks_exact(6).take(CHANGES_MAX) {
        let [kind, high, low, len, value, other] = *change else { continue };
        // Scaled, so that every place of a long example can be reached.
        let place = usize::from(u16::from_be_bytes([high, low]));
        let at = (place * (bytes.len() + 1)) >> 16;
        let end = (at + usize::from(len)).min(bytes.len());
        match kind % 8 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
            1 if at < bytes.len() => bytes[at] = value,
            2 => drop(bytes.splice(at..at, std::iter::repeat_n(value, usize::from(len % 16)))),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(end..end, again);
            }
            5 => bytes.truncate(at),
            6 => {
                let edge = EDGES[usize::from(value) % EDGES.len()];
                let edge = if other % 2 == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                for (byte, new) in bytes[at..].iter_mut().zip(edge) {
                    *byte = new;
                }
            }
            7 => {
                let source = chosen(other);
                let from = (usize::from(value) * source.len()) >> 8;
                let until = (from + usize::from(len)).min(source.len());
                bytes.splice(at..end, source[from..until].iter().copied());
            }
            _ => {}
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_script_changes_an_example() {
        let examples = [b"0123456789".to_vec(), b"abcdef".to_vec()];
        assert_eq!(mutate(&examples, &[0]), b"0123456789");
        assert_eq!(mutate(&examples, &[3]), b"abcdef");
        // Truncated in the middle; a byte replaced at the beginning.
        assert_eq!(mutate(&examples, &[1, 5, 0x80, 0, 0, 0, 0]), b"abc");
        assert_eq!(mutate(&examples, &[1, 1, 0, 0, 0, b'X', 0]), b"Xbcdef");
        assert_eq!(mutate::<Vec<u8>>(&[], &[1, 2, 3]), b"");
        assert_eq!(mutate(&examples, &[]), b"");
    }

    #[test]
    fn scripts_reach_every_place_and_no_script_panics() {
        let examples = [vec![0; 700], Vec::new()];
        let mut changed = [false; 700];
        bolero::check!().with_iterations(20_000).for_each(|script: &[u8]| {
            mutate(&examples, script);
        });
        for place in 0..=u16::MAX {
            let [high, low] = place.to_be_bytes();
            let bytes = mutate(&examples, &[0, 1, high, low, 0, 1, 0]);
            if let Some(at) = bytes.iter().position(|byte| *byte == 1) {
                changed[at] = true;
            }
        }
        assert!(changed.iter().all(|one| *one));
    }

    #[test]
    #[should_panic(expected = "test failed")]
    fn a_target_that_fails_fails_its_test() {
        target!(&[b"example".to_vec()], |bytes: &[u8]| {
            assert!(bytes.first() != Some(&b'E'), "unlucky");
        });
    }
}
