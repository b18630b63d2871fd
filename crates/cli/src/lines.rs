//! Numbered lines of a file, with memory for one line of limited length.
//!
//! A UTF-8 byte order mark at the start of the file is skipped, because some editors write one. A
//! key that begins with these bytes is written as a literal (see [`notation`](crate::notation)), so
//! no record changes.

use std::io::{self, BufRead, Read};

use crate::notation::BYTE_ORDER_MARK;

/// Maximum length of a line, in bytes: the largest key and value with every byte escaped, and a
/// margin.
const MAX_LINE_LEN_BYTES: u64 = 4 * ((1 << 30) + (1 << 16)) + 1024;

/// Reads lines into one buffer.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    bytes_read: u64,
    max_len_bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0, bytes_read: 0, max_len_bytes: MAX_LINE_LEN_BYTES }
    }

    /// The next line without its end, or `None` after the last. A line ends in `\n` or `\r\n`; the
    /// last line may also end in `\r`, or have no end.
    ///
    /// A line that is too long is an error of kind [`io::ErrorKind::InvalidData`].
    pub(crate) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.clear();
        let limit = self.max_len_bytes + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes_read += read as u64;
        let line = &self.buffer[..];
        if line.len() as u64 > self.max_len_bytes && !line.ends_with(b"\n") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is longer than any record can be"));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mark = if self.number == 1 { BYTE_ORDER_MARK } else { b"" };
        Ok(Some(line.strip_prefix(mark).unwrap_or(line)))
    }

    /// The number of the last read line, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The number of bytes read so far, including line ends.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    fn all(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(text);
        std::iter::from_fn(|| lines.next_line().unwrap().map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn every_kind_of_line_end() {
        assert_eq!(all(b""), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"a\nb"), [b"a", b"b"]);
        assert_eq!(all(b"a\r\nb\n"), [b"a", b"b"]);
        assert_eq!(all(b"\n\na\r"), [&b""[..], b"", b"a"]);
        assert_eq!(all(b"a\r\r\nb\r\r"), [b"a\r", b"b\r"]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_start_of_the_file_alone() {
        assert_eq!(all(b"\xef\xbb\xbfa\n\xef\xbb\xbfb"), [&b"a"[..], b"\xef\xbb\xbfb"]);
        assert_eq!(all(b"\xef\xbb\xbf\xef\xbb\xbfa"), [b"\xef\xbb\xbfa"]);
        assert_eq!(all(b"\xef\xbb"), [b"\xef\xbb"]);
    }

    #[test]
    fn a_line_without_end_is_an_error_not_an_allocation() {
        let mut lines = Lines { max_len_bytes: 3, ..Lines::new(&b"abc\nabcd\n"[..]) };
        assert_eq!(lines.next_line().unwrap(), Some(&b"abc"[..]));
        assert!(lines.next_line().is_err());
        assert_eq!((lines.number(), lines.bytes_read()), (2, 8));
    }
}
