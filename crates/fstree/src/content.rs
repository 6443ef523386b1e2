//! Where a file has data, and where only holes.

use std::fs::File;
use std::ops::Range;

use rustix::fd::AsFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The ranges of a file's first `size` bytes that have data, in order. What is
/// between them reads as zeros and need not be read. Where the file system
/// cannot tell, there is one range, the whole.
///
/// It moves the position of the file; read with calls that name theirs.
pub fn data_ranges(file: &File, size: u64) -> DataRanges<'_> {
    DataRanges { file, at: 0, size }
}

/// The first range with data from `at` on.
pub(crate) fn next_data(file: &File, at: u64, size: u64) -> Option<Range<u64>> {
    DataRanges { file, at, size }.next()
}

/// The iterator of [`data_ranges`].
#[derive(Debug)]
pub struct DataRanges<'a> {
    file: &'a File,
    at: u64,
    size: u64,
}

impl Iterator for DataRanges<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        if self.at >= self.size {
            return None;
        }
        let start = match rustix::fs::seek(self.file.as_fd(), SeekFrom::Data(self.at)) {
            Ok(start) => start.max(self.at),
            // Only a hole up to the end.
            Err(Errno::NXIO) => self.size,
            Err(_) => self.at,
        };
        if start >= self.size {
            self.at = self.size;
            return None;
        }
        let end = match rustix::fs::seek(self.file.as_fd(), SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.size),
            _ => self.size,
        };
        self.at = end;
        Some(start..end)
    }
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
        let ranges: Vec<_> = data_ranges(&file, 100 * MIB).collect();
        let has = |at: u64| ranges.iter().any(|range| range.contains(&at));
        assert!(has(10 * MIB) && has(10 * MIB + 4999) && has(50 * MIB + 7));
        let covered: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(covered < MIB, "{ranges:?}");
        assert_eq!(data_ranges(&file, 0).count(), 0);
        // The file may be shorter or longer by now than it was said to be.
        assert!(data_ranges(&file, 10 * MIB + 10).all(|range| range.end <= 10 * MIB + 10));
        file.set_len(MIB).unwrap();
        assert_eq!(data_ranges(&file, 100 * MIB).count(), 0);
    }
}
