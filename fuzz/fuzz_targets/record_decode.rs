//! Any bytes: no panic, and a decoded record encodes to the same bytes.
#![no_main]

use hightower_log::{RecordBody, RecordContext, SegmentHeader, decode, encode, encode_seal, probe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, u64, i64, u32, &[u8])| {
    let (salt, base_version, base_timestamp, offset, bytes) = input;
    let context = RecordContext::new(salt, base_version, base_timestamp);
    let probed = probe(bytes, &context, offset);
    let _ = SegmentHeader::decode(bytes);
    let Ok(record) = decode(bytes, &context, offset) else { return };
    if let Some(probed) = probed {
        assert_eq!(probed.len, u64::from(record.len));
    }
    let mut again = Vec::new();
    match record.body {
        RecordBody::Command(command) => {
            if encode(&mut again, &context, offset, &command, record.placement).is_err() {
                return;
            }
        }
        RecordBody::Seal { max_version, timestamp } => {
            let durable = record.durable().unwrap_or(0);
            let Ok(seal) = encode_seal(&context, offset, durable, max_version, timestamp) else { return };
            again.extend_from_slice(seal.as_ref());
        }
    }
    assert_eq!(again, bytes[..record.len as usize]);
});
