//! For the fuzz target: recomputes the checksums of changed bytes, so that the fuzzer reaches the
//! code after the checks.

use xxhash_rust::xxh3::xxh3_64;

use crate::block::{HEAD_LEN, MAX_BLOCK_LEN};
use crate::checksum::Salt;
use crate::footer::TRAILER_LEN;
use crate::header::HEADER_LEN;
use crate::line::LINE_LEN;

/// Recomputes every checksum that it finds: of the header, the blocks, the lines and the footer, in
/// this order.
pub fn reseal(file: &mut [u8]) {
    let Some(header) = file.first_chunk_mut::<HEADER_LEN>() else { return };
    let check = xxh3_64(&header[..56]);
    header[56..].copy_from_slice(&check.to_le_bytes());
    let salt = Salt(u64::from_le_bytes(header[16..24].try_into().unwrap_or_default()));
    let Some(trailer) = file.get(HEADER_LEN..).and_then(|rest| rest.last_chunk::<TRAILER_LEN>()) else { return };
    let words = trailer.as_chunks::<8>().0.to_vec();
    let word = |place: usize| usize::try_from(u64::from_le_bytes(words[place])).unwrap_or(usize::MAX);
    let (footer_at, points_at) = (word(2), word(9));
    let end = file.len() - 8;
    if footer_at < end {
        let check = salt.long_check(footer_at as u64, &file[footer_at..end]);
        file[end..].copy_from_slice(&check.to_le_bytes());
    }
    let mut at = HEADER_LEN;
    while let Some(head) = file.get(at..points_at.min(end)).and_then(|rest| rest.first_chunk::<HEAD_LEN>()) {
        let len = u32::from_le_bytes(head[4..8].try_into().unwrap_or_default()) as usize;
        let Some(block) = file.get_mut(at..at.saturating_add(len)) else { break };
        if !(HEAD_LEN..=MAX_BLOCK_LEN).contains(&len) {
            break;
        }
        let check = salt.check(at as u64, &block[4..]);
        block[..4].copy_from_slice(&check.to_le_bytes());
        at += len;
    }
    let mut at = points_at;
    while let Some(line) = file.get_mut(at..footer_at.min(end)).and_then(|rest| rest.first_chunk_mut::<LINE_LEN>()) {
        let check = salt.check(at as u64, &line[4..]);
        line[..4].copy_from_slice(&check.to_le_bytes());
        at += LINE_LEN;
    }
}
