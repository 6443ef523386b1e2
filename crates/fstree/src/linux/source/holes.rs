//! Finds the parts of a file that contain data.

use std::fs::File;
use std::ops::Range;

use rustix::fd::AsFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Returns the first range with data at or after `at` in the first `size` bytes of a
/// file; see [`TreeReader::next_data`](crate::TreeReader::next_data).
pub(crate) fn next_data(file: &File, at: u64, size: u64) -> Option<Range<u64>> {
    if at >= size {
        return None;
    }
    let start = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
        Ok(start) => start.max(at),
        // There is only a hole up to the end.
        Err(Errno::NXIO) => return None,
        Err(_) => at,
    };
    if start >= size {
        return None;
    }
    let end = match rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start)) {
        Ok(end) if end > start => end.min(size),
        _ => size,
    };
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_left_out() {
        const MIB: u64 = 1 << 20;
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 * MIB).unwrap();
        file.write_all_at(&[1; 5000], 10 * MIB).unwrap();
        file.write_all_at(&[1; 5000], 50 * MIB + 7).unwrap();
        let ranges = |size| {
            let first = next_data(&file, 0, size);
            std::iter::successors(first, |last| next_data(&file, last.end, size))
                .collect::<Vec<_>>()
        };
        let all = ranges(100 * MIB);
        let has = |at: u64| all.iter().any(|range| range.contains(&at));
        assert!(has(10 * MIB) && has(10 * MIB + 4999) && has(50 * MIB + 7));
        let covered: u64 = all.iter().map(|range| range.end - range.start).sum();
        assert!(covered < MIB, "{all:?}");
        assert!(ranges(0).is_empty());
        // The file may have become shorter or longer.
        assert!(ranges(10 * MIB + 10).iter().all(|range| range.end <= 10 * MIB + 10));
        file.set_len(MIB).unwrap();
        assert!(ranges(100 * MIB).is_empty());
    }
}
