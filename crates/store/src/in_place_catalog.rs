//! The file that names the runs of the in-place index (docs/formats/index.md): a line with
//! its version, a line with the numbers of the runs, and a line with a checksum.

const HEAD: &str = "archivist in-place 1";

/// Returns the content of the file.
pub(crate) fn encode(runs: &[u64]) -> String {
    let runs: Vec<_> = runs.iter().map(u64::to_string).collect();
    let content = format!("{HEAD}\n{}\n", runs.join(" "));
    let sum = crc32c::crc32c(content.as_bytes());
    format!("{content}{sum:08x}\n")
}

/// Returns the runs in the file, or `None` if it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<u64>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (content, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let content = format!("{content}\n");
    if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(content.as_bytes()) {
        return None;
    }
    let mut lines = content.lines();
    if lines.next()? != HEAD {
        return None;
    }
    lines.next()?.split_whitespace().map(|run| run.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_in_place_catalog() {
        let examples = [encode(&[]), encode(&[1, 22, u64::MAX])];
        fuzzing::target!(&examples, |bytes: &[u8]| {
            if let Some(runs) = decode(bytes) {
                assert!(runs.is_empty() || runs == [1, 22, u64::MAX], "{runs:?}");
            }
        });
    }
}
