//! Any bytes as any stored record or typed text of the authentication service: no panic, no
//! allocation beyond the input, and decoded values encode to the same bytes.
#![no_main]

use hightower_auth::fuzzing::{KINDS, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    decode(kind % KINDS, body);
});
