//! Generates the data of the benchmarks. Every machine gets the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

const STRIPE: usize = 8 << 20;
const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// A stream of bytes that do not compress, made from a seed.
struct Noise(blake3::OutputReader);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % limit as u64).unwrap_or(0)
    }
}

/// Returns text of made-up words, which compresses about as well as real text.
fn words(noise: &mut Noise, len: usize) -> Vec<u8> {
    let dictionary: Vec<Vec<u8>> = (0..4000)
        .map(|_| (0..2 + noise.below(8)).map(|_| LETTERS[noise.below(26)]).collect())
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(&dictionary[noise.below(dictionary.len())]);
        text.push(b' ');
    }
    text.truncate(len);
    text
}

/// Writes a file of 8 MiB stripes that alternate between noise and text.
pub(super) fn large_file(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut noise = Noise::new(1);
    let mut left = usize::try_from(mib << 20)?;
    let mut stripe = vec![0; STRIPE];
    let mut is_text = false;
    while left > 0 {
        if is_text {
            stripe = words(&mut noise, STRIPE);
        } else {
            noise.0.fill(&mut stripe);
        }
        is_text = !is_text;
        let len = left.min(STRIPE);
        file.write_all(&stripe[..len])?;
        left -= len;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    Ok(())
}

/// Writes files of 0.5 to 20 KiB of text, one hundred in each directory.
pub(super) fn small_files(dir: &Path, count: u32) -> Result<()> {
    let mut noise = Noise::new(2);
    let text = words(&mut noise, STRIPE);
    for number in 0..count {
        let dir = dir.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&dir)?;
        }
        let len = 512 + noise.below(20 * 1024 - 512);
        let start = noise.below(STRIPE - len);
        // The number makes the content of each file unique.
        let mut content = text[start..start + len].to_vec();
        content[..4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(dir.join(format!("{number:06}.txt")), content)?;
    }
    Ok(())
}
